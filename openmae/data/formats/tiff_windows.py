"""Windows of TIFFs of any size: only the strips or tiles in which a window lies are read, and nothing is decoded.

What is read becomes a small TIFF of its own: the tags that say how pixels are stored are copied as they are, and the
strips or tiles as they are compressed. So a window is decoded by what decodes every TIFF (tiff.py), and, where a
decoder crashes, by a process of its own (apart.py). Uncompressed strips are cut to the pixel.

Read so: one page, as strips or tiles, its colours together or in planes; pages of one size that are channels (OME's C);
GDAL's mask. Smaller levels of a pyramid (OME's and others' SubIFDs, .svs, .ndpi, GDAL's overviews) are found for a
first look. Hamamatsu's .ndpi have one JPEG of any size with marks in it, which tifffile shows as tiles.
"""

import io
import math
import mmap
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.header import check_size, fits
from openmae.data.formats.ifd import NO_DATA, ORIENTATION, count_directories, first_directory
from openmae.data.formats.ome import check_ome
from openmae.data.formats.window import Box, window_bytes, window_in
from openmae.data.signatures import ENOUGH, format_of
from openmae.errors import BrokenImage, UserError

_SUBFILE, _WIDTH, _LENGTH, _PHOTOMETRIC, _STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES = 254, 256, 257, 262, 273, 277, 278, 279
_PLANAR, _TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_BYTES, _EXTRA = 284, 322, 323, 324, 325, 338
_BITS, _COMPRESSION, _SAMPLE_FORMAT = 258, 259, 339
_OF_COMPRESSION = (266, 292, 293, 317, 347, 529, 530, 531, 532)  # fill order, predictor, JPEG's tables, chroma
_RGB, _YCBCR = 2, 6  # photometric
_OF_PIXELS = (_BITS, _PHOTOMETRIC, ORIENTATION, _SAMPLES, _PLANAR, 320, 332, 334, _EXTRA, _SAMPLE_FORMAT, NO_DATA)
_COPIED = (*_OF_PIXELS, _COMPRESSION, *_OF_COMPRESSION)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SHORT, _LONG8 = 3, 16
_OF_SMALLER, _OF_MASK = 1, 4  # bits of NewSubfileType
_MOST_TAG = 2**24  # bytes
_MOST_READ = 2**30  # bytes for a window
_MOST_OF_IMAGE = 0.5  # of it, in what has to be decoded for a window, above which it is better decoded whole, and kept
_END_OF_JPEG = b"\xff\xd9"

Tag = tuple[int, int, bytes]
"""A tag's type, count and value as it is stored."""


