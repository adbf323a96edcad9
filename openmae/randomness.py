"""Where randomness comes from: a generator for everything that is drawn, by the seed, what it is for, and where.

Philox is counter-based: key and counter are the coordinates themselves, so nothing is hashed or shared, and
a sample's draws do not depend on which worker, process or restart makes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openmae.permutation import ROUNDS, shuffled

MOST_DRAWN = 1 << 22
"""Things whose random order is drawn and kept in memory, 34 MB; of more it is computed for those that are asked for."""

Purpose = Literal[
    "sample",
    "visit",
    "order",
    "step",
    "mix",
    "proposals",
    "panel",
    "watch",
    "held out",
    "fewer labels",
    "balance",
    "probe folds",
    "resample",
    "few",
    "share",
    "percentiles",
    "corruption",
    "packing",
    "bundled crops",
]

_ANY = range(2**63)
_NONE = range(1)  # of a coordinate that the purpose has no use for


def _only(place: int) -> range:
    return range(place, place + 1)


@dataclass(frozen=True)
class Draws:
    """A purpose's part of all there is to draw: the second word of Philox's key, and the coordinates it may use.

    what: is drawn, and what epoch, index and view are of it.
    beside: purposes that have some coordinates in common with this one, and why equal numbers do no harm there.
    """

    what: str
    key: int
    epoch: range = _NONE
    index: range = _NONE
    view: range = _NONE
    beside: Mapping[Purpose, str] = field(default_factory=dict)


PURPOSES: dict[Purpose, Draws] = {
    # Training.
    "sample": Draws(
        "crop, mask and noise of a view: epoch, index of the image, view of the visit", 0, _ANY, _ANY, _ANY
    ),
    "visit": Draws("an image instead of a broken one, or one of its frames: epoch, index of the image", 4, _ANY, _ANY),
    "order": Draws("the order in which an epoch visits the images: epoch", 1, _ANY),
    "step": Draws("the mask ratio of a step: index of the step", 2, index=_ANY),
    "mix": Draws("mixup and cutmix: epoch is the step, index the group of images in it", 5, _ANY, _ANY),
    "proposals": Draws("which boxes a detector learns from: index of the first sample of a micro-batch", 6, index=_ANY),
    "panel": Draws("masks of the pictures that are shown: index of the picture", 0, _only(2**63), _ANY),
    "watch": Draws(
        "which images a training is watched on: index 0 to learn from, 1 to ask", 3, index=range(2), view=_only(6)
    ),
    # Parts of the images.
    "held out": Draws("which images are set aside: index of the class, 0 of images without", 3, index=_ANY),
    "fewer labels": Draws(
        "a part of the labels: index of the class, 0 of images without", 3, index=_ANY, view=_only(1)
    ),
    "balance": Draws("which images of a small class come once more: index of the class", 3, index=_ANY, view=_only(2)),
    "probe folds": Draws(
        "folds of a cross-validation: index of the class, 0 of images without", 3, index=_ANY, view=_only(5)
    ),
    "resample": Draws("how often each image counts, of test images that are drawn again and again", 3, view=_only(7)),
    "few": Draws(
        "which images are looked at where some are enough",
        3,
        beside={"held out": "Figures and pictures of some images; who is held out is decided without them."},
    ),
    "share": Draws("a share of the images that is learnt from", 3, view=_only(8)),
    # Single images.
    "percentiles": Draws(
        "which pixels of an image of floats are counted: index of the image",
        0,
        index=_ANY,
        beside={"sample": "A training's crops do not know which pixels were counted."},
    ),
    "corruption": Draws(
        "a corrupted view: epoch is the kind of corruption, index that of the image, view the severity",
        0,
        range(64),
        _ANY,
        range(1, 6),
        beside={"sample": "These images are not trained on, and a crop is no noise."},
    ),
    # Data sets that are written.
    "packing": Draws(
        "the order of images in shards",
        1,
        beside={"order": "The first epoch shuffles what was shuffled alike, and every image comes once."},
    ),
    "bundled crops": Draws(
        "squares of a picture that comes along: index of the picture, view 1 of val",
        3,
        index=_ANY,
        view=range(2),
        beside={
            "held out": "These pictures have a split already.",
            "fewer labels": "A place in a picture is no choice of images.",
            "few": "A place in a picture is no choice of images.",
        },
    ),
}
"""Everything that is drawn. Two purposes share no numbers unless one of them says so."""


def generator(
    seed: int, purpose: Purpose, *, epoch: int | None = None, index: int | None = None, view: int | None = None
) -> np.random.Generator:
    """A fresh generator for these coordinates; those left out are the first that the purpose has. seed: 0 or more and
    below 2**64. Raises ValueError for a coordinate that is not the purpose's."""
    draws = PURPOSES[purpose]
    at = [
        _place(draws.view, view, purpose, "view"),
        _place(draws.index, index, purpose, "index"),
        _place(draws.epoch, epoch, purpose, "epoch"),
    ]
    key = np.array([seed, draws.key], dtype=np.uint64)
    counter = np.array([0, *at], dtype=np.uint64)  # word 0 counts the draws
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _place(allowed: range, wanted: int | None, purpose: Purpose, name: str) -> int:
    if wanted is None:
        return allowed.start
    if (place := int(wanted)) not in allowed:  # a range looks up Python's numbers at once, and others one by one
        raise ValueError(f"'{purpose}' has no {name} {place}")
    return place


def epoch_order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """The order in which an epoch visits its samples: (length,) every index once."""
    return generator(seed, "order", epoch=epoch).permutation(length)


def some(seed: int, purpose: Purpose, things: int, count: int, *, index: int | None = None) -> NDArray[np.int64]:
    """(count,) or (things,) whichever is less: which of so many things come first in a random order of them."""
    draws = generator(seed, purpose, index=index)
    if things <= MOST_DRAWN:
        return draws.permutation(things)[:count]
    keys = draws.integers(2**64, size=ROUNDS, dtype=np.uint64)
    return shuffled(np.arange(min(count, things)), np.array([things]), keys, np.zeros(1, np.int64))
