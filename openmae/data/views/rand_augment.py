"""RandAugment as timm's `rand-m9-mstd0.5-inc1`, with which the released fine-tuning trains, by Pillow.

Source: Cubuk et al., "RandAugment", arXiv 1909.13719; strengths, probabilities and the fifteen operations as timm's
timm/data/auto_augment.py states them, against which tests compare.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

MOST = 10.0  # of the magnitude
_LAYERS = 2  # operations, drawn with replacement; each is carried out with a chance of a half
_SPREAD = 0.5  # standard deviation of the magnitude
_CUBIC = Image.Resampling.BICUBIC

Fill = tuple[int, ...] | int
_Operation = Callable[[Image.Image, float, Fill], Image.Image]
"""Image, strength from -1 to 1 (where the sign means nothing, none is made of it), what lies outside -> image."""


def rand_augment(view: NDArray[np.uint8], magnitude: float, fill: tuple[int, ...], draws: np.random.Generator) -> None:
    """Changes a view (H, W, 1 or 3) in place. magnitude: 0 to 10. fill: a level for each channel, outside the image."""
    which = draws.integers(len(OPERATIONS), size=_LAYERS).tolist()
    carried_out, negative = draws.random((2, _LAYERS)) < 0.5
    strengths = np.clip(draws.normal(magnitude, _SPREAD, _LAYERS), 0, MOST) / MOST
    if not carried_out.any():
        return
    is_grey = view.shape[2] == 1
    image = Image.fromarray(view[..., 0] if is_grey else view)
    for layer in np.flatnonzero(carried_out).tolist():
        strength = -strengths[layer] if negative[layer] else strengths[layer]
        image = OPERATIONS[which[layer]](image, float(strength), fill[0] if is_grey else fill)
    view[:] = np.asarray(image).reshape(view.shape)


def _autocontrast(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return ImageOps.equalize(image)


def _invert(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return ImageOps.invert(image)


def _rotate(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return image.rotate(30 * strength, _CUBIC, fillcolor=fill)


def _posterize(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    """The highest bits, from 4 down to none; Pillow's own goes down to 1, where it used to go on to none."""
    kept = 256 - 2 ** (4 + int(4 * abs(strength)))
    return image.point([level & kept for level in range(256)] * len(image.mode))


def _solarize(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(256 * abs(strength)))


def _solarize_add(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
    """Brightens what is darker than the middle."""
    added = int(110 * abs(strength))
    return image.point([min(255, level + added) if level < 128 else level for level in range(256)] * len(image.mode))


def _enhanced(enhance: Callable[[Image.Image], ImageEnhance._Enhance]) -> _Operation:
    """From 0.1 to 1.9 of what an image has of something."""

    def change(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
        return enhance(image).enhance(max(0.1, 1 + 0.9 * strength))

    return change


def _moved(row: int, column: int, most: float) -> _Operation:
    """An affine map that is the identity but for one number of its two rows (of three columns, the last a shift in
    parts of the image's side), from -most to most."""

    def change(image: Image.Image, strength: float, fill: Fill) -> Image.Image:
        matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        matrix[3 * row + column] = most * strength * (image.size[row] if column == 2 else 1)
        return image.transform(image.size, Image.Transform.AFFINE, matrix, _CUBIC, fillcolor=fill)

    return change


OPERATIONS: tuple[_Operation, ...] = (
    _autocontrast,
    _equalize,
    _invert,
    _rotate,
    _posterize,
    _solarize,
    _solarize_add,
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    _moved(0, 1, 0.3),  # shear along rows, and along columns
    _moved(1, 0, 0.3),
    _moved(0, 2, 0.45),  # shift along rows, and along columns
    _moved(1, 2, 0.45),
)
"""In the order of timm's list."""
