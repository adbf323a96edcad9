"""Sheets of images with what is outlined in them: image, as labelled, as found."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.data.tiles.large import AnyImage
from openmae.report.sheets.layout import Colour, Row, sheet
from openmae.report.sheets.pictures import TAIL

REPORTED = 320  # pixels a side of a tile, of three in a row, as wide together as a page
_LONGEST = 448  # pixels a side of a tile before it is drawn
_TINT = 0.45  # of a class's colour over the image
IGNORED_COLOUR = (128, 128, 128)
# Okabe and Ito's colours, which people who see fewer colours tell apart too; then two more.
_COLOURS = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#8C564B",
    "#7F3C8D",
)
_STEP = 36  # of 256, between the levels of others
_TO_XYZ = ((0.4339, 0.3762, 0.1899), (0.2126, 0.7152, 0.0722), (0.0177, 0.1095, 0.8728))  # over D65's white


@dataclass(frozen=True)
class Shown:
    """An image (H, W, C) as decoded; masks (H, W) of class indices, right, where that is known of all that are shown,
    and found, `ignored` where nobody judges; its name, and what is said of it."""

    image: AnyImage
    right: NDArray[np.uint8] | None
    found: NDArray[np.uint8]
    name: str
    note: str


def colours(classes: int, has_background: bool) -> NDArray[np.uint8]:
    """(K, 3) a colour for each class; black for the first one where that is the background. No two are alike."""
    palette = _palette(classes - has_background)
    return np.array([(0, 0, 0), *palette] if has_background else palette, np.uint8).reshape(-1, 3)


@lru_cache
def _palette(count: int) -> list[Colour]:
    """The list's; then, one after the other, what looks least like all that are there, black, white and the grey of
    what is ignored among them."""
    found = [_rgb(text) for text in _COLOURS][:count]
    levels = range(0, 256, _STEP)
    others = np.array([(red, green, blue) for red in levels for green in levels for blue in levels])
    there = np.array([*map(_rgb, _COLOURS), (0, 0, 0), (255, 255, 255), IGNORED_COLOUR])
    seen = _as_seen(others)
    apart = np.linalg.norm(seen[:, None] - _as_seen(there), axis=2).min(1)
    while len(found) < count:
        place = int(apart.argmax())
        red, green, blue = others[place].tolist()
        found.append((red, green, blue))
        apart = np.minimum(apart, np.linalg.norm(seen - seen[place], axis=1))
    return found


def _as_seen(colours: NDArray[Any]) -> NDArray[np.float64]:
    """(n, 3) sRGB, 0 to 255 -> CIELAB under D65, in which distances are about how different two look."""
    shares = colours / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(np.maximum(linear @ np.array(_TO_XYZ).T, 0.008856)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _rgb(text: str) -> Colour:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def overlay(
    image: NDArray[Any], mask: NDArray[np.uint8], palette: NDArray[np.uint8], ignored: int, has_background: bool
) -> Image.Image:
    """The image, tinted by the class of each pixel, with a line where classes meet."""
    grey = as_picture(image).astype(np.float32)
    known = mask != ignored
    tint = _tint(mask, palette, ignored)
    plain = known & (mask == 0) if has_background else np.zeros_like(known)
    shown = np.where(plain[..., None], grey, (1 - _TINT) * grey + _TINT * tint)
    beyond = mask.copy()  # what lies beyond an edge, of the pixel below where both differ
    beyond[:, :-1] = mask[:, 1:]
    beyond[:-1] = np.where(mask[:-1] != mask[1:], mask[1:], beyond[:-1])
    line = np.where(plain[..., None], _tint(beyond, palette, ignored), tint)
    shown = np.where((beyond != mask)[..., None], line, shown)
    return Image.fromarray(shown.round().clip(0, 255).astype(np.uint8))


def _tint(mask: NDArray[np.uint8], palette: NDArray[np.uint8], ignored: int) -> NDArray[np.uint8]:
    """(H, W) -> (H, W, 3) the colours of the classes."""
    known = mask != ignored
    return np.where(known[..., None], palette[np.where(known, mask, 0)], np.array(IGNORED_COLOUR, np.uint8))


def as_picture(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, C) -> (H, W, 3): of more than 3 channels the first three, of 2 the first. Of more than 8 bits the middle
    99% of its own values."""
    pixels = image[..., :3] if image.shape[2] >= 3 else image[..., :1]
    if pixels.dtype != np.uint8:
        low, high = np.quantile(pixels.astype(np.float64), (TAIL, 1 - TAIL))
        pixels = (255 * np.clip((pixels - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)


def outline_sheet(shown: Sequence[Shown], names: Sequence[str], ignored: int, has_background: bool) -> Image.Image:
    """One row an image, the colours of the classes below. Raises ValueError where there is none."""
    palette = colours(len(names), has_background)
    rows = []
    for one in shown:
        step = step_of((one.image.shape[0], one.image.shape[1]))
        image = one.image[::step, ::step]
        masks = [mask[::step, ::step] for mask in (one.right, one.found) if mask is not None]
        tiles = [Image.fromarray(as_picture(image))]
        tiles += [overlay(image, mask, palette, ignored, has_background) for mask in masks]
        rows.append(Row([square(tile) for tile in tiles], one.name, one.note))
    masks = [mask for one in shown for mask in (one.right, one.found) if mask is not None]
    occurring = {int(value) for mask in masks for value in np.unique(mask)}
    legend = legend_of(names, palette, occurring - {0} if has_background else occurring)
    if any(one.right is None for one in shown):
        return sheet(("image", "found"), rows, (224, 224), "", legend)
    said = "Grey: nobody judges." if ignored in occurring else ""
    return sheet(("image", "labelled", "found"), rows, (REPORTED, REPORTED), said, legend, REPORTED, len(rows))


def step_of(size: tuple[int, int]) -> int:
    """Of an image (height, width) that a sheet shows, each so manieth pixel is drawn."""
    return max(1, max(size) // _LONGEST)


def legend_of(names: Sequence[str], palette: NDArray[np.uint8], occurring: set[int]) -> list[tuple[Colour, str]]:
    """Colour and name of the classes that occur."""
    found = []
    for number, (name, colour) in enumerate(zip(names, palette.tolist(), strict=False)):
        if number in occurring:
            red, green, blue = colour
            found.append(((red, green, blue), name))
    return found


def square(tile: Image.Image) -> Image.Image:
    """On white, so that images of all shapes stand in one column."""
    side = max(tile.size)
    if tile.width == tile.height:
        return tile
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(tile, ((side - tile.width) // 2, (side - tile.height) // 2))
    return canvas
