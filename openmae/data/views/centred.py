"""Bytes of an image file -> its centred view, as every model that is not being trained sees it."""

from typing import Any

from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, least_reduction, open_image, patch_complaint
from openmae.data.views.crop import centred_view
from openmae.data.views.kinds import Kernel
from openmae.errors import BrokenImage


def centred(
    data: bytes | OSError | BrokenImage,
    pixels: PixelFormat,
    img_size: tuple[int, int],
    patch_size: tuple[int, int] = (1, 1),
    kernel: Kernel = "bicubic",
) -> NDArray[Any]:
    """(*img_size, C) as decoded, of what a source gave; a JPEG at its full size: views of a smaller one differ.

    Raises what a source gave instead of bytes, as `decode` does, and BrokenImage for an image smaller than a patch.
    """
    opened = open_image(data, pixels.reading)
    size = (opened.header.height, opened.header.width)
    if complaint := patch_complaint(size, patch_size):
        raise complaint
    return centred_view(decode(opened, pixels, reduce=least_reduction(opened, pixels)), img_size, kernel)
