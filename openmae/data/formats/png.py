"""PNG whose pixels have 16 bits."""

from openmae.data.formats.header import OpenedImage
from openmae.data.formats.pillow import open_by_pillow, open_deep, pillow_image
from openmae.errors import UserError

_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by its colour type


def open_png(data: bytes) -> OpenedImage:
    """A PNG of any depth."""
    if len(data) < 26 or data[24] != 16:
        return open_by_pillow(data, "PNG")
    transparent = pillow_image(data, "PNG").has_transparency_data
    if data[25] == 0 and not transparent:
        return open_by_pillow(data, "PNG")
    try:
        from imagecodecs import png_decode
    except ImportError as error:
        raise UserError("reading 16-bit colour PNGs needs imagecodecs", "pip install imagecodecs") from error
    channels = _PNG_CHANNELS.get(data[25], 3)
    return open_deep(data, "PNG", channels + (transparent and channels in (1, 3)), 16, png_decode)
