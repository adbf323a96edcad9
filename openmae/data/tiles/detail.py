"""Which windows of an image are empty: background, or no-data, and nothing else.

An image is seen as blocks of a sixteenth of a window's side, each the mean of its pixels, which takes noise away. Its
background is the level that most blocks have: white beside the tissue of a slide, black between cells, one grey around
a specimen. A block is detail where it is there and its colour is more than a twentieth of the image's own range of
levels (of all but the outermost thousandths of the blocks) away from the background's, in any channel. An image that
shows something everywhere has no level that most blocks have, so nearly all of it is detail; one that is one level and
its noise is detail too, for nobody can tell that from a faint texture.
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
_LEAST_THERE = 0.5  # of a block's pixels


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
    (top, rows), (left, columns) = _starts(y, height, scale[0], block), _starts(x, width, scale[1], block)
    pixels = np.outer(np.diff([*rows, height]), np.diff([*columns, width])).astype(np.float32)
    if image is None:
        return Part(top, left, pixels, pixels, None)
    levels = image.astype(np.float32)
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


def _starts(first: int, length: int, scale: float, block: int) -> tuple[int, NDArray[np.int64]]:
    """(the first block, where each begins) of the blocks of pixels `first` to `first` + `length` of a side."""
    numbers = ((np.arange(first, first + length) + 0.5) * scale / block).astype(np.int64)
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
        grey = levels.mean(-1)
        least, most = np.percentile(grey[is_there], [_OUTERMOST, 100 - _OUTERMOST])
        counts, edges = np.histogram(grey[is_there], _LEVELS, (least, max(most, np.nextafter(least, np.inf))))
        peak = int(counts.argmax())
        near = is_there & (grey >= edges[max(0, peak - 1)]) & (grey <= edges[min(_LEVELS, peak + 2)])
        background = np.median(levels[near], axis=0)
        apart = np.abs(levels - background).max(-1) > _APART * (most - least)
        return (is_there & apart) | self.unknown

    def shares(self, boxes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) how much of each window, (n, 4) x, y, width and height, is detail, by the blocks that it touches."""
        below = np.zeros((self.shape[0] + 1, self.shape[1] + 1))
        below[1:, 1:] = self.detail().cumsum(0).cumsum(1)
        left, top = boxes[:, 0] // self.block, boxes[:, 1] // self.block
        right = -(-(boxes[:, 0] + boxes[:, 2]) // self.block)
        bottom = -(-(boxes[:, 1] + boxes[:, 3]) // self.block)
        found = below[bottom, right] - below[top, right] - below[bottom, left] + below[top, left]
        shares: NDArray[np.float64] = found / ((bottom - top) * (right - left))
        return shares
