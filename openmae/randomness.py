"""Where randomness comes from: a generator for every (seed, epoch, sample index, view), and an epoch's order.

Philox is counter-based: key and counter are the coordinates themselves, so nothing is hashed or shared, and
a sample's draws do not depend on which worker, process or restart makes them.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Purpose = Literal["sample", "order", "step", "split", "visit", "mix"]
_PURPOSES: dict[Purpose, int] = {"sample": 0, "order": 1, "step": 2, "split": 3, "visit": 4, "mix": 5}


def generator(
    seed: int,
    purpose: Purpose,
    epoch: int = 0,
    index: int = 0,
    view: int = 0,
) -> np.random.Generator:
    """A fresh generator for these coordinates, each 0 or more and below 2**64."""
    key = np.array([seed, _PURPOSES[purpose]], dtype=np.uint64)
    counter = np.array([0, view, index, epoch], dtype=np.uint64)  # word 0 counts the draws
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def epoch_order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """The order in which an epoch visits its samples: (length,) every index once."""
    return generator(seed, "order", epoch=epoch).permutation(length)
