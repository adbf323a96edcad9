"""How large a JPEG, JPEG-LS or JPEG 2000 codestream says it is, before a decoder believes it."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from openmae.data.formats.header import check_size
from openmae.errors import BrokenImage

_FRAMES = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}  # markers that begin a frame; F7 is JPEG-LS
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_START_OF_SCAN = 0xDA


@dataclass(frozen=True)
class JpegFrame:
    """What a JPEG's frame header says. ids: the components' numbers, by which some writers name their colours."""

    height: int
    width: int
    bits: int
    ids: bytes
    progressive: bool
    lossless: bool


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of what comes before the first scan of a JPEG or JPEG-LS."""
    at, size = 2, len(data)
    while at >= 0 and at + 4 <= size:
        if data[at] != 0xFF or data[at + 1] == 0xFF:  # stray bytes, which decoders skip too
            at = data.find(b"\xff", at + 1)
            continue
        if (marker := data[at + 1]) == _START_OF_SCAN:
            return
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        yield marker, at + 4, end
        at = end


def jpeg_frame(marker: int, segment: bytes) -> JpegFrame | None:
    """The frame header, where the segment is one. Raises BrokenImage where it is cut off."""
    if marker not in _FRAMES:
        return None
    if len(segment) < 6 or len(segment) < 6 + 3 * segment[5]:
        raise BrokenImage("its JPEG frame header is cut off")
    bits, height, width, count = struct.unpack_from(">BHHB", segment)
    return JpegFrame(height, width, bits, segment[6 : 6 + 3 * count : 3], marker in _PROGRESSIVE, marker & 3 == 3)


def check_jpeg(data: bytes, most: tuple[int, int]) -> JpegFrame:
    """The frame header of a JPEG or JPEG-LS inside another format; BrokenImage where it has none, or is larger than
    `most` (height, width) allows."""
    for marker, start, end in segments(data):
        if frame := jpeg_frame(marker, data[start:end]):
            _check(frame.height, frame.width, most)
            return frame
    raise BrokenImage("it holds a JPEG without a frame header")


def check_jpeg_2000(data: bytes, most: tuple[int, int]) -> None:
    """Raises BrokenImage where there is no JPEG 2000 codestream, or it is larger than `most` (height, width) allows."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 40:
        raise BrokenImage("it holds no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    _check(bottom - top, right - left, most)


def _check(height: int, width: int, most: tuple[int, int]) -> None:
    check_size(height, width, 3)
    if height > most[0] or width > most[1]:
        raise BrokenImage(f"it holds {height} x {width} pixels where its header says {most[0]} x {most[1]}")
