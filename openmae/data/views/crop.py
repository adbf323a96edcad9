"""Decoded image -> the view that the model sees: random resized crop, flipped and turned, or a centred one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.header import LARGEST_REDUCTION
from openmae.data.views.kinds import CropFit, Kernel

_TRIES = 10  # to draw a crop that fits into the image
_WIDEST = 4 / 3  # of a crop's aspects, over that of the view
_LARGEST_CROPPED = 224  # pixels a side; of larger views nothing is cut off but what their shape asks for

BEFORE_CROP_FIT: CropFit = "clamp"  # of runs that began when nobody could say


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop and horizontal flip (paper, Table 8).

    crop_scale: share of the image's area that a crop covers, (least, most), above 0 and up to 1;
        (1, 1) takes the whole image, stretched to img_size.
    crop_fit: what is done with a crop that does not fit into the image. "retry" draws another, up to ten times, and
        then takes the middle of the image (torchvision, timm; the released pre-training and fine-tuning); "clamp" cuts
        it off at the image's sides (the released linear probe), so crops are larger.
    hflip: mirror every second view. Switch it off where left and right differ in meaning.
    vflip: show every second view upside down. rotate90: turn views by 0, 90, 180 or 270 degrees, each as often. For
        images whose axes mean nothing; both move pixels and compute none anew.
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)
    hflip: bool = True
    crop_fit: CropFit = "retry"
    vflip: bool = False
    rotate90: bool = False

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

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.img_size[0] // self.patch_size[0], self.img_size[1] // self.patch_size[1]

    @property
    def finest(self) -> tuple[int, int]:
        """(height, width) that crops are decoded for: the longer side both ways where a view may be a turned one."""
        return (max(self.img_size),) * 2 if self.augmentation.rotate90 else self.img_size


@dataclass(frozen=True)
class Crop:
    """Which pixels of an image a view shows: rows top to top + height, columns left to left + width; and how: mirrored,
    then upside down, then with rows for columns."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool
    flipped: bool = False
    transposed: bool = False


