"""What fine-tuning does to a view after its crop and flip: RandAugment and random erasing, by torchvision.

torchvision draws from torch's global generator. Here it is seeded for each view from the view's own generator and put
back afterwards, so that a view is the same whatever process makes it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.views.statistics import WHITE, Statistics
from openmae.errors import BadValue

_MOST = 10.0  # RandAugment's magnitude, in the paper's and timm's count
_BINS = 101  # steps of 0.1 in it
_OPS = 2  # operations at most; each with a chance of a half, as in the released recipe (timm's rand-m9-mstd0.5)
_SPREAD = 0.5  # standard deviation of the magnitude


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
        if not 0 <= self.ra_magnitude <= _MOST:
            raise ValueError(f"ra_magnitude is {self.ra_magnitude:g}; give a number from 0 to {_MOST:g}")
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
        chances = draws.random(1 + _OPS)  # always as many, so that a setting changes nothing but what it is about
        magnitude = float(np.clip(draws.normal(self.ra_magnitude, _SPREAD), 0, _MOST))
        seed = int(draws.integers(2**63))
        ops = int((chances[1:] < 0.5).sum()) if self.ra_magnitude else 0
        erase = chances[0] < self.random_erase
        if not ops and not erase:
            return
        with seeded(seed):
            image = torch.from_numpy(view).permute(2, 0, 1)
            if ops:
                fill = tuple(round(255 * value) for value in self.statistics.mean)
                image.copy_(_rand_augment(ops, round(magnitude / _MOST * (_BINS - 1)), fill)(image.contiguous()))
            if erase:
                self._erase(image)

    def _erase(self, image: Tensor) -> None:
        """Noise of the images' own mean and deviation in a rectangle (mode "pixel" of the released recipe)."""
        params = _eraser().make_params([image])
        if (noise := params["v"]) is None:  # no rectangle fits
            return
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.statistics.mean, self.statistics.std))
        white = WHITE[self.statistics.pixels.depth]
        pixels = (noise * std + mean) * white
        if self.statistics.pixels.depth != "float32":
            pixels = pixels.round().clamp(0, white)
        top, left = params["i"], params["j"]
        part = image[:, top : top + params["h"], left : left + params["w"]]
        part.copy_(pixels.to(torch.int32).to(image.dtype) if image.dtype != torch.float32 else pixels)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's global generator on the CPU starts at `seed`; afterwards it is as it was."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@lru_cache(maxsize=512)
def _rand_augment(ops: int, magnitude: int, fill: tuple[int, ...]) -> Any:
    from torchvision.transforms import InterpolationMode, v2

    return v2.RandAugment(ops, magnitude, _BINS, InterpolationMode.BILINEAR, list(fill))


@lru_cache(maxsize=1)
def _eraser() -> Any:
    from torchvision.transforms import v2

    return v2.RandomErasing(p=1, value="random")
