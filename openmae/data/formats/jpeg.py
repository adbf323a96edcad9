"""JPEG by simplejpeg: the fast path, on which most training runs."""

from typing import Any

import simplejpeg
from numpy.typing import NDArray

from openmae.data.formats.codestream import jpeg_frame, segments
from openmae.data.formats.ifd import exif_orientation, upright
from openmae.data.formats.with_pillow import open_by_pillow
from openmae.data.header import Header, Opened, check_size
from openmae.errors import BrokenImage

_APP1 = 0xE1
_CHANNELS = {"Gray": 1, "RGB": 3, "YCbCr": 3}
_HARMLESS = ("extraneous bytes before marker", "bad ICC marker")  # which other decoders do not even mention


def open_jpeg(data: bytes, reduce: int = 1, in_chans: int | None = None) -> Opened:
    """A JPEG at 1/reduce of its size (1, 2, 4 or 8), decoded to grey or RGB where `in_chans` is 1 or 3.

    Of a huge one the header is given, so that the caller may choose `reduce`.
    """
    orientation, progressive = _facts(data)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # it does not know every way of sampling the colours
        return open_by_pillow(data, "JPEG", reduce, orientation)
    channels = _CHANNELS.get(colours)
    if channels is None:  # CMYK and YCCK
        return open_by_pillow(data, "JPEG", reduce, orientation)
    if progressive:  # its coefficients, 2 bytes each, are in memory all at once, whatever the size asked for
        check_size(height, width, 2 * channels)
    height, width = -(-height // reduce), -(-width // reduce)
    space = {1: "GRAY", 3: "RGB"}[in_chans if in_chans in (1, 3) else channels]

    def pixels(frame: int) -> NDArray[Any]:
        stored = _decode(data, space, height, width, reduce)
        if stored is None:
            return open_by_pillow(data, "JPEG", reduce, orientation).pixels(0)
        return upright(stored, orientation)

    size = (height, width) if orientation < 5 else (width, height)
    return Opened(Header("JPEG", *size, channels, "uint8", colours), pixels)


def _decode(data: bytes, space: str, height: int, width: int, reduce: int) -> NDArray[Any] | None:
    """(height, width, 1 or 3); None where simplejpeg refuses what is no damage to the pixels."""
    if reduce == 1:
        height = width = 0  # simplejpeg's word for the whole size
    try:
        return simplejpeg.decode_jpeg(data, space, min_height=height, min_width=width, min_factor=reduce)
    except ValueError as error:
        if not any(harmless in str(error) for harmless in _HARMLESS):
            raise
    return None


def _facts(data: bytes) -> tuple[int, bool]:
    """(EXIF orientation, whether it is progressive). Raises BrokenImage unless it has 8 bits a channel."""
    orientation, progressive = 1, False
    for marker, start, end in segments(data):
        if marker == _APP1:
            if orientation == 1 and data[start : start + 6] == b"Exif\0\0":
                orientation = exif_orientation(data[start:end])
        elif marker >= 0xC0 and marker < 0xD0 and (frame := jpeg_frame(marker, data[start:end])):
            if frame.bits != 8:
                raise BrokenImage(f"it is a JPEG of {frame.bits} bits a channel, of which only 8 are read: convert it")
            progressive = frame.progressive
    return orientation, progressive
