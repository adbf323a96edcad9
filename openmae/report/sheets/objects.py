"""Sheets of images with their objects: image, as labelled, as found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from openmae.data.annotations.objects import Objects
from openmae.report.sheets.layout import Row, sheet
from openmae.report.sheets.outlines import as_picture, colours, square

_LONGEST = 448  # pixels a side of a tile, at most before it is drawn
_LEAST = 336  # and at least, so that lines are thin beside small images
_TINT = 0.4  # of an object's colour over the image


@dataclass(frozen=True)
class ShownObjects:
    """An image (H, W, C) as decoded; its objects, right and found; its name, and what is said of it."""

    image: NDArray[Any]
    right: Objects
    found: Objects
    name: str
    note: str


def object_sheet(shown: Sequence[ShownObjects], names: Sequence[str]) -> Image.Image:
    """One row an image. The colour is the class's, or, of one class alone, just one that its neighbours have not.
    Raises ValueError where there is none."""
    palette = colours(max(len(names), 8), False)
    rows = []
    for one in shown:
        tiles = [_sized(Image.fromarray(as_picture(one.image)))]
        tiles += [_with_objects(one.image, objects, palette, len(names) == 1) for objects in (one.right, one.found)]
        rows.append(Row([square(tile) for tile in tiles], one.name, one.note))
    said = "Colours tell objects apart." if len(names) == 1 else f"Classes: {', '.join(names)}."
    return sheet(("image", "labelled", "found"), rows, (224, 224), f"{said} Grey: nobody judges.")


def _scale(size: tuple[int, int]) -> float:
    longest = max(size)
    return _LONGEST / longest if longest > _LONGEST else max(1.0, float(round(_LEAST / longest)))


def _sized(picture: Image.Image) -> Image.Image:
    scale = _scale(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _with_objects(image: NDArray[Any], objects: Objects, palette: NDArray[np.uint8], one_class: bool) -> Image.Image:
    """Each object tinted and outlined where its pixels are known, framed where its box is all that is."""
    picture = as_picture(image).astype(np.float32)
    which = [number if one_class else int(label) for number, label in enumerate(objects.classes)]
    inks = [
        np.array((128, 128, 128) if crowd else palette[place % len(palette)], np.float32)
        for place, crowd in zip(which, objects.crowd, strict=True)
    ]
    for piece, ink in zip(objects.pieces or (), inks, strict=objects.pieces is not None):
        height, width = piece.mask.shape
        part = picture[piece.top : piece.top + height, piece.left : piece.left + width]
        inside = np.pad(piece.mask, 1)
        core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        part[core] = (1 - _TINT) * part[core] + _TINT * ink
        part[piece.mask & ~core] = ink
    drawn = _sized(Image.fromarray(picture.round().clip(0, 255).astype(np.uint8)))
    if objects.pieces is None:
        scale, canvas = _scale((image.shape[1], image.shape[0])), ImageDraw.Draw(drawn)
        for box, ink in zip((objects.boxes * scale).tolist(), inks, strict=True):
            left, top, right, bottom = box
            colour = (int(ink[0]), int(ink[1]), int(ink[2]))
            canvas.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)
    return drawn
