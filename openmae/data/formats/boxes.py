"""The boxes of an AVIF (ISO/IEC 14496-12, HEIF), as far as one needs them to know what the picture is."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from openmae.errors import BrokenImage

_MOST_BOXES = 4096  # in one box; a picture has tens

Crop = tuple[int, int, int, int]
"""(top, left, height, width)"""


@dataclass(frozen=True)
class Picture:
    """What the primary item says of its pixels.

    bits: a channel. grey: whether it has no colours. crop: what of the coded pixels is shown, its clean aperture, None
    for all of them.
    """

    bits: int
    grey: bool
    crop: Crop | None


def picture(data: bytes) -> Picture:
    """Of an AVIF. Raises BrokenImage where boxes overlap or are cut off before what is looked for."""
    try:
        found = _properties(data)
    except (struct.error, IndexError) as error:
        raise BrokenImage("its boxes are cut off") from error
    codec = found.get(b"av1C", b"")
    if len(codec) < 4:  # a grid, whose tiles have it, or a sequence without an item: all of one kind
        at = data.find(b"av1C")
        codec = data[at + 4 : at + 8] if at >= 0 else bytes(4)
    flags = codec[2] if len(codec) > 2 else 0
    size = struct.unpack_from(">II", found[b"ispe"], 4)[::-1] if len(found.get(b"ispe", b"")) >= 12 else None
    crop = None if size is None or b"clap" not in found else _crop(found[b"clap"], size)
    bits = 12 if flags & 0x20 else 10 if flags & 0x40 else 8
    return Picture(bits, bool(flags & 0x10), crop)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the contents of each box between. Raises BrokenImage where one leads outside."""
    for _ in range(_MOST_BOXES):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        stop = end if size == 0 else start + size
        if not start + head <= stop <= end:
            raise BrokenImage("its boxes are cut off")
        yield kind, start + head, stop
        start = stop
    raise BrokenImage("it has too many boxes")


def _properties(data: bytes) -> dict[bytes, bytes]:
    """The contents of the primary item's properties, by their kind; none where there is no such item."""
    meta = next(((start, end) for kind, start, end in _boxes(data, 0, len(data)) if kind == b"meta"), None)
    if meta is None:
        return {}
    inside = {kind: (start, end) for kind, start, end in _boxes(data, meta[0] + 4, meta[1])}
    if b"pitm" not in inside or b"iprp" not in inside:
        return {}
    start, _ = inside[b"pitm"]
    (item,) = struct.unpack_from(">H" if data[start] == 0 else ">I", data, start + 4)
    properties: list[tuple[bytes, bytes]] = []
    places: list[int] = []
    for kind, start, end in _boxes(data, *inside[b"iprp"]):
        if kind == b"ipco":
            properties = [(name, data[at:to]) for name, at, to in _boxes(data, start, end)]
        elif kind == b"ipma":
            places += _associated(data, start, item)
    found: dict[bytes, bytes] = {}
    for place in places:
        if 0 < place <= len(properties):
            found.setdefault(*properties[place - 1])
    return found


def _associated(data: bytes, start: int, item: int) -> list[int]:
    """The numbers, from 1, of an item's properties, as the ipma box that begins here lists them."""
    version, wide = data[start], data[start + 3] & 1
    (count,) = struct.unpack_from(">I", data, start + 4)
    at = start + 8
    for _ in range(count):
        (number,) = struct.unpack_from(">H" if version < 1 else ">I", data, at)
        at += 2 if version < 1 else 4
        length, at = data[at], at + 1
        if number == item:
            code, most = (f">{length}H", 0x7FFF) if wide else (f">{length}B", 0x7F)
            return [place & most for place in struct.unpack_from(code, data, at)]
        at += length * (2 if wide else 1)
    return []


def _crop(clap: bytes, size: tuple[int, int]) -> Crop | None:
    """The clean aperture (ISO/IEC 14496-12, 12.1.4), None where it is no whole pixels within the picture, which
    readers then show whole."""
    width, wide, height, high, right, right_by, down, down_by = struct.unpack(">IIIIiIiI", clap[:32])
    if 0 in (wide, high, right_by, down_by) or width % wide or height % high:
        return None
    width, height = width // wide, height // high
    # The offset is from the picture's centre to the aperture's, in fractions; doubled, so that halves are whole.
    doubled = (size[1] - width) * right_by + 2 * right, (size[0] - height) * down_by + 2 * down
    if doubled[0] % (2 * right_by) or doubled[1] % (2 * down_by):
        return None
    left, top = doubled[0] // (2 * right_by), doubled[1] // (2 * down_by)
    if left < 0 or top < 0 or not 0 < width <= size[1] - left or not 0 < height <= size[0] - top:
        return None
    return top, left, height, width
