"""Bytes of an image file -> its header, or its pixels. What a file is, its first bytes say, never its name.

Sizes are checked before pixels are read, and again before they become what is wanted, so that no file makes this
process grow by more than 1 GiB. A baseline JPEG above the bound can still be decoded smaller (`reduce`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from openmae.data.formats import apart
from openmae.data.formats.bmp import open_bmp
from openmae.data.formats.channels import PixelFormat, check_fits, fit
from openmae.data.formats.dicom import open_dicom
from openmae.data.formats.header import BYTES, LARGEST_REDUCTION, Header, OpenedImage, Wanted, check_size, fits
from openmae.data.formats.heif import open_avif, open_heic
from openmae.data.formats.jpeg import open_jpeg
from openmae.data.formats.missing import Missing
from openmae.data.formats.npy import open_npy
from openmae.data.formats.pillow import open_by_pillow
from openmae.data.formats.png import open_png
from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.formats.tiff import open_tiff
from openmae.data.formats.transparency import through
from openmae.data.formats.window import open_window
from openmae.data.signatures import ENOUGH, Format, format_of
from openmae.errors import BrokenImage, UnfitImage, UserError


def open_image(data: bytes | OSError | BrokenImage, reading: Reading = UNSAID) -> OpenedImage:
    """Reads the header alone, of what a source gave. Raises as decode does, and what a source gave instead of bytes."""
    if not isinstance(data, bytes):
        raise data
    with reasons():
        apart.tried(data, reading)
        return replace(open_here(data, reading), file=data)


def read_header(data: bytes | OSError | BrokenImage, reading: Reading = UNSAID) -> Header:
    """What the file holds, without decoding a pixel. Raises as open_image does."""
    return open_image(data, reading).header


def decode(
    data: bytes | OpenedImage,
    pixels: PixelFormat,
    *,
    reduce: int = 1,
    rows: int | None = None,
    frame: int | None = None,
) -> NDArray[Any]:
    """The image as (H, W, pixels.in_chans) of dtype pixels.depth, upright, missing pixels filled.

    data: the file's bytes, or what open_image, with the same reading, made of them.
    reduce: 2, 4 or 8 gives a JPEG at that part of its size, rounded up; other formats stay as they are.
    rows: how many of the image's rows, from the top and at its full size, are needed; below them some may be missing.
    frame: of a file with several; None is the middle one.
    Raises BrokenImage for anything that is not a whole, readable image of such channels and depth, and UserError
    where reading it needs a package that is not installed.
    """
    return decode_masked(data, pixels, reduce=reduce, rows=rows, frame=frame)[0]


def decode_masked(
    data: bytes | OpenedImage,
    pixels: PixelFormat,
    *,
    reduce: int = 1,
    rows: int | None = None,
    frame: int | None = None,
) -> tuple[NDArray[Any], Missing | None]:
    """As `decode`, and which of the values are missing, of the same shape; None where all are there."""
    with reasons():
        opened = open_image(data, pixels.reading) if isinstance(data, bytes) else data
        header = opened.header
        asked = Wanted(
            frame=header.frames // 2 if frame is None else frame,
            reduce=reduce if opened.reduces else 1,
            in_chans=pixels.in_chans if pixels.bands is None else None,
            rows=header.height if rows is None else min(header.height, rows),
        )
        height, width, least = (-(-side // asked.reduce) for side in (header.height, header.width, asked.rows))
        check_size(height, width, _bytes_a_pixel(header, pixels))
        check_fits(header.channels, header.depth, header.colour, pixels)
        if not 0 <= asked.frame < header.frames:
            raise BrokenImage(f"it has {header.frames} frames, and frame {frame} is asked for, counted from 0")
        found = apart.pixels(header.format, opened.file, pixels.reading, asked, opened.pixels)
        if not least <= found.shape[0] <= height or found.shape[1] != width:
            raise BrokenImage(f"it holds {found.shape[:2]} pixels where its header says {height, width}")
        colours = header.channels - (header.channels in (2, 4)) if header.colour else 0
        return fit(found, pixels, colours, header.exact)


def least_reduction(opened: OpenedImage, pixels: PixelFormat) -> int:
    """The `reduce` for whoever wants the image itself: 1, but for a JPEG that is only decoded smaller."""
    header, reduce = opened.header, 1
    while opened.reduces and reduce < LARGEST_REDUCTION:
        height, width = (-(-side // reduce) for side in (header.height, header.width))
        if fits(height, width, _bytes_a_pixel(header, pixels)):
            break
        reduce *= 2
    return reduce


def _bytes_a_pixel(header: Header, pixels: PixelFormat) -> int:
    """As it is decoded or as it is wanted, whichever is more, and what says which are missing."""
    masks = header.channels if pixels.reading.nodata else 0
    return max(header.channels * BYTES[header.depth], pixels.in_chans * BYTES[pixels.depth]) + masks


def patch_complaint(size: tuple[int, ...], patch_size: tuple[int, int]) -> UnfitImage | None:
    """Why an image of this (height, width) is too small for a patch; None where it is not."""
    if size[0] >= patch_size[0] and size[1] >= patch_size[1]:
        return None
    return UnfitImage(
        f"{size[0]} x {size[1]} pixels are less than one patch of {patch_size[0]} x {patch_size[1]}",
        "choose a smaller patch_size",
    )


def open_here(data: bytes, reading: Reading) -> OpenedImage:
    """As open_image, in this process whatever is known of the image; errors of any kind may be raised."""
    return through(_as_stored(data, reading), reading.alpha)


def _as_stored(data: bytes, reading: Reading) -> OpenedImage:
    """The file, its transparency as it has it."""
    if not data:
        raise BrokenImage("the file is empty")
    if (form := format_of(data[:ENOUGH])) is None:
        raise BrokenImage("its first bytes are of no image format that is read here")
    return _OPENERS[form](data, reading)


_OPENERS: dict[Format, Callable[[bytes, Reading], OpenedImage]] = {
    "dicom": lambda data, reading: open_dicom(data, reading.dicom_units),
    "jpeg": lambda data, _: open_jpeg(data),
    "png": lambda data, _: open_png(data),
    "gif": lambda data, _: open_by_pillow(data, "GIF"),
    "bmp": lambda data, _: open_bmp(data),
    "tiff": lambda data, reading: open_tiff(data, reading.pages),
    "npy": lambda data, reading: open_npy(data, reading.layout),
    "webp": lambda data, _: open_by_pillow(data, "WEBP"),
    "avif": lambda data, _: open_avif(data),
    "heic": lambda data, _: open_heic(data),
    "window": lambda data, reading: open_window(data, lambda file: _as_stored(file, reading), reading),
}


@contextmanager
def reasons() -> Iterator[None]:
    """Whatever a decoder raises on damaged bytes, which is nearly every kind, becomes BrokenImage."""
    try:
        yield
    except (BrokenImage, UserError):
        raise
    except MemoryError as error:
        raise BrokenImage("it does not fit into memory") from error
    except Exception as error:
        raise BrokenImage(str(error).replace("\n", " ") or type(error).__name__) from error
