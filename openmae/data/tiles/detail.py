"""Which windows of an image are empty: background, or no-data, and nothing else.

An image is seen as blocks of a sixteenth of a window's side, each the mean of 64 of its pixels, which takes noise
away. Its background is the level that most blocks have: white beside the tissue of a slide, black between cells, one
grey around a specimen. A block is detail where it is there and its colour is more than a twentieth of the image's own
range of levels (of all but the outermost thousandths of the blocks) away from the background's, in any channel. Of an
image that shows something everywhere few blocks have one level, so nearly all of it is detail; and so it is of one
that is one level and its noise, for nobody can tell that from a faint texture.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCKS = 16  # along a window's side
_APART = 1 / 20  # of the range of levels
_OUTERMOST = 0.1  # percent of the blocks, on each side
_LEVELS = 64
_MOST = 2**22  # blocks of an image
_NONE = 1e-6  # of the levels: a range that is none
_LEAST_THERE = 0.5  # of a block's pixels
_LOOKED_AT = 8  # pixels along a block, evenly over it, of which its mean is


@dataclass(frozen=True)
class Part:
    """Sums over the pixels of some blocks of an image, from block (top, left) on: sums (h, w, C) of the levels of the
    pixels that are there, there and pixels (h, w) how many these are, and all. Without sums: the part is broken."""

    top: int
    left: int
    there: NDArray[np.float32]
    pixels: NDArray[np.float32]
    sums: NDArray[np.float32] | None


def summed(
    image: NDArray[Any] | None,
    missing: NDArray[np.bool_] | None,
    box: tuple[int, int, int, int],
    scale: tuple[float, float],
    block: int,
) -> Part:
    """The part of which `image` (h, w, C) shows the pixels `box`, x, y, width and height, where one of them stands for
    scale (down, across) of the full size. block: pixels of the full size a side. Without an image it is broken."""
    x, y, width, height = box
    step = max(1, int(block / max(scale) / _LOOKED_AT))
    top, rows = _starts(np.arange(y, y + height, step), scale[0], block)
    left, columns = _starts(np.arange(x, x + width, step), scale[1], block)
    shape = -(-height // step), -(-width // step)
    pixels = np.outer(np.diff([*rows, shape[0]]), np.diff([*columns, shape[1]])).astype(np.float32)
    if image is None:
        return Part(top, left, pixels, pixels, None)
    levels, missing = image[::step, ::step].astype(np.float32), None if missing is None else missing[::step, ::step]
    if levels.shape[2] > 4:
        levels = levels.mean(-1, keepdims=True)
    there = pixels
    if missing is not None:
        is_there: NDArray[np.bool_] = np.logical_not(missing.all(-1))
        levels *= is_there[..., None]
        there = _added(is_there.astype(np.float32), rows, columns)
    return Part(top, left, there, pixels, _added(levels, rows, columns))


def block_of(size: tuple[int, int], side: int) -> int:
    """Pixels along a block of an image (height, width) whose windows have `side`; of huge images larger ones."""
    return min(side, max(1, side // _BLOCKS, math.ceil(math.sqrt(size[0] * size[1] / _MOST))))


def _starts(places: NDArray[np.int64], scale: float, block: int) -> tuple[int, NDArray[np.int64]]:
    """(the first block, at which of the pixels each begins) of the blocks in which pixels of a side lie."""
    numbers = ((places + 0.5) * scale / block).astype(np.int64)
    return int(numbers[0]), np.flatnonzero(np.diff(numbers, prepend=-1))


def _added(values: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    return found


class Blocks:
    """The blocks of an image (height, width), filled part by part."""

    def __init__(self, size: tuple[int, int], block: int) -> None:
        self.block = block
        self.shape = -(-size[0] // block), -(-size[1] // block)
        self.there, self.pixels = np.zeros(self.shape, np.float32), np.zeros(self.shape, np.float32)
        self.unknown = np.zeros(self.shape, np.bool_)
        self.sums: NDArray[np.float32] | None = None

    def add(self, part: Part) -> None:
        """Takes a part in."""
        height = min(part.there.shape[0], self.shape[0] - part.top)
        width = min(part.there.shape[1], self.shape[1] - part.left)
        place = slice(part.top, part.top + height), slice(part.left, part.left + width)
        if part.sums is None:
            self.unknown[place] = True
            return
        if self.sums is None:
            self.sums = np.zeros((*self.shape, part.sums.shape[2]), np.float32)
        if self.sums.shape[2] != part.sums.shape[2]:
            self.unknown[place] = True
            return
        self.sums[place] += part.sums[:height, :width]
        self.there[place] += part.there[:height, :width]
        self.pixels[place] += part.pixels[:height, :width]

    def detail(self) -> NDArray[np.bool_]:
        """Which blocks are neither background nor no-data; what could not be looked at counts as detail."""
        if self.sums is None:
            return self.unknown
        is_there = self.there >= _LEAST_THERE * np.maximum(self.pixels, 1)
        if not is_there.any():
            return self.unknown
        levels = self.sums / np.maximum(self.there, 1)[..., None]
        least, most = np.percentile(levels[is_there], [_OUTERMOST, 100 - _OUTERMOST], axis=0)
        wide = float((most - least).max())
        if wide <= _NONE * float(np.abs(levels[is_there]).max()):
            return self.unknown
        grey = (levels - least).mean(-1) / wide
        counts, edges = np.histogram(grey[is_there], _LEVELS)
        peak = int(counts.argmax())
        near = is_there & (grey >= edges[max(0, peak - 1)]) & (grey <= edges[min(_LEVELS, peak + 2)])
        background = np.median(levels[near], axis=0)
        apart = np.abs(levels - background).max(-1) > _APART * wide
        return (is_there & apart) | self.unknown

    def shares(self, boxes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) how much of each window, (n, 4) x, y, width and height, is detail, by the blocks that it
        touches."""
        below = np.zeros((self.shape[0] + 1, self.shape[1] + 1))
        below[1:, 1:] = self.detail().cumsum(0).cumsum(1)
        x, y, width, height = boxes.T
        left, top, right, bottom = (places / self.block for places in (x, y, x + width, y + height))
        found = _between(below, bottom, right) - _between(below, top, right)
        found += _between(below, top, left) - _between(below, bottom, left)
        shares: NDArray[np.float64] = found * self.block**2 / (width * height)
        return shares


def _between(
    table: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n,) values of a table at places between its own, linearly."""
    row, column = (
        np.minimum(places.astype(np.int64), length - 2)
        for places, length in zip((rows, columns), table.shape, strict=True)
    )
    down, across = rows - row, columns - column
    upper = table[row, column] * (1 - across) + table[row, column + 1] * across
    lower = table[row + 1, column] * (1 - across) + table[row + 1, column + 1] * across
    found: NDArray[np.float64] = upper * (1 - down) + lower * down
    return found