@dataclass(frozen=True)
class Layer:
    """An image at one resolution as it is stored. height, width: in pixels. cell: (rows, columns) of a strip or tile;
    offsets, counts (planes, down, across): where each lies. tags: by number. rows_apart: bytes of a row where rows lie
    uncompressed one behind the other, else 0. prefix: what stands before each, where they are pieces of one JPEG."""

    height: int
    width: int
    cell: tuple[int, int]
    tiled: bool
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    tags: dict[int, Tag]
    rows_apart: int = 0
    prefix: bytes = b""

    def around(self, box: Box) -> tuple[slice, slice, Box]:
        """(strips or tiles down, across, the pixels that they hold) of those in which a box of stored pixels lies."""
        x, y, width, height = box
        (rows, columns), most = self.cell, self.offsets.shape[1:]
        down = slice(y // rows, min(most[0], -(-(y + height) // rows)))
        across = slice(x // columns, min(most[1], -(-(x + width) // columns)))
        top, left = down.start * rows, across.start * columns
        bottom, right = min(self.height, down.stop * rows), min(self.width, across.stop * columns)
        return down, across, (left, top, right - left, bottom - top)


@dataclass(frozen=True)
class TiffWindows:
    """A TIFF of which windows can be read. order: "<" or ">". layers: the full size, then smaller ones. turn: which way
    up, as the tag numbers it. mask: which pixels of the full size are there, None where nothing says so."""

    order: str
    layers: tuple[Layer, ...]
    turn: int
    bytes_a_pixel: float
    mask: Layer | None = None

    def size(self, level: int = 0) -> tuple[int, int]:
        """(height, width), upright."""
        layer = self.layers[level]
        return (layer.height, layer.width) if self.turn < 5 else (layer.width, layer.height)

    def level_for(self, factor: float) -> int:
        """The smallest level that is no smaller than 1/factor of the full size."""
        whole = self.layers[0]
        fitting = [
            level
            for level, layer in enumerate(self.layers)
            if whole.height <= factor * layer.height and whole.width <= factor * layer.width
        ]
        return min(fitting, key=lambda level: self.layers[level].width, default=0) if self.mask is None else 0

    def window(self, read: Any, box: Box, level: int = 0) -> bytes:
        """The pixels `box` of the upright image at this level, as formats.window has them. read: -> bytes of the file,
        by offset and length.

        Raises BrokenImage where the file has not what it says, OSError where it cannot be read.
        """
        layer, mask = self.layers[level], self.mask if level == 0 else None
        stored = _stored(box, self.size(level), self.turn)
        right, bottom = stored[0] + stored[2], stored[1] + stored[3]
        if min(stored) < 0 or right > layer.width or bottom > layer.height:
            raise BrokenImage("it has other sides than when it was listed")
        if layer.rows_apart and mask is None:
            held, pages = stored, [_cut(layer, read, stored)]
        else:
            down, across, held = layer.around(stored)
            check_size(held[3], held[2], self.bytes_a_pixel)
            pages = [_cells(layer, read, down, across, held)]
            if mask is not None:
                pages.append(_cells(mask, read, down, across, held))
        inner = _upright((stored[0] - held[0], stored[1] - held[1], *stored[2:]), (held[3], held[2]), self.turn)
        return window_bytes(_written(self.order, pages), inner, whole=False)


def _stored(box: Box, size: tuple[int, int], turn: int) -> Box:
    """Where upright pixels are stored. size: of the upright image, (height, width)."""
    x, y, width, height = box
    x = size[1] - x - width if turn in (2, 3, 6, 7) else x
    y = size[0] - y - height if turn in (3, 4, 7, 8) else y
    return (x, y, width, height) if turn < 5 else (y, x, height, width)


def _upright(box: Box, size: tuple[int, int], turn: int) -> Box:
    """The inverse of `_stored`. size: as stored."""
    if turn >= 5:
        box, size = (box[1], box[0], box[3], box[2]), size[::-1]
    x, y, width, height = box
    x = size[1] - x - width if turn in (2, 3, 6, 7) else x
    y = size[0] - y - height if turn in (3, 4, 7, 8) else y
    return x, y, width, height


# ---------------------------------------------------------------- what a file holds


def open_tiff_windows(file: Path | bytes, side: int) -> TiffWindows | None:
    """A TIFF, by its path or its bytes, of which windows of `side` pixels can be read without the rest of it; None
    where that would gain nothing, or where it is none that is read so. Raises BrokenImage, UserError, OSError."""
    try:
        import imagecodecs  # noqa: F401 - tifffile finds it by itself
        import tifffile
    except ImportError as error:
        raise UserError(
            "cutting windows out of TIFFs needs tifffile and imagecodecs", "pip install tifffile imagecodecs"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        directories = _directories(file)
        with tifffile.TiffFile(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
            if opened.is_ome:
                check_ome(opened.ome_metadata or "", directories)
            found = _described(opened) if opened.series else None
    if found is None:
        return None
    layer = found.layers[0]
    if layer.rows_apart:
        return found
    rows = min(layer.height, side + layer.cell[0] - 1) * min(layer.width, side + layer.cell[1] - 1)
    gains = rows <= _MOST_OF_IMAGE * layer.height * layer.width or not fits(
        layer.height, layer.width, found.bytes_a_pixel
    )
    return found if gains else None


def _directories(file: Path | bytes) -> int:
    """How many there are. Raises BrokenImage where they are no chain."""
    if isinstance(file, bytes):
        return count_directories(file)
    if file.suffix.lower() == ".ndpi":  # whose offsets have 8 bytes in a file that says 4
        return 2**16
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return count_directories(mapped)  # type: ignore[arg-type]


def _described(file: Any) -> TiffWindows | None:
    series = file.series[0]
    page = series.keyframe
    layer = _layer(series)
    if layer is None:
        return None
    layers, mask = [layer], None
    for smaller in series.levels[1:]:
        layers += [found] if (found := _layer(smaller)) is not None else []
    for other in file.pages if len(series.pages) == 1 and len(layers) == 1 else ():
        kind = int(getattr(other, "subfiletype", 0))
        if other is page or not kind & (_OF_SMALLER | _OF_MASK) or other.samplesperpixel > page.samplesperpixel:
            continue
        found = _layer_of([other], other, "YX" if other.samplesperpixel == 1 else "YXS")
        if found is None:
            continue
        if kind & _OF_MASK and not kind & _OF_SMALLER and (found.height, found.width) == (layer.height, layer.width):
            if found.cell != layer.cell or found.tiled != layer.tiled or len(found.offsets) > 1:
                return None
            mask = replace(found, tags={**found.tags, _SUBFILE: _short(file.byteorder, _OF_MASK)})
        elif not kind & _OF_MASK and abs(found.width * layer.height / (found.height * layer.width) - 1) < 0.1:
            layers.append(found)
    samples = max(page.samplesperpixel, len(layer.offsets))
    return TiffWindows(file.byteorder, tuple(layers), _turn(page), samples * page.dtype.itemsize, mask)


def _turn(page: Any) -> int:
    """Which way up, as the tag numbers it; upright where it says nothing of use."""
    turn = page.tags.valueof(ORIENTATION)
    return turn if turn in range(1, 9) else 1


def _layer(series: Any) -> Layer | None:
    """A series' image; None where it has frames, or is of another kind that is not read in windows."""
    pages = [page for page in series.pages]  # noqa: C416 - which are read one by one
    if any(page is None for page in pages) or series.keyframe.is_virtual:
        return None
    sizes = dict(zip(series.axes, series.shape, strict=True))
    if any(length > 1 and axis not in "YXSC" for axis, length in sizes.items()):
        return None
    if len(pages) != (sizes.get("C", 1) if len(pages) > 1 else 1):
        return None
    return _layer_of(pages, series.keyframe, series.keyframe.axes)


def _layer_of(pages: Sequence[Any], key: Any, axes: str) -> Layer | None:
    """Pages of one size, each a channel where they are several."""
    if key.dtype is None or key.imagedepth != 1 or not {*axes} <= {*"YXS"}:
        return None
    tiled = bool(key.is_tiled)
    rows = key.tilelength if tiled else min(key.rowsperstrip, key.imagelength)
    columns = key.tilewidth if tiled else key.imagewidth
    if min(rows, columns, key.imagelength, key.imagewidth) < 1 or (tiled and key.tiledepth != 1):
        return None
    planes = key.samplesperpixel if key.planarconfig == 2 else 1
    shape = (planes, math.ceil(key.imagelength / rows), math.ceil(key.imagewidth / columns))
    if len(pages) > 1 and key.samplesperpixel > 1:
        return None
    found = [(np.asarray(page.dataoffsets), np.asarray(page.databytecounts)) for page in pages]
    if any(min(map(len, one)) < math.prod(shape) for one in found):
        raise BrokenImage("it lacks some of its strips or tiles")
    offsets, counts = (
        np.concatenate([one[which][: math.prod(shape)].astype(np.int64).reshape(shape) for one in found])
        for which in (0, 1)
    )
    tags = _tags(key)
    if len(pages) > 1:
        if any(_tags(page) != tags for page in pages[1:] if hasattr(page, "tags")):
            return None
        tags |= _as_planes(key, len(pages))
    bits = key.bitspersample * (key.samplesperpixel if key.planarconfig == 1 else 1) * key.imagewidth
    is_plain = key.compression == 1 and not tiled and key.predictor == 1 and (bits // key.imagewidth) % 8 == 0
    prefix = key.jpegheader or b""
    apart = bits // 8 if is_plain else 0
    return Layer(key.imagelength, key.imagewidth, (rows, columns), tiled, offsets, counts, tags, apart, prefix)


def _tags(page: Any) -> dict[int, Tag]:
    """Those that say how pixels are stored."""
    file, tags = page.parent.filehandle, {}
    for number in _COPIED:
        if (tag := page.tags.get(number)) is None:
            continue
        size = tag.count * _SIZES.get(int(tag.dtype), 0)
        if not 0 < size <= _MOST_TAG:
            continue
        file.seek(tag.valueoffset)
        tags[number] = (int(tag.dtype), tag.count, file.read(size))
    return tags


def _short(order: str, *values: int) -> Tag:
    return _SHORT, len(values), struct.pack(f"{order}{len(values)}H", *values)


def _as_planes(key: Any, channels: int) -> dict[int, Tag]:
    """What pages say where they are the planes of one image; of channels nobody knows what they show."""
    order = key.parent.byteorder
    kinds = {_BITS: key.bitspersample, _SAMPLE_FORMAT: int(key.sampleformat)}
    return {
        _PHOTOMETRIC: _short(order, int(key.photometric)),
        _SAMPLES: _short(order, channels),
        _PLANAR: _short(order, 2),
        _EXTRA: _short(order, *[0] * (channels - 1)),
        **{number: _short(order, *[kind] * channels) for number, kind in kinds.items()},
    }


# ---------------------------------------------------------------- what a window is made of

Page = tuple[dict[int, Tag], tuple[int, int], tuple[int, int], list[bytes]]
"""Tags, (height, width), (rows, columns) of a tile or (rows, 0) of strips, and what these hold."""


def _cells(layer: Layer, read: Any, down: slice, across: slice, held: Box) -> Page:
    """The strips or tiles as they are stored."""
    offsets, counts = (found[:, down, across].reshape(-1) for found in (layer.offsets, layer.counts))
    if int(counts.sum()) > _MOST_READ or (counts < 0).any():
        raise BrokenImage(f"its strips or tiles take {int(counts.sum()):,} bytes, as none do")
    cells = []
    for offset, count in zip(offsets.tolist(), counts.tolist(), strict=True):
        cell = read(offset, count) if offset and count else b""  # GDAL leaves out what is empty
        if layer.prefix and cell:
            cell = layer.prefix + (cell[:-2] if cell[-2:-1] == b"\xff" else cell) + _END_OF_JPEG
        cells.append(cell)
    return layer.tags, (held[3], held[2]), layer.cell if layer.tiled else (layer.cell[0], 0), cells


def _cut(layer: Layer, read: Any, box: Box) -> Page:
    """Just the pixels of rows that lie uncompressed, a strip for each plane."""
    x, y, width, height = box
    a_pixel = layer.rows_apart // layer.width
    planes = []
    for offsets, counts in zip(layer.offsets[..., 0], layer.counts[..., 0], strict=True):
        rows = []
        for row in range(y, y + height):
            strip, within = divmod(row, layer.cell[0])
            start = within * layer.rows_apart + x * a_pixel
            if start + width * a_pixel > counts[strip]:
                raise BrokenImage("it is cut off")
            rows.append(read(int(offsets[strip]) + start, width * a_pixel))
        planes.append(b"".join(rows))
    return layer.tags, (height, width), (height, 0), planes


def _written(order: str, pages: Sequence[Page]) -> bytes:
    """A BigTIFF of these pages."""
    out = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}3HQ", 43, 8, 0, 0))
    link = 8  # where the place of the next directory goes
    for tags, (height, width), (rows, columns), cells in pages:
        places = []
        for cell in cells:
            places.append(len(out) if cell else 0)
            out += cell
        counts = [len(cell) for cell in cells]

        def longs(*values: int) -> Tag:
            return _LONG8, len(values), struct.pack(f"{order}{len(values)}Q", *values)

        sizes = {_WIDTH: longs(width), _LENGTH: longs(height)}
        if columns:
            sizes |= {_TILE_WIDTH: longs(columns), _TILE_LENGTH: longs(rows)}
            sizes |= {_TILES: longs(*places), _TILE_BYTES: longs(*counts)}
        else:
            sizes |= {_ROWS: longs(rows), _STRIPS: longs(*places), _STRIP_BYTES: longs(*counts)}
        entries = b""
        for number, (kind, count, value) in sorted({**tags, **sizes}.items()):
            if len(value) > 8:
                place = struct.pack(f"{order}Q", len(out))
                out += value
            else:
                place = value.ljust(8, b"\0")
            entries += struct.pack(f"{order}HHQ", number, kind, count) + place
        struct.pack_into(f"{order}Q", out, link, len(out))
        out += struct.pack(f"{order}Q", len(entries) // 20) + entries
        link = len(out)
        out += bytes(8)
    return bytes(out)


# ---------------------------------------------------------------- a window as a file of its own

_LOSSY = (6, 7, 33003, 33004, 33005, 34712)  # ways of compression


def was_lossy(window: bytes) -> bool:
    """Whether a window lies in a TIFF whose pixels were stored with loss, as those of slides are."""
    _, file = window_in(window)
    return format_of(file[:ENOUGH]) == "tiff" and first_directory(file).get(_COMPRESSION, (1,))[0] in _LOSSY


def tiff_of_window(window: bytes) -> bytes:
    """A TIFF of the window alone, nothing compressed, pixels and the tags that say what they mean as they were. Raises
    BrokenImage where that cannot be, and what decoding raises."""
    import tifffile

    box, file = window_in(window)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tifffile.TiffFile(io.BytesIO(file)) as opened:
            return _written(opened.byteorder, [_page_of(page, box) for page in opened.pages])


def _page_of(page: Any, box: Box) -> Page:
    turn, size = _turn(page), (page.imagelength, page.imagewidth)
    x, y, width, height = _stored(box, size if turn < 5 else size[::-1], turn)
    values = page.asarray(maxworkers=1)
    if values.dtype.kind != "b" and values.dtype.itemsize * 8 != page.bitspersample:
        raise BrokenImage(f"its {page.bitspersample} bits a value cannot be kept with what says which are missing")
    planes = [values] if page.planarconfig == 1 or values.ndim == 2 else [*values]
    cells = []
    for plane in planes:
        cut = np.ascontiguousarray(plane[y : y + height, x : x + width])
        if cut.dtype.kind == "b":
            cells.append(np.packbits(cut, axis=1).tobytes())
        else:
            cells.append(cut.astype(cut.dtype.newbyteorder(page.parent.byteorder)).tobytes())
    order, tags = page.parent.byteorder, _tags(page)
    tags = {number: tag for number, tag in tags.items() if number not in _OF_COMPRESSION}
    tags[_COMPRESSION] = _short(order, 1)
    if int(page.photometric) == _YCBCR:  # which were decoded to this
        tags[_PHOTOMETRIC] = _short(order, _RGB)
    if int(page.subfiletype) & _OF_MASK:
        tags[_SUBFILE] = _short(order, _OF_MASK)
    return tags, (height, width), (height, 0), cells
