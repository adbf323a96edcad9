"""What is known of an image before its pixels are read, and how large one may be."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from openmae.errors import BrokenImage, TooLarge

Depth = Literal["uint8", "uint16", "float32"]
BYTES: dict[Depth, int] = {"uint8": 1, "uint16": 2, "float32": 4}
LARGEST_REDUCTION = 8  # of a JPEG
MAX_PIXELS = 2**27  # of 8-bit RGB, 384 MiB: no decoder here then needs more than 1 GiB, whatever a file claims


@dataclass(frozen=True)
class Header:
    """format: "JPEG", "PNG", ...; height and width: upright, in pixels; channels and depth: what decoding gives before
    anything is chosen or converted; mode: the file's own word for them; frames: pages, slices or times to choose from;
    colour: the channels are grey, grey and alpha, RGB, or RGBA, by their number; otherwise they are bands of which
    nobody knows what they show.

    What a file leaves open is told whatever it was read as. alpha: that the last channel is transparency, and whether
    the colours are multiplied by it. axes: of an array, (a, b, c), which does not say where its channels are. pages:
    (pages, height, width) where nobody says whether they are frames or channels. units: of DICOM's numbers, "stored",
    "rescaled", or the unit that the file names.
    exact: the numbers mean something and stay what they are in every depth; otherwise white stays white.
    """

    format: str
    height: int
    width: int
    channels: int
    depth: Depth
    mode: str
    frames: int = 1
    colour: bool = True
    alpha: Literal["straight", "premultiplied"] | None = None
    axes: tuple[int, int, int] | None = None
    pages: tuple[int, int, int] | None = None
    units: str = ""
    exact: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is asked for of an image; more than that may be given.

    frame: of a file with several, counted from 0. reduce: at 1/reduce of its size, rounded up; 1 where the file does
    not reduce. in_chans: 1 or 3 for grey or RGB. rows: how many from the top, at full size, are needed.
    """

    frame: int
    reduce: int
    in_chans: int | None
    rows: int


@dataclass(frozen=True)
class OpenedImage:
    """A file of which only the header has been read.

    pixels: -> (height, width, channels) as the header says, but for what is asked. reduces: whether it can be decoded
    smaller, as a JPEG can. file: its bytes, once `open_image` has opened it.
    """

    header: Header
    pixels: Callable[[Wanted], NDArray[Any]]
    reduces: bool = False
    file: bytes = b""


def check_size(height: int, width: int, bytes_a_pixel: float, frames: int = 1) -> None:
    """Raises BrokenImage where an image has no pixels, or more of them than are decoded."""
    if height < 1 or width < 1 or frames < 1:
        raise BrokenImage(f"its header says {height} x {width} pixels, {frames} frames: it holds no image")
    if not fits(height, width, bytes_a_pixel):
        raise too_large(f"{height} x {width} pixels of {bytes_a_pixel:g} bytes")


def too_large(what: str) -> TooLarge:
    """What to say of so many pixels."""
    return TooLarge(
        f"{what} are more than is decoded ({MAX_PIXELS:,} of 3 bytes)",
        "cut it into tiles, by `tile='512'`; a JPEG or PNG is to be saved as a TIFF in tiles before",
    )


def fits(height: int, width: int, bytes_a_pixel: float) -> bool:
    """Whether so many pixels are decoded at all."""
    return height * width * max(1.0, bytes_a_pixel / 3) <= MAX_PIXELS
