"""The files of a tar file, from its headers alone, whatever is able to read ranges of it."""

import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Fetch = Callable[[int, int], bytes]
"""(offset, length) -> the bytes there, fewer where the file ends. Raises OSError."""

_BLOCK = 512  # bytes of a header, and what contents are padded to
_LINKS = b"12"  # kinds of members: of one file under two names, and a symbolic one
_WITHOUT_BYTES = b"123456"  # whatever size their headers have
_MOST_NAME_BYTES = 1 << 16  # of an extended header
_MAP_GOES_ON = (482, 504)  # where a header, and a block of a sparse file's map, says that another block follows
_MOST_BYTES = 1 << 62  # of a member, which keeps every sum of an offset and a size within 63 bits


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar file: its name, and where its bytes are; or, of one that is a link, the name of the other."""

    name: str
    offset: int
    size: int
    link: str = ""


def members(window: "Window", length: int) -> Iterator[Member]:
    """The regular files and links, with leading `./` taken off their names. Raises ValueError at a damaged header."""
    position = 0
    long_name: str | None = None
    long_link: str | None = None
    extended: dict[str, str] = {}
    while position + _BLOCK <= length:
        header = window.read(position, _BLOCK)
        if len(header) < _BLOCK or not header.strip(b"\0"):
            return
        size, kind = _number(header[124:136]), header[156:157]
        if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _number(header[148:156]):
            raise ValueError(f"no tar header at byte {position:,}")
        if kind not in b"LxgK":
            size = 0 if kind in _WITHOUT_BYTES else int(extended.get("size", size))
        if not 0 <= size < _MOST_BYTES:  # a negative one would lead back to where this one began, without end
            raise ValueError(f"a file of {size:,} bytes at byte {position:,}")
        start = position + _BLOCK
        if kind in b"LxgK":
            if size > _MOST_NAME_BYTES:
                raise ValueError(f"an extended header of {size:,} bytes at byte {position:,}")
            text = window.read(start, size)
            if kind == b"L":
                long_name = os.fsdecode(text.rstrip(b"\0"))
            elif kind == b"K":
                long_link = os.fsdecode(text.rstrip(b"\0"))
            elif kind == b"x":
                extended = _extended(text)
        else:
            if kind == b"S":  # a sparse file, which is no image as it lies there; more of its map may come first
                start = _after_map(window, start, header[_MAP_GOES_ON[0]])
            if kind in b"0\0" + b"7" + b"S" + _LINKS:
                name = (extended.get("path") or long_name or _name(header)).removeprefix("./")
                link = ""
                if kind in _LINKS:
                    link = extended.get("linkpath") or long_link or os.fsdecode(header[157:257].split(b"\0", 1)[0])
                    link = posixpath.normpath(link if kind == b"1" else f"{name.rpartition('/')[0] or '.'}/{link}")
                yield Member(name, start, size, link)
            long_name, long_link, extended = None, None, {}
        if start + size > length:
            raise ValueError(f"it is cut off after {length:,} bytes")
        position = start + -(-size // _BLOCK) * _BLOCK


def _after_map(window: "Window", start: int, goes_on: int) -> int:
    """Where the contents of a sparse file begin, the blocks of whose map lie before them."""
    while goes_on:
        block = window.read(start, _BLOCK)
        start += _BLOCK
        goes_on = block[_MAP_GOES_ON[1]] if len(block) == _BLOCK else 0
    return start


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return os.fsdecode(prefix + b"/" + name if prefix else name)


def _number(field: bytes) -> int:
    """Octal digits, or, as GNU tar writes what is too large for them, a byte 0x80 and a big-endian number."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    return int(digits, 8) if digits else 0


def _extended(text: bytes) -> dict[str, str]:
    """The records `length key=value\\n` of a pax header."""
    records = {}
    while text:
        length, space, _ = text.partition(b" ")
        if not space or not 0 < int(length) <= len(text):
            raise ValueError("a damaged extended header")
        key, _, value = text[len(length) + 1 : int(length) - 1].partition(b"=")
        records[os.fsdecode(key)] = os.fsdecode(value)
        text = text[int(length) :]
    return records


class Window:
    """Reads through one block at a time, so that headers which lie close to each other cost one fetch."""

    def __init__(self, fetch: Fetch, block: int) -> None:
        self.fetch, self.block = fetch, block
        self.start, self.data = 0, b""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there, fewer where the file ends."""
        at = offset - self.start
        if at < 0 or at + length > len(self.data):
            self.start, self.data = offset, self.fetch(offset, max(length, self.block))
            at = 0
        return self.data[at : at + length]
