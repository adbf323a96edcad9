"""Puts pictures on a white sheet: rows of tiles under column titles, a caption for each row, a footer."""

import io
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from openmae.console.words import drawable
from openmae.report.sheets.font import wide_font

SMALLEST, LARGEST = 128, 224  # px of a tile's longer side
_LINES = 4  # of a legend
Colour = tuple[int, int, int]
ROWS_IN_ONE_BLOCK = 4  # more of them stand side by side
TEXT, FAINT, RULE = "#1a1a1a", "#666666", "#d8d8d8"


@dataclass(frozen=True)
class Row:
    """Tiles from left to right, and the caption below: a name on the left, a note on the right."""

    tiles: Sequence[Image.Image]
    name: str
    note: str


@dataclass(frozen=True)
class _Grid:
    """Measures in pixels; all spacing is in multiples of the text size, so it grows with the sheet."""

    tile: tuple[int, int]  # width, height
    columns: int
    blocks: int
    block_rows: int
    text: int
    column: int  # width of a column, tile or title, whichever is wider

    @property
    def margin(self) -> int:
        return round(1.6 * self.text)

    @property
    def gap(self) -> int:
        return round(0.6 * self.text)

    @property
    def line(self) -> int:
        return round(1.45 * self.text)

    @property
    def block_width(self) -> int:
        return self.columns * self.column + (self.columns - 1) * self.gap

    @property
    def width(self) -> int:
        return 2 * self.margin + self.blocks * self.block_width + (self.blocks - 1) * 2 * self.text

    @property
    def row_height(self) -> int:
        return self.tile[1] + 2 * self.line

    @property
    def rows_end(self) -> int:
        return self.margin + self.line + self.block_rows * self.row_height

    def corner(self, row: int) -> tuple[int, int]:
        """Left and top of a row's first column."""
        block, place = divmod(row, self.block_rows)
        left = self.margin + block * (self.block_width + 2 * self.text)
        return left, self.margin + self.line + place * self.row_height


