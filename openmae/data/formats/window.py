"""A window of an image as bytes: a file, and which of its pixels, upright, are meant.

    89 4F 4D 57 49 4E 0D 0A   x y width height (uint32, little-endian)   what the file is (uint32)   the file

The file is a whole one of any format, or a small TIFF of those strips or tiles of a large one in which the window lies
(tiff_windows.py). Such bytes live in memory only: nothing writes them to a disk.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.header import OpenedImage, Wanted
from openmae.data.signatures import ENOUGH, WINDOW, format_of
from openmae.errors import BrokenImage

_HEAD = struct.Struct("<8s5I")
_PART, _WHOLE = range(2)
_MOST_KEPT = 2**28  # bytes of a decoded image that stays for the next window of it

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the upright image."""


@dataclass
class _Last:
    """The whole file that this process cut last, how it was decoded, and its pixels where it was cut more than once."""

    file: bytes = b""
    asked: Wanted | None = None
    reading: Any = None
    pixels: NDArray[Any] | None = None


_last = _Last()


def window_bytes(file: bytes, box: Box, *, whole: bool) -> bytes:
    """The window `box` of the image in `file`. whole: whether that is the image as it lies on a disk, of which more
    windows will be asked for."""
    return _HEAD.pack(WINDOW, *box, _WHOLE if whole else _PART) + file


def is_window(data: bytes) -> bool:
    """Whether these bytes are a window."""
    return data.startswith(WINDOW)


def window_in(data: bytes) -> tuple[Box, bytes]:
    """(the window, the file that it lies in)"""
    _, x, y, width, height, _ = _HEAD.unpack_from(data)
    return (x, y, width, height), data[_HEAD.size :]


def open_window(data: bytes, opener: Callable[[bytes], OpenedImage], reading: object) -> OpenedImage:
    """The window, of which no more is decoded than is needed. opener: of the file in it, as `reading` says."""
    if len(data) < _HEAD.size:
        raise BrokenImage("it is cut off")
    _, x, y, width, height, kind = _HEAD.unpack_from(data)
    file = data[_HEAD.size :]
    if format_of(file[:ENOUGH]) == "window":
        raise BrokenImage("it is a window of a window")
    inner = opener(file)
    size = inner.header.height, inner.header.width
    if x + width > size[1] or y + height > size[0] or not width * height:
        raise BrokenImage(f"its window {x}, {y}, {width} x {height} lies outside of its {size[1]} x {size[0]} pixels")
    rows, columns = slice(y, y + height), slice(x, x + width)

    def pixels(asked: Wanted) -> NDArray[Any]:
        needed = replace(asked, reduce=1, rows=min(size[0], y + asked.rows))
        found = inner.pixels(needed) if kind == _PART else _of_whole(file, inner, needed, reading)
        return np.ma.array(found[rows, columns]) if isinstance(found, np.ma.MaskedArray) else found[rows, columns]

    return OpenedImage(replace(inner.header, height=height, width=width), pixels)


def _of_whole(file: bytes, inner: OpenedImage, asked: Wanted, reading: object) -> NDArray[Any]:
    """The image down to the rows that are asked for. When the same file comes again, as in every order but a random
    one, all of it is decoded and kept for the windows that follow."""
    every = replace(asked, rows=inner.header.height)
    if _last.reading != reading or _last.asked != every or _last.file != file:
        _last.file, _last.asked, _last.reading, _last.pixels = file, every, reading, None
        return inner.pixels(asked)
    if _last.pixels is None:
        found = inner.pixels(every)
        if found.nbytes > _MOST_KEPT:
            return found
        _last.pixels = found
    return _last.pixels
