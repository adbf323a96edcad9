"""Outlines and run lengths -> pixels, as COCO has them.

A polygon is drawn as COCO's own tools draw it, so that what is learnt and what is judged are the same pixels: its
outline is walked in steps of a fifth of a pixel, and wherever it crosses the middle of a column of pixels, inside
becomes outside from the next pixel below on, or outside inside. Run lengths go down the columns, outside first.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openmae.data.annotations.objects import Piece, cut

_STEPS = 5  # in a pixel
_MIDDLE = 2  # of them lie before its middle


def polygons(rings: list[NDArray[np.float64]], size: tuple[int, int]) -> Piece | None:
    """The pixels that lie in any of these polygons, each (points, 2) of x and y; None where there are none. Points far
    outside of the image count as if they lay one image away from it."""
    found = [crossings for ring in rings if len(crossings := _crossings(ring, size))]
    if not found:
        return None
    everything = np.concatenate(found)
    (left, top), (right, bottom) = everything.min(0), everything.max(0)
    canvas = np.zeros((bottom - top + 1, right - left + 1), np.bool_)
    for columns, rows in (crossings.T for crossings in found):
        flips = np.zeros(canvas.shape, np.int32)
        np.add.at(flips, (rows - top, columns - left), 1)
        canvas |= np.cumsum(flips, axis=0) % 2 == 1
    return cut(canvas, int(top), int(left))


def _crossings(ring: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """(m, 2) column and row: where the closed outline crosses the middle of a column, the row that begins below."""
    height, width = size
    limits = np.array([width, height], np.float64)
    points = np.trunc(_STEPS * np.clip(ring, -limits, 2 * limits) + 0.5).astype(np.int64)
    start, end = points, np.roll(points, -1, axis=0)
    lengths = np.abs(end - start)
    steep = (lengths[:, 0] < lengths[:, 1]).astype(np.int64)  # 0 where x is what is counted along, 1 where y is
    edges = np.arange(len(points))
    backwards = start[edges, steep] > end[edges, steep]
    first, last = np.where(backwards[:, None], end, start), np.where(backwards[:, None], start, end)
    longest = lengths[edges, steep]
    slope = (last - first)[edges, 1 - steep] / np.maximum(longest, 1)
    which = np.repeat(edges, longest + 1)
    along = np.arange(len(which)) - np.repeat(np.cumsum(longest + 1) - longest - 1, longest + 1)
    along = np.where(backwards[which], longest[which] - along, along)
    walked = np.empty((len(which), 2), np.int64)
    places, axis = np.arange(len(which)), steep[which]
    walked[places, axis] = along + first[which, axis]
    walked[places, 1 - axis] = np.trunc(first[which, 1 - axis] + slope[which] * along + 0.5).astype(np.int64)
    before, after = walked[:-1], walked[1:]
    lower = np.minimum(before, after) - _MIDDLE
    crossed = (before[:, 0] != after[:, 0]) & (lower[:, 0] % _STEPS == 0)
    columns, rows = lower[crossed, 0] // _STEPS, np.clip(-(-lower[crossed, 1] // _STEPS), 0, height)
    inside = (columns >= 0) & (columns < width)
    return np.stack([columns[inside], rows[inside]], axis=1)


def runs(counts: NDArray[np.int64], size: tuple[int, int]) -> Piece | None:
    """The pixels of run lengths that make up the whole image; None where there are none. Raises ValueError where they
    make up another one. No more of the image than the columns between the first pixel and the last is made."""
    height, width = size
    edges = np.concatenate([[0], np.cumsum(counts)])
    if edges[-1] != height * width:
        raise ValueError(f"its run lengths are of {edges[-1]} pixels, and the image has {height * width}")
    inside = np.flatnonzero(np.asarray(counts)[1::2])
    if not len(inside):
        return None
    left, right = int(edges[2 * inside[0] + 1]) // height, -(-int(edges[2 * inside[-1] + 2]) // height)
    values = np.arange(len(counts)) % 2 == 1
    within = np.diff(np.clip(edges, left * height, right * height))
    return cut(np.repeat(values, within).reshape(right - left, height).T, 0, left)


def as_runs(piece: Piece, size: tuple[int, int]) -> list[int]:
    """The run lengths of an image in which these pixels are inside: the inverse of `runs`."""
    height, width = size
    columns, rows = np.nonzero(piece.mask.T)
    places = (piece.left + columns) * height + piece.top + rows
    if not len(places):
        return [height * width]
    breaks = np.flatnonzero(np.diff(places) != 1)
    first, last = places[np.concatenate([[0], breaks + 1])], places[np.concatenate([breaks, [-1]])]
    edges = np.stack([first, last + 1], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width)
    return (counts if counts[-1] else counts[:-1]).tolist()


def decompressed(text: str) -> NDArray[np.int64]:
    """Run lengths from COCO's short form: 5 bits a letter, the least first, each number after the third less the one
    two before it. Raises ValueError where it is none."""
    letters = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if len(letters) and not (letters.min() >= 0 and letters.max() < 64):
        raise ValueError("its run lengths have letters that do not occur in them")
    ends = np.flatnonzero(letters & 32 == 0)
    if len(letters) and (not len(ends) or ends[-1] != len(letters) - 1):
        raise ValueError("its run lengths are cut off")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    sizes = ends - starts + 1
    if len(sizes) and sizes.max() > 12:
        raise ValueError("its run lengths have a number that is too large")
    places = np.arange(len(letters)) - np.repeat(starts, sizes)
    numbers = np.add.reduceat((letters & 31) << (5 * places), starts) if len(ends) else np.empty(0, np.int64)
    negative = letters[ends] & 16 != 0
    numbers = numbers - np.where(negative, np.int64(1) << (5 * sizes), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def compressed(counts: Sequence[int]) -> str:
    """Run lengths in COCO's short form: the inverse of `decompressed`."""
    letters = bytearray()
    for place, count in enumerate(counts):
        rest = count - counts[place - 2] if place > 2 else count
        is_last = False
        while not is_last:
            five, rest = rest & 31, rest >> 5
            is_last = rest == (-1 if five & 16 else 0)
            letters.append(48 + (five if is_last else five | 32))
    return letters.decode()
