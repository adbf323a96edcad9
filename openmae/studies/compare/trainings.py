"""The trainings of a comparison: all of the same model on the same images, and each as long as the budget allows it.

What follows from the images is looked up once. With --epochs all else is chosen once too, as `pretrain` would; with a
budget each method's epochs, and what hangs on them (batch, rate, warm-up), are chosen as `pretrain --minutes` would,
from the speed of its own steps, and are then the same for all seeds.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from openmae.baselines.method import Collapsed
from openmae.baselines.methods import forward_passes
from openmae.commandline.flags import with_flags
from openmae.errors import UserError
from openmae.heads import Encoder
from openmae.model import Architecture, grid_of
from openmae.recipes.baseline.job import check
from openmae.recipes.pretrain.build import build
from openmae.recipes.pretrain.settings import Pretrain
from openmae.studies.base import Base
from openmae.studies.compare.named import MAE, RANDOM
from openmae.studies.compare.settings import Compare
from openmae.studies.rows import COLLAPSED
from openmae.studies.trainings import like, train
from openmae.train.checkpoint import save_model
from openmae.train.cost import flops
from openmae.weights.loaded import model_json

_ITS_OWN = {"micro_batch", "grad_checkpointing", "compile"}
_OVER = "--minutes"  # begins what pretrain says where they are not enough
_BY_BUDGET = {"epochs", "warmup_epochs", "batch_size", "blr"}


def in_common(settings: Compare, base: Base) -> Pretrain:
    """What all methods are trained with, but for folder and seed. Raises UserError for what cannot be."""
    usual = base.usual(settings.epochs)
    own = _ITS_OWN if settings.minutes is None else _ITS_OWN | _BY_BUDGET
    same = {
        field.name: getattr(usual, field.name)
        for field in fields(Pretrain)
        if field.name not in own and getattr(base.asked, field.name) in (None, "auto")
    }
    return replace(base.asked, **{**same, "minutes": settings.minutes})


def check_method(asked: Pretrain, method: str) -> None:
    """Raises UserError for settings that it does not take."""
    if method not in (MAE, RANDOM):
        check(asked, method)


def trained(asked: Pretrain, method: str, run: Path, seed: int, first: Path, base: Base) -> dict[str, Any]:
    """What a training took; where it collapsed, why. first: the run of the first seed, which says how long the others
    are. Raises UserError."""
    asked = replace(asked, out=run, seed=seed)
    if method == RANDOM:
        return _untrained(asked, run, base)
    if run != first and asked.minutes is not None:
        asked = like(replace(asked, minutes=None), first)
    try:
        return train(asked, base.means.console, method)
    except Collapsed as error:
        return {COLLAPSED: with_flags(error.what)}
    except UserError as error:
        if asked.minutes is not None and error.what.startswith(_OVER):
            what = error.what.partition(" are over ")[2]
            raise UserError(f"the budget is over {what}", "give --budget more") from error
        raise


def _untrained(asked: Pretrain, run: Path, base: Base) -> dict[str, Any]:
    """Leaves the encoder with the weights that all of this seed begin with."""
    planned = base.planned(replace(asked, minutes=None), base.images)
    encoder = Encoder(build(planned)[0].encoder)
    provenance = {"job": "compare", "method": RANDOM, "seed": asked.seed}
    run.mkdir(parents=True, exist_ok=True)
    save_model(run, encoder, model_json(encoder, planned.statistics, provenance))
    return {}


def operations(method: str, architecture: Architecture) -> float:
    """Floating-point operations of the training that an image takes."""
    down, across = grid_of(architecture.img_size, architecture.patch_size)
    return forward_passes(method, architecture) * flops(architecture, down * across, 0).encoder
