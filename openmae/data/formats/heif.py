"""AVIF, which Pillow would squeeze into 8 bits a channel where it has more; and HEIC."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import features

from openmae.data.formats.boxes import picture
from openmae.data.formats.channels import spread
from openmae.data.formats.header import Depth, Header, OpenedImage, Wanted, check_size
from openmae.data.formats.pillow import open_by_pillow, open_deep, pillow_image
from openmae.errors import BrokenImage, UserError

_HEIF_CHANNELS = {"L": 1, "LA": 2, "La": 2, "RGB": 3, "RGBA": 4, "RGBa": 4}


def open_avif(data: bytes) -> OpenedImage:
    """An AVIF; of a sequence, the first image."""
    if not features.check("avif"):
        raise UserError("reading AVIF needs Pillow 12 or later", "pip install -U pillow")
    shown = picture(data)
    if shown.bits == 8:
        return open_by_pillow(data, "AVIF", crop=shown.crop, grey=shown.grey)
    try:
        from imagecodecs import avif_decode
    except ImportError as error:
        raise UserError("reading AVIFs of 10 and 12 bits needs imagecodecs", "pip install imagecodecs") from error
    still = _as_a_still(data)
    try:
        alpha = pillow_image(still, "AVIF").has_transparency_data
    except BrokenImage as error:
        if data[8:12] != b"avis":
            raise
        what = f"it is a sequence of {shown.bits} bits without a still image, which is not read here"
        raise BrokenImage(what, "convert it") from error
    channels = (1 if shown.grey else 3) + alpha
    # Never with the number of an image: with one, imagecodecs writes all that follow it into room for one.
    return open_deep(still, "AVIF", channels, shown.bits, lambda code: avif_decode(code, numthreads=1), shown.crop)


def _as_a_still(data: bytes) -> bytes:
    """The same file under a brand of which decoders read the primary item, and no sequence."""
    return data[:8] + b"avif" + data[12:]


def open_heic(data: bytes) -> OpenedImage:
    """The primary image of a HEIC or HEIF. Which way is up, its own boxes say; its EXIF repeats it and is not used."""
    try:
        import pi_heif
    except ImportError as error:
        raise UserError("reading HEIC needs pi-heif", "pip install pi-heif") from error
    file = pi_heif.open_heif(data, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    image = file[file.primary_index]
    (width, height), (mode, _, bits) = image.size, image.mode.partition(";")
    channels, bits = _HEIF_CHANNELS.get(mode), int(bits or 8)
    if channels is None:
        raise BrokenImage(f"it is a HEIC of mode {image.mode}, which is not read here")
    check_size(height, width, 2 * channels * (1 if bits == 8 else 2))

    def pixels(asked: Wanted) -> NDArray[Any]:
        return spread(np.asarray(image).reshape(height, width, channels), bits)

    depth: Depth = "uint8" if bits == 8 else "uint16"
    alpha: Literal["straight", "premultiplied"] = "premultiplied" if mode.endswith("a") else "straight"
    transparency = alpha if channels in (2, 4) else None
    return OpenedImage(Header("HEIC", height, width, channels, depth, image.mode, alpha=transparency), pixels)
