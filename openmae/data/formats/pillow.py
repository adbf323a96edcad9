"""What Pillow decodes without losing anything: images of up to 8 bits a channel, and grey PNGs of 16."""

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from openmae.data.formats.boxes import Crop
from openmae.data.formats.channels import row_blocks, spread
from openmae.data.formats.header import Depth, Header, OpenedImage, Wanted, check_size, too_large
from openmae.data.formats.orientation import exif_orientation, upright
from openmae.errors import BrokenImage

# How many times the memory that other formats take these decoders need, measured.
_COPIES = {"JPEG": 2, "WEBP": 2.5, "AVIF": 2}
_LAST_CHUNKS = 2**17  # bytes in which a chunk of EXIF lies, where it comes last
# By which Pillow multiplies greys of 2 and 4 bits, and forgets to multiply the one that is transparent.
_PNG_STEPS = {("L", 2): 85, ("L", 4): 17}
_GREY = frozenset(("1", "L", "LA", "La"))

logging.getLogger("PIL").addHandler(logging.NullHandler())  # or it prints each oddity of a file


def pillow_image(data: bytes, kind: str) -> Image.Image:
    """Pillow's image, of which only the header has been read. Raises BrokenImage, or what Pillow raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata; what matters is whether pixels come out
        try:
            return Image.open(io.BytesIO(data), formats=[kind])
        except UnidentifiedImageError as error:  # Pillow names the buffer's address, which differs every time
            raise BrokenImage(f"it begins like a {kind}, but its header is damaged") from error
        except Image.DecompressionBombError as error:  # which Pillow takes for an attack
            raise too_large("its pixels") from error


def open_by_pillow(
    data: bytes, kind: str, turn: int | None = None, crop: Crop | None = None, grey: bool = False
) -> OpenedImage:
    """An image of Pillow's format `kind`, of which Pillow keeps the depth; a JPEG is box-averaged to reduce it.

    turn: its EXIF orientation, where that is known already. crop: what of the stored pixels is shown. grey: it has no
    colours, though Pillow may give it three that are the same (before Pillow 13 of every AVIF, then of those with
    alpha).
    """
    image = pillow_image(data, kind)
    if kind == "PNG" and isinstance(clear := image.info.get("transparency"), int):
        # Of 1 bit, newer Pillow multiplies it and older does not.
        image.info["transparency"] = (
            255 * bool(clear) if image.mode == "1" else clear * _PNG_STEPS.get((image.mode, data[24]), 1)
        )
    width, height = image.size
    depth: Depth = "uint16" if image.mode.startswith("I") else "uint8"
    alpha = image.has_transparency_data
    target = image.mode if depth == "uint16" else ("L" if grey or image.mode in _GREY else "RGB") + "A" * alpha
    channels = 1 if depth == "uint16" else len(target)
    check_size(height, width, channels * _COPIES.get(kind, 1))
    turn = orientation(data, image) if turn is None else turn

    def pixels(asked: Wanted) -> NDArray[Any]:
        with warnings.catch_warnings(), quiet() if kind == "TIFF" else nullcontext():
            warnings.simplefilter("ignore")
            image.load()
        smaller = image.reduce(asked.reduce) if asked.reduce > 1 else image
        return upright(cut_out(as_array(smaller, target, channels, depth), crop), turn)

    if crop is not None:
        height, width = crop[2:]
    if turn >= 5:
        height, width = width, height
    seen_through: Literal["straight"] | None = "straight" if channels in (2, 4) else None
    header = Header(kind, height, width, channels, depth, image.mode, alpha=seen_through)
    return OpenedImage(header, pixels, reduces=kind == "JPEG")


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps libtiff and libpng, which know no other way, from writing what is wrong with a file to the console."""
    try:
        console = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(console, 2)
        os.close(console)


def as_array(image: Image.Image, target: str, channels: int, depth: Depth) -> NDArray[Any]:
    """(height, width, channels) of the mode `target`. In blocks, for Pillow's way to an array makes three copies."""
    pixels = np.empty((image.height, image.width, channels), depth)
    for rows in row_blocks(image.height, image.width):
        block = image.crop((0, rows.start, image.width, rows.stop))
        if block.mode != target:
            block = block.convert(target)
        pixels[rows] = np.asarray(block).reshape(-1, image.width, channels)
    return pixels


def orientation(data: bytes, image: Image.Image) -> int:
    """1 to 8, as EXIF says; TIFFs, whose own tag says it, Pillow turns by itself."""
    exif = image.info.get("exif") or b""
    if image.format == "PNG" and not exif:
        exif = _exif_of_png(data, image.info.get("Raw profile type exif", ""))
    return exif_orientation(exif)


def _exif_of_png(data: bytes, profile: str) -> bytes:
    """EXIF as ImageMagick used to write it, in hexadecimal text, or from a chunk after the pixels."""
    if profile:
        with suppress(ValueError):
            return bytes.fromhex("".join(profile.split("\n")[3:]))
    at = data.find(b"eXIf", len(data) - _LAST_CHUNKS if len(data) > _LAST_CHUNKS else 0)
    return data[at + 4 :] if at >= 0 else b""


def cut_out(pixels: NDArray[Any], crop: Crop | None) -> NDArray[Any]:
    """(H, W, C) -> what of it is shown."""
    if crop is None:
        return pixels
    top, left, height, width = crop
    return pixels[top : top + height, left : left + width]


def open_deep(
    data: bytes,
    kind: str,
    channels: int,
    bits: int,
    decode: Callable[[bytes], NDArray[Any]],
    crop: Crop | None = None,
) -> OpenedImage:
    """A file of which Pillow reads the header, and `decode` the pixels, 9 to 16 bits in uint16. crop: what of the
    stored pixels is shown."""
    image = pillow_image(data, kind)
    (width, height), turn = image.size, orientation(data, image)
    check_size(height, width, 2 * channels)

    def pixels(asked: Wanted) -> NDArray[Any]:
        with quiet():
            stored = decode(data)
        if stored.ndim == 2:
            stored = stored[..., None]
        if stored.shape != (height, width, channels) or stored.dtype != np.uint16:
            raise BrokenImage(f"it decodes to {stored.dtype} {stored.shape}, where its header says otherwise")
        return upright(spread(cut_out(stored, crop), bits), turn)

    shown = (height, width) if crop is None else crop[2:]
    size = shown if turn < 5 else shown[::-1]
    alpha: Literal["straight"] | None = "straight" if channels in (2, 4) else None
    return OpenedImage(Header(kind, *size, channels, "uint16", f"{image.mode}, {bits} bits", alpha=alpha), pixels)
