"""What a file with several frames is like: some of them, spread over it, stand for all, each weighing the same."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode_masked
from openmae.data.formats.header import OpenedImage
from openmae.data.formats.missing import Missing

FRAMES = 8
"""Of a file, at most, that are looked at; training draws one of all at each visit."""
_MOST_VALUES = 2**26  # of these together, which are in memory at once


def some_frames(opened: OpenedImage, pixels: PixelFormat, reduce: int = 1) -> tuple[NDArray[Any], Missing | None]:
    """As decode_masked gives an image of one frame; of more, FRAMES of them or as many as the memory is for, one below
    the other. Raises as it does."""
    header = opened.header
    if header.frames == 1:
        return decode_masked(opened, pixels, reduce=reduce)
    fitting = max(1, _MOST_VALUES // max(1, header.height * header.width * pixels.in_chans))
    count = min(FRAMES, header.frames, fitting)
    middles = ((2 * place + 1) * header.frames // (2 * count) for place in range(count))  # of equal parts
    found = [decode_masked(opened, pixels, frame=frame) for frame in middles]
    images, masks = zip(*found, strict=True)
    if all(mask is None for mask in masks):
        return np.concatenate(images), None
    gaps = [np.zeros(image.shape, bool) if mask is None else mask for image, mask in found]
    return np.concatenate(images), np.concatenate(gaps)
