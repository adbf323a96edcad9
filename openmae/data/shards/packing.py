"""One image as `openmae pack` stores it: no larger than training needs, in a format that decodes fast.

Nothing is squeezed: 16 bits stay 16, floats stay floats, every channel stays. Only photographs (8 bits, grey or RGB)
that are made smaller, or were lossy before, are stored with loss, as JPEG.
"""

import io
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, decode_masked, open_image, read_header, reasons
from openmae.data.formats.header import Depth, Header
from openmae.data.formats.missing import Missing
from openmae.data.formats.pillow import orientation, pillow_image
from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.formats.tiff_windows import tiff_of_window, was_lossy
from openmae.data.formats.transparency import divided, multiplied, through
from openmae.data.formats.window import is_window, window_in
from openmae.data.views.crop import reduction, resize
from openmae.data.views.missing import shares
from openmae.data.views.statistics import DEPTHS
from openmae.errors import BrokenImage

RULES = 2  # changes with what pack_image gives for the same bytes and settings
_EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "NPY": "npy",
    "TIFF": "tif",
    "DICOM": "dcm",
    "BMP": "bmp",
    "GIF": "gif",
    "AVIF": "avif",
    "HEIC": "heic",
}
_QUICK = frozenset(("JPEG", "PNG", "WEBP", "NPY"))  # to decode, and known to every reader of shards
_LOSSY = frozenset(("JPEG", "WEBP", "AVIF", "HEIC"))
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_LONGEST_JPEG = 65_500  # a side, in pixels


@dataclass(frozen=True)
class Packing:
    """short_side: pixels, the most that an image's shorter side may have; quality: of JPEGs, 1 to 100;
    reading: how files are read that can be read in more than one way; what nobody says of alpha and pages is left as
    it is. exact: what numbers that mean something (DICOM's) are kept as, at least, so that those of all files of a set
    can be compared."""

    short_side: int = 256
    quality: int = 95
    reading: Reading = UNSAID
    exact: Depth = "uint8"

    @property
    def read_as(self) -> dict[str, Any]:
        """How what is packed is to be read, for the index."""
        layout = {} if self.reading.layout is None else {"layout": "hwc"}
        return self.reading.to_dict() | layout


@dataclass(frozen=True)
class Packed:
    """An encoded image, the extension that says how, the CRC-32 of its bytes, and how many there were before."""

    data: bytes
    extension: str
    crc32: int
    bytes_before: int


def pack_image(data: bytes, packing: Packing) -> Packed:
    """The image with its short side bounded.

    An image that is small enough is not touched where its format decodes fast. A file with several frames is not
    touched either: training chooses among them. Nor is one of 8 or 16 bits that lacks some of its pixels, for its file
    alone says which; of floats they are not a number in what is stored. A window becomes an image of its own. Raises
    BrokenImage, UserError as decode does.
    """
    if is_window(data):
        return _pack_window(data, packing)
    stored = open_image(data, replace(packing.reading, alpha=None))
    opened = through(stored, packing.reading.alpha)
    header = opened.header
    size = _bounded((header.height, header.width), packing.short_side)
    is_small = size == (header.height, header.width)
    depth = max(header.depth, packing.exact, key=DEPTHS.index) if header.exact else header.depth
    pixels = PixelFormat(header.channels, None, depth, packing.reading)
    is_turned = header.axes is not None and packing.reading.layout == "chw"
    may_stay = header.format in _QUICK and header.channels == stored.header.channels and not is_turned
    if header.frames > 1 or (is_small and may_stay and _is_plain(data, header)):
        decode_masked(opened, pixels)  # raises where it is damaged
        return _as_it_is(data, header)
    image, missing = decode_masked(opened, pixels, reduce=reduction((header.height, header.width), size))
    if missing is not None and depth != "float32":
        return _turned(data, pixels) if is_turned else _as_it_is(data, header)
    return _encoded(image, missing, header, size, packing.quality, is_small and header.format not in _LOSSY, len(data))


