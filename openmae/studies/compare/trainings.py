"""The trainings of a comparison: all of the same model on the same images, and each as long as the budget allows it.

What follows from the images is looked up once. With --epochs all else is chosen once too, as `pretrain` would; with a
budget each method's epochs, and what hangs on them (batch, rate, warm-up), are chosen as `pretrain --minutes` would,
from the speed of its own steps, and are then the same for all seeds. The rate is so many times what is chosen
(rates.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.baselines.method import Collapsed
from openmae.baselines.methods import forward_passes
from openmae.commandline.flags import with_flags
from openmae.data.dividing import together_of, whole_groups
from openmae.errors import UserError
from openmae.heads import Encoder
from openmae.model import Architecture
from openmae.randomness import generator
from openmae.recipes.baseline.job import check, kind_of
from openmae.recipes.pretrain.build import Images, build
from openmae.recipes.pretrain.job import PRETRAIN
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.kind import Here
from openmae.recipes.training.settings import given
from openmae.studies.base import Base
from openmae.studies.compare.named import MAE, RANDOM
from openmae.studies.rows import COLLAPSED
from openmae.studies.trainings import Kind, like, train
from openmae.studies.tuning import forward
from openmae.train.checkpoint import save_model
from openmae.weights.loaded import model_json

_ITS_OWN = {"micro_batch", "grad_checkpointing", "compile"}
_OVER = "--minutes"  # begins what pretrain says where they are not enough
_BY_BUDGET = {"epochs", "warmup_epochs", "batch_size", "blr"}
_MOST_ASIDE = 1000  # images, of a fifth


@dataclass(frozen=True)
class Aside:
    """Images of DATA that a training does not see. rows: which of those that are learnt from; None for about a fifth of
    them, drawn by the seed, of whole groups where images belong together."""

    rows: NDArray[np.int64] | None
    seed: int

    def of(self, images: int, groups: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(those that are seen, those that are not) of so many. groups: (images,) of each, None where there are
        none."""
        away = self.rows
        if away is None:
            count = min(_MOST_ASIDE, max(1, images // 5))
            order = generator(self.seed, "probe folds").permutation(images)
            chosen = np.zeros(images, np.bool_) if groups is None else whole_groups(groups, order, count)
            away = np.flatnonzero(chosen) if chosen.any() else np.sort(order[:count])
        return np.setdiff1d(np.arange(images), away), away


def in_common(base: Base, minutes: float | None, epochs: float | None) -> Pretrain:
    """What all methods are trained with, but for folder and seed. Raises UserError for what cannot be."""
    usual = base.usual(epochs)
    own = _ITS_OWN if minutes is None else _ITS_OWN | _BY_BUDGET
    same = {
        field.name: getattr(usual, field.name)
        for field in fields(Pretrain)
        if field.name not in own and getattr(base.asked, field.name) in (None, "auto")
    }
    return replace(base.asked, **{**same, "minutes": minutes})


def check_method(asked: Pretrain, method: str) -> None:
    """Raises UserError for settings that it does not take."""
    if method not in (MAE, RANDOM):
        check(asked, method)


def kind_at(method: str, times: float, aside: Aside | None = None) -> Kind:
    """How a method is trained: as it is, but that a rate that is left open is so many times what is chosen, and that
    some images are not seen."""
    kind: Kind = PRETRAIN if method == MAE else kind_of(method)
    if times != 1:
        kind = replace(kind, choose=partial(_at, kind.choose, times))
    if aside is not None:
        kind = replace(kind, open=partial(_without, kind.open, aside))
    return kind


def _at(choose: Callable[..., Pretrain], times: float, asked: Pretrain, images: Images, here: Here) -> Pretrain:
    chosen = choose(asked, images, here)
    if asked.blr is not None:
        return chosen
    rate = given(chosen.blr) * times
    here.console.print(f"The base rate is {times:.3g} times that: {rate:.3g}")
    return replace(chosen, blr=rate)


def _without(open_: Callable[..., Any], aside: Aside, asked: Pretrain, here: Here) -> Any:
    images = open_(asked, here)
    seen, away = aside.of(len(images.train), together_of(images.train, asked.selection))
    right = getattr(images, "right", None)
    labels = {} if right is None else {"right": right.at(seen)}
    return replace(images, train=images.train.take(seen), val=images.train.take(away), **labels)


def trained(
    asked: Pretrain, method: str, run: Path, seed: int, first: Path, base: Base, times: Callable[[], float]
) -> dict[str, Any]:
    """What a training took; where it collapsed, why. first: the run of the first seed, which says how long the others
    are. times: the rate, in what is chosen. Raises UserError."""
    asked = replace(asked, out=run, seed=seed)
    if method == RANDOM:
        return _untrained(asked, run, base)
    rate = times()
    if run != first and asked.minutes is not None:
        asked = like(replace(asked, minutes=None, blr=None), first)
    elif asked.blr is not None:
        asked = replace(asked, blr=asked.blr * rate)
    try:
        return train(asked, base.means.console, kind_at(method, rate))
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
    return forward_passes(method, architecture) * forward(architecture)
