"""What fine-tuning does to a view after its crop and flip: RandAugment and random erasing.

All of it is drawn from the view's own generator, so that a view is the same whatever process makes it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.views.rand_augment import MOST, rand_augment
from openmae.data.views.statistics import WHITE, Statistics
from openmae.errors import BadValue

_TRIES = 10  # to draw a rectangle that fits
_SHARES = (0.02, 1 / 3)  # of the area
_TALLEST = 1 / 0.3  # height over width, or width over height


@dataclass(frozen=True)
class Finish:
    """Changes views in place.

    ra_magnitude: of RandAugment, above 0 and up to 10; 0 switches it off.
    random_erase: chance of a rectangle of noise, 0 to 1.
    """

    statistics: Statistics
    ra_magnitude: float = 0.0
    random_erase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.ra_magnitude <= MOST:
            raise ValueError(f"ra_magnitude is {self.ra_magnitude:g}; give a number from 0 to {MOST:g}")
        if not 0 <= self.random_erase <= 1:
            raise ValueError(f"random_erase is {self.random_erase:g}; give a share from 0 to 1")
        if self.ra_magnitude and (complaint := self.why_not_ra(self.statistics)):
            raise complaint

    @staticmethod
    def why_not_ra(statistics: Statistics) -> BadValue | None:
        """Why RandAugment cannot be used on such pixels; None where it can."""
        if statistics.pixels.depth == "uint8" and statistics.pixels.in_chans in (1, 3):
            return None
        return BadValue("RandAugment is for 8-bit images of 1 or 3 channels", "set ra_magnitude to 0")

    def __call__(self, view: NDArray[Any], draws: np.random.Generator) -> None:
        """view (H, W, C) of the statistics' depth; draws: the view's own generator."""
        if self.ra_magnitude:
            fill = tuple(min(255, round(255 * value)) for value in self.statistics.mean)
            rand_augment(view, self.ra_magnitude, fill, draws)
        if draws.random() < self.random_erase:
            self._erase(view, draws)

    def _erase(self, view: NDArray[Any], draws: np.random.Generator) -> None:
        """Noise of the images' own mean and deviation in a rectangle (mode "pixel" of timm's random erasing)."""
        if (place := _rectangle(view.shape[:2], draws)) is None:
            return
        statistics, part = self.statistics, view[place]
        white = WHITE[statistics.pixels.depth]
        mean, std = (white * np.asarray(values, np.float32) for values in (statistics.mean, statistics.std))
        noise = draws.standard_normal(part.shape, np.float32) * std + mean
        part[:] = noise if statistics.pixels.depth == "float32" else noise.round().clip(0, white)


def _rectangle(size: tuple[int, ...], draws: np.random.Generator) -> tuple[slice, slice] | None:
    """Rows and columns of an image of `size` (height, width); None where no rectangle that was drawn fits."""
    height, width = size
    down, right, *numbers = draws.random(2 + 2 * _TRIES).tolist()
    for share, shape in zip(numbers[::2], numbers[1::2], strict=True):
        area = height * width * (_SHARES[0] + share * (_SHARES[1] - _SHARES[0]))
        aspect = _TALLEST ** (2 * shape - 1)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            return slice(top, top + h), slice(left, left + w)
    return None
