"""What a fine-tuning learns and leaves: the part of the run that the loop does not know."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.in_order import CentredImages
from openmae.data.loading.memory import in_memory
from openmae.data.loading.stream import Batch, Stream
from openmae.data.sources.source import Source
from openmae.data.views.crop import View
from openmae.evaluate.features import centred_images
from openmae.evaluate.judge import Judged, judge
from openmae.evaluate.knn import TEMPERATURE, K, neighbours_of
from openmae.evaluate.predict import HEADLINE, SHARES, measure, predict, said, standard_error
from openmae.files.address import whole_address
from openmae.files.whole import whole_folder
from openmae.heads import Answering, Classifier
from openmae.machine.heap import MOST_OF_A_THREAD
from openmae.machine.kinds import Precision
from openmae.machine.lanes import Lanes
from openmae.model import ViT
from openmae.recipes.evaluate.keep import keep_result
from openmae.recipes.finetune.build import Finetuning, build, finish_of
from openmae.recipes.finetune.compared import put_rows
from openmae.recipes.finetune.folds import Told, keep_ways
from openmae.recipes.finetune.frozen import FOLDER as PROBE_FOLDER
from openmae.recipes.finetune.frozen import KNN, KNN_FOLDER, MOST_PLAIN, Frozen, layer_of_views, look_at, views_of
from openmae.recipes.finetune.labelled import Labelled
from openmae.recipes.finetune.loss import Unit, balanced, loss_of
from openmae.recipes.training.best import FOLDER, BestWeights
from openmae.recipes.training.broken import BrokenFiles
from openmae.recipes.training.judged import JudgedJob
from openmae.recipes.training.kind import Here
from openmae.recipes.training.settings import given
from openmae.report.page.compared import BEST, COMPARED, FINETUNED
from openmae.report.page.results import called, shown_value
from openmae.train.checkpoint import save_model
from openmae.train.classifier_cost import largest_tensor
from openmae.train.loop import Schedule
from openmae.train.optimizers import adamw, keep_average, lars, layer_scale
from openmae.weights import model_json

MOST_VALIDATED = 256  # images at once


def suits_lanes(encoder: ViT, schedule: Schedule) -> bool:
    """Whether threads of lanes keep what such micro-batches free: if not, a step took 1.4 times as long in them as
    without (docs/log.md)."""
    lanes = Lanes.here(torch.device("cpu")).of(schedule.micro_batch)
    part = lanes.part(schedule.micro_batch, schedule.batch_size)
    return largest_tensor(encoder, schedule.precision, part) <= MOST_OF_A_THREAD


class FinetuneJob(JudgedJob[Classifier]):
    """Learns labels."""

    run: Finetuning

    def __init__(self, run: Finetuning, labelled: Labelled, here: Here) -> None:
        """Raises UserError for what cannot be built."""
        super().__init__(run, labelled.start, here, len(labelled.val), run.keep_best)
        self.labelled = labelled
        self.model = build(run.head, labelled.start.encoder, len(labelled.right.names), run.course.seed)
        # Batch norms see a micro-batch, and weights of classes are of those in it.
        parts = not run.head.batch_norm and run.balance != "weights"
        self.in_lanes = parts and suits_lanes(self.model.encoder, run.course.schedule)
        self.averages = (1 if run.rule.optimizer == "lars" else 2) + bool(run.rule.ema_decay)
        right = labelled.right
        self.order = balanced(right, run.course.seed) if run.balance == "sampling" else None
        shown = labelled.train if self.order is None else labelled.train.take(self.order)
        self.broken = BrokenFiles(shown, here.folder, run.course.max_broken)
        self.unit = Unit(right)
        self.finishing = finish_of(run, labelled.start.statistics)
        self.judged: Judged | None = None

    def stream(self) -> Stream:
        """Augmented views, of smaller classes more often where they are balanced."""
        run, encoder = self.run, self.model.encoder
        loaded, pixels = self._train
        _ = self._val  # now: later the training's own line is on the terminal
        down, across = encoder.patch_size
        noise = 2 * encoder.depth if run.head.drop_path else 0
        return Stream(
            loaded if self.order is None else loaded.take(self.order),
            View(pixels, run.head.img_size, (down, across), run.augmentation, self.finishing, noise),
            None,
            self.course.schedule.batch_size,
            self.course.schedule.steps,
            self.course.seed,
            shuffle_block=self.course.shuffle_block,
        )

    def loss(self) -> Callable[[Classifier, Batch], Tensor]:
        """As the labels are."""
        start, right = self.start, self.labelled.right
        return loss_of(self.run, start.statistics, right, self.order, self.here.device)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW with layer-wise decay (Tables 9 and 11), or LARS (Table 10)."""
        rule = self.run.rule
        optimizer: torch.optim.Optimizer
        if rule.optimizer == "lars":
            optimizer = lars(self.model)
        else:
            scale = layer_scale(rule.layer_decay, self.model.encoder.depth)
            betas = (0.9, 0.95) if self.start.target is None else (0.9, 0.999)
            optimizer = adamw(self.model, betas, rule.weight_decay, scale)
        if rule.ema_decay:
            keep_average(optimizer, rule.ema_decay)
        return optimizer

    def begin(self) -> None:
        """Which ways were compared before; nothing stays of another start that was stopped before its first step."""
        if self.here.ranks.leads and not self.here.folder.has_begun:
            path = self.here.folder.path
            keep_ways(path, self.labelled.ways)
            (path / COMPARED).unlink(missing_ok=True)
            for folder in (PROBE_FOLDER, KNN_FOLDER):
                shutil.rmtree(path / folder, ignore_errors=True)

    def fit_head(self, plain: bool = False) -> Frozen | None:
        """The head is fitted to the features as they are, where it begins so; what that is worth. plain: and what is
        worth without an encoder."""
        if not self.run.head.from_probe:
            return None
        statistics, here = self.start.statistics, self.here
        learnt = (self._whole(*self._train), self.labelled.right)
        judging = (self._val, self.labelled.asked)
        found = look_at(self.model, statistics, learnt, judging, self.course.seed, here.workers, here.ranks, plain)
        self._set_head(found.weight, found.bias)
        return found

    def fit_head_to_views(self, found: Frozen | None) -> None:
        """Makes it one to begin learning with, all ranks together; nothing where it is fresh or nothing learns."""
        course, here = self.course, self.here
        if found is None or not course.schedule.steps:
            return
        layer, right = None, self.labelled.right
        with here.ranks.together():
            if here.ranks.leads:
                right = right if self.order is None else right.at(self.order)
                stream = self.stream()
                steps = -(-views_of(len(right.values)) // stream.batch_size)  # however short the training is
                parts = replace(stream, steps=steps).batches(0, course.schedule.micro_batch, here.workers)
                views = self.broken.watch(parts)
                layer = layer_of_views(self.model, self.start.statistics, views, right, found)
        self._set_head(*given(here.ranks.from_lead(layer)))

    def _set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Of scores in the labels' own unit."""
        head = self.model.head
        with torch.no_grad():
            head.weight.copy_(weight / self.unit.std)
            head.bias.copy_((bias - self.unit.mean) / self.unit.std)

    def prepare(self) -> None:
        """Fits the head, and keeps what the features are worth as they are."""
        labelled = self.labelled
        found = self.fit_head(plain=labelled.count <= MOST_PLAIN and len(labelled.val) <= 10 * MOST_PLAIN)
        if found is not None and self.here.ranks.leads:
            self._keep_frozen(found)
        self.fit_head_to_views(found)

    def _keep_frozen(self, found: Frozen) -> None:
        """In RUN/probe, RUN/knn and compared.json; where it cannot be, says so."""
        here, path = self.here, self.here.folder.path
        metric = HEADLINE[self.labelled.asked.task]
        told = "; ".join(f"{row['name']} {shown_value(metric, row['figure'], row['error'])}" for row in found.rows)
        here.console.print(f"Before anything is learnt: {told} ({called(metric)} on val)", soft_wrap=True)
        try:
            if self.course.schedule.steps:
                with whole_folder(path / PROBE_FOLDER) as aside:
                    self.save_in(aside, self.model, 0, {"strength": found.strength})
            else:  # it is what the run leaves
                found.rows[-1]["weights"] = ""
            self._keep_neighbours(found)
            put_rows(path, self._about, found.rows)
        except OSError as error:
            said = f"warning: what is simpler is not kept: {error}"
            here.console.print(said, style="yellow", soft_wrap=True)

    def _keep_neighbours(self, found: Frozen) -> None:
        """RUN/knn, where they did better than the probe. Raises OSError."""
        place = self.here.folder.path / KNN_FOLDER
        if found.bank is None:
            return
        model = neighbours_of(self.model.encoder, found.bank, K, TEMPERATURE)
        with whole_folder(place) as aside:
            save_model(aside, model, self._info(model, 0, {}))
        next(row for row in found.rows if row["name"] == KNN)["weights"] = KNN_FOLDER

    @property
    def _about(self) -> dict[str, Any]:
        """For compared.json."""
        return {"metric": HEADLINE[self.labelled.asked.task], "images": len(self.labelled.val)}

    @cached_property
    def _train(self) -> tuple[Source, PixelFormat]:
        """Decoded in memory where they are small; once for the head's views and for the training."""
        return self._in_memory(self.labelled.train)

    @cached_property
    def _val(self) -> CentredImages:
        """Decoded in memory where they are small."""
        return self._whole(*self._in_memory(self.labelled.val))

    def _whole(self, source: Source, pixels: PixelFormat) -> CentredImages:
        return replace(centred_images(self.model.encoder, self.start.statistics, source), pixels=pixels)

    def _in_memory(self, source: Source) -> tuple[Source, PixelFormat]:
        pixels, here = self.start.statistics.pixels, self.here
        return in_memory(source, pixels, self.run.head.img_size, here.workers, here.console)

    def told(self, whole: Classifier, precision: Precision = "fp32") -> Told:
        """What it says of the val images, in the labels' own unit."""
        here, statistics = self.here, self.start.statistics
        scores, indices = predict(
            whole,
            statistics,
            self._val,
            here.device,
            here.workers,
            MOST_VALIDATED,
            precision=precision,
            ranks=here.ranks,
        )
        return self.unit.of_labels(scores), indices

    def look(self, whole: Classifier, step: int) -> dict[str, Any]:
        """Shares under eval/, other figures as val_...; of the last weights as `evaluate` will find them."""
        scores, indices = self.told(whole, "fp32" if step == self.last else self.course.schedule.precision)
        self.judged = Judged(self._val, scores, indices, self.labelled.asked)
        self.figures = measure(self.judged.scores, self.judged.right)
        self.keep_look(whole, step)
        return {("eval/" if name in SHARES else "val_") + name: value for name, value in self.figures.items()}

    def found(self, best: BestWeights, step: int) -> dict[str, Any]:
        """By the figure that the best weights are kept by."""
        judged = given(self.judged)
        error = standard_error(best.metric, judged.scores, judged.right)
        return best.found(step, self.figures[best.metric], error, len(judged.indices))

    def save_in(self, place: Path, whole: Classifier, step: int, more: dict[str, Any]) -> None:
        """A regression's head is saved for the labels' own unit."""
        head = whole.head
        with torch.no_grad():
            weight, bias = head.weight.clone(), head.bias.clone()
            head.weight.mul_(self.unit.std)
            head.bias.mul_(self.unit.std).add_(self.unit.mean)
            try:
                save_model(place, whole, self._info(whole, step, more))
            finally:
                head.weight.copy_(weight)
                head.bias.copy_(bias)

    def _info(self, whole: Answering, step: int, more: dict[str, Any]) -> dict[str, Any]:
        """For model.json."""
        start, right = self.start, self.labelled.right
        provenance = self.provenance("finetune", step, self.labelled.val.fingerprint, more)
        return model_json(
            whole, start.statistics, provenance, task=right.task, class_names=right.names, licence=start.licence
        )

    def finish(self, whole: Classifier) -> None:
        """How good it is on val, with pictures and the report."""
        if self.judged is None or self.ended_at is not None:  # the run had ended before, or ends before its time
            self.look(whole, self.last)
        if self.here.ranks.leads:
            judged = given(self.judged)
            self.here.console.print(f"On the val images: {said(self.figures)}")
            if self.best is not None:
                self.here.console.print(self.best.said(self.found(self.best, self.last)), soft_wrap=True)
            self._compare(judged)
            keep_result(self.here.folder.path, judged, judge(judged), whole_address(self.course.data), "val")

    def _compare(self, judged: Judged) -> None:
        """Puts what was learnt beside what is simpler, in compared.json."""
        if not self.course.schedule.steps:
            return
        metric, best = HEADLINE[judged.answers.task], None if self.best is None else self.best.record()
        row = {
            "figure": measure(judged.scores, judged.right)[metric],
            "error": standard_error(metric, judged.scores, judged.right),
        }
        rows = [{"name": FINETUNED, **row, "weights": ""}]
        if best is not None and best["metric"] == metric and best["step"] != self.last:
            rows.append({"name": BEST, "figure": best["figure"], "error": best["error"], "weights": FOLDER})
        put_rows(self.here.folder.path, self._about, rows, instead_of=(FINETUNED, BEST))
