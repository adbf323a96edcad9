"""How large a JPEG, JPEG-LS or JPEG 2000 codestream says it is, before a decoder believes it."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from openmae.data.formats.header import check_size
from openmae.errors import BrokenImage

_FRAMES = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}  # markers that begin a frame; F7 is JPEG-LS
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
START_OF_SCAN = 0xDA
_ALONE = frozenset((0x00, 0x01, *range(0xD0, 0xD8)))  # not followed by a length; FF 00 is no marker at all
_START, _END = 0xD8, 0xD9
_MOST_SEGMENTS = 2**16
_MOST_SCANNED = 2**32  # pixels that the scans of one JPEG go over: 64 scans of the largest that is decoded


@dataclass(frozen=True)
class JpegFrame:
    """What a JPEG's frame header says. ids: the components' numbers, by which some writers name their colours;
    lossless: it has no coefficients, of which a decoder could take fewer to make it smaller."""

    height: int
    width: int
    bits: int
    ids: bytes
    progressive: bool
    lossless: bool


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of a JPEG or JPEG-LS up to the header of its first scan, found as libjpeg finds them, so
    that no file shows it another frame header than it shows us."""
    at, size = 2, len(data)
    for _ in range(_MOST_SEGMENTS):
        if at < 0 or at + 4 > size:
            return
        if data[at] != 0xFF or data[at + 1] == 0xFF:  # stray bytes, which decoders skip too
            at = data.find(b"\xff", at + 1)
            continue
        marker = data[at + 1]
        if marker in _ALONE:
            at += 2
            continue
        if marker in (_START, _END):
            return
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        yield marker, at + 4, end
        if marker == START_OF_SCAN:
            return
        at = end
    raise BrokenImage(f"it has more than {_MOST_SEGMENTS:,} segments before its pixels")


def check_scans(data: bytes, frame: JpegFrame, scan: int) -> bool:
    """Whether the JPEG has several scans, so that all its coefficients are in memory at once, whatever the size asked
    for. Raises BrokenImage where these go over it so often that decoding would take minutes, and where the
    coefficients are too many. scan: where the header of the first one begins.
    """
    several = not frame.lossless and (frame.progressive or data[scan : scan + 1] < bytes([len(frame.ids)]))
    if several:
        check_size(frame.height, frame.width, 2 * len(frame.ids))
        scans = data.count(b"\xff\xda", scan) + 1  # coded pixels never hold these two
        if scans * frame.height * frame.width > _MOST_SCANNED:
            raise BrokenImage(f"its {scans:,} scans of {frame.height} x {frame.width} pixels would take too long")
    return several


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
    found = None
    for marker, start, end in segments(data):
        if frame := jpeg_frame(marker, data[start:end]):
            _check(frame.height, frame.width, len(frame.ids) * -(-frame.bits // 8), most)
            found = frame
        elif marker == START_OF_SCAN and found is not None:
            check_scans(data, found, start)
    if found is None:
        raise BrokenImage("it holds a JPEG without a frame header")
    return found


def check_jpeg_2000(data: bytes, most: tuple[int, int]) -> None:
    """Raises BrokenImage where there is no JPEG 2000 codestream, or it is larger than `most` (height, width) allows."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 43:
        raise BrokenImage("it holds no JPEG 2000 codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    components, bits = struct.unpack_from(">HB", data, at + 40)
    _check(bottom - top, right - left, components * (1 if bits & 0x7F < 8 else 2), most)


def _check(height: int, width: int, bytes_a_pixel: int, most: tuple[int, int]) -> None:
    check_size(height, width, max(3, bytes_a_pixel))
    if height > most[0] or width > most[1]:
        raise BrokenImage(f"it holds {height} x {width} pixels where its header says {most[0]} x {most[1]}")
