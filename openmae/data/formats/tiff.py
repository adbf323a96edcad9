"""TIFF. Plain ones of up to 8 bits by Pillow; deep, floating, many-banded and many-paged ones by tifffile.

Frames: tifffile names the axes of the first series of pages of one size (OME, ImageJ and plain files alike). S and C
are channels; every other axis beside Y and X (pages, Z, time, ...) counts frames, the last one fastest, unless `pages`
says that they are channels, or rows, and the file has no channels of its own. Of a pyramid the full size is read.
Pixels of the no-data value that GDAL noted are missing, whatever their type, and so are those outside a mask.
"""

import io
import logging
import math
import warnings
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import spread
from openmae.data.formats.codestream import check_jpeg, check_jpeg_2000
from openmae.data.formats.header import BYTES, Depth, Header, OpenedImage, Wanted, check_size
from openmae.data.formats.ifd import NO_DATA, ORIENTATION, count_directories, first_directory
from openmae.data.formats.missing import Missing, equals
from openmae.data.formats.ome import check_ome
from openmae.data.formats.orientation import upright
from openmae.data.formats.pillow import open_by_pillow
from openmae.data.formats.reading import Pages
from openmae.errors import BrokenImage, UserError

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _EXTRA, _SAMPLE_FORMAT = 258, 259, 262, 277, 338, 339
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _MASK, _SEPARATED, _YCBCR = range(7)
_PHOTOMETRICS = {
    _MINISWHITE: "min-is-white",
    _MINISBLACK: "min-is-black",
    _RGB: "RGB",
    _PALETTE: "palette",
    _MASK: "mask",
    _SEPARATED: "separated",
    _YCBCR: "YCbCr",
}
_JPEG = 7
_JPEG_2000 = (33003, 33004, 33005, 34712)
# Without these the decoders' output is as large as the directory says; the others state sizes of their own.
_COMPRESSIONS = (1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946, 34925, 50000, *_JPEG_2000)
_OF_SMALLER, _OF_MASK = 1, 4  # bits of a page's NewSubfileType
_IMAGE_AXES = "CSYX"
_SILENT_AXES = "QI"  # tifffile's, of pages of which the file does not say what they are
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # or it prints each oddity of a file


