"""The trainings of studies, ordinary runs: what those of one study have in common."""

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from openmae.recipes.asked import AskedGroups, AskedReading
from openmae.recipes.baseline.job import train as baseline
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain.job import pretrain
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.open import stored
from openmae.report.page.headline import training_seconds
from openmae.train.run import read_config

P = TypeVar("P", Pretrain, Finetune)


def train(asked: Pretrain, console: Console, method: str = "mae") -> dict[str, Any]:
    """Pre-trains, or goes on with a run that was interrupted; gives the steps and the seconds that they took. method:
    pretrain's own, or one of baselines."""
    assert asked.out is not None
    if method == "mae":
        pretrain(asked, console)
    else:
        baseline(asked, method, console)
    config = read_config(asked.out)
    return {"steps": config["steps"], "batch_size": config["batch_size"], "seconds": training_seconds(asked.out)}


def like(asked: P, earlier: Path, but: Collection[str] = ()) -> P:
    """The settings with what is open taken from an earlier run's, so that both are trained alike; `but` for these."""
    config = {name: value for name, value in read_config(earlier).items() if name not in but}
    return stored(asked, config, defaults_too=False)


def asked_of_data(settings: object) -> dict[str, Any]:
    """What AskedReading and AskedGroups ask: images are learnt from as they are judged."""
    return {field.name: getattr(settings, field.name) for field in (*fields(AskedReading), *fields(AskedGroups))}