def draw_crop(
    size: tuple[int, int], img_size: tuple[int, int], augmentation: Augmentation, generator: np.random.Generator
) -> Crop:
    """A crop of an image of `size` (height, width), its area evenly and its aspect's logarithm evenly drawn; the
    aspect varies by 3/4 to 4/3 about that of img_size, or of a view that lies on its side before it is turned."""
    height, width = size
    tries = _TRIES if augmentation.crop_fit == "retry" else 1
    # 0 and up to but not 1; always as many, so that what is drawn next does not depend on the image.
    *numbers, down, right, mirror = generator.random(2 * tries + 3).tolist()
    shown = (augmentation.hflip and mirror < 0.5, False, False)
    if augmentation.vflip or augmentation.rotate90:  # drawn last, so that what runs without them draw is as ever
        shown = turned(shown[0], augmentation, *generator.random(2).tolist())
    if shown[2]:
        img_size = img_size[::-1]
    if augmentation.crop_scale == (1.0, 1.0):
        return Crop(0, 0, height, width, *shown)
    least, most = augmentation.crop_scale
    for share, shape in zip(numbers[::2], numbers[1::2], strict=True):
        area = height * width * (least + share * (most - least))
        aspect = _WIDEST ** (2 * shape - 1) * img_size[1] / img_size[0]
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if augmentation.crop_fit == "clamp":
            h, w = min(height, max(1, h)), min(width, max(1, w))
        if 0 < h <= height and 0 < w <= width:
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            return Crop(top, left, h, w, *shown)
    h, w = _widest(size, img_size[1] / img_size[0])
    return Crop((height - h) // 2, (width - w) // 2, h, w, *shown)


def turned(mirrored: bool, augmentation: Augmentation, flip: float, turn: float) -> tuple[bool, bool, bool]:
    """(mirrored, flipped, transposed) of a view that is mirrored or not, by two numbers from 0 to below 1."""
    flipped = augmentation.vflip and flip < 0.5
    quarters = int(turn * 4) if augmentation.rotate90 else 0  # counterclockwise: mirrored, and rows for columns
    return mirrored ^ (quarters in (1, 2)), flipped ^ (quarters in (2, 3)), quarters % 2 == 1


def _widest(size: tuple[int, int], square: float) -> tuple[int, int]:
    """(height, width) of the largest part of an image of `size` whose aspect a crop may have."""
    height, width = size
    narrowest, widest = square / _WIDEST, square * _WIDEST
    if width < narrowest * height:
        return min(height, max(1, round(width / narrowest))), width
    if width > widest * height:
        return height, min(width, max(1, round(height * widest)))
    return size


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
    part = _flipped(image, size, crop, reduce)
    if not crop.transposed:
        return resize(part, img_size, out)
    view = resize(part, img_size[::-1]).transpose(1, 0, 2)  # of a view fewer pixels are to be moved
    if out is None:
        return np.ascontiguousarray(view)
    out[:] = view
    return out


def cropped(image: NDArray[Any], size: tuple[int, int], crop: Crop, reduce: int = 1) -> NDArray[Any]:
    """The pixels (h, w, C) that `cut` makes a view of."""
    part = _flipped(image, size, crop, reduce)
    return part.transpose(1, 0, 2) if crop.transposed else part


def _flipped(image: NDArray[Any], size: tuple[int, int], crop: Crop, reduce: int) -> NDArray[Any]:
    """The pixels (h, w, C) of a crop, mirrored and upside down as it says."""
    vertical, horizontal = (-(-side // reduce) / side for side in size)
    top, left = round(crop.top * vertical), round(crop.left * horizontal)
    height, width = max(1, round(crop.height * vertical)), max(1, round(crop.width * horizontal))
    part = image[top : top + height, left : left + width]
    if axes := [axis for axis, turns in enumerate((crop.flipped, crop.mirrored)) if turns]:
        part = torch.from_numpy(part).flip(axes).numpy()  # numpy takes ten times as long to copy pixels backwards
    return part


def centred_view(image: NDArray[Any], img_size: tuple[int, int], kernel: Kernel = "bicubic") -> NDArray[Any]:
    """(H, W, C) -> (*img_size, C): resized to cover `covering_sides`, then its centre, as torchvision's Resize and
    CenterCrop do it, by which the released code, timm's and others judge models. An image of exactly img_size, as
    small ones often are, is taken as it is."""
    if image.shape[:2] == img_size:
        return image
    image = _middle(image, img_size)
    larger = resize(image, _covering(image.shape[:2], img_size), kernel=kernel)
    top, left = (round((have - side) / 2) for have, side in zip(larger.shape[:2], img_size, strict=True))
    return larger[top : top + img_size[0], left : left + img_size[1]]


def covering_sides(img_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of which the middle img_size is taken: 256/224 of it, cut to whole pixels; above 224 pixels
    img_size itself (the released fine-tuning's evaluation)."""
    height, width = img_size
    if max(img_size) > _LARGEST_CROPPED:
        return height, width
    return height * 256 // 224, width * 256 // 224


def _covering(size: tuple[int, ...], img_size: tuple[int, int]) -> tuple[int, int]:
    """What an image of `size` is resized to so that it covers `covering_sides`: the side that it just covers is that,
    the other one in proportion, cut to whole pixels as torchvision does it; for a view that is not square, which
    torchvision has no word for, rounded as timm does it."""
    sides = covering_sides(img_size)
    first = 0 if size[0] * sides[1] <= size[1] * sides[0] else 1
    covered = sides[first]
    is_square = img_size[0] == img_size[1]
    other = covered * size[1 - first] // size[first] if is_square else round(size[1 - first] / (size[first] / covered))
    other = max(img_size[1 - first], other)
    return (covered, other) if first == 0 else (other, covered)


def _middle(image: NDArray[Any], img_size: tuple[int, int]) -> NDArray[Any]:
    """The image without the far ends of a long strip, which would be enlarged only to be cut off."""
    height, width = image.shape[:2]
    longest = [8 * math.ceil(side * min(height / img_size[0], width / img_size[1])) for side in img_size]
    top, left = (max(0, (side - most) // 2) for side, most in zip((height, width), longest, strict=True))
    return image[top : height - top, left : width - left]


def resize(
    image: NDArray[Any], size: tuple[int, int], out: NDArray[Any] | None = None, kernel: Kernel = "bicubic"
) -> NDArray[Any]:
    """(h, w, C) uint8, uint16 or float32 -> (*size, C) of the same kind, with antialiasing. out: where to write it."""
    if out is None:
        out = np.empty((*size, image.shape[2]), image.dtype)
    if image.shape[:2] == size:
        out[:] = image
    elif image.dtype != np.uint8:
        resized = _resized(image.astype(np.float32), np.empty(out.shape, np.float32), kernel)
        # A bicubic kernel overshoots at edges.
        out[:] = resized if image.dtype == np.float32 else np.clip(resized.round(), 0, 65535)
    elif image.shape[2] <= 4:
        _resized(np.ascontiguousarray(image), out, kernel)
    else:  # torch's fast kernel takes up to 4 channels of 8 bits; the one for more is slow
        for start in range(0, image.shape[2], 4):
            some = np.ascontiguousarray(image[..., start : start + 4])
            out[..., start : start + 4] = _resized(some, np.empty((*size, some.shape[2]), np.uint8), kernel)
    return out


def _resized(image: NDArray[Any], out: NDArray[Any], kernel: Kernel) -> NDArray[Any]:
    """(h, w, C) -> out (H, W, C)."""
    if out.shape[1] == 1:  # of one column nobody can tell where the channels lie
        wide = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        found = F.interpolate(wide, out.shape[:2], mode=kernel, antialias=True)[0]
        out[:] = found.permute(1, 2, 0).numpy()
        return out
    # What F.interpolate calls, but it would put the channels first, which costs more than the interpolation.
    pixels, target = (
        torch.from_numpy(image[None].transpose(0, 3, 1, 2)),
        torch.from_numpy(out[None].transpose(0, 3, 1, 2)),
    )
    of = {"bicubic": torch.ops.aten._upsample_bicubic2d_aa, "bilinear": torch.ops.aten._upsample_bilinear2d_aa}[kernel]
    of.out(pixels, target.shape[2:], False, None, None, out=target)
    return out
