"""What learning to segment and learning to detect have in common, beside what all trainings have."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from rich.console import Console

from openmae.data.loading.outlined import OutlinedStream
from openmae.data.views.jitter import Jitter
from openmae.data.views.outlined import OutlinedView
from openmae.model import ViT, initialize
from openmae.recipes.evaluate.annotated import say_unreadable
from openmae.recipes.evaluate.keep import set_name
from openmae.recipes.outline.opened import Outlined
from openmae.recipes.training.best import FOLDER, BestWeights
from openmae.recipes.training.broken import BrokenFiles
from openmae.recipes.training.judged import JudgedJob
from openmae.recipes.training.kind import Here
from openmae.recipes.training.schedule import Course
from openmae.train.checkpoint import save_model
from openmae.train.optimizers import adamw, keep_average, layer_scale
from openmae.transfer.detector import Detector
from openmae.transfer.segmenter import Segmenter
from openmae.weights import model_json


@dataclass(frozen=True)
class Trunk:
    """What is made of the encoder. img_size: (height, width). blocks: of the last ones that learn, "all" or a number;
    fresh: its weights are drawn anew."""

    img_size: tuple[int, int]
    drop_path: float
    blocks: str
    fresh: bool
    grad_checkpointing: bool

    def of(self, encoder: ViT, seed: int) -> ViT:
        """The encoder, of this size, with fresh weights where asked. Raises ValueError."""
        if self.img_size != encoder.img_size:
            encoder = encoder.resized(self.img_size)
        if self.fresh:
            encoder = ViT(**encoder.arguments())  # its norms, scales and positions are fresh too
            initialize(encoder, torch.Generator().manual_seed(seed))
        encoder.grad_checkpointing = self.grad_checkpointing
        return encoder


@dataclass(frozen=True)
class Outlining:
    """What follows from settings that are chosen, as `config` has them. evaluations: how many times val is looked at,
    evenly over the run; patience: looks after the best one that end the run, None for no end."""

    config: dict[str, Any]
    course: Course
    model: str
    trunk: Trunk
    weight_decay: float
    layer_decay: float
    ema_decay: float
    jitter: Jitter
    evaluations: int
    keep_best: bool
    patience: int | None


M = TypeVar("M", Segmenter, Detector)


class OutlineJob(JudgedJob[M]):
    """Learns outlines.

    task: what model.json calls it; wanted: what is asked of a view; headline: the figure it is judged by. error: that
    of the headline, of the last look at the val images.
    """

    run: Outlining
    task: str
    wanted: Literal["classes", "objects"]
    headline: str

    def __init__(self, run: Outlining, opened: Outlined, here: Here, model: M) -> None:
        super().__init__(run, opened.start, here, len(opened.val), self.headline if run.keep_best else None)
        self.opened, self.model = opened, model
        self.averages = 2 + bool(run.ema_decay)
        self.broken = BrokenFiles(opened.train.images, here.folder, run.course.max_broken)
        self.error: float | None = None
        self.judged_at: int | None = None

    @abstractmethod
    def said(self) -> str:
        """The figures of the last look, in a line."""

    @property
    @abstractmethod
    def unreadable(self) -> list[tuple[int, str]]:
        """Of the last look: val images that were of no use, and why."""

    @abstractmethod
    def keep(self, whole: M, name: str) -> None:
        """Keeps what the last look found in the run, under the name of the set. The lead alone."""

    @abstractmethod
    def judge(self, whole: M) -> tuple[dict[str, float], float | None]:
        """Figures on the val images, all ranks together, and the headline's standard error."""

    @property
    def uniform(self) -> int:
        """Uniform numbers that a view brings with it, by which parts are left out in training."""
        return 2 * self.model.encoder.depth if self.run.trunk.drop_path else 0

    def stream(self) -> OutlinedStream:
        """Windows of the images, with what is outlined in them."""
        run, encoder = self.run, self.model.encoder
        down, across = encoder.patch_size
        pixels = self.opened.start.statistics.pixels
        train, schedule = self.opened.train, self.course.schedule
        return OutlinedStream(
            train.images,
            train.right,
            self.wanted,
            OutlinedView(pixels, run.trunk.img_size, (down, across), run.jitter, self.uniform),
            schedule.batch_size,
            schedule.steps,
            self.course.seed,
        )

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW with layer-wise decay."""
        run = self.run
        scale = layer_scale(run.layer_decay, self.model.encoder.depth)
        optimizer = adamw(self.model, (0.9, 0.999), run.weight_decay, scale)
        if run.ema_decay:
            keep_average(optimizer, run.ema_decay)
        return optimizer

    def look(self, whole: M, step: int) -> dict[str, Any]:
        """The figures under eval/."""
        was_training = whole.training
        whole.eval()
        self.figures, self.error = self.judge(whole)
        whole.train(was_training)
        self.judged_at = step
        self.keep_look(whole, step)
        return {f"eval/{name}": value for name, value in self.figures.items()}

    def finish(self, whole: M) -> None:
        """How good it is on val, and the report."""
        if self.judged_at != self.last:  # the run had ended before, or ends before its time
            self.look(whole, self.last)
        whole.eval()
        if not self.here.ranks.leads:
            return
        console = self.here.console
        say_unreadable(self.opened.val.images, self.unreadable, self.course.data, console)
        console.print(f"On the val images: {self.said()}")
        if self.best is not None:
            console.print(self.best.said(self.found(self.best, self.last)), soft_wrap=True)
        self.keep(whole, set_name(self.course.data, "val"))

    def found(self, best: BestWeights, step: int) -> dict[str, Any]:
        """By the headline."""
        return best.found(step, self.figures[self.headline], self.error, self.judging)

    def save_in(self, place: Path, whole: M, step: int, more: dict[str, Any]) -> None:
        """With class names, input statistics, and where all is from."""
        held = self.run.config.get("masks_hold")
        more = ({"masks_hold": held} if held else {}) | more
        provenance = self.provenance(self.task, step, self.opened.val.images.fingerprint, more)
        start = self.start
        info = model_json(
            whole, start.statistics, provenance, task=self.task, class_names=self.opened.names, licence=start.licence
        )
        save_model(place, whole, info)


def say_done(out: Path, console: Console) -> None:
    """Where the model is, and what it is for."""
    best = f", the best by val in {out}/{FOLDER}" if (out / FOLDER).exists() else ""
    console.print(
        f"\nThe model is in {out}{best}. Look at:   {out}/report.html\n"
        f"  on other images:    openmae evaluate {out} DATA\n"
        f"  on unlabelled ones: openmae predict {out} IMAGES --out FOLDER",
        soft_wrap=True,
    )
