"""Pixels -> outlines: polygons along the edges of the pixels, which drawn give the same pixels again."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""(points, 2) column and row of corners of pixels; the last point is the first."""


class Area(NamedTuple):
    """Pixels that share edges. rings: the outline, and those of its holes. pixels: how many it has."""

    rings: list[Ring]
    pixels: int


def areas(mask: NDArray[np.bool_]) -> Iterator[Area]:
    """Those of a mask (H, W), from top to bottom."""
    from scipy.ndimage import find_objects, label

    whose, _ = label(mask)
    for number, (down, across) in enumerate(find_objects(whose), 1):
        own = whose[down, across] == number
        rings = [ring + np.array([across.start, down.start]) for ring in _rings(own)]
        rings.sort(key=lambda ring: -abs(signed_area(ring)))  # the outline holds all of its holes
        yield Area(rings, int(own.sum()))


def signed_area(ring: NDArray[Any]) -> float:
    """Above 0 where its points go from the first axis towards the second."""
    x, y = ring[:-1].T
    after_x, after_y = ring[1:].T
    return float((x * after_y - after_x * y).sum() / 2)


def _rings(mask: NDArray[np.bool_]) -> Iterator[Ring]:
    """Of pixels that share edges; areas that touch the outside or each other in a corner alone are holes."""
    from skimage.measure import find_contours

    for contour in find_contours(np.pad(mask, 1).astype(np.float32), 0.5, fully_connected="high"):
        # It goes through the middles of edges; where the next one lies in another direction, the corner is between.
        points, after = contour[:-1], np.roll(contour[:-1], -1, axis=0)
        turns = (points != after).all(axis=1)
        is_across = points[:, 0] % 1 != 0  # between two rows
        rows, columns = np.where(is_across, points[:, 0], after[:, 0]), np.where(is_across, after[:, 1], points[:, 1])
        corners = np.stack([columns, rows], axis=1)[turns] - 0.5
        yield np.concatenate([corners, corners[:1]])
