"""Decoded image -> the view that the model sees: random resized crop and flip, or a centred one. All uint8."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop and horizontal flip (paper, Table 8).

    crop_scale: share of the image's area that a crop covers, (least, most), above 0 and up to 1;
        (1, 1) takes the whole image, stretched to img_size.
    hflip: mirror every second view. Switch it off where left and right differ in meaning.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    hflip: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale is {self.crop_scale}; give two ascending numbers above 0 and up to 1")


def training_view(
    image: NDArray[np.uint8],
    img_size: tuple[int, int],
    augmentation: Augmentation,
    generator: np.random.Generator,
) -> Tensor:
    """(H, W, C) -> (C, *img_size). Area and aspect are drawn once and clamped to the image, never again
    (as the released code does); the aspect varies by 3/4 to 4/3 about that of img_size."""
    height, width = image.shape[:2]
    area = height * width * generator.uniform(*augmentation.crop_scale)
    aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3))) * img_size[1] / img_size[0]
    if augmentation.crop_scale == (1.0, 1.0):
        area, aspect = height * width, width / height
    h = min(height, max(1, round(math.sqrt(area / aspect))))
    w = min(width, max(1, round(math.sqrt(area * aspect))))
    top, left = int(generator.integers(0, height - h + 1)), int(generator.integers(0, width - w + 1))
    view = resize(image[top : top + h, left : left + w], img_size)
    return view.flip(-1) if augmentation.hflip and generator.random() < 0.5 else view


def centred_view(image: NDArray[np.uint8], img_size: tuple[int, int]) -> Tensor:
    """(H, W, C) -> (C, *img_size): resized to cover 256/224 of img_size, then its centre (the paper's
    evaluation view). An image of exactly img_size, as small ones often are, is taken as it is."""
    height, width = image.shape[:2]
    if (height, width) == img_size:
        return torch.from_numpy(image.copy()).permute(2, 0, 1).contiguous()
    factor = max(side * 256 / 224 / length for side, length in zip(img_size, (height, width), strict=True))
    larger = resize(image, (max(img_size[0], round(height * factor)), max(img_size[1], round(width * factor))))
    top, left = (larger.shape[1] - img_size[0]) // 2, (larger.shape[2] - img_size[1]) // 2
    return larger[:, top : top + img_size[0], left : left + img_size[1]].contiguous()


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """(h, w, C) -> (C, *size) uint8, bicubic with antialiasing."""
    # A channels-last view of the array: torch has a fast uint8 kernel for it, and nothing is copied before.
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if tuple(image.shape[:2]) == size:
        return pixels[0].contiguous()
    return F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)[0].contiguous()