def _pack_window(data: bytes, packing: Packing) -> Packed:
    """The same of a window."""
    opened = open_image(data, packing.reading)
    header = opened.header
    if header.frames > 1:
        raise BrokenImage(f"its {header.frames} frames cannot be packed as windows", "write each to a file of its own")
    size = _bounded((header.height, header.width), packing.short_side)
    is_small = size == (header.height, header.width)
    depth = max(header.depth, packing.exact, key=DEPTHS.index) if header.exact else header.depth
    pixels = PixelFormat(header.channels, None, depth, packing.reading)
    image, missing = decode_masked(opened, pixels)
    (_, _, width, height), file = window_in(data)
    inner = read_header(file, packing.reading)
    before = round(len(file) * width * height / (inner.width * inner.height))
    if missing is not None and depth != "float32":
        if header.format != "TIFF":
            return replace(_turned(data, pixels), bytes_before=before)
        kept = tiff_of_window(data)
        return Packed(kept, "tif", zlib.crc32(kept), before)
    lossless = is_small and header.format not in _LOSSY and not was_lossy(data)
    return _encoded(image, missing, header, size, packing.quality, lossless, before)


def _encoded(
    image: NDArray[Any],
    missing: Missing | None,
    header: Header,
    size: tuple[int, int],
    quality: int,
    lossless: bool,
    bytes_before: int,
) -> Packed:
    """The pixels at this size (height, width)."""
    # Of an array's three channels nobody said that they are red, green and blue.
    colour = header.channels == 1 or (header.colour and header.format != "NPY")
    smaller = _resized_through(image, size) if header.alpha else resize(image, size)
    if missing is not None:
        smaller[shares(missing, size) > 0.5] = np.nan
    kept, extension = encode(smaller, quality, lossless=lossless, colour=colour)
    return Packed(kept, extension, zlib.crc32(kept), bytes_before)


def _as_it_is(data: bytes, header: Header) -> Packed:
    return Packed(data, _EXTENSIONS[header.format], zlib.crc32(data), len(data))


def encode(image: NDArray[Any], quality: int, *, lossless: bool, colour: bool) -> tuple[bytes, str]:
    """(H, W, C) uint8, uint16 or float32 -> (file, extension): JPEG, PNG, or .npy for what these cannot hold.

    lossless: PNG for what JPEG could hold. colour: the channels are grey, grey and alpha, RGB or RGBA. What is too
    long for a JPEG is a PNG.
    """
    file = io.BytesIO()
    height, width, channels = image.shape
    image = np.ascontiguousarray(image)
    if image.dtype == np.uint16 and channels == 1:
        Image.fromarray(image[..., 0]).save(file, "PNG")
        return file.getvalue(), "png"
    if image.dtype == np.uint8 and channels <= len(_MODES) and colour:
        picture = Image.frombytes(_MODES[channels], (width, height), image.tobytes())
        if channels in (1, 3) and not lossless and max(height, width) <= _LONGEST_JPEG:
            # Optimised codes: 5% fewer bytes, which decode 5% faster.
            picture.save(file, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)
            return file.getvalue(), "jpg"
        picture.save(file, "PNG")
        return file.getvalue(), "png"
    np.save(file, image, allow_pickle=False)
    return file.getvalue(), "npy"


def _resized_through(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(H, W, C) whose last channel is alpha -> (*size, C); what is hidden does not show at edges."""
    return image if image.shape[:2] == size else divided(resize(multiplied(image), size), image.dtype)


def _turned(data: bytes, pixels: PixelFormat) -> Packed:
    """The array at its own size, its channels last, no-data as it stands there."""
    plain = replace(pixels, reading=replace(pixels.reading, nodata=None))
    kept, extension = encode(decode(data, plain), 100, lossless=True, colour=False)
    return Packed(kept, extension, zlib.crc32(kept), len(data))


def _bounded(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) with the shorter one at most short_side, at the same aspect."""
    factor = short_side / min(size)
    if factor >= 1:
        return size
    return max(short_side, round(size[0] * factor)), max(short_side, round(size[1] * factor))


def _is_plain(data: bytes, header: Header) -> bool:
    """Whether every reader gives the same upright pixels, as fast as its format can."""
    if header.format == "NPY":
        return True
    with reasons(), pillow_image(data, header.format) as image:
        return orientation(data, image) == 1 and "progressive" not in image.info and image.mode != "CMYK"
