"""How the pixels of a whole data set are distributed: every image read once, each weighing the same."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import open_image
from openmae.data.formats.header import Depth, Header
from openmae.data.loading.pool import Hand, ordered
from openmae.data.sources.source import Source
from openmae.data.survey.frames import some_frames
from openmae.data.survey.levels import Apart, apart
from openmae.data.survey.moments import (
    from_moments,
    histogram,
    histogram_moments,
    image_moments,
    is_grey,
    scale_of,
)
from openmae.data.survey.nodata import Ends, Suspect, ends, suspects
from openmae.data.views.statistics import Statistics
from openmae.errors import BrokenImage, UserError
from openmae.randomness import generator

PERCENTILES = (0.1, 1.0, 25.0, 50.0, 75.0, 99.0, 99.9)
MOST_DRAWN = 2**22  # float pixels that the percentiles are of: over all images,
MOST_OF_ONE = 4096  # and of each

_INTERVALS = 256
_CHUNK = 16  # images a worker reads in one go; the sums are made in this order, whoever makes them


@dataclass(frozen=True)
class Distribution:
    """What a data set's pixels are like.

    least, most: (C,) exact, 0 where a channel is missing everywhere. percentiles: (7, C) at PERCENTILES, the smallest
    level that so many percent of the pixels do not exceed. All in levels as they stand in the files: 0..255, 0..65535,
    or any float.
    weights: (C, levels) share of the pixels that have each of `levels`, for a picture; of 8- and 16-bit pixels all
    levels, of float ones 256 intervals between the outermost percentiles, each called by its middle.
    sample: float pixels of each image that the percentiles and weights are of; 0 where they are of all pixels.
    sizes: (n, 2) height and width of the images that could be read. broken: (index, reason) of the others.
    formats, modes, depths, channels, frames: how many images have which. apart: whether they are of two scales.
    missing: (C,) share of the pixels that is missing, which no figure counts; gaps: how many images lack some.
    suspected: values that look like no-data though nobody says so. grey: how many images are grey and stored as colour.
    """

    statistics: Statistics
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    percentiles: NDArray[np.float64]
    levels: NDArray[np.float64]
    weights: NDArray[np.float64]
    sample: int
    sizes: NDArray[np.int32]
    formats: Counter[str]
    modes: Counter[str]
    depths: Counter[str]
    channels: Counter[int]
    frames: Counter[int]
    broken: list[tuple[int, str]]
    apart: Apart | None
    missing: NDArray[np.float64]
    gaps: int
    suspected: tuple[Suspect, ...]
    grey: int


@dataclass(frozen=True)
class _Part:
    """Of the images of a chunk: the sum of their moments (3, C), extremes (C,), and pixels: the sum of their shares of
    each level (C, levels), or (n * k, C) float pixels that were drawn, not a number where they are missing. scales: of
    each image, the root of its mean square. gaps, grey: how many images lack some pixels, or are stored as colour
    though they are grey."""

    moments: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    pixels: NDArray[Any]
    scales: list[float]
    headers: list[Header]
    broken: list[tuple[int, str]]
    ends: list[Ends]
    gaps: int
    grey: int


def measure(
    source: Source, pixels: PixelFormat, workers: int, say: Callable[[int], None] = lambda done: None
) -> Distribution:
    """Reads and decodes every image of the source; `say` hears how many are done.

    workers: processes that read; the result does not depend on them, to the last bit.
    Raises UserError where no image can be read.
    """
    count = len(source)
    of_each = max(1, min(MOST_OF_ONE, MOST_DRAWN // max(1, count))) if pixels.depth == "float32" else 0
    chunks = (range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))
    moments, least, most, summed = _nothing(pixels)
    drawn: list[NDArray[np.float32]] = []
    sizes: list[NDArray[np.int32]] = []
    kinds: dict[str, Counter[Any]] = {name: Counter() for name in ("format", "mode", "depth", "channels", "frames")}
    broken: list[tuple[int, str]] = []
    scales: list[float] = []
    depths: list[Depth] = []
    outermost: list[Ends] = []
    done = gaps = grey = 0
    for part in ordered(partial(_measure, source, pixels, of_each), chunks, workers):
        moments += part.moments
        least, most = np.minimum(least, part.least), np.maximum(most, part.most)
        if of_each:
            drawn.append(part.pixels)
        else:
            summed += part.pixels
        for name, counter in kinds.items():
            counter.update(getattr(header, name) for header in part.headers)
        sizes.append(np.array([(header.height, header.width) for header in part.headers], np.int32).reshape(-1, 2))
        broken += part.broken
        scales += part.scales
        depths += (header.depth for header in part.headers)
        outermost += part.ends
        gaps += part.gaps
        grey += part.grey
        done += len(part.headers) + len(part.broken)
        say(done)
    images = count - len(broken)
    if not images:
        raise UserError(
            f"none of the {count:,} images in {source.location} can be read (the first: {source.shown(broken[0][0])}: "
            f"{broken[0][1]})",
            "check the files",
        )
    there = np.where(moments[0] > 0, moments[0] / images, 1)[:, None]
    least, most = (np.where(moments[0] > 0, ends, 0) for ends in (least, most))
    percentiles, levels, weights = _of_drawn(np.concatenate(drawn)) if of_each else _of_levels(summed / images / there)
    return Distribution(
        from_moments(moments / images, pixels),
        least,
        most,
        percentiles,
        levels,
        weights,
        of_each,
        np.concatenate(sizes),
        kinds["format"],
        kinds["mode"],
        kinds["depth"],
        kinds["channels"],
        kinds["frames"],
        broken,
        apart(np.array(scales), depths),
        1 - moments[0] / images,
        gaps,
        suspects(outermost),
        grey,
    )


def _nothing(
    pixels: PixelFormat,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(moments, least, most, pixels) of no image."""
    channels = pixels.in_chans
    levels = 0 if pixels.depth == "float32" else np.iinfo(pixels.depth).max + 1
    return np.zeros((3, channels)), np.full(channels, np.inf), np.full(channels, -np.inf), np.zeros((channels, levels))


