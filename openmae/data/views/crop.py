"""Decoded image -> the view that the model sees: random resized crop and flip, or a centred one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from openmae.data.formats.channels import PixelFormat

LARGEST_REDUCTION = 8  # of a JPEG


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


@dataclass(frozen=True)
class View:
    """How a decoded image becomes a view that the model sees.

    img_size, patch_size: (height, width). finish: what else is done to a view (H, W, C), in place, with the view's
    generator. noise: how many uniform numbers to draw for each view.
    """

    pixels: PixelFormat
    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    augmentation: Augmentation
    finish: Callable[[NDArray[Any], np.random.Generator], None] | None = None
    noise: int = 0


@dataclass(frozen=True)
class Crop:
    """Which pixels of an image a view shows: rows top to top + height, columns left to left + width, mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


def draw_crop(
    size: tuple[int, int], img_size: tuple[int, int], augmentation: Augmentation, generator: np.random.Generator
) -> Crop:
    """A crop of an image of `size` (height, width). Area and aspect are drawn once and clamped to the image, never
    again (as the released code does); the aspect varies by 3/4 to 4/3 about that of img_size."""
    height, width = size
    share, shape, down, right, mirror = generator.random(5).tolist()  # 0 and up to but not 1; one call, for its speed
    least, most = augmentation.crop_scale
    area = height * width * (least + share * (most - least))
    aspect = (4 / 3) ** (2 * shape - 1) * img_size[1] / img_size[0]
    if augmentation.crop_scale == (1.0, 1.0):
        area, aspect = height * width, width / height
    h = min(height, max(1, round(math.sqrt(area / aspect))))
    w = min(width, max(1, round(math.sqrt(area * aspect))))
    top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
    return Crop(top, left, h, w, augmentation.hflip and mirror < 0.5)


def reduction(size: tuple[int, int], img_size: tuple[int, int]) -> int:
    """By how much, 1, 2, 4 or 8, an image may be decoded smaller so that a crop of `size` keeps twice the pixels of
    img_size a side: enough that the resized crop is as sharp."""
    factor = LARGEST_REDUCTION
    while factor > 1 and any(have < 2 * want * factor for have, want in zip(size, img_size, strict=True)):
        factor //= 2
    return factor


def cut(
    image: NDArray[Any],
    size: tuple[int, int],
    crop: Crop,
    img_size: tuple[int, int],
    reduce: int = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """(h, w, C) -> (*img_size, C). `size` is what the crop was drawn for; the image was decoded at 1/reduce of it,
    and may lack rows below the crop. out: where to write the view."""
    vertical, horizontal = (-(-side // reduce) / side for side in size)
    top, left = round(crop.top * vertical), round(crop.left * horizontal)
    height, width = max(1, round(crop.height * vertical)), max(1, round(crop.width * horizontal))
    part = image[top : top + height, left : left + width]
    if crop.mirrored:
        part = torch.from_numpy(part).flip(1).numpy()  # numpy takes ten times as long to copy pixels backwards
    return resize(part, img_size, out)


def centred_view(image: NDArray[Any], img_size: tuple[int, int]) -> NDArray[Any]:
    """(H, W, C) -> (*img_size, C): resized to cover 256/224 of img_size, then its centre (the paper's evaluation
    view). An image of exactly img_size, as small ones often are, is taken as it is."""
    if image.shape[:2] == img_size:
        return image
    image = _middle(image, img_size)
    larger = resize(image, _covering(image.shape[:2], img_size))
    top, left = (larger.shape[0] - img_size[0]) // 2, (larger.shape[1] - img_size[1]) // 2
    return larger[top : top + img_size[0], left : left + img_size[1]]


def covering_side(side: int) -> int:
    """Pixels of which the middle `side` are taken."""
    return round(side * 256 / 224)


def _covering(size: tuple[int, ...], img_size: tuple[int, int]) -> tuple[int, int]:
    """What an image of `size` is resized to so that it covers 256/224 of img_size: the side that it just covers is
    rounded, the other one cut to whole pixels, as torchvision's Resize does it, by which models were judged."""
    first = 0 if size[0] * img_size[1] <= size[1] * img_size[0] else 1
    covered = covering_side(img_size[first])
    other = max(img_size[1 - first], covered * size[1 - first] // size[first])
    return (covered, other) if first == 0 else (other, covered)


def _middle(image: NDArray[Any], img_size: tuple[int, int]) -> NDArray[Any]:
    """The image without the far ends of a long strip, which would be enlarged only to be cut off."""
    height, width = image.shape[:2]
    longest = [8 * math.ceil(side * min(height / img_size[0], width / img_size[1])) for side in img_size]
    top, left = (max(0, (side - most) // 2) for side, most in zip((height, width), longest, strict=True))
    return image[top : height - top, left : width - left]


def resize(image: NDArray[Any], size: tuple[int, int], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """(h, w, C) uint8, uint16 or float32 -> (*size, C) of the same kind, bicubic with antialiasing.
    out: where to write it."""
    if out is None:
        out = np.empty((*size, image.shape[2]), image.dtype)
    if image.shape[:2] == size:
        out[:] = image
    elif image.dtype != np.uint8:
        resized = _bicubic(image.astype(np.float32), np.empty(out.shape, np.float32))
        # A bicubic kernel overshoots at edges.
        out[:] = resized if image.dtype == np.float32 else np.clip(resized.round(), 0, 65535)
    elif image.shape[2] <= 4:
        _bicubic(np.ascontiguousarray(image), out)
    else:  # torch's fast kernel takes up to 4 channels of 8 bits; the one for more is slow
        for start in range(0, image.shape[2], 4):
            some = np.ascontiguousarray(image[..., start : start + 4])
            out[..., start : start + 4] = _bicubic(some, np.empty((*size, some.shape[2]), np.uint8))
    return out


def _bicubic(image: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
    """(h, w, C) -> out (H, W, C)."""
    if out.shape[1] == 1:  # of one column nobody can tell where the channels lie
        wide = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        found = F.interpolate(wide, out.shape[:2], mode="bicubic", antialias=True)[0]
        out[:] = found.permute(1, 2, 0).numpy()
        return out
    # What F.interpolate calls, but it would put the channels first, which costs more than the interpolation.
    pixels, target = (
        torch.from_numpy(image[None].transpose(0, 3, 1, 2)),
        torch.from_numpy(out[None].transpose(0, 3, 1, 2)),
    )
    torch.ops.aten._upsample_bicubic2d_aa.out(pixels, target.shape[2:], False, None, None, out=target)
    return out
