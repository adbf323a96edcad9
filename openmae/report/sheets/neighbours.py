"""Sheets of images that a search, near-duplicates or outliers name, each with what there is to say of it below."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from openmae.data.views.statistics import WHITE
from openmae.report.sheets.font import wide_font
from openmae.report.sheets.layout import FAINT, TEXT, Row, elide, sheet
from openmae.report.sheets.pictures import NARROW, NOISE, TAIL

SIDE = 168  # px of an image's longer side; with its caption a tile stays below what `sheet` would shrink
_ENLARGED = 42  # px up to which a small image grows by a whole factor, each pixel a square
_TEXT = 14
_LINE = 19


@dataclass(frozen=True)
class CaptionedImage:
    """An image (H, W, C) of uint8, uint16 or float32, or None for one that cannot be read any more; what stands below
    it: a word about it, and its name; either may be empty."""

    image: NDArray[Any] | None
    about: str
    name: str


def captioned_sheet(titles: Sequence[str], rows: Sequence[Sequence[CaptionedImage]], footer: str) -> Image.Image:
    """A picture of all rows, as many tiles in each as there are titles at most. Images of more than 8 bits, and those
    of 8 that use less than half of their range, are shown from their darkest to their brightest values but for the
    tails, and the footer says so; of more than 3 channels the first three.

    Raises ValueError where there are no rows.
    """
    drawn = [Row([_drawn(tile) for tile in row], "", "") for row in rows]
    if any(
        tile.image is not None and tile.image.dtype == np.uint8 and _ends(_seen(tile.image))
        for row in rows
        for tile in row
    ):
        footer += " Images that use less than half of the range from black to white are shown with more contrast."
    return sheet(titles, drawn, (SIDE + 2 * _LINE, SIDE), footer)


def _drawn(tile: CaptionedImage) -> Image.Image:
    canvas = Image.new("RGB", (SIDE, SIDE + 2 * _LINE), "white")
    draw = ImageDraw.Draw(canvas)
    if tile.image is None:
        draw.rectangle((0, 0, SIDE - 1, SIDE - 1), "#eeeeee")
        draw.text((SIDE // 2, SIDE // 2), "cannot be read", FAINT, wide_font(_TEXT), anchor="mm")
    else:
        image = _sized(_shown(tile.image))
        canvas.paste(image.convert("RGB"), ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    for line, (text, colour) in enumerate(((tile.about, TEXT), (tile.name, FAINT))):
        middle = SIDE + line * _LINE + _LINE // 2 + 2
        draw.text((SIDE // 2, middle), elide(text, wide_font(_TEXT), SIDE), colour, wide_font(_TEXT), anchor="mm")
    return canvas


def _seen(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W, C) -> (H, W, 3) or (H, W): the channels that are shown."""
    return image[..., :3] if image.shape[2] >= 3 else image[..., 0]


def _shown(image: NDArray[Any]) -> Image.Image:
    """(H, W, C) -> a grey or colour picture."""
    image = _seen(image)
    if (found := _ends(image)) is not None:
        values, (low, high) = image.astype(np.float32), found
        image = np.clip((values - low) / max(high - low, 1e-6 * (1 + abs(low))) * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(image)


def _ends(image: NDArray[Any]) -> tuple[float, float] | None:
    """The values that are shown as black and as white; None where the image is shown as it is."""
    low, high = np.quantile(image.astype(np.float32), (TAIL, 1 - TAIL)).tolist()
    is_narrow = NOISE < (high - low) / WHITE["uint8"] < NARROW
    return (low, high) if image.dtype != np.uint8 or is_narrow else None


def _sized(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    factor = SIDE // longest if longest <= _ENLARGED else SIDE / longest
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.NEAREST if longest <= _ENLARGED else Image.Resampling.LANCZOS)
