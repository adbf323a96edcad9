"""What is looked at of an image before it is cut: its size, of its header alone, and the levels of its pixels, a part
at a time, at the smallest size that shows enough."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode_masked, open_image, read_header, reasons
from openmae.data.formats.header import BYTES, LARGEST_REDUCTION, fits
from openmae.data.formats.reading import Reading
from openmae.data.formats.tiff_windows import TiffWindows, open_tiff_windows
from openmae.data.formats.window import Box
from openmae.data.signatures import ENOUGH, format_of
from openmae.data.sources.open_file import OpenFile
from openmae.data.sources.source import Source
from openmae.data.tiles.cutting import Memory, beginning, large_tiff, parsing
from openmae.data.tiles.detail import Part, block_of, summed
from openmae.errors import BrokenImage, NothingThere, TooLarge, UserError

_FIRST = 2**18  # bytes of a JPEG, in which its size is told but for rare ones
_MOST_PIXELS = 2**24  # of a part
_LEAST_SIDE = 1024  # of a part
_LEAST_PIXELS = 2  # along a block, of the level that is looked at


@dataclass(frozen=True)
class Sizes:
    """height and width of the upright image. whole: it can only be decoded as one; level: else, what is looked at, and
    its own size."""

    height: int
    width: int
    whole: bool = True
    level: int = 0
    seen: tuple[int, int] = (0, 0)
    cell: tuple[int, int] = (1, 1)

    def parts(self) -> Iterator[Box]:
        """What is looked at, one after the other: at the level's own size."""
        if self.whole:
            yield (0, 0, self.width, self.height)
            return
        height, width = self.seen
        across = min(width, max(_LEAST_SIDE, self.cell[1]))
        while across < width and across * max(_LEAST_SIDE, self.cell[0]) < _MOST_PIXELS:
            across = min(width, 2 * across)
        down = max(self.cell[0], _MOST_PIXELS // across // self.cell[0] * self.cell[0])
        for y in range(0, height, down):
            for x in range(0, width, across):
                yield (x, y, min(across, width - x), min(down, height - y))


def size_of(source: Source, image: int, side: int, reading: Reading) -> Sizes:
    """Of an image that is to be cut into windows of `side`. Raises BrokenImage, OSError, UserError, and what its
    decoder raises."""
    file = source.file(image)
    data = source.read(image) if file is None else beginning(file)
    form = format_of(data[:ENOUGH])
    if form == "tiff" and (found := _tiff(file, data, side)) is not None:
        size = found.size()
        level = found.level_for(max(1.0, block_of(size, side) / _LEAST_PIXELS))
        layer = found.layers[level]
        return Sizes(*size, False, level, found.size(level), layer.cell if found.turn < 5 else layer.cell[::-1])
    header = None
    if file is not None and form == "jpeg":
        with suppress(BrokenImage, UserError), reasons():
            header = read_header(beginning(file, _FIRST), reading)
    try:
        header = read_header(source.read(image) if file is not None else data, reading) if header is None else header
    except TooLarge as error:
        raise _no_part(error.what) from error
    if header.axes is not None and reading.layout is None:
        shape = " x ".join(map(str, header.axes))
        raise UserError(
            f"{source.shown(image)} is an array of {shape}, and nothing says which of these are its channels",
            "say by `layout` whether they come last (hwc) or first (chw), so that it can be cut",
        )
    sizes = Sizes(header.height, header.width)
    is_one = max(header.height, header.width) <= side
    if not is_one and not fits(header.height, header.width, header.channels * BYTES[header.depth]):
        raise _no_part(f"{header.height} x {header.width} pixels are more than is decoded")
    return sizes


def part_of(source: Source, image: int, sizes: Sizes, box: Box, side: int, reading: Reading) -> Part:
    """The blocks of a part of it. Raises BrokenImage, OSError, UserError."""
    seen = (sizes.height, sizes.width) if sizes.whole else sizes.seen
    block = block_of((sizes.height, sizes.width), side)
    try:
        opened = open_image(_encoded(source, image, sizes, box, side), reading)
        header, reduce = opened.header, 1
        while opened.reduces and reduce < LARGEST_REDUCTION and 2 * reduce <= block:
            reduce *= 2
        pixels = PixelFormat(header.channels, None, header.depth, reading)
        levels, missing = decode_masked(opened, pixels, reduce=reduce)
        if reduce > 1:
            seen, box = levels.shape[:2], (0, 0, levels.shape[1], levels.shape[0])
    except NothingThere:
        levels, missing = np.zeros((box[3], box[2], 1), np.uint8), np.ones((box[3], box[2], 1), np.bool_)
    return summed(levels, missing, box, (sizes.height / seen[0], sizes.width / seen[1]), block)


def broken_part(sizes: Sizes, box: Box, side: int) -> Part:
    """The same of what cannot be read."""
    seen = (sizes.height, sizes.width) if sizes.whole else sizes.seen
    scale = sizes.height / seen[0], sizes.width / seen[1]
    return summed(None, None, box, scale, block_of((sizes.height, sizes.width), side))


def _encoded(source: Source, image: int, sizes: Sizes, box: Box, side: int) -> bytes:
    if sizes.whole:
        return source.read(image)
    file = source.file(image)
    data = source.read(image) if file is None else b""
    found = _tiff(file, data, side)
    if found is None:
        raise BrokenImage("it is another file than when it was listed")
    return found.window(Memory(data).read if file is None else OpenFile(file).read, box, sizes.level)


def _tiff(file: str | None, data: bytes, side: int) -> TiffWindows | None:
    with parsing():
        return open_tiff_windows(data, side) if file is None else large_tiff(file, side)


def _no_part(what: str) -> BrokenImage:
    return BrokenImage(f"{what}, and no part of it can be read alone", "save it as a tiled TIFF")
