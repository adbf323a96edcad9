"""Which files are the same to the last byte."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def same_files(digests: NDArray[Any], good: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """digests (n,) of 16 bytes; good (n,): which of them to compare.

    Returns members (m,): the positions of all files that have a twin, twins beside each other and ascending; and
    starts (g,): where each group of twins begins in it.
    """
    places = np.flatnonzero(good)
    halves = np.ascontiguousarray(digests[places]).view(np.uint64).reshape(-1, 2)
    order = np.lexsort((places, halves[:, 1], halves[:, 0]))
    halves = halves[order]
    same = (halves[1:] == halves[:-1]).all(1)  # as the one before
    first = np.concatenate([[True], ~same])[: len(order)]
    last = np.concatenate([~same, [True]])[: len(order)]
    twin = ~(first & last)
    return places[order[twin]], np.flatnonzero(first[twin])
