"""Train an encoder on labels: all of its blocks, its last ones, or a linear layer alone.

    openmae finetune runs/first labelled/ --out runs/classes                    chosen from the data and the machine
    openmae finetune runs/first labelled/ --out runs/classes --recipe paper     the paper's (Table 9)
    openmae finetune runs/first labelled/ --out runs/sweep --blocks all,4,1,0.5,0       Figure 9
    openmae finetune runs/first labelled/ --out runs/scratch --from-scratch     the same ViT without pre-training

On ImageNet-1K the paper's recipe gives 83.6 / 85.9 / 86.9% (ViT-B/L/H, Table 3), from scratch 82.3 / 82.6 / 83.1%;
of ViT-L's last blocks none 73.5, half a block 79.1, one 81.0, all 84.9% (Figure 9). Full fine-tuning, the last blocks
and the linear probe are one job: they differ in settings alone.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from openmae.console.terminal import make_console
from openmae.data.loading.memory import in_memory
from openmae.data.loading.stream import Batch, Stream
from openmae.data.opening import open_data
from openmae.data.sources.source import Source
from openmae.data.tasks import Answers, Task, answers, fewer_labels, split_for
from openmae.data.views.augment import Finish
from openmae.data.views.crop import Augmentation
from openmae.data.views.mixing import Mixing
from openmae.distributed.ranks import ALONE, Ranks, joined
from openmae.errors import Interrupted, NotWritten, UserError, said_once
from openmae.evaluate.features import centred_images
from openmae.evaluate.judge import Judged, judge
from openmae.evaluate.predict import SHARES, measure, predict, said
from openmae.files.address import whole_address
from openmae.files.disk import room_on_disk
from openmae.heads import Classifier
from openmae.machine.device import Precision, choose_device, device_of
from openmae.machine.heap import keep_freed_memory
from openmae.machine.workers import workers_for
from openmae.recipes.evaluate.keep import keep_result
from openmae.recipes.finetune.build import Start, _fresh, _loaded, _pretrained, build
from openmae.recipes.finetune.choose import check_ranges, choose, least_micro_batch
from openmae.recipes.finetune.loss import _class_weights, balanced
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.finetune.sweep import sweep
from openmae.recipes.training.broken import BrokenFiles
from openmae.recipes.training.open import stored
from openmae.recipes.training.room import check_room, check_shares, enough_memory, tell_ranks, written
from openmae.recipes.training.schedule import evenly, plan_of, steps_of
from openmae.recipes.training.settings import pair
from openmae.report.page.run import write_report
from openmae.report.page.sweep import SWEEP
from openmae.train.checkpoint import save_model
from openmae.train.learner import Learner
from openmae.train.loop import fit
from openmae.train.optimizers import adamw, averaged, keep_average, lars, layer_scale
from openmae.train.run import RunFolder, read_config
from openmae.train.stop import Stop
from openmae.weights import model_json

MOST_VALIDATED = 256  # images at once


@dataclass(frozen=True)
class Job:
    """One run, everything chosen and opened."""

    settings: "Finetune"
    folder: RunFolder
    model: Classifier
    start: Start
    train_images: Source
    val_images: Source
    right: Answers
    asked: Answers
    steps: int
    workers: int
    device: torch.device
    console: Console
    ranks: Ranks = ALONE

    def train(self) -> dict[str, float]:
        """Trains to the end and gives the final figures."""
        settings, model, steps, ranks = self.settings, self.model, self.steps, self.ranks
        model.encoder.grad_checkpointing = settings.grad_checkpointing == "on"
        order = balanced(self.right, settings.seed) if settings.balance == "sampling" else None
        shown = self.train_images if order is None else self.train_images.take(order)
        broken = BrokenFiles(shown, self.folder, settings.max_broken)
        stream = self._stream(order)
        learner = Learner(model, self._loss(stream.batch_size, order), ranks, shard=settings.shard)
        optimizer = self._optimizer()
        unit = least_micro_batch(settings)
        val, val_pixels = in_memory(
            self.val_images, self.start.statistics.pixels, pair(settings.img_size), self.workers
        )
        judged = replace(centred_images(model.encoder, self.start.statistics, val), pixels=val_pixels)
        precision: Precision = "bf16" if settings.precision == "bf16" else "fp32"
        figures: dict[str, float] = {}
        last: list[Judged] = []

        def validate(step: int) -> dict[str, Any]:
            broken.tell(ranks)
            with averaged(optimizer):
                whole = learner.whole()
                scores, indices = predict(
                    whole,
                    self.start.statistics,
                    judged,
                    self.device,
                    self.workers,
                    MOST_VALIDATED,
                    precision="fp32" if step == steps else precision,  # the last as `evaluate` will find it
                    ranks=ranks,
                )
                try:
                    self._save(whole, step)
                except OSError as error:
                    self.console.print(f"warning: no weights at step {step}: {error}", style="yellow", soft_wrap=True)
            last[:] = [Judged(judged, self._in_units(scores), indices, self.asked)]
            figures.clear()
            figures.update(measure(last[0].scores, last[0].right))
            return {("eval/" if name in SHARES else "val_") + name: value for name, value in figures.items()}

        def batches_from(step: int, micro_batch: int) -> Iterator[Batch]:
            part = ranks.share(stream.batch_size, unit)
            pin = self.device.type == "cuda"
            return broken.watch(stream.batches(step, micro_batch, self.workers, pin=pin, part=part))

        try:
            fit(
                learner,
                batches_from,
                optimizer,
                self.folder,
                plan_of(settings, steps, unit),
                device=self.device,
                precision=precision,
                console=self.console,
                name_of=shown.name,
                after={step: partial(validate, step) for step in evenly(steps, max(1, settings.evaluations))},
                profile=settings.profile,
            )
        except Interrupted as stopped:
            with averaged(optimizer):
                whole = learner.whole()
                if ranks.leads:
                    with suppress(NotWritten), written(self.folder.path, steps, stopped.step):
                        self._save(whole, stopped.step)
                        write_report(self.folder.path)
            said_so = f"{stopped}; the same command goes on from there"
            raise Interrupted(said_so, stopped.step, stopped.code) from None
        if not figures:  # the run had ended before
            validate(steps)
        if ranks.leads:
            assert settings.data is not None
            self.console.print(f"On the val images: {said(figures)}")
            with written(self.folder.path, steps, steps):
                keep_result(self.folder.path, last[0], judge(last[0]), whole_address(settings.data), "val")
        return figures

    def _stream(self, order: NDArray[np.int64] | None) -> Stream:
        """order: which of the images are shown, several times or not at all; None for each once."""
        settings = self.settings
        assert settings.batch_size is not None
        statistics = self.start.statistics
        assert settings.crop_scale is not None
        loaded, pixels = in_memory(self.train_images, statistics.pixels, pair(settings.img_size), self.workers)
        return Stream(
            loaded if order is None else loaded.take(order),
            pixels,
            pair(settings.img_size),
            (self.model.encoder.patch_size[0], self.model.encoder.patch_size[1]),
            Augmentation(settings.crop_scale, settings.hflip),
            None,
            settings.batch_size,
            self.steps,
            settings.seed,
            finish=Finish(statistics, settings.ra_magnitude or 0.0, settings.random_erase or 0.0),
            noise=2 * self.model.encoder.depth if settings.drop_path else 0,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "lars":
            optimizer = lars(self.model)
        else:
            scale = layer_scale(settings.layer_decay or 1.0, self.model.encoder.depth)
            betas = (0.9, 0.95) if self.start.target is None else (0.9, 0.999)
            optimizer = adamw(self.model, betas, settings.weight_decay or 0.0, scale)
        if settings.ema_decay:
            keep_average(optimizer, settings.ema_decay)
        return optimizer

    def _loss(self, batch_size: int, order: NDArray[np.int64] | None) -> Callable[[Classifier, Batch], Tensor]:
        """The mean loss of a batch."""
        settings, right = self.settings, self.right
        values = torch.from_numpy(right.values if order is None else right.values[order]).to(self.device)
        mixing = Mixing(settings.mixup or 0.0, settings.cutmix or 0.0)
        weights = _class_weights(right) if settings.balance == "weights" else None
        weights = None if weights is None else weights.to(self.device)
        shift, scale = (torch.tensor(number, device=self.device) for number in self._unit())
        classes = len(right.names)

        def loss_of(model: Classifier, batch: Batch) -> Tensor:
            images = self.start.statistics.normalize(batch.images)
            wanted = values[batch.indices.to(self.device)]
            if right.task == "classification":
                wanted = F.one_hot(wanted, classes).float()
            step, place = divmod(batch.start, batch_size)
            images, wanted = mixing(images, wanted, settings.seed, step, place)
            scores = model(images, batch.noise if settings.drop_path else None).float()
            if right.task == "regression":
                return F.mse_loss(scores, (wanted - shift) / scale)
            if right.task == "multi-label":
                return F.binary_cross_entropy_with_logits(scores, wanted, pos_weight=weights)
            return F.cross_entropy(scores, wanted, weights, label_smoothing=settings.label_smoothing or 0.0)

        return loss_of

    def _unit(self) -> tuple[float, float]:
        """(mean, standard deviation) of the numbers of a regression, which the model learns in that unit."""
        if self.right.task != "regression":
            return 0.0, 1.0
        return float(self.right.values.mean()), float(self.right.values.std()) or 1.0

    def _in_units(self, scores: Tensor) -> Tensor:
        shift, scale = self._unit()
        return scores * scale + shift

    def _save(self, model: Classifier, step: int) -> None:
        """model.safetensors and model.json of the run, each complete or as it was before. Raises OSError."""
        if not self.ranks.leads:
            return
        settings = self.settings
        assert settings.model is not None
        assert settings.data is not None
        is_name = self.start.is_new or not Path(settings.model).exists()  # of a size, of the Hub's, of timm's
        provenance = {
            "job": "finetune",
            "data": whole_address(settings.data),
            "step": step,
            "seed": settings.seed,
            "held_out": self.val_images.fingerprint,
            "model": settings.model if is_name else whole_address(settings.model),
            "pre-training": self.start.provenance,
        }
        head = model.head
        shift, scale = self._unit()
        with torch.no_grad():  # a regression's head is saved for the labels' own unit
            weight, bias = head.weight.clone(), head.bias.clone()
            head.weight.mul_(scale)
            head.bias.mul_(scale).add_(shift)
            info = model_json(
                model,
                self.start.statistics,
                provenance,
                task=self.right.task,
                class_names=self.right.names,
                licence=self.start.licence,
            )
            try:
                save_model(self.folder.path, model, info)
            finally:
                head.weight.copy_(weight)
                head.bias.copy_(bias)


_HARMLESS = (
    "data",
    "max_broken",
    "micro_batch",
    "grad_checkpointing",
    "workers",
    "device",
    "checkpoint_minutes",
    "keep",
    "shard",
    "timeout_minutes",
    "evaluations",
)  # may differ between the starts of a run
DERIVED = ("steps",)  # entries of a run's config.toml that follow from the others and the images


def run(settings: Finetune) -> None:
    """Trains, and says what came out. Raises UserError, Interrupted."""
    console = make_console(outlives_terminal=True)
    parts = settings.blocks.split(",")
    if len(parts) > 1 or (settings.out is not None and (settings.out / SWEEP).exists()):
        sweep(settings, parts, console, finetune)
        return
    finetune(settings, console)
    console.print(
        f"\nThe model is in {settings.out}. Look at:   {settings.out}/report.html\n"
        f"  on other images:    openmae evaluate {settings.out} DATA\n"
        f"  in Python:          openmae.load('{settings.out}')(images), normalised as model.json says",
        soft_wrap=True,
    )


def finetune(settings: Finetune, console: Console) -> dict[str, float]:
    """Trains, or goes on training, and leaves a whole run folder; alone, or with the processes that torchrun started.
    Gives the final figures on val, as `measure` names them. Raises UserError, Interrupted, NotWritten, RankLost."""
    with said_once():
        device = choose_device(settings.device)
        check_ranges(settings)
    with Stop(at_once=True), joined(device.type, settings.timeout_minutes * 60) as ranks:
        console.quiet = console.quiet or not ranks.leads
        return _finetune(settings, ranks, device_of(device, ranks), console)


def _finetune(settings: Finetune, ranks: Ranks, device: torch.device, console: Console) -> dict[str, float]:
    with ranks.together():
        if settings.resume and settings.out is not None and ranks.leads:
            settings = stored(settings, read_config(settings.out), defaults_too=True)
        if settings.model is None or settings.data is None or settings.out is None:
            raise UserError(
                "say what to train, on what, and where the run goes", "openmae finetune MODEL DATA --out RUN"
            )
    settings = ranks.from_lead(settings)
    tell_ranks(ranks, settings, console)
    keep_freed_memory()
    with ranks.together():
        check_ranges(settings)
        loaded = _loaded(settings, console)
    assert settings.out is not None
    out = settings.out
    with room_on_disk(out), ranks.opening(lambda: RunFolder(out, leads=ranks.leads)) as folder:
        with ranks.together():
            if folder.has_begun:  # it goes on with what was chosen then
                settings = stored(settings, read_config(folder.path), defaults_too=False)
        settings = ranks.from_lead(settings)
        with ranks.together():
            task, train, val = ranks.each_in_turn(lambda: _split(settings))
            right = answers(train, task)
            asked = answers(val, task, right.names)
            workers = workers_for(settings.workers, device, ranks)
            start = _fresh(settings, train, workers) if loaded is None else _pretrained(settings, loaded)
        ranks.agree(_fingerprint(train, val), f"{settings.data} holds other images")
        console.print(f"{task}: {_what(right)}; learnt from {len(train):,} images, judged by {len(val):,} others")
        if not folder.has_begun and ranks.leads:
            settings = choose(
                settings, start.encoder, start.statistics, start.target, task, len(train), device, console
            )
        settings = ranks.from_lead(settings)
        with ranks.together():
            check_ranges(settings)
            check_shares(settings, ranks, least_micro_batch(settings))
            with enough_memory():
                model = build(settings, start.encoder, len(right.names))
            steps = steps_of(settings, len(train), console)
            if ranks.leads:
                averages = (1 if settings.optimizer == "lars" else 2) + bool(settings.ema_decay)
                check_room(folder.path, model, settings.keep, averages)
                folder.settle({**_flat(settings), "steps": steps}, _fingerprint(train, val), _HARMLESS)
        job = Job(
            settings, folder, model.to(device), start, train, val, right, asked, steps, workers, device, console, ranks
        )
        with enough_memory():
            return job.train()


def _split(settings: Finetune) -> tuple[Task, Source, Source]:
    """The task, and the images to learn from and to be judged by. Raises UserError."""
    assert settings.data is not None
    task, train, val = split_for(open_data(settings.data), settings.task, settings.seed)
    _check_balance(settings.balance, task)
    if settings.labels is not None:
        train = fewer_labels(train, settings.labels, task, settings.seed)
    return task, train, val


def _check_balance(balance: str, task: Task) -> None:
    """Raises UserError where the labels have nothing that could be balanced so."""
    if balance != "none" and task == "regression":
        raise UserError(f"--balance {balance} is for classes, and these labels are numbers", "leave it out")
    if balance == "sampling" and task == "multi-label":
        raise UserError(
            "--balance sampling is for images of one class each, and these have several labels",
            "give --balance weights",
        )


def _what(right: Answers) -> str:
    return {
        "classification": f"{len(right.names)} classes",
        "multi-label": f"{len(right.names)} labels",
        "regression": "a number",
    }[right.task]


def _fingerprint(train: Source, val: Source) -> str:
    return f"{train.fingerprint} {val.fingerprint}"


def _flat(settings: Finetune) -> dict[str, Any]:
    """For config.toml. MODEL and DATA are kept as whole paths, so that the run can be resumed from any folder."""
    assert settings.data is not None
    assert settings.model is not None
    values = asdict(settings)
    del values["resume"], values["out"], values["profile"]
    model = whole_address(settings.model) if Path(settings.model).exists() else settings.model
    return {**values, "model": model, "data": whole_address(settings.data)}
