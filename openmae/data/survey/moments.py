"""Mean and standard deviation of pixels, exactly, from sums and histograms."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat
from openmae.data.views.statistics import WHITE, Statistics

SIGNIFICANT_DIGITS = 7  # of a float32
_BLOCK = 2**20  # pixels that are counted in one go, which bounds the memory for a very large image


def from_moments(moments: NDArray[np.float64], pixels: PixelFormat) -> Statistics:
    """moments (2, C): means over the images of `image_moments`."""
    mean, square = moments
    std = np.sqrt(np.maximum(square - mean**2, 0))
    step = 1 / WHITE[pixels.depth] if pixels.depth != "float32" else 1e-5 * np.abs(mean)
    # A constant channel stays constant, as one whose noise is below what its numbers can tell.
    std = np.where(std <= step / 4, 1.0, std)
    return Statistics(_rounded(mean), _rounded(std), pixels)


def image_moments(image: NDArray[Any]) -> NDArray[np.float64]:
    """(H, W, C) -> (2, C): means of its scaled pixels and of their squares."""
    if image.dtype == np.float32:
        total = np.zeros((2, image.shape[2]))
        for block in _blocks(image):
            exact = block.astype(np.float64)
            total += exact.sum(0), np.square(exact).sum(0)
        return total / (image.shape[0] * image.shape[1])
    return histogram_moments(histogram(image), image.dtype)


def histogram_moments(counts: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """counts (C, 256 or 65536) of pixels of `dtype` -> (2, C) as `image_moments`: exact sums of integers."""
    levels = np.arange(counts.shape[1], dtype=np.int64)
    sums = np.stack([(counts * levels).sum(1), (counts * levels**2).sum(1)])
    white = np.iinfo(dtype).max
    return sums / counts.sum(1) / np.array([[white], [white**2]], np.float64)


def histogram(image: NDArray[Any]) -> NDArray[np.int64]:
    """(H, W, C) uint8 or uint16 -> (C, 256 or 65536): how many pixels have which level."""
    levels = np.iinfo(image.dtype).max + 1
    counts = np.zeros((image.shape[2], levels), np.int64)
    for block in _blocks(image):
        for channel in range(len(counts)):
            counts[channel] += np.bincount(block[:, channel], minlength=levels)
    return counts


def _blocks(image: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The pixels (n, C) of an image, some rows at a time."""
    rows = max(1, _BLOCK // image.shape[1])
    for start in range(0, len(image), rows):
        yield image[start : start + rows].reshape(-1, image.shape[2])


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values)
