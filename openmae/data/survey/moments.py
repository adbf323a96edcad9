"""Mean and standard deviation of pixels, exactly, from sums and histograms."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.missing import Missing
from openmae.data.views.statistics import WHITE, Statistics

SIGNIFICANT_DIGITS = 7  # of a float32
_BLOCK = 2**20  # pixels that are counted in one go, which bounds the memory for a very large image


def from_moments(moments: NDArray[np.float64], pixels: PixelFormat) -> Statistics:
    """moments (3, C): means over the images of `image_moments`. A channel that is missing everywhere is taken for a
    constant."""
    mean, square = means_of(moments)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    step = 1 / WHITE[pixels.depth] if pixels.depth != "float32" else 1e-5 * np.abs(mean)
    # A constant channel stays constant, as one whose noise is below what its numbers can tell.
    std = np.where(std <= step / 4, 1.0, std)
    return Statistics(_rounded(mean), _rounded(std), pixels)


def image_moments(image: NDArray[Any], missing: Missing | None = None) -> NDArray[np.float64]:
    """(H, W, C) -> (3, C), each over the number of all its pixels: how many are there, the sum of those, scaled, and of
    their squares."""
    if image.dtype == np.float32:
        total = np.zeros((3, image.shape[2]))
        for block, gaps in _blocks(image, missing):
            exact = block.astype(np.float64)
            if gaps is not None:
                exact[gaps] = 0
            there = np.full(image.shape[2], len(block)) if gaps is None else len(block) - gaps.sum(0)
            total += there, exact.sum(0), np.square(exact).sum(0)
        return total / (image.shape[0] * image.shape[1])
    return histogram_moments(histogram(image, missing), image.dtype, image.shape[0] * image.shape[1])


def means_of(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3, C), of an image or summed over several -> (..., 2, C): means of what is there and of its squares, 0 of
    nothing."""
    there = moments[..., :1, :]
    found: NDArray[np.float64] = moments[..., 1:, :] / np.where(there > 0, there, 1)
    return found


def is_grey(image: NDArray[Any]) -> bool:
    """Whether (H, W, C) is a grey image stored as colour: three channels that are the same everywhere."""
    if image.shape[2] != 3 or not (image[0, :, 1:] == image[0, :, :1]).all():  # most colour ends at the first row
        return False
    return bool((image[..., 1:] == image[..., :1]).all())


def scale_of(moments: NDArray[np.float64]) -> float:
    """How large an image's values are, by its moments (3, C): the root of their mean square."""
    return float(np.sqrt(moments[2].sum() / max(moments[0].sum(), 1e-300)))


def histogram_moments(counts: NDArray[np.int64], dtype: np.dtype[Any], pixels: int) -> NDArray[np.float64]:
    """counts (C, 256 or 65536) of those of so many pixels of `dtype` that are there -> (3, C) as `image_moments`: exact
    sums of integers."""
    levels = np.arange(counts.shape[1], dtype=np.int64)
    sums = np.stack([counts.sum(1), (counts * levels).sum(1), (counts * levels**2).sum(1)])
    white = np.iinfo(dtype).max
    return sums / pixels / np.array([[1], [white], [white**2]], np.float64)


def histogram(image: NDArray[Any], missing: Missing | None = None) -> NDArray[np.int64]:
    """(H, W, C) uint8 or uint16 -> (C, 256 or 65536): how many pixels, of those that are there, have which level."""
    levels = np.iinfo(image.dtype).max + 1
    counts = np.zeros((image.shape[2], levels), np.int64)
    for block, gaps in _blocks(image, missing):
        for channel in range(len(counts)):
            values = block[:, channel] if gaps is None else block[~gaps[:, channel], channel]
            counts[channel] += np.bincount(values, minlength=levels)
    return counts


def _blocks(image: NDArray[Any], missing: Missing | None) -> Iterator[tuple[NDArray[Any], Missing | None]]:
    """The pixels (n, C) of an image, some rows at a time, and which are missing."""
    rows, channels = max(1, _BLOCK // image.shape[1]), image.shape[2]
    for start in range(0, len(image), rows):
        part = slice(start, start + rows)
        yield image[part].reshape(-1, channels), None if missing is None else missing[part].reshape(-1, channels)


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values)
