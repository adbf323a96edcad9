"""A linear classifier on frozen features.

    openmae probe runs/first labelled/                                  exact and fast; the default
    openmae probe runs/first labelled/ --layer all --pool mean,class    which layer is best
    openmae probe runs/first labelled/ --recipe paper --out RUN         the paper's (Table 10)

The default computes each image's features once and finds the best regularised linear classifier on them, its strength
chosen on a part of the training set; numbers get a ridge regression. The paper's probe trains on random crops for 90
epochs with LARS; on ImageNet-1K it gives 68.0 / 75.8 / 76.6% (ViT-B/L/H).
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from openmae.commandline.flags import flag
from openmae.console.terminal import make_console
from openmae.errors import UserError, said_once
from openmae.evaluate.evaluation import Evaluation
from openmae.recipes.asked import AskedGroups
from openmae.recipes.finetune.choose import LINEAR_PROBE
from openmae.recipes.finetune.job import finetune
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.probe.job import prove
from openmae.recipes.probe.settings import Proof
from openmae.weights import load_model

_EPOCHS, _EPOCHS_OF_LARGE = 90.0, 50.0  # paper, A.1: 50 are enough for ViT-L and H
_LARGE = 1024  # width of ViT-L


@dataclass(frozen=True)
class Probe(Proof):
    """Train a linear classifier on frozen features."""

    recipe: Literal["auto", "paper"] = "auto"
    """auto: the best regularised classifier on features of whole images, computed once. paper: Table 10's, by LARS on
    random crops, of the class token; it needs --out."""
    out: Annotated[Path | None, arg(metavar="RUN")] = None
    """Run folder of --recipe paper."""
    epochs: float | None = None
    """Of --recipe paper. Default: the paper's 90, and 50 for large models."""
    batch_size: int | None = None
    """Of --recipe paper, the effective batch. Default: the paper's 16384, meant for a million images."""


def run(settings: Probe) -> None:
    """Prints the table; keeps it in the run folder. Raises UserError, Interrupted."""
    if settings.recipe == "paper":
        _by_the_paper(settings)
        return
    probe(settings)


def probe(settings: Probe) -> list[Evaluation]:
    """By --recipe auto; gives the figures."""
    with said_once():
        for name in ("out", "epochs", "batch_size"):
            if getattr(settings, name) is not None:
                raise UserError(f"{flag(name)} is for --recipe paper", "add that, or leave it out")
    return prove(settings, ["linear"])


def _by_the_paper(settings: Probe) -> None:
    with said_once():
        if settings.out is None:
            raise UserError("--recipe paper trains, so it needs a run folder", "add --out RUN")
        if settings.layer is not None:
            raise UserError("--recipe paper reads the last layer", "leave out --layer, or --recipe paper")
        if settings.pool not in (None, "mean", "class"):
            raise UserError(f"--pool is '{settings.pool}'", "with --recipe paper give mean or class")
        width = load_model(settings.model, **settings.heads).encoder.embed_dim
    epochs = settings.epochs or (_EPOCHS if width < _LARGE else _EPOCHS_OF_LARGE)
    paper: dict[str, Any] = {**LINEAR_PROBE}
    batch_size = settings.batch_size or paper["batch_size"]
    chosen = {
        **paper,
        "pool": settings.pool or paper["pool"],
        "warmup_epochs": min(paper["warmup_epochs"], epochs / 5),
        "batch_size": batch_size,
    }
    asked: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(AskedGroups)}
    asked |= settings.heads
    console = make_console()
    finetune(
        Finetune(
            model=str(settings.model),
            data=settings.data,
            out=settings.out,
            recipe="paper",
            epochs=epochs,
            task=settings.task,
            labels=settings.labels,
            **asked,
            seed=settings.seed,
            precision=settings.precision,
            device=settings.device,
            workers=settings.workers,
            **chosen,
        ),
        console,
    )
    console.print(f"\nThe classifier is in {settings.out}. Look at:   {settings.out}/report.html", soft_wrap=True)
