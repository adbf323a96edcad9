"""The trainings of studies, ordinary runs: what those of one study have in common."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain.job import PRETRAIN
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.job import begun
from openmae.recipes.training.kind import JobKind
from openmae.recipes.training.open import stored
from openmae.recipes.training.settings import given
from openmae.report.page.headline import training_seconds
from openmae.train.loop import fit
from openmae.train.run import read_config

Kind = JobKind[Pretrain, Any, Any, Any]
P = TypeVar("P", Pretrain, Finetune)


def train(asked: Pretrain, console: Console, kind: Kind = PRETRAIN) -> dict[str, Any]:
    """Pre-trains, or goes on with a run that was interrupted; gives the steps and the seconds that they took. kind:
    pretrain's own, or one of baselines."""
    with begun(kind, asked, console) as run:
        fit(run.training)
    return took(given(asked.out))


def took(run: Path) -> dict[str, Any]:
    """The steps of a run that is complete, images of a step, the base rate, and the seconds of all steps."""
    config = read_config(run)
    told = {name: config[name] for name in ("steps", "batch_size", "blr")}
    return {**told, "seconds": training_seconds(run)}


def like(asked: P, earlier: Path, but: Collection[str] = ()) -> P:
    """The settings with what is open taken from an earlier run's, so that both are trained alike; `but` for these."""
    config = {name: value for name, value in read_config(earlier).items() if name not in but}
    return stored(asked, config, defaults_too=False)
