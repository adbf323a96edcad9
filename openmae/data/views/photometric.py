"""What is done to a view's levels after its crop and flip: by joint-embedding methods colours, grey, blur and inverted
highlights; by a pre-training that is asked for it, colours.

All of it is drawn from the view's own generator, so that a view is the same whatever process makes it.
Source: SimCLR (arXiv 2002.05709, appendix A) and BYOL (arXiv 2006.07733, appendix B), made for photographs.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch.nn import functional as F

from openmae.data.views.statistics import WHITE, Statistics

JITTERED, GREYED = 0.8, 0.2  # chances
_SIGMAS = (0.1, 2.0)  # of the blur, in pixels of a view of
_BLURRED_AT = 224  # pixels a side


@dataclass(frozen=True)
class Photometric:
    """Changes views in place.

    brightness, contrast, saturation: by how much factors differ from 1 at most; hue: shift, in turns of the circle of
    colours, at most. blur, solarize, grey: chances, 0 to 1; a blur is as wide as the view is large.
    Of other images than 8-bit ones of three channels brightness is a shift, in standard deviations of the data, which
    all channels share; contrast is about each channel's mean in the view; saturation, hue, grey and inverted highlights
    mean nothing there and are left out.
    """

    statistics: Statistics
    brightness: float
    contrast: float
    saturation: float
    hue: float
    blur: float
    solarize: float = 0.0
    grey: float = GREYED

    @property
    def is_for_photographs(self) -> bool:
        """Whether pixels are 8-bit colours."""
        return self.statistics.pixels.depth == "uint8" and self.statistics.pixels.in_chans == 3

    def __call__(self, view: NDArray[Any], draws: np.random.Generator) -> None:
        """view (H, W, C) of the statistics' depth; draws: the view's own generator."""
        order = draws.permutation(4).tolist()
        jitters, greys, blurs, inverts, width, *changes = draws.random(9).tolist()
        signed = [2 * change - 1 for change in changes]
        least, most = _SIGMAS
        sigma = (least + width * (most - least)) * math.sqrt(math.prod(view.shape[:2])) / _BLURRED_AT
        sigma = sigma if blurs < self.blur else 0.0
        if not self.is_for_photographs:
            self._change_levels(view, signed if jitters < JITTERED else [0.0, 0.0], sigma)
            return
        image = Image.fromarray(view)
        if jitters < JITTERED:
            image = self._jittered(image, order, signed)
        if greys < self.grey:
            image = image.convert("L").convert("RGB")
        if sigma:
            image = image.filter(ImageFilter.GaussianBlur(sigma))
        if inverts < self.solarize:
            image = ImageOps.solarize(image, 128)
        view[:] = np.asarray(image)

    def _jittered(self, image: Image.Image, order: list[int], signed: list[float]) -> Image.Image:
        for which in order:
            if which == 3:
                image = _turned(image, self.hue * signed[3])
                continue
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
            most = (self.brightness, self.contrast, self.saturation)[which]
            image = enhance(image).enhance(1 + most * signed[which])
        return image

    def _change_levels(self, view: NDArray[Any], signed: list[float], sigma: float) -> None:
        white = WHITE[self.statistics.pixels.depth]
        levels = view.astype(np.float32)
        mean = levels.mean(axis=(0, 1))
        shift = self.brightness * signed[0] * white * np.asarray(self.statistics.std, np.float32)
        levels = mean + (levels - mean) * np.float32(1 + self.contrast * signed[1]) + shift
        if sigma:
            levels = blurred(levels, sigma)
        view[:] = levels if self.statistics.pixels.depth == "float32" else levels.round().clip(0, white)


def _turned(image: Image.Image, turns: float) -> Image.Image:
    """Its hues, turned by a part of the circle."""
    hue, *others = image.convert("HSV").split()
    shifted = np.asarray(hue) + np.uint8(round(255 * turns) % 256)  # which begins anew behind 255
    return Image.merge("HSV", (Image.fromarray(shifted), *others)).convert("RGB")


def blurred(levels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """(H, W, C) -> the same, by a Gaussian of so many pixels, edges continued."""
    reach = max(1, math.ceil(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum())[None, None]
    planes = torch.from_numpy(levels).permute(2, 0, 1)[:, None]  # (C, 1, H, W)
    for kernel, padding in ((weights[:, :, None], (reach, reach, 0, 0)), (weights[..., None], (0, 0, reach, reach))):
        planes = F.conv2d(F.pad(planes, padding, mode="replicate"), kernel)
    return planes[:, 0].permute(1, 2, 0).numpy()