def sheet(
    titles: Sequence[str],
    rows: Sequence[Row],
    size: tuple[int, int],
    footer: str,
    legend: Sequence[tuple[Colour, str]] = (),
    largest: int = LARGEST,
    in_one_block: int = ROWS_IN_ONE_BLOCK,
) -> Image.Image:
    """An RGB picture of all rows; `size` is the (height, width) of the images that the tiles show.

    Tiles are resized to `tile_size(size, largest)`. legend: colours and what they are of, above the footer.
    in_one_block: more rows than that stand in two blocks, side by side. Raises ValueError where there are no rows.
    """
    if not rows:
        raise ValueError("a picture needs one image or more")
    grid = _measure(titles, len(rows), 1 if len(rows) <= in_one_block else 2, tile_size(size, largest))
    font = font_for("", grid.text)
    small = round(0.9 * grid.text)
    lines = wrap(footer, font_for(footer, small), grid.width - 2 * grid.margin) if footer else []
    keys = _keys(legend, small, grid.width - 2 * grid.margin)
    below = len(lines) + (keys[-1].line + 1 if keys else 0)
    height = grid.rows_end + round(0.8 * grid.text) + below * grid.line + grid.margin - grid.text // 2
    canvas = Image.new("RGB", (grid.width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for block in range(grid.blocks):
        left, top = grid.corner(block * grid.block_rows)
        for column, title in enumerate(titles):
            middle = left + column * (grid.column + grid.gap) + grid.column // 2
            draw.text((middle, top - grid.gap), title, TEXT, font, anchor="ms")
    for number, row in enumerate(rows):
        _draw_row(canvas, draw, grid, number, row)
    draw.line((grid.margin, grid.rows_end, grid.width - grid.margin, grid.rows_end), RULE)
    first = grid.rows_end + round(0.8 * grid.text)
    for key in keys:
        left, top = grid.margin + key.left, first + key.line * grid.line
        if key.colour is not None:
            draw.rectangle((left, top, left + small, top + small), fill=key.colour, outline=FAINT)
            left += round(1.4 * small)
        draw.text((left, top + small / 2), key.name, FAINT, font_for(key.name, small), anchor="lm")
    for number, line in enumerate(lines, below - len(lines)):
        draw.text((grid.margin, first + number * grid.line), line, FAINT, font_for(line, small))
    return canvas


@dataclass(frozen=True)
class _Key:
    """An entry of the legend: in which line, and how many pixels from its begin; no colour where it says what was left
    out."""

    line: int
    left: int
    colour: Colour | None
    name: str


def _keys(legend: Sequence[tuple[Colour, str]], text: int, width: int) -> list[_Key]:
    """Where each entry is, in _LINES lines of `width` pixels at most; where there are more, how many are left out."""
    found, line, left = list[_Key](), 0, 0
    for number, (colour, whole) in enumerate(legend):
        name = elide(whole, font_for(whole, text), width / 3)
        needed = round(1.4 * text + font_for(name, text).getlength(name) + 1.5 * text)
        is_last, rest = number == len(legend) - 1, f"and {len(legend) - number:,} more"
        if left and left + needed > width and line < _LINES - 1:
            line, left = line + 1, 0
        room = width - (0 if is_last or line < _LINES - 1 else round(font_for("", text).getlength(rest) + 1.5 * text))
        if left and left + needed > room:
            return [*found, _Key(line, left, None, rest)]
        found.append(_Key(line, left, colour, name))
        left += needed
    return found


def as_jpeg(picture: Image.Image) -> bytes:
    """A sheet as a file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def tile_size(size: tuple[int, int], largest: int = LARGEST) -> tuple[int, int]:
    """(height, width) of an image -> (width, height) of its tile.

    Small images grow by a whole factor until their longer side has SMALLEST pixels, large ones shrink to `largest`.
    """
    height, width = size
    longest = max(size)
    if longest <= largest:
        factor = max(1, math.ceil(SMALLEST / longest))
        return width * factor, height * factor
    return max(1, round(width * largest / longest)), max(1, round(height * largest / longest))


def wrap(text: str, font: FreeTypeFont, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def elide(text: str, font: FreeTypeFont, width: float) -> str:
    """The text, its middle left out where it is wider than `width` pixels; what cannot be printed becomes '?'."""
    text = drawable(text)
    if font.getlength(text) <= width:
        return text

    def shortened(keep: int) -> str:
        return f"{text[: keep // 2]}...{text[len(text) - (keep - keep // 2) :]}"

    fits = bisect_right(range(len(text)), width, key=lambda keep: font.getlength(shortened(keep)))
    return shortened(max(2, fits - 1))


def _measure(titles: Sequence[str], rows: int, blocks: int, tile: tuple[int, int]) -> _Grid:
    # Wide sheets are shown reduced, so their text is larger.
    text = min(24, max(14, round(blocks * len(titles) * tile[0] / 75)))
    widest = max(font_for(title, text).getlength(title) for title in titles)
    column = max(tile[0], math.ceil(widest) + text)
    return _Grid(tile, len(titles), blocks, math.ceil(rows / blocks), text, column)


def _draw_row(canvas: Image.Image, draw: ImageDraw.ImageDraw, grid: _Grid, number: int, row: Row) -> None:
    left, top = grid.corner(number)
    width, height = grid.tile
    for column, tile in enumerate(row.tiles):
        x = left + column * (grid.column + grid.gap) + (grid.column - width) // 2
        canvas.paste(_resize(tile, grid.tile).convert("RGB"), (x, top))
    font, faint = font_for(row.name, grid.text), font_for(row.note, grid.text)
    baseline = top + height + grid.line - grid.gap // 2
    right = left + grid.block_width
    draw.text((right, baseline), row.note, FAINT, faint, anchor="rs")
    name = elide(row.name, font, grid.block_width - faint.getlength(row.note) - 2 * grid.text)
    draw.text((left, baseline), name, TEXT, font, anchor="ls")


def _resize(tile: Image.Image, size: tuple[int, int]) -> Image.Image:
    if tile.size == size:
        return tile
    enlarges = size[0] >= tile.width and size[1] >= tile.height
    return tile.resize(size, Image.Resampling.NEAREST if enlarges else Image.Resampling.LANCZOS)


def font_for(text: str, size: int) -> FreeTypeFont:
    """Pillow's own font; for what lies outside of ASCII the wide one."""
    return _plain_font(size) if text.isascii() else wide_font(size)


@cache
def _plain_font(size: int) -> FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, FreeTypeFont), "Pillow was built without FreeType"
    return font
