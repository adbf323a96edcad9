"""PNG and AVIF of more than 8 bits a channel, which Pillow would squeeze into 8 without a word; and HEIC."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import features

from openmae.data.channels import spread
from openmae.data.formats.ifd import upright
from openmae.data.formats.with_pillow import open_by_pillow, open_image, orientation
from openmae.data.header import Asked, Header, Opened, check_size
from openmae.errors import BrokenImage, UserError

_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by its colour type
_HEIF_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


def open_png(data: bytes) -> Opened:
    """A PNG of any depth."""
    if len(data) < 26 or data[24] != 16:
        return open_by_pillow(data, "PNG")
    transparent = open_image(data, "PNG").has_transparency_data
    if data[25] == 0 and not transparent:
        return open_by_pillow(data, "PNG")
    try:
        from imagecodecs import png_decode
    except ImportError as error:
        raise UserError("reading 16-bit colour PNGs needs imagecodecs: pip install 'openmae[tiff]'") from error
    channels = _PNG_CHANNELS.get(data[25], 3)
    return _open_deep(data, "PNG", channels + (transparent and channels in (1, 3)), 16, png_decode)


def open_avif(data: bytes) -> Opened:
    """An AVIF; of a sequence, the first image."""
    if not features.check("avif"):
        raise UserError("reading AVIF needs Pillow 11.3 or later: pip install -U pillow")
    bits = _avif_bits(data)
    if bits == 8:
        return open_by_pillow(data, "AVIF")
    try:
        from imagecodecs import avif_decode
    except ImportError as error:
        raise UserError("reading AVIFs of 10 and 12 bits needs imagecodecs: pip install 'openmae[tiff]'") from error
    alpha = open_image(data, "AVIF").has_transparency_data
    return _open_deep(data, "AVIF", 3 + alpha, bits, lambda code: avif_decode(code, 0, numthreads=1))


def open_heic(data: bytes) -> Opened:
    """The primary image of a HEIC or HEIF. Which way is up, its own boxes say; its EXIF repeats it and is not used."""
    try:
        import pi_heif
    except ImportError as error:
        raise UserError("reading HEIC needs pi-heif: pip install 'openmae[heif]'") from error
    file = pi_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    image = file[file.primary_index]
    (width, height), (mode, _, bits) = image.size, image.mode.partition(";")
    channels, bits = _HEIF_CHANNELS.get(mode), int(bits or 8)
    if channels is None:
        raise BrokenImage(f"it is a HEIC of mode {image.mode}, which is not read here")
    check_size(height, width, 2 * channels * (1 if bits == 8 else 2))

    def pixels(asked: Asked) -> NDArray[Any]:
        return spread(np.asarray(image).reshape(height, width, channels), bits)

    return Opened(Header("HEIC", height, width, channels, "uint8" if bits == 8 else "uint16", image.mode), pixels)


def _open_deep(data: bytes, kind: str, channels: int, bits: int, decode: Callable[[bytes], NDArray[Any]]) -> Opened:
    """A file of which Pillow reads the header, and `decode` the pixels, 9 to 16 bits in uint16."""
    image = open_image(data, kind)
    (width, height), turn = image.size, orientation(data, image)
    check_size(height, width, 2 * channels)

    def pixels(asked: Asked) -> NDArray[Any]:
        stored = decode(data)
        if stored.shape[:2] != (height, width) or stored.dtype != np.uint16:
            raise BrokenImage(f"it decodes to {stored.dtype} {stored.shape}, where its header says otherwise")
        whole = np.broadcast_to(stored.reshape(height, width, -1), (height, width, channels))
        return upright(spread(whole, bits), turn)

    size = (height, width) if turn < 5 else (width, height)
    return Opened(Header(kind, *size, channels, "uint16", f"{image.mode}, {bits} bits"), pixels)


def _avif_bits(data: bytes) -> int:
    """Bits a channel, as its AV1 configuration box says."""
    at = data.find(b"av1C")
    if at < 0 or at + 7 > len(data):
        return 8
    return 12 if data[at + 6] & 0x20 else 10 if data[at + 6] & 0x40 else 8
