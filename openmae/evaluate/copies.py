"""Whether two images are copies of each other, by their pixels: saved again, resized, or with a margin cut off.

Features tell which images are alike, and of images that are all alike that is no answer. Shapes: S = SIDE, K sizes of
a part.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from openmae.data.views.crop import resize

SIDE = 48  # pixels, of the small grey pictures that are compared
LEAST = 0.9
"""Agreement from which two images are copies; docs/embed.md says what others give."""
_SIDES = (48, 46, 44, 42, 40)  # of a picture whose margins are cut off: down to 83% of the other's
_SIZES = [size for size in product(_SIDES, _SIDES) if abs(size[0] - size[1]) <= 4]
_FLAT = 1e-3  # standard deviation, over the range of the values, of what has no pattern to compare
_SMOOTH = 0.6  # of a picture's variance, from which on a smooth surface makes most of it
_LEAST_DETAIL = 0.4  # agreement of what such surfaces leave of two pictures, for them to be copies
_LEAST_LENGTH = 0.05  # of a part, of a whole picture's 1: less is as good as flat


@dataclass(frozen=True)
class Pattern:
    """What is compared: a small grey picture (S, S), of mean 0 and length 1, by its Fourier spectrum;
    those of the picture at each size that a part may have (K, ...); and by what a correlation with the part of the
    picture that begins at each place is divided (K, S, S), 0 where no part of the size begins."""

    grey: Tensor
    spectrum: Tensor
    as_parts: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Picture:
    """Of an image: all of it; and what the surface of second order that fits best leaves of it (S, S), which decides
    where the image is smooth, as a sky is: the gradients of two skies agree, wherever they are. flat: how little the
    values of what has no pattern deviate."""

    whole: Pattern
    rest: Tensor
    flat: float
    is_smooth: bool

    @cached_property
    def detail(self) -> Pattern:
        """Of the rest; few pairs need it."""
        return _pattern(self.rest, self.flat)


def picture(image: NDArray[Any]) -> Picture:
    """Of an image (H, W, C) of any depth; of one without any pattern a picture that agrees with nothing."""
    values = torch.from_numpy(resize(image, (SIDE, SIDE)).astype(np.float32).mean(2))
    white = 1.0 if image.dtype == np.float32 else float(np.iinfo(image.dtype).max)
    rest = values - _surface(values)
    is_smooth = bool(rest.var() < (1 - _SMOOTH) * values.var())
    return Picture(_pattern(values, _FLAT * white), rest, _FLAT * white, is_smooth)


def _surface(values: Tensor) -> Tensor:
    """Of (S, S), what a surface of second order fits of it."""
    down, across = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    powers = torch.stack([down * 0 + 1, down, across, down * down, down * across, across * across], -1).view(-1, 6)
    basis = torch.linalg.qr(powers).Q
    return (basis @ (basis.T @ values.flatten())).view(SIDE, SIDE)


def _pattern(values: Tensor, least: float) -> Pattern:
    """Of values (S, S), as good as flat where they deviate by so little."""
    flat, values = bool(values.std() <= least), values - values.mean()
    grey = F.normalize(values.flatten(), dim=0).view(SIDE, SIDE) * (not flat)
    parts, weights = torch.zeros(len(_SIZES), SIDE, SIDE), torch.zeros(len(_SIZES), SIDE, SIDE)
    for number, size in enumerate(_SIZES):
        part = F.interpolate(grey[None, None], size, mode="bilinear", antialias=True)[0, 0]
        part = part - part.mean()
        parts[number, : size[0], : size[1]] = F.normalize(part.flatten(), dim=0).view(size)
        mean, square = (F.avg_pool2d(powers[None], size, 1)[0] for powers in (grey, grey.square()))
        length = ((square - mean.square()).clamp_min(0) * size[0] * size[1]).sqrt()
        weights[number, : length.shape[0], : length.shape[1]] = (length > _LEAST_LENGTH) / length.clamp_min(1e-6)
    return Pattern(grey, torch.fft.rfft2(grey), torch.fft.rfft2(parts).conj(), weights)


def agreement(one: Picture, other: Picture) -> tuple[float, bool]:
    """(how far they agree, whether they would but for their details).

    The highest correlation, up to 1, of either picture, whole, with a part of the other, by their sizes and places: of
    a copy whose margins are cut off that is the part that is left. Where one is smooth and details do not agree, or
    there are none, it is that of the details: nothing says that they are copies.
    """
    found = _agreement(one.whole, other.whole)
    if found < LEAST or not (one.is_smooth or other.is_smooth):
        return found, False
    detail = _agreement(one.detail, other.detail)
    return (found, False) if detail >= _LEAST_DETAIL else (detail, True)


def _agreement(one: Pattern, other: Pattern) -> float:
    if (whole := float((one.grey * other.grey).sum())) >= LEAST:
        return whole
    return max(whole, _within(one, other), _within(other, one))


def _within(larger: Pattern, part: Pattern) -> float:
    # A part does not reach over the edge where it begins early enough, and the weights are of such places alone.
    found = torch.fft.irfft2(larger.spectrum * part.as_parts, (SIDE, SIDE))
    return float((found * larger.weights).max())
