"""A first look at a sample of the images: sizes, formats, channels, mean and standard deviation."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat, check_bands
from openmae.data.formats.decode import open_image, patch_complaint
from openmae.data.formats.header import Depth, Header
from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.formats.transparency import through
from openmae.data.loading.pool import Hand, ordered
from openmae.data.sources.source import Source
from openmae.data.survey.directions import Directions, Thumbnail, directions, thumbnail
from openmae.data.survey.frames import some_frames
from openmae.data.survey.levels import UNKNOWN, Levels
from openmae.data.survey.moments import from_moments, image_moments, is_grey, means_of
from openmae.data.survey.nodata import Ends, Suspect, ends, suspects, usual
from openmae.data.survey.readings import (
    NOTHING_OPEN,
    Channels,
    Choice,
    Evidence,
    SeenThrough,
    choose_reading,
    known_reading,
    seen_through,
)
from openmae.data.views.crop import reduction
from openmae.data.views.statistics import DEPTHS, Statistics
from openmae.errors import BrokenImage, UserError
from openmae.randomness import some

MOST_LOOKED_AT = 2048  # images of a sample

_LOOK_SIDE = 256  # pixels; a large JPEG is surveyed at the smallest size that keeps twice this on each side
_LEVELS_OF = 32  # images whose values are compared with what is expected
PEEK = 16  # headers that are read before it is guessed what all images are
_CHUNK = 16  # images a worker looks at in one go


@dataclass(frozen=True)
class Survey:
    """A look at a sample of the data.

    statistics: of the sample, each image weighing the same.
    size: median (height, width). sizes: of every image, by its index.
    channels: how many images have how many channels. why_channels: the reason for the number that was chosen.
    looked_at: how many images were tried. broken: (index, reason) of those that give no image.
    levels: of those that do. choice: how files are read that leave it open. frames: that a file has, at most.
    grey: how many images are grey and stored as colour. directions: whether any mean something; None of few images.
    missing: share of the pixels of each image, in the order of `sizes`, that is missing. no_data: values that were
    taken for no-data, for nobody said which are; suspected: other values that look like it.
    """

    statistics: Statistics
    size: tuple[int, int]
    sizes: dict[int, tuple[int, int]]
    channels: dict[int, int]
    why_channels: str
    looked_at: int
    broken: tuple[tuple[int, str], ...]
    levels: Levels = field(default=UNKNOWN, compare=False)
    missing: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), compare=False)
    no_data: tuple[Suspect, ...] = ()
    suspected: tuple[Suspect, ...] = ()
    choice: Choice = NOTHING_OPEN
    frames: int = 1
    grey: int = 0
    directions: Directions | None = None

    def smaller_than(self, patch_size: tuple[int, int]) -> list[tuple[int, str]]:
        """(index, reason) of images that do not cover one patch."""
        found = ((index, patch_complaint(size, patch_size)) for index, size in self.sizes.items())
        return [(index, str(complaint)) for index, complaint in found if complaint is not None]


def as_grey(look: Survey) -> Survey:
    """What a survey of grey images that are stored as colour would have found, had one channel been asked for."""
    found = look.statistics
    pixels = replace(found.pixels, in_chans=1)
    why = f"all of {len(look.sizes):,} images looked at are grey, though stored as colour"
    return replace(
        look,
        statistics=Statistics(found.mean[:1], found.std[:1], pixels),
        levels=replace(look.levels, moments=look.levels.moments[..., :1]),
        why_channels=why,
    )


@dataclass(frozen=True)
class Seen:
    """An image of the sample: its header, how it is seen through, moments (3, C) and ends, or why there are none.
    grey: whether it is stored as colour for all that. small: a small picture of it."""

    index: int
    header: Header | None = None
    seen: SeenThrough | None = None
    moments: NDArray[np.float64] | None = None
    ends: Ends | None = None
    reason: str = ""
    grey: bool = False
    small: Thumbnail | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Settled:
    """What all images are to be decoded to. why_channels: the reason for their number. choice: how they are read."""

    pixels: PixelFormat
    why_channels: str
    choice: Choice


@dataclass(frozen=True)
class _Asked:
    """What is wanted of the images of `location`; None for what they have."""

    in_chans: int | None
    bands: tuple[int, ...] | None
    depth: Depth | None
    reading: Reading
    location: str


def survey(
    source: Source,
    seed: int,
    in_chans: int | None = None,
    bands: tuple[int, ...] | None = None,
    workers: int = 0,
    depth: Depth | None = None,
    most: int = MOST_LOOKED_AT,
    reading: Reading = UNSAID,
) -> Survey:
    """Decodes up to `most` images, chosen by the seed, each image weighing the same.

    in_chans, bands, depth, reading: as the user wants them; None for what the images have.
    workers: processes that read; the result does not depend on them.
    Raises UserError where none of the images can be read, or what they have differs too much to choose.
    """
    reading = known_reading(source, reading)
    chosen = _sample(source, seed, most)
    count = len(chosen)
    asked = _Asked(in_chans, bands, depth, reading, source.location)
    guess = settle(source, seed, in_chans, bands, depth, reading, workers, PEEK)
    known: dict[int, Seen] = {}
    no_data: tuple[Suspect, ...] = ()
    while True:  # once more where the first few headers are no guide to all of them, or there is no-data unsaid
        seen = list(_look_at(source, guess.pixels, guess.pixels.reading, chosen, workers))
        # What was seen once stays: an image that ends processes may show its header in one round and not in another.
        known |= {one.index: one for one in seen if one.header is not None}
        suspected = suspects(one.ends for one in seen if one.ends is not None)
        if asked.reading.nodata is None and (values := usual(suspected)):
            asked = replace(asked, reading=replace(asked.reading, nodata=values))
            no_data = tuple(one for one in suspected if one.is_usual)
        found = _settled(list(known.values()), guess.pixels.reading, asked)
        if found.pixels == guess.pixels:
            break
        guess = found
    pixels, why = found.pixels, found.why_channels
    good = [(one.index, one.header, one.moments) for one in seen if one.header is not None and one.moments is not None]
    broken = [(one.index, one.reason) for one in seen if one.reason]
    if not good:
        raise UserError(
            f"none of {count} images tried in {source.location} can be read (the first: {source.shown(broken[0][0])}: "
            f"{broken[0][1]})",
            "check the files",
        )
    sizes = {index: (header.height, header.width) for index, header, _ in good}
    median = tuple(int(np.median([size[axis] for size in sizes.values()])) for axis in (0, 1))
    channels = Counter(header.channels for _, header, _ in good)
    moments = np.stack([moments for _, _, moments in good])
    return Survey(
        from_moments(moments.sum(axis=0) / len(good), pixels),
        (median[0], median[1]),
        sizes,
        dict(sorted(channels.items())),
        why,
        count,
        tuple(broken),
        _levels(seen),
        1 - moments[:, 0].mean(1),
        no_data,
        suspected,
        found.choice,
        max(header.frames for _, header, _ in good),
        sum(
            one.grey for one in seen if one.moments is not None and one.header is not None and one.header.channels == 3
        ),
        directions([one.small for one in seen if one.small is not None]),
    )


def sample_levels(source: Source, pixels: PixelFormat, workers: int = 0) -> Levels:
    """What the values of a few of the images are like, decoded to `pixels`; of those that can be."""
    return _levels(_look_at(source, pixels, pixels.reading, _sample(source, 0, _LEVELS_OF), workers))


def levels_of(files: Iterable[bytes | OSError | BrokenImage], pixels: PixelFormat) -> Levels:
    """As `sample_levels`, of what was read of some files."""
    return _levels(seen_of(data, pixels.reading, pixels) for data in files)


def _levels(found: Iterable[Seen]) -> Levels:
    seen = [*found]
    good = [(one.header, one.moments) for one in seen if one.header is not None and one.moments is not None]
    if not good:
        return UNKNOWN
    moments = np.stack([moments for _, moments in good])
    # A channel of which an image has nothing is as the other images' is.
    own = np.where(moments[:, :1] > 0, means_of(moments), means_of(moments.sum(0)))
    suspected = suspects(one.ends for one in seen if one.ends is not None)
    return Levels(own, tuple(header.depth for header, _ in good), suspected)


def settle(
    source: Source,
    seed: int,
    in_chans: int | None = None,
    bands: tuple[int, ...] | None = None,
    depth: Depth | None = None,
    reading: Reading = UNSAID,
    workers: int = 0,
    most: int = MOST_LOOKED_AT,
) -> Settled:
    """What the headers of up to `most` images, chosen by the seed, say that all of them are to be decoded to; of more
    where these leave a question open. Raises UserError as survey does."""
    reading = known_reading(source, reading)
    for looked_at in dict.fromkeys((most, MOST_LOOKED_AT)):
        seen = look(source, seed, workers, looked_at, reading)
        choice = choose_reading(evidence(seen), reading, Channels(in_chans, bands))
        if not choice.questions:
            break
    if choice.settled().reading != reading:
        seen = look(source, seed, workers, looked_at, choice.reading)
    return _settled(seen, choice.reading, _Asked(in_chans, bands, depth, reading, source.location))


def look(source: Source, seed: int, workers: int, most: int, reading: Reading) -> list[Seen]:
    """What up to `most` images, chosen by the seed, are, without their moments."""
    return list(_look_at(source, None, reading, _sample(source, seed, most), workers))


def evidence(seen: Iterable[Seen]) -> list[Evidence]:
    """What of it says how files are to be read."""
    return [Evidence(one.header, one.seen) for one in seen if one.header is not None]


def _settled(seen: Sequence[Seen], reading: Reading, asked: _Asked) -> Settled:
    """What images are to be decoded to that were read as `reading` says. Raises UserError where they are to be read
    otherwise and nobody can tell how, or have numbers of channels that cannot go together."""
    choice = choose_reading(evidence(seen), asked.reading, Channels(asked.in_chans, asked.bands)).settled()
    in_chans = asked.in_chans
    if replace(choice.reading, nodata=reading.nodata) != reading:  # headers are to be read anew before they count
        in_chans = in_chans or 1
    pixels, why = choose_pixels(_headers(seen), in_chans, asked.bands, asked.depth, asked.location, choice.reading)
    return Settled(pixels, why, choice)


def choose_pixels(
    headers: Sequence[Header],
    in_chans: int | None,
    bands: tuple[int, ...] | None,
    depth: Depth | None,
    location: str,
    reading: Reading = UNSAID,
) -> tuple[PixelFormat, str]:
    """What all images are to be decoded to, and why that many channels: what was asked for, else what they have.

    Raises UserError where they have numbers of channels that cannot go together.
    """
    deepest: Depth = max((header.depth for header in headers), key=DEPTHS.index, default="uint8")
    depth = deepest if depth is None else depth
    if bands is not None:
        check_bands(bands)
        if in_chans not in (None, len(bands)):
            raise UserError(
                f"`bands` names {len(bands)} channels and `in_chans` is {in_chans}", "leave one of them out"
            )
        return PixelFormat(len(bands), bands, depth, reading), "as many as `bands`"
    if in_chans is not None:
        if in_chans < 1:
            raise UserError(f"`in_chans` is {in_chans}", "give 1 or more")
        return PixelFormat(in_chans, None, depth, reading), "as asked for"
    counts = Counter(header.channels for header in headers)
    if not counts:
        return PixelFormat(3, None, depth, reading), "nothing is known of the images"
    if reading.alpha == "channel" and any(header.alpha for header in headers):
        in_chans = 2 if max(counts) <= 2 else 4
        return PixelFormat(in_chans, None, depth, reading), "their colours, and alpha"
    if len(counts) == 1 and max(counts) not in (1, 3) and not all(header.colour for header in headers):
        return PixelFormat(max(counts), None, depth, reading), "as many as the images have"
    if max(counts) <= 2:
        return PixelFormat(1, None, depth, reading), "the images are grey"
    if max(counts) <= 4:
        some_grey = ", some of them grey" if 1 in counts else ""
        return PixelFormat(3, None, depth, reading), f"the images are in colour{some_grey}"
    found = ", ".join(f"{count:,} with {channels}" for channels, count in sorted(counts.items()))
    first = tuple(range(1, min(3, *counts) + 1))
    raise UserError(
        f"the images in {location} differ in their number of channels ({found}, among those looked at)",
        f"choose those that all have, such as `bands={first}`, or one kind of image by `in_chans`",
    )


def _sample(source: Source, seed: int, most: int) -> list[int]:
    chosen: list[int] = np.sort(some(seed, "few", len(source), most)).tolist()
    return chosen


def _headers(seen: Iterable[Seen]) -> list[Header]:
    return [one.header for one in seen if one.header is not None]


def _look_at(
    source: Source, pixels: PixelFormat | None, reading: Reading, indices: Sequence[int], workers: int
) -> Iterator[Seen]:
    """Each image's header and, where it is said what to decode to, its moments and ends."""
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    for part in ordered(partial(_look, source, pixels, reading), chunks, workers):
        yield from part


