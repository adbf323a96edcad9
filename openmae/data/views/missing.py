"""Where a view lacks pixels: what is missing of an image follows its crops.

A patch that is mostly no-data is neither shown nor asked for; a view of which too much is such patches is drawn anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.missing import Missing
from openmae.data.views.crop import Crop, View, cropped, draw_crop
from openmae.errors import UnfitImage
from openmae.masking import Masking

MAX_NODATA = 0.5
"""Share of a patch, and of a view's patches: one of which more is filled in says more of what it is filled with than of
what is there; and where half of the patches are left, a mask of 75% shows as many as ever and asks for as many."""
_TRIES = 20  # crops; of an image of which half is missing on one side, about every second one will do


class NoCrop(UnfitImage):
    """No crop was found that shows enough; another one may."""


@dataclass(frozen=True)
class MissingOf:
    """What an image lacks: missing (h, w, C) at 1/reduce of its size (height, width)."""

    missing: Missing
    size: tuple[int, int]
    reduce: int

    def unfit(self, crop: Crop, grid: tuple[int, int], most: float) -> NDArray[np.bool_]:
        """(N,) which patches of a view lack more than the share `most`."""
        part = cropped(self.missing, self.size, crop, self.reduce)
        return shares(part, grid).mean(-1).reshape(-1) > most


def usable(
    image: MissingOf,
    crops: Sequence[Crop],
    draws: Sequence[np.random.Generator],
    view: View,
    masking: Masking,
    most: float,
) -> tuple[list[Crop], list[NDArray[np.bool_] | None]]:
    """The crops of an image, each replaced by the next one from its generator until the masking has patches enough; and
    which patches of each are unfit, (N,), None where all are fit.

    most: share of a patch, and of a view's patches, that may be missing.
    Raises NoCrop where there are no such crops.
    """
    found, unfit = [], []
    for first, own in zip(crops, draws, strict=True):
        crop = first
        for _ in range(_TRIES):
            gone = image.unfit(crop, view.grid, most)
            if gone.mean() <= most and masking.leaves_enough(gone, view.grid, masking.least_ratio):
                break
            crop = draw_crop(image.size, view.img_size, view.augmentation, own)
        else:
            raise NoCrop(
                f"{image.missing.mean():.1%} of it is no-data, and all of {_TRIES} crops have too many such patches",
                f"raise `max_nodata={most:g}`, or leave it out",
            )
        found.append(crop)
        unfit.append(gone if gone.any() else None)
    return found, unfit


def shares(missing: Missing, size: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w, C) -> (*size, C), 0 to 1: how much is missing of each part of an image that is cut into so many parts, or
    resized to so many pixels. Parts that do not divide it overlap by a pixel."""
    (tops, bottoms), (lefts, rights) = (
        _parts(side, count) for side, count in zip(missing.shape[:2], size, strict=True)
    )
    found = np.empty((*size, missing.shape[2]), np.float32)
    for row, (top, bottom) in enumerate(zip(tops, bottoms, strict=True)):  # a copy of other than bytes may be large
        counts = np.zeros((missing.shape[1] + 1, missing.shape[2]), np.int64)
        np.cumsum(missing[top:bottom].sum(0), 0, out=counts[1:])
        found[row] = (counts[rights] - counts[lefts]) / ((bottom - top) * (rights - lefts))[:, None]
    return found


def _parts(side: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each of `count` parts of a side begins and ends."""
    numbers = np.arange(count)
    return numbers * side // count, -(-(numbers + 1) * side // count)
