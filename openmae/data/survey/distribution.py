"""How the pixels of a whole data set are distributed: every image read once, each weighing the same."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
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
from openmae.data.survey.as_arrays import Arrays, ends_of, of_ends
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
_BLOCKS, _MOST_IN_BLOCK = 256, 65_536  # of a set, and images
_KINDS = ("format", "mode", "depth", "channels", "frames")  # what a file's header says of it
_Kind = tuple[Any, ...]
_PLAIN = ("moments", "least", "most", "pixels", "sizes")


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
class Block:
    """Of some images: the sum of their moments (3, C), extremes (C,), and pixels: the sum of their shares of each level
    (C, levels), or (n * k, C) float pixels that were drawn, not a number where they are missing. scales: of each image,
    the root of its mean square. sizes: (n, 2) height and width; kinds: how many have which (format, mode, depth,
    channels, frames). gaps, grey: how many lack some pixels, or are stored as colour though they are grey."""

    moments: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    pixels: NDArray[Any]
    scales: list[float]
    sizes: NDArray[np.int32]
    depths: list[Depth]
    kinds: Counter[_Kind]
    broken: list[tuple[int, str]]
    ends: list[Ends]
    gaps: int
    grey: int

    def __len__(self) -> int:
        return len(self.sizes) + len(self.broken)

    def arrays(self) -> Arrays:
        """As plain arrays, without the reasons of `broken`."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "scales": np.array(self.scales, np.float64),
            "depths": np.array(self.depths, np.str_),
            "kinds": np.array(json.dumps([*self.kinds.items()])),
            "counts": np.array([self.gaps, self.grey]),
            **of_ends(self.ends),
        }

    @classmethod
    def of(cls, arrays: Arrays, broken: list[tuple[int, str]]) -> "Block":
        """The same again."""
        gaps, grey = arrays["counts"].tolist()
        return cls(
            **{name: arrays[name] for name in _PLAIN},
            scales=arrays["scales"].tolist(),
            depths=arrays["depths"].tolist(),
            kinds=Counter({tuple(kind): count for kind, count in json.loads(str(arrays["kinds"]))}),
            broken=broken,
            ends=ends_of(arrays),
            gaps=gaps,
            grey=grey,
        )


def measure(
    source: Source, pixels: PixelFormat, workers: int, say: Callable[[int], None] = lambda done: None
) -> Distribution:
    """Reads and decodes every image of the source; `say` hears how many are done.

    workers: processes that read; the result does not depend on them, to the last bit.
    Raises UserError where no image can be read.
    """

    return distribution(source, pixels, blocks(source, pixels, range(len(source)), workers, say))


def block_size(count: int) -> int:
    """Images of which sums are made first, and then the sums of these, whoever makes them: so the result does not
    depend on how many processes share the images."""
    return min(_MOST_IN_BLOCK, _CHUNK * max(1, -(-count // (_BLOCKS * _CHUNK))))


def blocks(
    source: Source, pixels: PixelFormat, numbers: range, workers: int, say: Callable[[int], None] = lambda done: None
) -> Iterator[Block]:
    """Of these images of the source, which begin where a block does, block by block; `say` hears how many are done."""
    size, of_each = block_size(len(source)), _of_each(len(source), pixels)
    chunks = (numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK))
    parts = ordered(partial(_measure, source, pixels, of_each), chunks, workers)
    with closing(parts):
        waiting: list[Block] = []
        done = 0
        for part in parts:
            waiting.append(part)
            done += len(part)
            say(done)
            if done % size == 0:
                yield _together(waiting, pixels)
                waiting = []
        if waiting:
            yield _together(waiting, pixels)


def distribution(source: Source, pixels: PixelFormat, found: Iterable[Block]) -> Distribution:
    """Of all blocks of a source, in order. Raises UserError where no image can be read."""
    count, of_each = len(source), _of_each(len(source), pixels)
    whole = _together(found, pixels)
    images = count - len(whole.broken)
    if not images:
        raise UserError(
            f"none of the {count:,} images in {source.location} can be read (the first: "
            f"{source.shown(whole.broken[0][0])}: {whole.broken[0][1]})",
            "check the files",
        )
    there = np.where(whole.moments[0] > 0, whole.moments[0] / images, 1)[:, None]
    least, most = (np.where(whole.moments[0] > 0, ends, 0) for ends in (whole.least, whole.most))
    shape = _of_drawn(whole.pixels) if of_each else _of_levels(whole.pixels / images / there)
    kinds: tuple[Counter[Any], ...] = tuple(Counter() for _ in _KINDS)
    for kind, number in whole.kinds.items():
        for counter, value in zip(kinds, kind, strict=True):
            counter[value] += number
    formats, modes, depths, channels, frames = kinds
    return Distribution(
        from_moments(whole.moments / images, pixels),
        least,
        most,
        *shape,
        of_each,
        whole.sizes,
        formats,
        modes,
        depths,
        channels,
        frames,
        whole.broken,
        apart(np.array(whole.scales), whole.depths),
        1 - whole.moments[0] / images,
        whole.gaps,
        suspects(whole.ends),
        whole.grey,
    )


def _of_each(count: int, pixels: PixelFormat) -> int:
    """Float pixels that are drawn of each image."""
    return max(1, min(MOST_OF_ONE, MOST_DRAWN // max(1, count))) if pixels.depth == "float32" else 0


def _together(parts: Iterable[Block], pixels: PixelFormat) -> Block:
    """Added up in their order."""
    moments, least, most, summed = _nothing(pixels)
    drawn = [np.empty((0, pixels.in_chans), np.float32)]
    scales: list[float] = []
    sizes = [np.empty((0, 2), np.int32)]
    depths: list[Depth] = []
    kinds: Counter[_Kind] = Counter()
    broken: list[tuple[int, str]] = []
    outermost: list[Ends] = []
    gaps = grey = 0
    for part in parts:
        moments += part.moments
        least, most = np.minimum(least, part.least), np.maximum(most, part.most)
        if pixels.depth == "float32":
            drawn.append(part.pixels)
        else:
            summed += part.pixels
        scales += part.scales
        sizes.append(part.sizes)
        depths += part.depths
        kinds += part.kinds
        broken += part.broken
        outermost += part.ends
        gaps += part.gaps
        grey += part.grey
    found = np.concatenate(drawn) if pixels.depth == "float32" else summed
    shapes = np.concatenate(sizes)
    return Block(moments, least, most, found, scales, shapes, depths, kinds, broken, outermost, gaps, grey)


def _nothing(
    pixels: PixelFormat,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(moments, least, most, pixels) of no image."""
    channels = pixels.in_chans
    levels = 0 if pixels.depth == "float32" else np.iinfo(pixels.depth).max + 1
    return np.zeros((3, channels)), np.full(channels, np.inf), np.full(channels, -np.inf), np.zeros((channels, levels))


def _measure(source: Source, pixels: PixelFormat, of_each: int, chunk: Sequence[int], hand: Hand) -> Block:
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
    sizes = np.array([(header.height, header.width) for header in headers], np.int32).reshape(-1, 2)
    depths = [header.depth for header in headers]
    kinds = Counter(tuple(getattr(header, name) for name in _KINDS) for header in headers)
    return Block(moments, least, most, found, scales, sizes, depths, kinds, broken, outermost, gaps, grey)


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