def _look(source: Source, pixels: PixelFormat | None, reading: Reading, chunk: Sequence[int], hand: Hand) -> list[Seen]:
    seen: list[Seen] = []
    for index, data in zip(chunk, hand.read_each(source, chunk), strict=True):
        try:
            hand.take(index)
            seen.append(seen_of(data, reading, pixels, index))
        except (OSError, BrokenImage) as error:
            seen.append(Seen(index, reason=str(error)))
    return seen


def seen_of(
    data: bytes | OSError | BrokenImage, reading: Reading, pixels: PixelFormat | None = None, index: int = 0
) -> Seen:
    """What the bytes are that a source gave of an image; its moments where it is said what to decode to."""
    header: Header | None = None
    try:
        with_alpha = replace(reading, alpha=None)
        stored = open_image(data, with_alpha)
        opened = through(stored, reading.alpha)
        header = opened.header
        alpha = seen_through(stored, with_alpha) if stored.header.alpha else None
        if pixels is None:
            return Seen(index, header, alpha)
        reduce = reduction((header.height, header.width), (_LOOK_SIDE, _LOOK_SIDE))
        image, missing = some_frames(opened, pixels, reduce)
        facts = (image_moments(image, missing), ends(image, missing), "", is_grey(image))
        return Seen(index, header, alpha, *facts, thumbnail(image, missing, header.height))
    except (OSError, BrokenImage) as error:
        return Seen(index, header, reason=str(error))