def _measure(source: Source, pixels: PixelFormat, of_each: int, chunk: Sequence[int], hand: Hand) -> _Part:
    moments, least, most, summed = _nothing(pixels)
    drawn = [np.empty((0, pixels.in_chans), np.float32)]
    headers: list[Header] = []
    scales: list[float] = []
    broken: list[tuple[int, str]] = []
    outermost: list[Ends] = []
    gaps = grey = 0
    for index, data in zip(chunk, hand.read_each(source, chunk), strict=True):
        try:
            hand.take(index)
            opened = open_image(data, pixels.reading)
            header, (image, missing) = opened.header, some_frames(opened, pixels)
        except (OSError, BrokenImage) as error:
            broken.append((index, str(error)))
            continue
        headers.append(header)
        outermost.append(ends(image, missing))
        gaps += missing is not None
        grey += header.channels == 3 and is_grey(image)
        if of_each:
            own = image_moments(image, missing)
            if missing is not None:
                image[missing] = np.nan
            low, high = (end(image, (0, 1)) for end in (np.fmin.reduce, np.fmax.reduce))
            flat = image.reshape(-1, pixels.in_chans)
            # At random, for regular steps may fall in with the columns; as many of a small image, so that it weighs
            # the same.
            drawn.append(flat[generator(0, "percentiles", index=index).integers(0, len(flat), of_each)])
        else:
            counts, size = histogram(image, missing), image.shape[0] * image.shape[1]
            levels = [np.flatnonzero(row) for row in counts]
            low, high = ([row[end] if len(row) else np.nan for row in levels] for end in (0, -1))
            own = histogram_moments(counts, image.dtype, size)
            summed += counts / size
        moments += own
        scales.append(scale_of(own))
        least, most = np.fmin(least, low), np.fmax(most, high)
    found = np.concatenate(drawn) if of_each else summed
    return _Part(moments, least, most, found, scales, headers, broken, outermost, gaps, grey)


_Shape = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _of_levels(shares: NDArray[np.float64]) -> _Shape:
    """shares (C, levels) -> percentiles, levels, weights."""
    cumulated = shares.cumsum(1)
    asked = np.array(PERCENTILES) / 100
    percentiles = np.stack([np.searchsorted(row, asked * row[-1]) for row in cumulated], axis=1)
    return percentiles.astype(np.float64), np.arange(shares.shape[1], dtype=np.float64), shares


def _of_drawn(drawn: NDArray[np.float32]) -> _Shape:
    """drawn (n, C), not a number where pixels are missing -> percentiles, levels, weights."""
    there = [channel[~np.isnan(channel)] for channel in drawn.T]
    there = [channel if len(channel) else np.zeros(1, np.float32) for channel in there]
    asked = [np.percentile(channel, PERCENTILES, method="inverted_cdf") for channel in there]
    percentiles = np.stack(asked, axis=1).astype(np.float64)
    low, high = percentiles[0].min(), percentiles[-1].max()
    edges = np.linspace(low, high if high > low else low + 1, _INTERVALS + 1)
    weights = np.stack([np.histogram(channel, edges)[0] / len(channel) for channel in there])
    return percentiles, (edges[1:] + edges[:-1]) / 2, weights
