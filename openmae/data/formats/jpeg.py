"""JPEG by simplejpeg: the fast path, on which most training runs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from openmae.data.formats.codestream import START_OF_SCAN, JpegFrame, check_scans, jpeg_frame, segments
from openmae.data.formats.header import Header, OpenedImage, Wanted, check_size
from openmae.data.formats.orientation import exif_orientation, upright
from openmae.data.formats.pillow import as_array, open_by_pillow, pillow_image
from openmae.errors import BrokenImage

_APP1 = 0xE1
_CHANNELS = {"Gray": 1, "RGB": 3, "YCbCr": 3}
_BLOCK = 16  # rows; what is coded together has 8 or 16, which a reduction by 8 leaves whole
_SEQUENTIAL = (0xC0, 0xC1)
_END = b"\xff\xd9"
_REST = "extraneous bytes before marker 0xd9"  # about what follows the rows that were asked for
_HARMLESS = ("extraneous bytes before marker", "bad ICC marker")  # which other decoders do not even mention


@dataclass(frozen=True)
class _Facts:
    """What its segments say before the first scan.

    orientation: EXIF's. frame: its header, None where there is none. sequential: where the first frame header of a
    sequential JPEG begins, else None. several: whether it has several scans.
    """

    orientation: int
    frame: JpegFrame | None
    sequential: int | None
    several: bool


def open_jpeg(data: bytes) -> OpenedImage:
    """A JPEG. Of a huge one the header is given, so that it can be decoded smaller."""
    facts = _facts(data)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # it does not know every way of sampling the colours
        return open_by_pillow(data, "JPEG", facts.orientation)
    channels = _CHANNELS.get(colours)
    if channels is None:  # CMYK and YCCK
        return open_by_pillow(data, "JPEG", facts.orientation)
    if facts.frame is None or (facts.frame.height, facts.frame.width) != (height, width):
        raise BrokenImage("its frame header is not where a decoder finds it")
    # Of a lossless JPEG libjpeg-turbo converts no colours, and writes all of it whatever size is asked for, beyond the
    # end of a buffer of that size.
    lossless = facts.frame.lossless

    def pixels(asked: Wanted) -> NDArray[Any]:
        space = {1: "GRAY", 3: "RGB"}[asked.in_chans if asked.in_chans in (1, 3) and not lossless else channels]
        stored = None
        if facts.orientation <= 2 and not facts.several and facts.sequential is not None:  # rows from top to bottom
            stored = _decode_top(data, facts.sequential, space, (height, width), asked.reduce, asked.rows)
        if stored is None:
            stored = _decode(data, space, -(-height // asked.reduce), -(-width // asked.reduce), asked.reduce)
        if stored is None:
            stored = _decode_by_pillow(data, space, asked.reduce)
        return upright(stored, facts.orientation)

    size = (height, width) if facts.orientation < 5 else (width, height)
    return OpenedImage(Header("JPEG", *size, channels, "uint8", colours), pixels, reduces=not lossless)


def _decode(data: bytes, space: str, height: int, width: int, reduce: int) -> NDArray[Any] | None:
    """(height, width, 1 or 3); None where simplejpeg refuses what is no damage to the pixels."""
    if reduce == 1:
        height = width = 0  # simplejpeg's word for the whole size
    try:
        return simplejpeg.decode_jpeg(data, space, min_height=height, min_width=width)
    except ValueError as error:
        if not any(harmless in str(error) for harmless in _HARMLESS):
            raise
    return None


def _decode_by_pillow(data: bytes, space: str, reduce: int) -> NDArray[Any]:
    """As _decode, to the last bit: Pillow has the same decoder, but minds stray bytes less."""
    image, (mode, channels) = pillow_image(data, "JPEG"), ("L", 1) if space == "GRAY" else ("RGB", 3)
    # Not in whole numbers, or sides of less than `reduce` pixels would not be reduced.
    image.draft(mode, (image.width / reduce, image.height / reduce))  # type: ignore[arg-type]
    check_size(image.height, image.width, 2 * channels)  # its pixels, and then the array
    return as_array(image, mode, channels, "uint8")


def _decode_top(
    data: bytes, frame: int, space: str, size: tuple[int, int], reduce: int, rows: int
) -> NDArray[Any] | None:
    """The first `rows` rows and a few more, at 1/reduce of their size; None where that saves nothing or fails.

    frame: where the frame header begins. size: the whole image's height and width.
    The file is decoded as if its header said that it ends there: what follows is skipped, which saves an average crop
    a tenth of the work. A file that lacks its end is none for this, for the decoder would not notice. Damage that
    shows only where a whole decoding loses its way, further down, is not noticed either; `check` decodes all of it.
    """
    # With the next row of chroma, from which the last ones are interpolated.
    top = -(-(rows + 2 * reduce) // _BLOCK) * _BLOCK
    if top >= size[0] or data[-2:] != _END:
        return None
    shorter = bytearray(data)
    shorter[frame + 1 : frame + 3] = top.to_bytes(2, "big")
    pixels = np.empty((top // reduce, -(-size[1] // reduce), 1 if space == "GRAY" else 3), np.uint8)
    least = (0, 0) if reduce == 1 else pixels.shape[:2]
    try:
        simplejpeg.decode_jpeg(shorter, space, min_height=least[0], min_width=least[1], buffer=pixels)
    except ValueError as error:  # the first complaint, so that nothing was wrong before it
        return pixels if _REST in str(error) else None
    return pixels


def _facts(data: bytes) -> _Facts:
    """Raises BrokenImage unless it has 8 bits a channel, and where its scans are too many."""
    orientation, frame, sequential, several = 1, None, None, False
    for marker, start, end in segments(data):
        if marker == _APP1:
            if orientation == 1 and data[start : start + 6] == b"Exif\0\0":
                orientation = exif_orientation(data[start:end])
        elif marker == START_OF_SCAN and frame is not None:
            several = check_scans(data, frame, start)
        elif frame is None and (frame := jpeg_frame(marker, data[start:end])):  # decoders refuse a second one
            if frame.bits != 8:
                raise BrokenImage(
                    f"it is a JPEG of {frame.bits} bits a channel, of which only 8 are read", "convert it"
                )
            sequential = start if marker in _SEQUENTIAL else None
    return _Facts(orientation, frame, sequential, several)
