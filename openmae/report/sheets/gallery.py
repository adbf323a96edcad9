"""Groups of small images with two lines of text below each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from openmae.data.loading.in_order import CentredImages
from openmae.report.sheets.font import wide_font
from openmae.report.sheets.layout import FAINT, TEXT, elide, tile_size
from openmae.report.sheets.pictures import TAIL

_WIDTH = 1000  # px that the tiles of a row may take
_SIZE = 14  # px of the text
_MARGIN, _GAP, _LINE = 20, 12, 19


@dataclass(frozen=True)
class Tile:
    """An image and what is said of it, in ink and in grey."""

    image: Image.Image
    said: str
    beside: str


@dataclass(frozen=True)
class Group:
    """Images under a title."""

    title: str
    tiles: Sequence[Tile]


def gallery(groups: Sequence[Group], size: tuple[int, int]) -> Image.Image:
    """An RGB picture of the groups that have tiles; `size` is the (height, width) of the images.

    Raises ValueError where there is no tile.
    """
    groups = [group for group in groups if group.tiles]
    if not groups:
        raise ValueError("a gallery needs one image or more")
    width, height = tile_size(size)
    columns = max(1, (_WIDTH + _GAP) // (width + _GAP))
    columns = min(columns, max(len(group.tiles) for group in groups))
    row = height + 2 * _LINE + _GAP
    rows = [-(-len(group.tiles) // columns) for group in groups]
    total = 2 * _MARGIN + sum(2 * _LINE + count * row for count in rows)
    font, bold = wide_font(_SIZE), wide_font(_SIZE, bold=True)
    widest = max(2 * _MARGIN + round(bold.getlength(group.title)) for group in groups)
    wide = max(2 * _MARGIN + columns * (width + _GAP) - _GAP, min(widest, _WIDTH))
    canvas = Image.new("RGB", (wide, total), "white")
    draw = ImageDraw.Draw(canvas)
    top = _MARGIN
    for group, count in zip(groups, rows, strict=True):
        draw.text((_MARGIN, top), elide(group.title, bold, wide - 2 * _MARGIN), TEXT, bold)
        top += round(1.5 * _LINE)
        for number, tile in enumerate(group.tiles):
            x = _MARGIN + number % columns * (width + _GAP)
            y = top + number // columns * row
            canvas.paste(tile.image.convert("RGB").resize((width, height), _filter(tile.image, width)), (x, y))
            draw.text((x, y + height + 3), elide(tile.said, font, width), TEXT, font)
            draw.text((x, y + height + 3 + _LINE), elide(tile.beside, font, width), FAINT, font)
        top += count * row + round(0.5 * _LINE)
    return canvas


def view_tiles(images: CentredImages, indices: Sequence[int]) -> list[Image.Image]:
    """The views of these images, which can be read, as pictures: of 2 channels the first, of more than 3 the first
    three. 8-bit images are shown as they are, of deeper ones the middle 99% of each image's own values."""
    if not indices:
        return []
    some = replace(images, source=images.source.take(np.array(indices)))
    return [_shown(view) for batch, _ in some.batches(len(indices), workers=0) for view in batch]


def _shown(view: Tensor) -> Image.Image:
    """(C, H, W) -> a picture."""
    pixels = view[:3].permute(1, 2, 0).numpy() if len(view) >= 3 else view[0].numpy()
    if pixels.dtype != np.uint8:
        low, high = np.quantile(pixels.astype(np.float64), (TAIL, 1 - TAIL))
        pixels = (255 * np.clip((pixels - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _filter(image: Image.Image, width: int) -> Image.Resampling:
    return Image.Resampling.NEAREST if width >= image.width else Image.Resampling.LANCZOS
