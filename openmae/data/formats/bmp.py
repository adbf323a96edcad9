"""BMP. Run lengths are read here: Pillow tears what goes beyond a row's end, as writers of odd widths do."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.header import OpenedImage, Wanted
from openmae.data.formats.pillow import open_by_pillow
from openmae.errors import BrokenImage

_RLE8, _RLE4 = 1, 2
_PIXELS, _HEADER, _HEIGHT, _COMPRESSION, _COLOURS = 10, 14, 22, 30, 46  # where the file says them
_PAIRS = [bytes((value >> 4, value & 15)) for value in range(256)]  # two pixels in a byte
_MOST_RUNS = 2**25  # half a minute
_END_OF_ROW, _END, _DELTA = 0, 1, 2


def open_bmp(data: bytes) -> OpenedImage:
    """A BMP of any kind."""
    opened = open_by_pillow(data, "BMP")
    if len(data) < 54 or struct.unpack_from("<I", data, _HEADER)[0] < 40:
        return opened
    (compression,) = struct.unpack_from("<I", data, _COMPRESSION)
    bits = {_RLE8: 8, _RLE4: 4}.get(compression)
    if bits is None:
        return opened
    header = opened.header

    def pixels(asked: Wanted) -> NDArray[Any]:
        palette = _palette(data, bits)[:, : header.channels]
        return palette[_indices(data, header.height, header.width, bits)]

    return OpenedImage(header, pixels)


def _palette(data: bytes, bits: int) -> NDArray[np.uint8]:
    """(2**bits, 3): red, green, blue; black where it is shorter."""
    (size,), (count,) = struct.unpack_from("<I", data, _HEADER), struct.unpack_from("<I", data, _COLOURS)
    start = 14 + size
    stored = np.frombuffer(data[start : start + 4 * min(count or 2**bits, 2**bits)], np.uint8)
    colours = np.zeros((2**bits, 3), np.uint8)
    known = stored[: len(stored) // 4 * 4].reshape(-1, 4)[:, 2::-1]
    colours[: len(known)] = known
    return colours


def _indices(data: bytes, height: int, width: int, bits: int) -> NDArray[np.uint8]:
    """(height, width) into the palette, 0 where nothing is said. Raises BrokenImage where the file is cut off, or its
    runs are so many that they cannot be of that many pixels.

    What goes beyond the end of a row is left out, as browsers do.
    """
    pixels, is_upright = bytearray(height * width), struct.unpack_from("<i", data, _HEIGHT)[0] < 0
    at, x, y = struct.unpack_from("<I", data, _PIXELS)[0], 0, 0
    for _ in range(_MOST_RUNS):
        if y >= height or (y == height - 1 and x >= width):  # some writers end there
            break
        count, value = _two(data, at)
        at += 2
        if count:
            run = bytes((value,)) * count if bits == 8 else _PAIRS[value] * ((count + 1) // 2)
        elif value == _END_OF_ROW:
            x, y = 0, y + 1
            continue
        elif value == _END:
            break
        elif value == _DELTA:
            right, up = _two(data, at)
            x, y, at = x + right, y + up, at + 2
            continue
        else:
            count, length = value, value if bits == 8 else (value + 1) // 2
            run, at = data[at : at + length], at + length + length % 2
            if len(run) < length:
                raise BrokenImage("it is cut off")
            if bits == 4:
                run = b"".join([_PAIRS[pair] for pair in run])
        shown = min(count, width - x)
        if shown > 0:
            start = (y if is_upright else height - 1 - y) * width + x
            pixels[start : start + shown] = run[:shown]
        x += count
    else:
        raise BrokenImage(f"it has more than {_MOST_RUNS:,} runs of pixels")
    return np.frombuffer(pixels, np.uint8).reshape(height, width)


def _two(data: bytes, at: int) -> tuple[int, int]:
    if at + 2 > len(data):
        raise BrokenImage("it is cut off")
    return data[at], data[at + 1]
