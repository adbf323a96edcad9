"""What every file of a data set is: one pass that reads and decodes each image once, in columns of few bytes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, open_image
from openmae.data.formats.header import Header
from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.loading.pool import Hand, ordered
from openmae.data.sources.source import Source
from openmae.data.survey.moments import image_moments
from openmae.errors import BrokenImage

_CHUNK = 16  # files a worker reads in one go
_SCALE_SIDE = 256  # pixels a side of which the scale of the values is measured
_NOTHING = Header("", 0, 0, 0, "uint8", "", 0)  # of a file that gives no image

ROW = np.dtype(
    [
        ("digest", "V16"),  # of the file's bytes (BLAKE2b); zeros where they cannot be read
        ("bytes", "i8"),
        ("height", "i4"),
        ("width", "i4"),
        ("channels", "i4"),
        ("frames", "i4"),
        ("kind", "i4"),  # number of its (format, mode, depth)
        ("scale", "f4"),  # the root of the mean square of its scaled pixels
        ("blank", "?"),  # whether all its pixels are the same
    ]
)


@dataclass(frozen=True)
class Inspection:
    """rows (n,) of ROW, in the order of the source, all 0 from `height` on where a file gives no image; kinds: (format,
    mode, depth) by their number; reasons: why a file gives no image, by its index."""

    rows: NDArray[Any]
    kinds: list[tuple[str, str, str]]
    reasons: dict[int, str]

    @property
    def good(self) -> NDArray[np.bool_]:
        """(n,) whether the file gives an image."""
        found: NDArray[np.bool_] = self.rows["height"] > 0
        return found


def inspect(
    source: Source, workers: int, say: Callable[[int], None] = lambda done: None, reading: Reading = UNSAID
) -> Inspection:
    """Reads and decodes every image; `say` hears how many are done. The result does not depend on `workers`."""
    count = len(source)
    chunks = (range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))
    rows = np.zeros(count, ROW)
    numbers: dict[tuple[str, str, str], int] = {}
    reasons: dict[int, str] = {}
    done = 0
    for part in ordered(partial(_inspect, source, reading), chunks, workers):
        for header, digest, size, scale, blank, reason in part:
            kind = numbers.setdefault((header.format, header.mode, header.depth), len(numbers))
            rows[done] = (digest, size, header.height, header.width, header.channels, header.frames, kind, scale, blank)
            if reason:
                reasons[done] = reason
            done += 1
        say(done)
    return Inspection(rows, list(numbers), reasons)


def _inspect(
    source: Source, reading: Reading, chunk: Sequence[int], hand: Hand
) -> list[tuple[Header, bytes, int, float, bool, str]]:
    """Of each file: header, digest, size in bytes, scale of its values, whether it is blank, why it gives no image."""
    found = []
    for index, data in zip(chunk, hand.read_each(source, chunk), strict=True):
        digest, size = bytes(16), 0
        try:
            hand.take(index)
            if not isinstance(data, bytes):
                raise data
            digest, size = hashlib.blake2b(data, digest_size=16).digest(), len(data)
            opened = open_image(data, reading)
            header = opened.header
            image = decode(opened, PixelFormat(header.channels, None, header.depth, reading))
            found.append((header, digest, size, _scale(image), _is_blank(image), ""))
        except (OSError, BrokenImage) as error:
            found.append((_NOTHING, digest, size, 0.0, False, str(error) or type(error).__name__))
    return found


def _scale(image: NDArray[Any]) -> float:
    """The root of the mean square of some of the scaled pixels."""
    steps = [max(1, side // _SCALE_SIDE) for side in image.shape[:2]]
    some = np.ascontiguousarray(image[:: steps[0], :: steps[1]])
    return float(np.sqrt(image_moments(some)[1].mean()))


def _is_blank(image: NDArray[Any]) -> bool:
    return bool((image[0] == image[0, 0]).all()) and bool((image == image[0, 0]).all())  # most end at the first row
