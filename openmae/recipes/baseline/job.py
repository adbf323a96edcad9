"""Train the same ViT by another method than masked autoencoding, so that the two can be compared.

    train(Pretrain("your/images", out="runs/simclr", minutes=20), "simclr", console)

Images, their order, the ViT and its first weights, batch, rate, schedule, precision and checkpoints are those of
`openmae pretrain` with the same settings; views and loss are the method's (openmae/baselines/). It leaves an ordinary
run folder with the encoder.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from openmae.baselines.beit import BEiT
from openmae.baselines.method import Method
from openmae.baselines.methods import METHODS, forward_passes
from openmae.baselines.supervised import Supervised
from openmae.console.words import several
from openmae.data.loading.several import SeveralViews
from openmae.data.loading.stream import Batch, Stream
from openmae.data.tasks import Answers, answers, task_of
from openmae.errors import UserError
from openmae.heads import Encoder
from openmae.machine.device import memory_of
from openmae.machine.lanes import Lanes
from openmae.recipes.baseline.build import Baseline, build, fit_words, views_of
from openmae.recipes.pretrain.build import Images
from openmae.recipes.pretrain.job import PRETRAIN
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.pretrain.watch import Watch, most_looked_at
from openmae.recipes.training.broken import BrokenFiles
from openmae.recipes.training.job import begun
from openmae.recipes.training.kind import Here, Job, JobKind, Look
from openmae.recipes.training.memory import usable_memory
from openmae.recipes.training.schedule import evenly
from openmae.recipes.training.settings import given
from openmae.report.page.run import write_report
from openmae.train.checkpoint import save_model
from openmae.train.classifier_cost import rough_step_bytes
from openmae.train.loop import Rest, fit
from openmae.train.optimizers import adamw
from openmae.weights import model_json

_MOST_ON_A_CPU = 64  # images at once; more of them are no faster


def train(settings: Pretrain, method: str, console: Console) -> None:
    """Trains, or goes on training, by one process, and leaves a whole run folder.

    method: one of METHODS. What is asked of masks, targets, decoders and pictures says nothing to it.
    Raises UserError, Interrupted, NotWritten; Collapsed, which is a UserError, where the method has collapsed.
    """
    check(settings, method)
    with begun(kind_of(method), settings, console) as run:
        fit(run.training)


def check(settings: Pretrain, method: str) -> None:
    """Raises UserError for a method that there is not, and for settings that none of them takes."""
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, 1)
        advice = f"did you mean {near[0]}? There are" if near else "there are"
        raise UserError(f"no method is called '{method}'", f"{advice} {', '.join(METHODS)}")
    if settings.from_ is not None:
        raise UserError(f"the method {method} begins with fresh weights", "leave --from out")
    if settings.shard:
        raise UserError(f"the method {method} is trained by one process", "leave --shard out")
    if settings.repeat_aug > 1:
        raise UserError(f"the method {method} has its own views of an image", "leave --repeat-aug out")
    if settings.colour_jitter:
        raise UserError(f"the method {method} has its own changes of colours", "leave --colour-jitter out")


def kind_of(method: str) -> JobKind[Pretrain, "Opened", Baseline, "BaselineJob"]:
    """How it gets from its settings to its job."""
    return JobKind(
        needs=PRETRAIN.needs,
        usage=PRETRAIN.usage,
        may_differ=("pictures", "compile"),
        open=partial(_open, method),
        choose=partial(_choose, method),
        settle=partial(_settle, method),
        job=BaselineJob,
        most_minutes=PRETRAIN.most_minutes,
    )


@dataclass(frozen=True)
class Opened(Images):
    """DATA, and its labels where the method learns them."""

    right: Answers | None = None

    @property
    def fingerprint(self) -> str:
        """Of the images that are learnt from, and of their labels."""
        if self.right is None:
            return self.train.fingerprint
        names = "\n".join(self.right.names).encode()
        digest = hashlib.sha256(names + self.right.values.tobytes()).hexdigest()
        return f"{self.train.fingerprint} labels:{digest}"


def _open(method: str, settings: Pretrain, here: Here) -> Opened:
    with here.ranks.together():
        if here.ranks.size > 1:
            raise UserError(f"the method {method} is trained by one process", "start it without torchrun")
    images = PRETRAIN.open(settings, here)
    right = None
    if METHODS[method] is Supervised:
        right = answers(images.train, task_of(images.train))
        if right.task == "classification" and len(right.names) < 2:
            raise UserError(
                f"the method {method} learns classes, and {images.train.location} has one ({right.names[0]})",
                "leave it out",
            )
    return Opened(images.train, images.val, images.shown, images.look, right=right)


def _choose(method: str, settings: Pretrain, images: Opened, here: Here) -> Pretrain:
    """As for a pre-training, but for what goes through the model at once: all patches do."""
    chosen = PRETRAIN.choose(settings, images, replace(here, console=Console(quiet=True)))
    chosen = replace(chosen, compile="off")
    run = _settle(method, chosen, images, Console(quiet=True))
    if settings.micro_batch is None and not METHODS[method].whole_batch:
        encoder, lanes = run.architecture.build().encoder, Lanes.here(here.device)
        usable = usable_memory(memory_of(here.device, here.ranks), here.device.type, settings.workers)
        at_once = given(chosen.batch_size)
        at_once = min(at_once, _MOST_ON_A_CPU) if here.device.type == "cpu" else at_once
        views = max(1.0, forward_passes(method, run.architecture) / 3)
        while at_once > METHODS[method].least_micro_batch and (
            rough_step_bytes(encoder, round(at_once * views), 2, lanes) > usable
        ):
            at_once //= 2
        chosen = replace(chosen, micro_batch=at_once)
    here.console.print(
        f"{method}: {chosen.model} of {several(run.architecture.depth, 'block')} {run.architecture.embed_dim} wide, "
        f"batches of {chosen.batch_size}, {given(chosen.epochs):g} epochs, base rate {given(chosen.blr):.2e}",
        soft_wrap=True,
    )
    return chosen


def _settle(method: str, settings: Pretrain, images: Opened, console: Console) -> Baseline:
    run, kind = PRETRAIN.settle(settings, images, console), METHODS[method]
    schedule = run.course.schedule
    least = schedule.batch_size if kind.whole_batch else min(kind.least_micro_batch, schedule.batch_size)
    at_once = max(least, schedule.micro_batch // least * least)
    schedule = replace(schedule, micro_batch=at_once, least_micro_batch=least)
    said = {name: getattr(run, name) for name in run.__dataclass_fields__}
    said |= {"course": replace(run.course, schedule=schedule), "config": {**run.config, "method": method}}
    return Baseline(**said, method=method)


class BaselineJob(Job[Method]):
    """Learns by a method of openmae/baselines."""

    def __init__(self, run: Baseline, images: Opened, here: Here) -> None:
        """Raises UserError where the method cannot learn from these images."""
        self.run, self.images, self.here, self.course = run, images, here, run.course
        self.model = build(run, images.count, images.right)
        self.model.encoder.grad_checkpointing = run.grad_checkpointing
        self.in_lanes = not self.model.whole_batch
        parameters, steps = self.model.resting()
        self.rest = Rest(steps, parameters, lambda rests: None) if steps else None
        self.broken = BrokenFiles(images.train, here.folder, run.course.max_broken)
        if images.look is not None:
            down, across = run.architecture.patch_size
            self.broken.note_survey(images.look, (down, across))

    def prepare(self) -> None:
        """BEiT's words."""
        if isinstance(self.model, BEiT):
            stream = views_of(self.run, self.images.train, self.here.workers, self.here.console)
            assert isinstance(stream, Stream)
            fit_words(self.model, stream, self.run.statistics)

    def stream(self) -> Stream | SeveralViews:
        """The method's views."""
        self.views = views_of(self.run, self.images.train, self.here.workers, self.here.console)
        return self.views

    def loss(self) -> Callable[[Method, Batch], Tensor]:
        """The method's, of normalised views."""
        views, normalize = self.views, self.run.statistics.normalize

        def loss(model: Method, batch: Batch) -> Tensor:
            parts = views.split(batch.images) if isinstance(views, SeveralViews) else [batch.images]
            return model.loss([normalize(part) for part in parts], batch)

        return loss

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW; after each of its steps, what follows the weights does so."""
        optimizer = adamw(self.model, self.model.betas, self.run.weight_decay)

        @torch.no_grad()
        def moved(_: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
            self.model.moved(1 - optimizer.found_inf)  # type: ignore[attr-defined]

        optimizer.register_step_post_hook(moved)
        return optimizer

    def looks(self) -> Mapping[int, Look[Method]]:
        """Whether it has collapsed, and how good its features are, evenly over the run."""
        run, schedule = self.run, self.course.schedule
        measured = evenly(schedule.steps, run.evaluations)
        watch = None
        if measured:
            seen = schedule.steps * schedule.batch_size // run.evaluations
            images = (self.images.train, self.images.val)
            watch = Watch(self.model.encoder, run.statistics, images, seen, run.course, self.here)

        def look(whole: Method, step: int) -> dict[str, Any]:
            figures: dict[str, Any] = whole.check()
            if watch is not None and step in measured:
                figures |= watch(Encoder(whole.left().encoder))
            return figures

        return dict.fromkeys(measured | evenly(schedule.steps, 10), look)

    def beside(self, views: float) -> float:
        """Features of whole images."""
        times = self.run.evaluations
        seen = len(self.images.train) + (0 if self.images.val is None else len(self.images.val))
        passes = forward_passes(self.run.method, self.run.architecture)
        return times * min(seen, most_looked_at(views / times)) / passes if times else 0.0

    def save(self, whole: Method, step: int) -> None:
        """The encoder, with the input statistics and where it is from; of `supervised`, the classifier."""
        provenance = {
            "job": "baseline",
            "method": self.run.method,
            "data": self.course.data,
            "step": step,
            "seed": self.course.seed,
        }
        left = whole.left()
        said = whole.said() if isinstance(whole, Supervised) else {}
        save_model(self.here.folder.path, left, model_json(left, self.run.statistics, provenance, **said))

    def finish(self, whole: Method) -> None:
        """The report."""
        if self.here.ranks.leads:
            write_report(self.here.folder.path)
