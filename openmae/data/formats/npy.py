"""One image as numpy saves an array: (H, W), (H, W, C) or (C, H, W) of booleans, integers or floats; pickles are
refused."""

import ast
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.header import BYTES, Depth, Header, OpenedImage, Wanted, check_size
from openmae.data.formats.reading import Layout
from openmae.errors import BrokenImage

_LONGEST_HEADER = 10_000  # as numpy itself bounds it
_DEPTHS: dict[str, Depth] = {"b1": "uint8", "u1": "uint8", "u2": "uint16"}


def open_npy(data: bytes, layout: Layout | None = None) -> OpenedImage:
    """An .npy file. Three channels are taken for RGB, other numbers of them for bands.

    layout: hwc where nobody says."""
    start = 8 + (4 if data[6:7] > b"\1" else 2)
    length = int.from_bytes(data[8:start], "little")
    if not 0 < length <= min(_LONGEST_HEADER, len(data) - start):
        raise BrokenImage("its .npy header is cut off")
    shape, dtype, by_columns = _described(data[start : start + length])
    axes = (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)
    first = len(shape) == 3 and layout == "chw"
    height, width, channels = (*axes[1:], axes[0]) if first else axes
    if channels < 1:
        raise BrokenImage("it has no channels")
    depth = _DEPTHS.get(dtype.str[1:], "float32")
    check_size(height, width, channels * max(BYTES[depth], dtype.itemsize))
    if start + length + math.prod(shape) * dtype.itemsize > len(data):
        raise BrokenImage("it is cut off")

    def pixels(asked: Wanted) -> NDArray[Any]:
        stored = np.frombuffer(data, dtype, math.prod(shape), start + length)
        image = stored.reshape(shape, order="F" if by_columns else "C").reshape(axes)
        image = image.transpose(1, 2, 0) if first else image
        if dtype.kind == "b":
            return image.astype(np.uint8) * np.uint8(255)
        with np.errstate(over="ignore"):
            return image.astype(depth)

    open_axes = axes if len(shape) == 3 else None
    header = Header("NPY", height, width, channels, depth, dtype.name, colour=channels == 3, axes=open_axes)
    return OpenedImage(header, pixels)


@lru_cache(maxsize=64)  # the images of a data set have few different ones, and parsing takes longer than decoding
def _described(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """(shape, dtype, whether it is stored by columns)"""
    found = ast.literal_eval(header.decode("latin1"))
    shape, dtype = tuple(found["shape"]), np.dtype(found["descr"])
    if len(shape) == 4 and shape[0] == 1:  # a batch of one, as torch has it
        shape = shape[1:]
    if len(shape) not in (2, 3) or not all(isinstance(length, int) for length in shape):
        raise BrokenImage(
            f"it is an array of shape {shape}",
            "give (height, width), (height, width, channels) or (channels, height, width)",
        )
    if dtype.kind not in "buif":
        raise BrokenImage(f"it is an array of {dtype}", "give booleans, integers or floats")
    return shape, dtype, bool(found["fortran_order"])