def open_tiff(data: bytes, pages: Pages | None = None) -> OpenedImage:
    """A TIFF or BigTIFF. pages: frames where nobody says."""
    count, is_big = count_directories(data), 43 in data[2:4]
    if count == 1 and not is_big and _is_plain(first_directory(data)):
        return open_by_pillow(data, "TIFF")
    try:
        import imagecodecs  # noqa: F401 - tifffile finds it by itself, or fails on most files
        import tifffile
    except ImportError as error:
        raise UserError(
            "reading TIFFs of many pages, many bands, more than 8 bits or with no-data needs tifffile and imagecodecs",
            "pip install tifffile imagecodecs",
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = tifffile.TiffFile(io.BytesIO(data))
        if file.is_ome:
            check_ome(file.ome_metadata or "", count)
        if not file.series:
            raise BrokenImage("it holds no image")
        return _open_series(data, file.series[0], pages, _mask(file))


def _is_plain(tags: dict[int, tuple[int, ...]]) -> bool:
    """Whether Pillow reads such a file without changing anything."""
    bits, samples, extra = tags.get(_BITS, (1,)), tags.get(_SAMPLES, (1,))[0], tags.get(_EXTRA, ())
    kind = (tags.get(_PHOTOMETRIC, (-1,))[0], samples, extra)
    grey_or_palette = kind[0] in (_MINISWHITE, _MINISBLACK, _PALETTE) and kind[1:] == (1, ())
    colour = kind in ((_RGB, 3, ()), (_RGB, 4, (2,)), (_YCBCR, 3, ()), (_SEPARATED, 4, ()))
    return (
        ((grey_or_palette and bits[0] in (1, 2, 4, 8)) or (colour and set(bits) == {8}))
        and set(tags.get(_SAMPLE_FORMAT, (1,))) == {1}
        and tags.get(_COMPRESSION, (1,))[0] in _COMPRESSIONS
        and (NO_DATA not in tags or kind[0] == _SEPARATED)
    )


def _mask(file: Any) -> Any:
    """The page that says which pixels of a single image are there, as GDAL writes it; None where there is none."""
    image = file.series[0].keyframe
    if len(file.series[0].pages) > 1:
        return None
    for page in file.pages:
        is_mask = page.subfiletype & _OF_MASK and not page.subfiletype & _OF_SMALLER and page is not image
        if is_mask and (page.imagelength, page.imagewidth) == (image.imagelength, image.imagewidth):
            _check_page(page, int(page.photometric))
            return page if page.samplesperpixel == 1 else None
    return None


def _open_series(data: bytes, series: Any, pages: Pages | None, mask: Any) -> OpenedImage:
    """A tifffile series. mask: the page that says which of its pixels are there, or None."""
    page = series.keyframe
    kind = int(page.photometric)
    _check_page(page, kind)
    sizes, frames = dict.fromkeys("YXCS", 1), 1
    for axis, length in zip(series.axes, series.shape, strict=True):
        if axis in sizes:
            sizes[axis] *= length
        else:
            frames *= length
    height, width = sizes["Y"], sizes["X"]
    channels = 3 if kind == _PALETTE else sizes["C"] * sizes["S"]
    stack = (frames, height, width) if frames > 1 and channels == 1 else None
    is_silent = stack is not None and all(axis in _SILENT_AXES + _IMAGE_AXES for axis in series.axes)
    if stack is not None and pages == "channels":
        channels, frames = frames, 1
    elif stack is not None and pages == "rows":
        height, width, channels, frames = *stack, 1
    depth = _depth(page)
    no_data = _no_data(page)
    # A byte a value says whether it is missing.
    check_size(height, width, channels * (max(BYTES[depth], page.dtype.itemsize) + bool(no_data or mask)), frames)
    is_colour = _is_colour(page, kind, channels)
    turn = page.tags.valueof(ORIENTATION)
    turn = turn if turn in range(1, 9) else 1

    def pixels(asked: Wanted) -> NDArray[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = _frame(data, series, asked.frame) if frames > 1 or stack is None else _stack(data, series, pages)
            missing = _missing(stored, no_data, 3 if is_colour and channels >= 3 else 0, channels)
            if mask is not None:
                outside = np.repeat(_decoded(data, mask, mask).reshape(*stored.shape[:2], 1) == 0, channels, axis=2)
                missing = outside if missing is None else missing | outside
            values = upright(_meant(stored, page, kind), turn)
            return values if missing is None else np.ma.array(values, mask=upright(missing, turn))

    size = (height, width) if turn < 5 else (width, height)
    header = Header(
        "TIFF",
        *size,
        channels,
        depth,
        f"{_PHOTOMETRICS[kind]}, {page.dtype}",
        frames,
        is_colour,
        alpha=_alpha(page) if is_colour and channels in (2, 4) else None,
        pages=stack if is_silent else None,
    )
    return OpenedImage(header, pixels)


def _alpha(page: Any) -> Literal["straight", "premultiplied"]:
    """How the last channel, which is alpha, goes with the others (TIFF 6.0, ExtraSamples)."""
    return "premultiplied" if page.extrasamples == (1,) else "straight"


def _check_page(page: Any, kind: int) -> None:
    """Raises BrokenImage for what is not read here, and where a page or a tile of it is too large."""
    if kind not in _PHOTOMETRICS or (kind == _YCBCR and page.compression != _JPEG):
        raise BrokenImage(f"its colours are given as {getattr(page.photometric, 'name', kind)}, which is not read here")
    if page.compression not in _COMPRESSIONS:
        raise BrokenImage(f"its compression ({getattr(page.compression, 'name', page.compression)}) is not read here")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise BrokenImage("its pixels are of a type that is not read here")
    bytes_a_pixel = page.dtype.itemsize * page.samplesperpixel
    check_size(page.imagedepth * page.imagelength, page.imagewidth, bytes_a_pixel)
    if page.is_tiled:
        check_size(page.tiledepth * page.tilelength, page.tilewidth, bytes_a_pixel)


def _is_colour(page: Any, kind: int, channels: int) -> bool:
    """Whether the channels are grey or RGB, perhaps with alpha, and not bands."""
    if channels in (2, 4):
        return page.extrasamples in ((1,), (2,)) and kind in (_MINISBLACK, _RGB)
    return channels == 1 or kind in (_RGB, _PALETTE, _YCBCR)


def _depth(page: Any) -> Depth:
    if page.photometric == _PALETTE or page.dtype.kind == "b":
        return "uint8"
    return {"u1": "uint8", "u2": "uint16"}.get(page.dtype.str[1:], "float32")  # type: ignore[return-value]


def _frame(data: bytes, series: Any, number: int) -> NDArray[Any]:
    """(Y, X, C * S) of one frame, as stored."""
    free = [i for i, axis in enumerate(series.axes) if axis not in _IMAGE_AXES]
    place = dict(zip(free, np.unravel_index(number, [series.shape[i] for i in free]), strict=True))
    index = tuple(place.get(i, slice(None)) for i in range(len(series.axes)))
    kept = "".join(axis for axis in series.axes if axis in _IMAGE_AXES)
    order = [kept.index(axis) for axis in "YXCS" if axis in kept]
    stored = _stored(data, series, index).transpose(order)
    return stored.reshape(*stored.shape[:2], -1)


def _stack(data: bytes, series: Any, pages: Pages | None) -> NDArray[Any]:
    """(Y, X, pages) of all pages as stored, or, where they are rows, (pages, Y, X)."""
    stored = _stored(data, series, (slice(None),) * len(series.axes))
    apart = np.moveaxis(stored, (series.axes.index("Y"), series.axes.index("X")), (-2, -1))
    whole = apart.reshape(-1, *apart.shape[-2:])
    return whole if pages == "rows" else whole.transpose(1, 2, 0)


def _stored(data: bytes, series: Any, index: tuple[Any, ...]) -> NDArray[Any]:
    """What lies at `index` of the series, reading no other page."""
    if series.dataoffset is not None:  # uncompressed, in one piece
        dtype = series.dtype.newbyteorder(series.keyframe.parent.byteorder)
        if series.dataoffset + series.size * dtype.itemsize > len(data):
            raise BrokenImage("it is cut off")
        whole = np.frombuffer(data, dtype, series.size, series.dataoffset).reshape(series.shape)
        return whole[index].astype(series.dtype)
    leading = len(series.axes) - len(series.keyframe.axes)
    if leading < 0 or series.axes[leading:] != series.keyframe.axes:
        raise BrokenImage(f"its axes {series.axes} do not fit its pages' axes {series.keyframe.axes}")
    # Not by counting all of them: a file may say that it has any number.
    places = [range(length) if isinstance(at, slice) else [at] for at, length in zip(index, series.shape, strict=True)]
    numbers: NDArray[Any] = np.zeros(1, np.int64)
    if leading:
        numbers = np.asarray(np.ravel_multi_index(np.ix_(*places[:leading]), series.shape[:leading]))
    kept = [len(at) for at, one in zip(places[:leading], index, strict=False) if isinstance(one, slice)]
    planes = [_page(data, series, int(number))[index[leading:]] for number in numbers.reshape(-1)]
    return np.stack(planes).reshape(*kept, *planes[0].shape)


def _page(data: bytes, series: Any, number: int) -> NDArray[Any]:
    page = None
    with suppress(IndexError):
        page = series.pages[number]
    if page is None:
        raise BrokenImage("one of its pages is missing")
    return _decoded(data, page, series.keyframe)


def _decoded(data: bytes, page: Any, key: Any) -> NDArray[Any]:
    """The pixels of a page, of the kind that `key` is."""
    if math.prod(key.chunked) > len(page.dataoffsets):  # else tifffile makes up empty ones, however many
        raise BrokenImage("it lacks some of its strips or tiles")
    most = (key.tilelength, key.tilewidth) if key.is_tiled else (key.imagelength, key.imagewidth)
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset + count > len(data):
            raise BrokenImage("it is cut off")
        if key.compression == _JPEG and count:
            check_jpeg(data[offset : offset + count], most)
        elif key.compression in _JPEG_2000 and count:
            check_jpeg_2000(data[offset : offset + count], most)
    return page.asarray(maxworkers=1)


def _meant(stored: NDArray[Any], page: Any, kind: int) -> NDArray[Any]:
    """(H, W, C) as stored -> of the depth that `_depth` gives, white being high."""
    bits = page.bitspersample
    if kind == _PALETTE:
        colours = (page.colormap.T >> 8).astype(np.uint8)
        return colours[np.minimum(stored[..., 0], len(colours) - 1)]
    if kind == _MINISWHITE:
        stored = _inverted(stored, bits)
    if stored.dtype.kind == "b":
        return stored.astype(np.uint8) * np.uint8(255)
    if stored.dtype in (np.uint8, np.uint16):
        return spread(stored, bits)
    with np.errstate(over="ignore"):
        return stored.astype(np.float32)


def _inverted(stored: NDArray[Any], bits: int) -> NDArray[Any]:
    """What was high is low. Integers keep their range."""
    if stored.dtype.kind == "f":
        return -stored
    return stored.dtype.type(2**bits - 1) - stored if stored.dtype.kind == "u" else ~stored


def _no_data(page: Any) -> tuple[float, ...]:
    """The value that GDAL noted, where there is one; some write it once for each band."""
    with suppress(ValueError):
        return tuple({float(word) for word in str(page.tags.valueof(NO_DATA, default="")).split()})
    return ()


def _missing(stored: NDArray[Any], no_data: tuple[float, ...], colours: int, channels: int) -> Missing | None:
    """Which of the stored values are missing, (H, W, channels); one of a palette stands for all its colours."""
    missing = equals(stored, no_data, min(colours, stored.shape[2])) if no_data else None
    return None if missing is None else np.array(np.broadcast_to(missing, (*stored.shape[:2], channels)))
