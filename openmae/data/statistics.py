"""What the images are like: channels, depth, usual size, and the mean and standard deviation of each channel."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.channels import check_bands
from openmae.data.decode import Depth, Header, PixelFormat, decode, open_image, patch_complaint
from openmae.data.order import generator
from openmae.data.pool import Hand, ordered
from openmae.data.source import Source
from openmae.data.views import reduction
from openmae.errors import BrokenImage, UserError

DEPTHS: tuple[Depth, ...] = ("uint8", "uint16", "float32")  # each holds what those before it hold
WHITE: dict[Depth, float] = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}  # what is scaled to 1
MOST_LOOKED_AT = 2048  # images of a sample
SIGNIFICANT_DIGITS = 7  # of a float32

_LOOK_SIDE = 256  # pixels; a large JPEG is surveyed at the smallest size that keeps twice this on each side
_PEEK = 16  # headers that are read before it is guessed what all images are
_CHUNK = 16  # images a worker looks at in one go
_BLOCK = 2**20  # pixels that are counted in one go, which bounds the memory for a very large image


@dataclass(frozen=True)
class Statistics:
    """Per-channel mean and standard deviation of scaled pixels, and which pixels these are; they travel with the
    weights.

    Scaled means 8- and 16-bit pixels divided by 255 and 65535, and float pixels as they are.
    Raises ValueError unless mean and std have a number for each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: PixelFormat

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.pixels.in_chans:
            raise ValueError(
                f"statistics of {len(self.mean)} means and {len(self.std)} deviations do not fit "
                f"{self.pixels.in_chans} channels"
            )

    def normalize(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8, uint16 or float32 -> float32, each channel of mean 0 and standard deviation 1 over the
        data."""
        mean, std = self._as_tensors(images)
        return (to_float(images) - mean) / std

    def denormalize(self, images: Tensor) -> Tensor:
        """Normalised (B, C, H, W) -> float32 scaled pixels, 0..1 for what an 8- or 16-bit image can hold."""
        mean, std = self._as_tensors(images)
        return images * std + mean

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and TOML: mean, std, in_chans, pixel_type, and bands where some were chosen."""
        pixels = self.pixels
        values = {"in_chans": pixels.in_chans, "pixel_type": pixels.depth, "mean": [*self.mean], "std": [*self.std]}
        return values if pixels.bands is None else {**values, "bands": [*pixels.bands]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Statistics":
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for values that are none."""
        bands, depth = values.get("bands"), values["pixel_type"]
        if depth not in DEPTHS:
            raise ValueError(f"pixel_type is {depth!r}, not {', '.join(DEPTHS)}")
        pixels = PixelFormat(int(values["in_chans"]), None if bands is None else tuple(map(int, bands)), depth)
        if pixels.bands is not None and (len(pixels.bands) != pixels.in_chans or min(pixels.bands, default=0) < 1):
            raise ValueError(f"bands are {bands} for {pixels.in_chans} channels")
        return cls(tuple(map(float, values["mean"])), tuple(map(float, values["std"])), pixels)

    def _as_tensors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[1] != len(self.mean):
            raise ValueError(f"statistics of {len(self.mean)} channels do not fit images of {images.shape[1]}")
        mean, std = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return mean, std


def to_float(images: Tensor) -> Tensor:
    """uint8, uint16 or float32 of any shape -> float32, what is white in 8 or 16 bits scaled to 1."""
    white = {torch.uint8: WHITE["uint8"], torch.uint16: WHITE["uint16"]}.get(images.dtype)
    return images.float() if white is None else images.float() / white


@dataclass(frozen=True)
class Survey:
    """A look at a sample of the data.

    statistics: of the sample, each image weighing the same.
    size: median (height, width). sizes: of every image, by its index.
    channels: how many images have how many channels. why_channels: the reason for the number that was chosen.
    looked_at: how many images were tried. broken: (index, reason) of those that give no image.
    """

    statistics: Statistics
    size: tuple[int, int]
    sizes: dict[int, tuple[int, int]]
    channels: dict[int, int]
    why_channels: str
    looked_at: int
    broken: tuple[tuple[int, str], ...]

    def smaller_than(self, patch_size: tuple[int, int]) -> list[tuple[int, str]]:
        """(index, reason) of images that do not cover one patch."""
        found = ((index, patch_complaint(size, patch_size)) for index, size in self.sizes.items())
        return [(index, complaint) for index, complaint in found if complaint]


@dataclass(frozen=True)
class _Seen:
    """An image of the sample: its header and moments (2, C), or why there are none."""

    index: int
    header: Header | None = None
    moments: NDArray[np.float64] | None = None
    reason: str = ""


def survey(
    source: Source,
    seed: int,
    in_chans: int | None = None,
    bands: tuple[int, ...] | None = None,
    workers: int = 0,
    depth: Depth | None = None,
    most: int = MOST_LOOKED_AT,
) -> Survey:
    """Decodes up to `most` images, chosen by the seed, each image weighing the same.

    in_chans, bands, depth: as the user wants them; None for what the images have.
    workers: processes that read; the result does not depend on them.
    Raises UserError where none of the images can be read, or what they have differs too much to choose.
    """
    chosen = _sample(source, seed, most)
    count = len(chosen)
    wanted = partial(choose_pixels, in_chans=in_chans, bands=bands, depth=depth, location=source.location)
    headers = sample_headers(source, seed, workers, _PEEK)
    while True:  # once more where the first few headers are no guide to all of them
        guess = wanted(headers)
        seen = list(_look_at(source, guess[0], chosen, workers))
        headers = _headers(seen)
        pixels, why = wanted(headers)
        if pixels == guess[0]:
            break
    good = [(one.index, one.header, one.moments) for one in seen if one.header is not None and one.moments is not None]
    broken = [(one.index, one.reason) for one in seen if one.reason]
    if not good:
        raise UserError(
            f"none of {count} images tried in {source.location} can be read (the first: {source.name(broken[0][0])}: "
            f"{broken[0][1]}): check the files"
        )
    sizes = {index: (header.height, header.width) for index, header, _ in good}
    median = tuple(int(np.median([size[axis] for size in sizes.values()])) for axis in (0, 1))
    channels = Counter(header.channels for _, header, _ in good)
    statistics = from_moments(np.sum([moments for _, _, moments in good], axis=0) / len(good), pixels)
    return Survey(statistics, (median[0], median[1]), sizes, dict(sorted(channels.items())), why, count, tuple(broken))


def sample_headers(source: Source, seed: int, workers: int = 0, most: int = MOST_LOOKED_AT) -> list[Header]:
    """The headers of up to `most` images, chosen by the seed; of those that have one."""
    return _headers(_look_at(source, None, _sample(source, seed, most), workers))


def choose_pixels(
    headers: Sequence[Header],
    in_chans: int | None,
    bands: tuple[int, ...] | None,
    depth: Depth | None,
    location: str,
) -> tuple[PixelFormat, str]:
    """What all images are to be decoded to, and why that many channels: what was asked for, else what they have.

    Raises UserError where they have numbers of channels that cannot go together.
    """
    deepest: Depth = max((header.depth for header in headers), key=DEPTHS.index, default="uint8")
    depth = deepest if depth is None else depth
    if bands is not None:
        check_bands(bands)
        if in_chans not in (None, len(bands)):
            raise UserError(f"--bands names {len(bands)} channels and --in-chans is {in_chans}: leave one of them out")
        return PixelFormat(len(bands), bands, depth), "as many as --bands"
    if in_chans is not None:
        if in_chans < 1:
            raise UserError(f"--in-chans is {in_chans}: give 1 or more")
        return PixelFormat(in_chans, None, depth), "as asked for"
    counts = Counter(header.channels for header in headers)
    if not counts:
        return PixelFormat(3, None, depth), "nothing is known of the images"
    if max(counts) <= 2:
        return PixelFormat(1, None, depth), "the images are grey"
    if len(counts) == 1 and max(counts) > 3 and not all(header.colour for header in headers):
        return PixelFormat(max(counts), None, depth), "as many as the images have"
    if max(counts) <= 4:
        return PixelFormat(3, None, depth), "the images are in colour" + (", some of them grey" if 1 in counts else "")
    found = ", ".join(f"{count:,} with {channels}" for channels, count in sorted(counts.items()))
    first = " ".join(map(str, range(1, min(3, *counts) + 1)))
    raise UserError(
        f"the images in {location} differ in their number of channels ({found}, among those looked at): choose those "
        f"that all have, such as --bands {first}, or one kind of image by --in-chans"
    )


def from_moments(moments: NDArray[np.float64], pixels: PixelFormat) -> Statistics:
    """moments (2, C): means over the images of `image_moments`."""
    mean, square = moments
    std = np.sqrt(np.maximum(square - mean**2, 0))
    step = 1 / WHITE[pixels.depth] if pixels.depth != "float32" else 1e-5 * np.abs(mean)
    # A constant channel stays constant, as one whose noise is below what its numbers can tell.
    std = np.where(std <= step / 4, 1.0, std)
    return Statistics(_rounded(mean), _rounded(std), pixels)


def image_moments(image: NDArray[Any]) -> NDArray[np.float64]:
    """(H, W, C) -> (2, C): means of its scaled pixels and of their squares."""
    if image.dtype == np.float32:
        total = np.zeros((2, image.shape[2]))
        for block in _blocks(image):
            exact = block.astype(np.float64)
            total += exact.sum(0), np.square(exact).sum(0)
        return total / (image.shape[0] * image.shape[1])
    return histogram_moments(histogram(image), image.dtype)


def histogram_moments(counts: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """counts (C, 256 or 65536) of pixels of `dtype` -> (2, C) as `image_moments`: exact sums of integers."""
    levels = np.arange(counts.shape[1], dtype=np.int64)
    sums = np.stack([(counts * levels).sum(1), (counts * levels**2).sum(1)])
    white = np.iinfo(dtype).max
    return sums / counts.sum(1) / np.array([[white], [white**2]], np.float64)


def histogram(image: NDArray[Any]) -> NDArray[np.int64]:
    """(H, W, C) uint8 or uint16 -> (C, 256 or 65536): how many pixels have which level."""
    levels = np.iinfo(image.dtype).max + 1
    counts = np.zeros((image.shape[2], levels), np.int64)
    for block in _blocks(image):
        for channel in range(len(counts)):
            counts[channel] += np.bincount(block[:, channel], minlength=levels)
    return counts


def _blocks(image: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The pixels (n, C) of an image, some rows at a time."""
    rows = max(1, _BLOCK // image.shape[1])
    for start in range(0, len(image), rows):
        yield image[start : start + rows].reshape(-1, image.shape[2])


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{SIGNIFICANT_DIGITS}g}") for value in values)


def _sample(source: Source, seed: int, most: int) -> list[int]:
    chosen: list[int] = np.sort(generator(seed, "split").permutation(len(source))[:most]).tolist()
    return chosen


def _headers(seen: Iterable[_Seen]) -> list[Header]:
    return [one.header for one in seen if one.header is not None]


def _look_at(source: Source, pixels: PixelFormat | None, indices: Sequence[int], workers: int) -> Iterator[_Seen]:
    """Each image's header and, where it is said what to decode to, its moments."""
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    for part in ordered(partial(_look, source, pixels), chunks, workers):
        yield from part


def _look(source: Source, pixels: PixelFormat | None, chunk: Sequence[int], hand: Hand) -> list[_Seen]:
    seen: list[_Seen] = []
    for index, data in zip(chunk, hand.read_each(source, chunk), strict=True):
        header: Header | None = None
        try:
            hand.take(index)
            opened = open_image(data)
            header = opened.header
            if pixels is None:
                seen.append(_Seen(index, header))
                continue
            reduce = reduction((header.height, header.width), (_LOOK_SIDE, _LOOK_SIDE))
            seen.append(_Seen(index, header, image_moments(decode(opened, pixels, reduce=reduce))))
        except (OSError, BrokenImage) as error:
            seen.append(_Seen(index, header, None, str(error)))
    return seen
