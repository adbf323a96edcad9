"""The directory of a TIFF, as far as one needs it to know what the file holds. EXIF data are such a directory too."""

import struct
from dataclasses import dataclass
from typing import Any

from openmae.errors import BrokenImage

ORIENTATION = 274
NO_DATA = 42113  # GDAL's, text
_NUMBERS = {1: "B", 2: "B", 3: "H", 4: "I", 12: "d", 16: "Q"}  # by TIFF's number of a type; text as bytes
_MOST_VALUES = 4096  # of one tag; more are left out


@dataclass(frozen=True)
class _Layout:
    """How a TIFF is written: byte order, format of a directory's count, bytes of an entry, format of an offset."""

    order: str
    count: str
    entry: int
    offset: str

    def entries(self, data: bytes, at: int) -> range:
        """Where the entries of the directory at `at` are."""
        (count,) = struct.unpack_from(self.order + self.count, data, at)
        start = at + struct.calcsize(self.count)
        return range(start, start + count * self.entry, self.entry)


def first_directory(data: bytes) -> dict[int, tuple[Any, ...]]:
    """The unsigned integers and doubles of the first directory, by tag. Raises BrokenImage where it is missing or cut
    off."""
    tags = {}
    try:
        layout, at = _start(data)
        for entry in layout.entries(data, at):
            tag, kind = struct.unpack_from(layout.order + "HH", data, entry)
            if values := _values(data, layout, entry + 4, _NUMBERS.get(kind)):
                tags[tag] = values
    except (struct.error, OverflowError) as error:
        raise BrokenImage("its TIFF directory is cut off") from error
    return tags


def count_directories(data: bytes) -> int:
    """How many pages a TIFF has. Raises BrokenImage where one is cut off, or they overlap: a chain may be a circle."""
    number, left = 0, len(data)
    try:
        layout, at = _start(data)
        while at:
            entries = layout.entries(data, at)
            (at,) = struct.unpack_from(layout.order + layout.offset, data, entries.stop)
            number += 1
            left -= max(1, len(entries)) * layout.entry
            if left < 0:
                raise BrokenImage("its TIFF directories overlap")
    except (struct.error, OverflowError) as error:
        raise BrokenImage("its TIFF directories are cut off") from error
    return number


def _start(data: bytes) -> tuple[_Layout, int]:
    """(layout, where the first directory is)"""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        raise BrokenImage("its TIFF header is damaged")
    version, at = struct.unpack_from(order + "HI", data, 2)
    if version != 43:
        return _Layout(order, "H", 12, "I"), at
    (at,) = struct.unpack_from(order + "Q", data, 8)
    return _Layout(order, "Q", 20, "Q"), at


def _values(data: bytes, layout: _Layout, at: int, code: str | None) -> tuple[Any, ...]:
    """What a directory's entry holds; nothing where these are neither unsigned integers nor doubles, or lie
    outside the file."""
    (count,) = struct.unpack_from(layout.order + layout.offset, data, at)
    if code is None or not 0 < count <= _MOST_VALUES:
        return ()
    at += struct.calcsize(layout.offset)
    size = count * struct.calcsize(code)
    if size > struct.calcsize(layout.offset):
        (at,) = struct.unpack_from(layout.order + layout.offset, data, at)
        if at + size > len(data):
            return ()
    return struct.unpack_from(f"{layout.order}{count}{code}", data, at)
