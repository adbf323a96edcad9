"""Bytes of an image file -> uint8 array (H, W, C). 8 bits a channel; more is refused rather than squeezed."""

import io
import struct
import warnings

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
MAX_PIXELS = 178_956_970  # Pillow's own bound on decompression bombs: 0.5 GiB of RGB
_DEEP_MODES = ("I", "F")  # and "I;16" with its relatives


class BrokenImage(Exception):
    """This file gives no image; the message says why."""


def decode(data: bytes, in_chans: int) -> NDArray[np.uint8]:
    """The image as (H, W, in_chans) uint8, upright (EXIF); in_chans is 1 (grey), 2 (with alpha), 3 or 4.

    Raises BrokenImage for anything that is not a whole, readable image of 8 bits a channel.
    """
    if not data:
        raise BrokenImage("the file is empty")
    try:
        if data[:3] == b"\xff\xd8\xff" and in_chans in (1, 3) and b"Exif\0" not in data[:65536]:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours in ("YCbCr", "RGB", "Gray"):
                _check_size(width, height)
                return simplejpeg.decode_jpeg(data, "GRAY" if in_chans == 1 else "RGB")
        return _decode_by_pillow(data, in_chans)
    except BrokenImage:
        raise
    except MemoryError as error:
        raise BrokenImage("it does not fit into memory") from error
    except Exception as error:  # decoders raise nearly every kind on damaged bytes
        raise BrokenImage(str(error).replace("\n", " ") or type(error).__name__) from error


def check_covers_patch(image: NDArray[np.uint8], patch_size: tuple[int, int]) -> None:
    """Raises BrokenImage where the image (H, W, C) is smaller than one patch: nothing could be learnt from it."""
    if complaint := patch_complaint(image.shape[:2], patch_size):
        raise BrokenImage(complaint)


def patch_complaint(size: tuple[int, ...], patch_size: tuple[int, int]) -> str:
    """Why an image of this (height, width) is too small for a patch; empty where it is not."""
    if size[0] >= patch_size[0] and size[1] >= patch_size[1]:
        return ""
    return (
        f"{size[0]} x {size[1]} pixels are less than one patch of {patch_size[0]} x {patch_size[1]}: "
        "choose a smaller patch_size"
    )


def _decode_by_pillow(data: bytes, in_chans: int) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters is whether pixels come out
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size)
            _check_depth(image, data)
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode == "P":
                upright = upright.convert("RGBA")
            pixels = np.array(upright.convert(MODES[in_chans]))  # a copy that torch may share
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImage(f"{width} x {height} pixels are more than this version decodes ({MAX_PIXELS:,})")


def _check_depth(image: Image.Image, data: bytes) -> None:
    """Pillow reduces some 16-bit images to 8 bits without a word: these are refused here."""
    deep = image.mode in _DEEP_MODES or image.mode.startswith("I;16")
    if image.format == "PNG" and len(data) > 24:
        deep = deep or struct.unpack(">B", data[24:25])[0] > 8
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, (8,))
        deep = deep or max(bits if isinstance(bits, tuple) else (bits,)) > 8
    if deep:
        raise BrokenImage("it has more than 8 bits a channel, which this version does not read")
