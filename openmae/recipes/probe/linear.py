"""A linear classifier on frozen features.

    openmae probe runs/first labelled/                                  exact and fast; the default
    openmae probe runs/first labelled/ --out runs/probe                 and keeps the classifier: an ordinary run
    openmae probe runs/first labelled/ --layer all --pool mean,class    which layer is best
    openmae probe runs/first labelled/ --recipe paper --out RUN         the paper's (Table 10)

The default computes each image's features once and finds the best regularised linear classifier on them, its strength
chosen on a part of the training set; numbers get a ridge regression. The paper's probe trains on random crops for 90
epochs with LARS; on ImageNet-1K it gives 68.0 / 75.8 / 76.6% (ViT-B/L/H).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from tyro.conf import arg

from openmae.commandline.flags import flag
from openmae.console.terminal import make_console
from openmae.errors import UserError, said_once
from openmae.evaluate.evaluation import Evaluation
from openmae.evaluate.predict import said
from openmae.recipes.asked import asked_of_data
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
    """Keep the classifier, encoder and linear layer, in a run folder that evaluate, predict and export take."""
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
        for name in ("epochs", "batch_size"):
            if getattr(settings, name) is not None:
                raise UserError(f"{flag(name)} is for --recipe paper", "add that, or leave it out")
        if settings.out is not None:
            _check_place(settings, "--out")
            if (settings.out / "model.safetensors").exists():
                raise UserError(f"{settings.out} holds a model already", "choose another --out")
    if settings.out is not None:
        keep_classifier(settings, settings.out)
    return prove(settings, ["linear"])


def keep_classifier(settings: Probe, out: Path) -> None:
    """The encoder with the linear probe of its last layer as an ordinary run of `finetune` in which nothing else was
    learnt. The head reads the norm of the mean of the tokens, as fine-tuned models do, where the table's features are
    the mean of the normed ones; of the class token it is the same.

    Raises UserError.
    """
    console = make_console()
    figures = finetune(
        Finetune(
            out=out,
            blocks="0",
            epochs=0,
            head_from="probe",
            keep_best="none",
            pool="class" if settings.pool == "class" else None,
            **_of_both(settings),
        ),
        Console(quiet=True),  # the table's command says what labels are taken for
    )
    console.print(
        f"The classifier is in {out}, on val: {said(figures)}. It reads the norm of the tokens' mean, as fine-tuned "
        "models do, where the table has the mean of normed tokens\n"
        f"  openmae predict {out} IMAGES --out predictions.csv",
        soft_wrap=True,
    )


def _of_both(settings: Probe) -> dict[str, Any]:
    """What a probe and a fine-tuning are asked alike."""
    names = ("data", "labels", "task", "seed", "precision", "device", "workers")
    asked = {name: getattr(settings, name) for name in names}
    return {"model": str(settings.model), **asked, **settings.heads, **asked_of_data(settings)}


def _check_place(settings: Probe, asked: str) -> None:
    """Raises UserError where a classifier is to be kept of features that it could not read."""
    if settings.layer is not None:
        raise UserError(f"{asked} reads the last layer", f"leave out --layer, or {asked}")
    if settings.pool not in (None, "mean", "class"):
        raise UserError(f"--pool is '{settings.pool}'", f"with {asked} give mean or class")


def _by_the_paper(settings: Probe) -> None:
    with said_once():
        if settings.out is None:
            raise UserError("--recipe paper trains, so it needs a run folder", "add --out RUN")
        _check_place(settings, "--recipe paper")
        width = load_model(settings.model, **settings.heads).encoder.embed_dim
    usual = _EPOCHS if width < _LARGE else _EPOCHS_OF_LARGE
    epochs = usual if settings.epochs is None else settings.epochs
    paper: dict[str, Any] = {**LINEAR_PROBE}
    chosen = {
        **paper,
        "pool": settings.pool or paper["pool"],
        "warmup_epochs": min(paper["warmup_epochs"], epochs / 5),
    }
    if settings.batch_size is not None:
        chosen["batch_size"] = settings.batch_size
    console = make_console()
    finetune(
        Finetune(
            out=settings.out,
            recipe="paper",
            epochs=epochs,
            **_of_both(settings),
            **chosen,
        ),
        console,
    )
    console.print(f"\nThe classifier is in {settings.out}. Look at:   {settings.out}/report.html", soft_wrap=True)
