"""One window of an image of a source: of a TIFF what it needs, of any other file all of it, to be cut once decoded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from openmae.data.formats.decode import reasons
from openmae.data.formats.tiff_windows import TiffWindows, open_tiff_windows
from openmae.data.formats.window import Box, window_bytes
from openmae.data.signatures import ENOUGH, format_of
from openmae.data.sources.open_file import OpenFile
from openmae.data.sources.source import Source
from openmae.errors import BrokenImage

_MOST_OPEN = 16  # TIFFs of which a process knows where their tiles lie


@contextmanager
def parsing() -> Iterator[None]:
    """Whatever a damaged file makes tifffile raise becomes BrokenImage; that it cannot be read stays OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception:
        with reasons():
            raise


def cut(source: Source, image: int, box: Box) -> bytes:
    """The encoded window. Raises OSError, BrokenImage, as a source does, and UserError where a package is missing."""
    with parsing():
        return _cut(source, image, box)


def _cut(source: Source, image: int, box: Box) -> bytes:
    file, data = source.file(image), b""
    if file is None:
        data = source.read(image)
        first = data[:ENOUGH]
    else:
        first = beginning(file)
    if format_of(first) == "tiff":
        side = max(box[2:])
        found = large_tiff(file, side) if file is not None else open_tiff_windows(data, side)
        if found is not None:
            return found.window(OpenFile(file).read if file is not None else Memory(data).read, box)
    return window_bytes(data or source.read(image), box, whole=True)


def beginning(file: str, length: int = ENOUGH) -> bytes:
    """A file's first bytes. Raises OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.pread(descriptor, length, 0)
    finally:
        os.close(descriptor)


def large_tiff(file: str, side: int) -> TiffWindows | None:
    """Where the strips or tiles of a TIFF lie. Raises as `open_tiff_windows` does, whatever tifffile raises too."""
    state = os.stat(file)  # noqa: PTH116
    return _known(file, side, state.st_size, state.st_mtime_ns)


@lru_cache(_MOST_OPEN)
def _known(file: str, side: int, size: int, changed: int) -> TiffWindows | None:
    del size, changed  # of another file of that name, other places are known
    return open_tiff_windows(Path(file), side)


class Memory:
    """A file that was read, as an `OpenFile` reads it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, offset: int, length: int) -> bytes:
        """These bytes. Raises BrokenImage where there are fewer."""
        if offset + length > len(self.data):
            raise BrokenImage("it is cut off")
        return self.data[offset : offset + length]
