"""A file whose pixels are labels -> their numbers, none changed: of a palette the index, not the colour. A TIFF that is
too large to be decoded at once is decoded part by part, and held whole."""

import io
import math
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.data.annotations.objects import MOST_BYTES
from openmae.data.formats.decode import open_image, reasons
from openmae.data.formats.header import check_size, too_large
from openmae.data.formats.orientation import upright
from openmae.data.formats.pillow import orientation, pillow_image, quiet
from openmae.data.formats.tiff_windows import TiffWindows, open_tiff_windows, tiff_of_window
from openmae.data.signatures import ENOUGH, format_of
from openmae.errors import BrokenImage, TooLarge, UserError

LOSSY = "a lossy format, which changes numbers"
_ROWS = 512  # that are decoded at once, of a large one
_PILLOW = {"png": "PNG", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF"}
_WHOLE = frozenset(("1", "L", "P", "I;16", "I;16B", "I"))
_COLOUR = {"RGBA": "RGB", "RGB": "RGB", "LA": "L", "PA": "P"}


def label_size(data: bytes) -> tuple[int, int]:
    """(H, W) of the file, from its header alone. Raises BrokenImage."""
    try:
        header = open_image(data).header
    except TooLarge:
        if (parts := _parts(data)) is None:
            raise
        return parts.size()
    return header.height, header.width


def label_image(data: bytes, colours: bool = False) -> NDArray[Any]:
    """(H, W) integers, or (H, W, 3) of 8 bits where the file has colours. colours: whether a palette's count.

    Raises BrokenImage where it is none, and UserError where reading it needs a package that is not installed."""
    try:
        return _label_image(data, colours)
    except TooLarge:
        if (parts := _parts(data)) is None:
            raise
    with reasons():
        return _in_parts(data, parts, colours)


def _parts(data: bytes) -> TiffWindows | None:
    """Where the strips or tiles of a TIFF lie, each of them small; None of others."""
    if format_of(data[:ENOUGH]) != "tiff":
        return None
    with reasons():
        return open_tiff_windows(data, _ROWS)


def _in_parts(data: bytes, parts: TiffWindows, colours: bool) -> NDArray[Any]:
    """The same of a large one, over its whole width and some rows at a time."""
    (height, width), found = parts.size(), np.zeros((0, 0), np.uint8)

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    for top in range(0, height, _ROWS):
        rows = min(_ROWS, height - top)
        part = _label_image(tiff_of_window(parts.window(read, (0, top, width, rows))), colours)
        if top == 0:
            shape = (height, width, *part.shape[2:])
            if math.prod(shape) * part.itemsize > MOST_BYTES:
                raise too_large(f"{height} x {width} pixels of labels")
            found = np.empty(shape, part.dtype)
        found[top : top + rows] = part
    return found


def _label_image(data: bytes, colours: bool) -> NDArray[Any]:
    """Of one that is decoded at once. Raises TooLarge too."""
    with reasons():
        if not data:
            raise BrokenImage("the file is empty")
        form = format_of(data[:ENOUGH])
        if form in ("jpeg", "webp", "avif", "heic"):
            raise BrokenImage(f"it is {form.upper()}, {LOSSY}", "write masks as PNG or TIFF")
        if form == "npy":
            return _as_numbers(np.load(io.BytesIO(data), allow_pickle=False))
        if form not in _PILLOW:
            raise BrokenImage("it is no PNG, TIFF, BMP, GIF or .npy, from which masks are read")
        if form == "tiff" and (found := _by_tifffile(data)) is not None:
            return found
        image = pillow_image(data, _PILLOW[form])
        check_size(image.height, image.width, 4)
        with warnings.catch_warnings(), quiet() if form == "tiff" else nullcontext():
            warnings.simplefilter("ignore")
            turn = 1 if form == "tiff" else orientation(data, image)  # which Pillow turns by itself
            image.load()
        pixels = _of_pillow(image, colours)
        turned = upright(pixels if pixels.ndim == 3 else pixels[..., None], turn)
        return turned if pixels.ndim == 3 else turned[..., 0]


def _of_pillow(image: Image.Image, colours: bool) -> NDArray[Any]:
    if image.mode in _COLOUR:
        image = image.convert(_COLOUR[image.mode])
    if image.mode == "P" and colours:
        image = image.convert("RGB")
    if image.mode == "RGB":
        return _as_numbers(np.asarray(image))
    if image.mode not in _WHOLE and image.mode != "F":
        raise BrokenImage(f"its pixels are {image.mode}, which are no labels")
    return _as_numbers(np.asarray(image))


def _by_tifffile(data: bytes) -> NDArray[Any] | None:
    """The first page, None where Pillow reads it as well."""
    image = pillow_image_or_none(data)
    if image is not None and image.mode in _WHOLE - {"I"} | {"RGB", "RGBA"}:
        return None
    header = open_image(data).header  # which bounds what is decoded
    try:
        import tifffile
    except ImportError as error:
        raise UserError("reading masks of 32 bits needs tifffile", "pip install tifffile imagecodecs") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = tifffile.imread(io.BytesIO(data), key=0)
    if pixels.shape[:2] != (header.height, header.width):
        raise BrokenImage(f"it holds {pixels.shape} pixels where its header says {header.height, header.width}")
    return _as_numbers(pixels)


def pillow_image_or_none(data: bytes) -> Image.Image | None:
    """What Pillow makes of a TIFF, if anything."""
    try:
        return pillow_image(data, "TIFF")
    except (BrokenImage, OSError, ValueError, SyntaxError):
        return None


def _as_numbers(pixels: NDArray[Any]) -> NDArray[Any]:
    """Booleans as 0 and 1, whole floats as integers, three alike as one."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return pixels
    if pixels.ndim != 2:
        raise BrokenImage(f"it holds {pixels.shape} values, and a label a pixel is (height, width)")
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8)
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or (pixels != np.round(pixels)).any():
            raise BrokenImage("it has values that are no whole numbers")
        pixels = pixels.astype(np.int64)
    if pixels.dtype.kind not in "iu":
        raise BrokenImage(f"its values are {pixels.dtype}, which are no labels")
    if pixels.dtype.kind == "i" and pixels.size and pixels.min() < 0:
        raise BrokenImage(f"it has the value {pixels.min()}, and labels begin at 0")
    return pixels


def grey_of(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W) of colours that are all grey; as they are where they are not."""
    if pixels.ndim == 3 and (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return np.ascontiguousarray(pixels[..., 0])
    return pixels
