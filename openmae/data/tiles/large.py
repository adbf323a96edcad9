"""Images of any size, of which no more is decoded than is looked at: TIFFs in strips or tiles, as an array that is read
part by part."""

import gc
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode
from openmae.data.formats.header import fits
from openmae.data.formats.window import Box
from openmae.data.signatures import format_of
from openmae.data.sources.open_file import OpenFile
from openmae.data.sources.source import Source
from openmae.data.tiles.cutting import beginning, large_tiff, parsing
from openmae.errors import BrokenImage, TooLarge
from openmae.machine.heap import give_back_what_is_free

_LARGE = 2**26  # bytes as stored, decompressed, from which an image is read in parts
SAVE_TILED = "save it as a TIFF in tiles, which is read part by part"
"""What to do about an image that is too large to be decoded whole."""
_ROWS = 256  # that are read at once, where only some of them are wanted

_Band = tuple[int, int, NDArray[Any]]


@dataclass
class LargeImage:
    """A file as the array (H, W, C) that decoding all of it would give, upright: `image[top:bottom, left:right]`, also
    with steps. Rows are read over the image's whole width and kept for whoever asks for parts of them next.

    side: in pixels, of the parts that it was opened for. Parts raise BrokenImage, also where the file cannot be read.
    """

    file: str
    side: int
    pixels: PixelFormat
    size: tuple[int, int]
    _band: _Band | None = field(default=None, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)"""
        return *self.size, self.pixels.in_chans

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""
        return np.dtype(self.pixels.depth)

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[Any]:
        """(h, w, C): a part of it; it ends where the image does."""
        (top, bottom, step), (left, right, across) = (
            one.indices(side) for one, side in zip(part, self.shape, strict=False)
        )
        if step == 1:
            return self._rows(top, bottom, left, right)[:, ::across]
        at_once = max(1, _ROWS // step) * step
        bands = list[NDArray[Any]]()
        for at in range(top, bottom, at_once):
            rows = self._rows(at, min(at + at_once, bottom), left, right)
            bands.append(rows[::step, ::across].copy())  # a view would hold all of the rows
            gc.collect(1)  # decoders' objects refer to each other, and hold rows too;
            give_back_what_is_free()  # what is free lies between what is kept: 5 GB of 20,000 x 20,000 pixels
        return np.concatenate(bands)

    def _rows(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        _, width, channels = self.shape
        if not fits(bottom - top, width, channels * self.dtype.itemsize):
            return self._read((left, top, right - left, bottom - top))
        if self._band is None or not self._band[0] <= top <= bottom <= self._band[1]:
            self._band = None  # the last one need not lie in memory beside the next
            self._band = (top, bottom, self._read((0, top, width, bottom - top)))
        begin, _, rows = self._band
        return rows[top - begin : bottom - begin, left:right]

    def _read(self, box: Box) -> NDArray[Any]:
        try:
            with parsing():
                found = large_tiff(self.file, self.side)
                if found is None or found.size() != self.size:
                    raise BrokenImage("it has other sides than when it was opened")
                window = found.window(OpenFile(self.file).read, box)
            return decode(window, self.pixels)
        except TooLarge as error:  # one strip or tile of it
            raise TooLarge(error.what, SAVE_TILED) from error
        except OSError as error:
            raise BrokenImage(str(error)) from error


AnyImage: TypeAlias = NDArray[Any] | LargeImage
"""(H, W, C), whole in memory or not."""


def large_image(source: Source, index: int, pixels: PixelFormat, side: int) -> LargeImage | None:
    """One that is worth reading in parts of about so many pixels a side; None of others, which are decoded whole.
    Raises BrokenImage, OSError, and UserError where a package is missing."""
    file = source.file(index)
    if file is None or format_of(beginning(file)) != "tiff":
        return None
    with parsing():
        found = large_tiff(file, side)
    if found is None:
        return None
    height, width = found.size()
    if height * width * found.bytes_a_pixel < _LARGE:
        return None
    return LargeImage(file, side, pixels, (height, width))
