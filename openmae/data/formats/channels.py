"""Decoded pixels -> the channels and the depth that every image of a data set has."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.header import BYTES, Depth
from openmae.data.formats.missing import Missing, equals, filled
from openmae.data.formats.reading import UNSAID, Reading
from openmae.errors import BrokenImage, NothingThere, UnfitImage, UserError

LUMINANCE = (19595, 38470, 7471)  # ITU-R 601 in 1/65536, as Pillow weighs
_NAMES: dict[Depth, str] = {"uint8": "8-bit", "uint16": "16-bit", "float32": "float"}


@dataclass(frozen=True)
class PixelFormat:
    """What every decoded image of a data set is: (H, W, in_chans) of dtype `depth`.

    bands: which of the file's channels, numbered from 1, in this order. Without them a file's channels are taken as
    they are where there are in_chans; grey, RGB and alpha are converted into each other; anything else is refused.
    reading: how files are read that can be read in more than one way.
    fill: the level of each channel that missing pixels become; without it, the mean of what is there of the image's
    channel.
    """

    in_chans: int = 3
    bands: tuple[int, ...] | None = None
    depth: Depth = "uint8"
    reading: Reading = UNSAID
    fill: tuple[float, ...] | None = field(default=None, compare=False)  # follows from the statistics

    def __post_init__(self) -> None:
        if self.in_chans < 1:
            raise ValueError(f"in_chans is {self.in_chans}; give 1 or more")
        if self.bands is not None and (len(self.bands) != self.in_chans or min(self.bands) < 1):
            raise ValueError(f"bands are {self.bands}; give {self.in_chans}, numbered from 1")


def check_bands(bands: tuple[int, ...]) -> None:
    """Raises UserError unless these are different channels, counted from 1."""
    if not bands:
        raise UserError("`bands` names no channel", "give their numbers, such as `bands=(3, 2, 1)`, or leave it out")
    if min(bands) < 1:
        raise UserError(f"`bands={bands}`: channels are numbered from 1, as in GDAL", "the first is 1, not 0")
    if len(set(bands)) < len(bands):
        twice = next(band for band in bands if bands.count(band) > 1)
        raise UserError(f"`bands={bands}` names channel {twice} more than once", "name each channel once")


def fit(
    pixels: NDArray[Any], wanted: PixelFormat, colours: int = 0, exact: bool = False
) -> tuple[NDArray[Any], Missing | None]:
    """(H, W, C) that check_fits has passed -> (H, W, in_chans) of the depth wanted, contiguous and writable, and where
    they were missing, (H, W, in_chans), or None where all were there.

    pixels: masked where the decoder knows of missing ones. colours: how many channels are of one picture. exact:
    numbers stay what they are in every depth; else white stays white.
    Raises BrokenImage where all are missing.
    """
    missing: Missing | None = None
    if isinstance(pixels, np.ma.MaskedArray):
        pixels, missing = pixels.data, np.ma.getmaskarray(pixels)
    elif (  # nearly always
        pixels.dtype == np.uint8
        and wanted.depth == "uint8"
        and wanted.bands is None
        and pixels.shape[2] == wanted.in_chans
        and not wanted.reading.nodata
    ):
        return np.require(pixels, requirements=("C", "W")), None
    if wanted.reading.nodata or pixels.dtype.kind == "f":
        also = equals(pixels, wanted.reading.nodata or (), colours)
        missing = also if missing is None else missing if also is None else missing | also
    if wanted.bands is not None and wanted.bands != tuple(range(1, pixels.shape[2] + 1)):
        chosen = [band - 1 for band in wanted.bands]
        pixels, missing = pixels[..., chosen], None if missing is None else missing[..., chosen]
    if missing is not None:
        if missing.all():
            raise NothingThere("all of its pixels are no-data")
        pixels = filled(pixels, missing, None)
    if pixels.shape[2] != wanted.in_chans:
        pixels = _as_colour(pixels, wanted.in_chans)
        if missing is not None:
            missing = np.array(np.broadcast_to(missing.any(-1, keepdims=True), pixels.shape))
    if pixels.dtype.name != wanted.depth:
        pixels = pixels.astype(wanted.depth) if exact else _deepened(pixels, wanted.depth)
    if missing is not None and wanted.fill is not None:
        pixels = filled(pixels, missing, wanted.fill)
    return np.require(pixels, requirements=("C", "W")), missing


def check_fits(channels: int, depth: Depth, colour: bool, wanted: PixelFormat) -> None:
    """Raises BrokenImage where a file of such channels cannot become what is wanted."""
    if wanted.bands is not None:
        if missing := [band for band in wanted.bands if band > channels]:
            raise UnfitImage(f"it has {channels} channels, and band {missing[0]} is wanted", "choose other `bands`")
    elif channels != wanted.in_chans and not (_is_colour(channels, colour) and _is_colour(wanted.in_chans, True)):
        raise UnfitImage(
            f"it has {channels} channels and {wanted.in_chans} are wanted",
            f"give `in_chans={channels}`, or choose with `bands`",
        )
    if BYTES[depth] > BYTES[wanted.depth]:
        raise BrokenImage(
            f"it has {_NAMES[depth]} pixels where {_NAMES[wanted.depth]} ones are expected",
            "convert it, or leave it out",
        )


def spread(pixels: NDArray[Any], bits: int) -> NDArray[Any]:
    """(H, W, C) of 1 to 16 bits over all of uint8 (up to 8 bits) or uint16; distinct values stay distinct."""
    dtype = np.uint8 if bits <= 8 else np.uint16
    if bits in (8, 16) and pixels.dtype == dtype:
        return pixels
    table = np.round(np.arange(2**bits) * (np.iinfo(dtype).max / (2**bits - 1))).astype(dtype)
    whole = np.empty(pixels.shape, dtype)
    for rows in row_blocks(*pixels.shape[:2]):  # numpy widens indices to 8 bytes
        whole[rows] = np.take(table, pixels[rows], mode="clip")
    return whole


def _is_colour(channels: int, colour: bool) -> bool:
    """Whether these are grey, grey and alpha, RGB or RGBA, which can be converted into each other."""
    return channels == 1 or (colour and channels <= 4)


def row_blocks(height: int, width: int) -> Iterator[slice]:
    """An image's rows in blocks of about a million pixels, so that what is computed on the way stays small."""
    step = max(1, 2**20 // max(1, width))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _as_colour(pixels: NDArray[Any], in_chans: int) -> NDArray[Any]:
    """Between grey (1), grey and alpha (2), RGB (3) and RGBA (4)."""
    height, width, channels = pixels.shape
    converted = np.empty((height, width, in_chans), pixels.dtype)
    colours = 1 if channels < 3 else 3
    if in_chans >= 3:
        converted[..., :3] = pixels[..., :colours]
    elif colours == 1:
        converted[..., :1] = pixels[..., :1]
    else:
        for rows in row_blocks(height, width):
            converted[rows, :, 0] = _luminance(pixels[rows])
    if in_chans in (2, 4):
        has_alpha = channels in (2, 4)
        opaque = 1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max
        converted[..., -1] = pixels[..., -1] if has_alpha else opaque
    return converted


def _luminance(rgb: NDArray[Any]) -> NDArray[Any]:
    """(h, w, 3 or more) -> (h, w)"""
    if rgb.dtype.kind == "f":
        return rgb[..., :3] @ (np.array(LUMINANCE, np.float32) / 65536)
    red, green, blue = (rgb[..., i].astype(np.uint32) * weight for i, weight in enumerate(LUMINANCE))
    return (red + green + blue + 0x8000) >> 16


def _deepened(pixels: NDArray[Any], depth: Depth) -> NDArray[Any]:
    if depth == "uint16":
        return pixels.astype(np.uint16) * np.uint16(257)
    deep = pixels.astype(np.float32)
    deep /= np.float32(np.iinfo(pixels.dtype).max)
    return deep
