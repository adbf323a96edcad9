"""Small sets stay decoded in memory: a small image, or a PNG of any size, takes longer to decode than to use."""

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from openmae.console.progress import counting
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode_masked, open_image
from openmae.data.formats.header import OpenedImage
from openmae.data.loading.pool import Hand, ordered
from openmae.data.sources.source import Remade, Source
from openmae.data.views.crop import reduction
from openmae.errors import BrokenImage
from openmae.machine.memory import ram

MOST_BYTES = 2**30
MOST_OF_RAM = 1 / 16  # each process of a run has its own, and a machine may run eight
_SAMPLE = 64  # headers read to see what the images are like
_CHUNK = 64
_MOST_OF_A_CHUNK = 2**27  # bytes, decoded


class InMemory(Remade):
    """Another source's images, decoded: `read` gives them as the bytes of a .npy file."""

    def __init__(
        self, source: Source, blob: NDArray[np.uint8], ends: NDArray[np.int64], broken: dict[int, str]
    ) -> None:
        super().__init__(source)
        self.blob, self.ends, self.broken = blob, ends, broken

    def read(self, index: int) -> bytes:
        """The pixels. Raises BrokenImage for what could not be decoded."""
        if index in self.broken:
            raise BrokenImage(self.broken[index])
        return self.blob[self.ends[index - 1] if index else 0 : self.ends[index]].tobytes()


def in_memory(
    source: Source,
    pixels: PixelFormat,
    img_size: tuple[int, int],
    workers: int,
    console: Console,
) -> tuple[Source, PixelFormat]:
    """The source decoded in memory, and how to decode that; or what was given, where it is too large for that.

    A stream of the one equals a stream of the other: images with frames to choose from, and JPEGs so large that
    a crop of them is decoded at a smaller size, are left as they are, and so are those of 8 or 16 bits that lack some
    of their pixels, for an array of them cannot say which.
    """
    most = min(MOST_BYTES, int(ram() * MOST_OF_RAM))
    if not _looks_small(source, pixels, img_size, most):
        return source, pixels
    chunks = [range(at, min(at + _CHUNK, len(source))) for at in range(0, len(source), _CHUNK)]
    blob, ends, broken = bytearray(), np.zeros(len(source), np.int64), {}
    decoded = ordered(partial(_decoded, source, pixels, img_size), chunks, workers)
    with counting("decoding into memory", len(source), console) as say:
        for chunk, found in zip(chunks, decoded, strict=True):
            for index, image in zip(chunk, found, strict=True):
                if image is None or len(blob) > most:
                    return source, pixels
                if isinstance(image, str):
                    broken[index] = image
                else:
                    blob += image
                ends[index] = len(blob)
            say(chunk.stop)
    # What is missing is not a number there; a value that says so in files may be any level once it is converted.
    kept = replace(pixels, bands=None, reading=replace(pixels.reading, layout="hwc", nodata=None))
    return InMemory(source, np.frombuffer(blob, np.uint8), ends, broken), kept


def _decoded(
    source: Source, pixels: PixelFormat, img_size: tuple[int, int], chunk: Sequence[int], hand: Hand
) -> list[bytes | str | None]:
    """Of each image: its pixels as .npy, or why it is broken, or None where it should not be kept.

    What can be opened but not decoded is kept as it is: a crop of it may be good.
    """
    found: list[bytes | str | None] = []
    total = 0
    for index, data in zip(chunk, hand.read_each(source, chunk), strict=True):
        try:
            hand.take(index)
            opened = open_image(data, pixels.reading)
            header = opened.header
            total += header.height * header.width * pixels.in_chans * np.dtype(pixels.depth).itemsize
            if header.frames > 1 or _is_reduced(opened, img_size) or total > _MOST_OF_A_CHUNK:
                found.append(None)
                continue
            file = io.BytesIO()
            try:
                image, missing = decode_masked(opened, pixels)
                if missing is not None:
                    if pixels.depth != "float32":
                        found.append(None)
                        continue
                    image[missing] = np.nan
                np.save(file, image, allow_pickle=False)
                found.append(file.getvalue())
            except BrokenImage:
                if pixels.bands is not None or not opened.reduces or not isinstance(data, bytes):
                    raise  # of none but a JPEG a part is better than the whole
                found.append(None if pixels.reading.nodata else data)
        except (OSError, BrokenImage) as error:
            found.append(str(error))
    return found


def _looks_small(source: Source, pixels: PixelFormat, img_size: tuple[int, int], most: int) -> bool:
    sizes = []
    sample = np.linspace(0, len(source) - 1, min(_SAMPLE, len(source))).astype(int).tolist()
    for data in source.read_each(sample):
        try:
            opened = open_image(data, pixels.reading)
        except (OSError, BrokenImage):
            continue
        if opened.header.frames > 1 or _is_reduced(opened, img_size):
            return False
        sizes.append(opened.header.height * opened.header.width)
    bytes_a_pixel = pixels.in_chans * np.dtype(pixels.depth).itemsize
    return bool(sizes) and float(np.mean(sizes)) * bytes_a_pixel * len(source) < most


def _is_reduced(opened: OpenedImage, img_size: tuple[int, int]) -> bool:
    """Whether some crop of it is decoded at a smaller size."""
    header = opened.header
    return opened.reduces and reduction((header.height, header.width), img_size) > 1
