"""How files are read that leave it open: what a sample of them tells, with the reason, or what has to be asked.

A new model's images are read as is chosen here, and its weights keep it. A model that says nothing of it (an older run,
others' weights) reads as these models did: what is hidden under transparent pixels is shown, as Pillow's
convert("RGB") does; pages are frames and the channels of arrays come last, unless only the other reading gives as many
channels as the model takes; unsigned DICOM is spread over its depth.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.console import words
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode
from openmae.data.formats.header import Header, OpenedImage
from openmae.data.formats.reading import UNSAID, Alpha, Reading
from openmae.data.formats.transparency import as_seen
from openmae.data.note import Note
from openmae.data.sources.source import Source
from openmae.data.survey.axes import Stack, layout_of, pages_of
from openmae.errors import UserError

_FIELDS = ("alpha", "layout", "pages", "dicom_units")
_LOST = 0.1  # share of the images, more of which no background may make one colour
_SOME_SIDE = 64  # pixels a side
_BACKGROUNDS: tuple[Alpha, ...] = ("white", "black", "ignore")


@dataclass(frozen=True)
class SeenThrough:
    """Of an image with alpha. transparent: a pixel lets something through. blank: laid on which backgrounds, or with
    its alpha left out ("ignore"), it is one colour all over."""

    transparent: bool
    blank: frozenset[Alpha]


@dataclass(frozen=True)
class Evidence:
    """What a file leaves open: its header, however it was read, and how it is seen through, where it has alpha."""

    header: Header
    seen: SeenThrough | None = None


@dataclass(frozen=True)
class Choice:
    """reading: how to read. why: the reason of each entry that was chosen, by its name. notes: what may be wrong all
    the same. questions: of an entry, what nobody can tell but the user; reading is then as if nobody had chosen."""

    reading: Reading
    why: dict[str, str]
    notes: tuple[Note, ...] = ()
    questions: Mapping[str, Note] = field(default_factory=dict)

    def settled(self, which: Sequence[str] = _FIELDS) -> "Choice":
        """This one. Raises UserError, the first question, where there is one of these entries."""
        for name in which:
            if name in self.questions:
                raise UserError(self.questions[name].what, self.questions[name].advice)
        return self


NOTHING_OPEN = Choice(UNSAID, {})


@dataclass(frozen=True)
class Channels:
    """in_chans, bands: as they are wanted, None for what the images have. is_known: they are those of a model that
    exists, and learnt from images that were read as its reading says."""

    in_chans: int | None = None
    bands: tuple[int, ...] | None = None
    is_known: bool = False


def seen_through(opened: OpenedImage, reading: Reading) -> SeenThrough:
    """Of an image that was opened as `reading` says, with its alpha as a channel. Raises as decode does."""
    header = opened.header
    image = decode(opened, PixelFormat(header.channels, None, header.depth, reading))
    opaque = 1 if header.depth == "float32" else np.iinfo(image.dtype).max
    if (image[..., -1] >= opaque).all():
        return SeenThrough(False, frozenset())
    steps = [max(1, side // _SOME_SIDE) for side in image.shape[:2]]
    some = image[:: steps[0], :: steps[1]]  # of most images a few pixels tell that they are not blank
    blank = [word for word in _BACKGROUNDS if all(_is_blank(as_seen(part, word)) for part in (some, image))]
    return SeenThrough(True, frozenset(blank))


def choose_reading(sample: Sequence[Evidence], asked: Reading, channels: Channels = Channels()) -> Choice:
    """What is asked, and for the rest what the sample tells."""
    entries = [
        _alpha(sample, asked, channels),
        _layout(sample, asked, channels),
        _pages(sample, asked, channels),
        _units(sample, asked, channels),
    ]
    reading, why = asked, dict[str, str]()
    for entry in entries:
        reading = entry.reading.but(reading)
        why |= entry.why
    return Choice(
        reading,
        why,
        tuple(note for entry in entries for note in entry.notes),
        {name: question for entry in entries for name, question in entry.questions.items()},
    )


def known_reading(source: Source, asked: Reading) -> Reading:
    """What is asked, and of what `openmae pack` made how it read the files, for that can no longer be changed. Raises
    UserError where the two contradict each other, and where an index says what no reading is."""
    try:
        packed = Reading.from_dict(source.packed_as)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"the index of {source.location} is damaged ({error})", "pack the images again") from error
    for name in _FIELDS:
        word, other = getattr(packed, name), getattr(asked, name)
        if None not in (word, other) and word != other:
            raise UserError(
                f"{source.location} was packed with `{name}={word}`, and `{name}={other}` is asked for",
                "pack the files again, or leave it out",
            )
    return packed.but(asked)


def _chosen(why: str, notes: Sequence[Note] = (), **entry: Any) -> Choice:
    return Choice(Reading(**entry), dict.fromkeys(entry, why), tuple(notes))


def _warns(what: str, advice: str) -> Choice:
    return Choice(UNSAID, {}, (Note(what, advice),))


def _asks(name: str, what: str, advice: str) -> Choice:
    return Choice(UNSAID, {}, (), {name: Note(what, advice)})


# ---------------------------------------------------------------- transparency


def _alpha(sample: Sequence[Evidence], asked: Reading, channels: Channels) -> Choice:
    seen = [one.seen for one in sample if one.seen is not None]
    through = [one for one in seen if one.transparent]
    if not seen or channels.bands is not None:
        return NOTHING_OPEN
    if asked.alpha is not None or channels.is_known:
        return _checked(asked.alpha, through, len(sample), channels)
    if channels.in_chans in (2, 4):
        return _chosen(f"as `in_chans={channels.in_chans}` asks", alpha="channel")
    have = f"{len(through):,} of {words.images(len(sample))} have transparent pixels"
    if not through:
        return _chosen(
            f"{len(seen):,} of {words.images(len(sample))} have alpha, none of them a transparent pixel", alpha="white"
        )
    return _background(through, have, channels.in_chans is None)


def _background(through: Sequence[SeenThrough], have: str, has_room: bool) -> Choice:
    """What shows most of what images show that have transparent pixels. has_room: for another channel."""
    hidden = [one for one in through if {"white", "black"} <= one.blank]  # nothing but what is hidden can be seen
    if len(hidden) * 2 > len(through) and sum("ignore" in one.blank for one in hidden) * 2 < len(hidden):
        return _chosen(f"{have}, and {len(hidden):,} of them are wholly transparent", alpha="ignore")
    lost = {word: sum(word in one.blank for one in through) - len(hidden) for word in _BACKGROUNDS}
    better: Alpha = "white" if lost["white"] <= lost["black"] else "black"
    if lost[better] > _LOST * len(through) and has_room:
        return _chosen(
            f"{have}; on white {lost['white']:,} and on black {lost['black']:,} of them are one colour", alpha="channel"
        )
    if better == "black":
        return _chosen(f"{have}, and on white {lost['white']:,} of them are one colour", alpha="black")
    return _chosen(have, alpha="white")


def _checked(alpha: Alpha | None, through: Sequence[SeenThrough], images: int, channels: Channels) -> Choice:
    """What is to be said of transparent pixels where it is decided, or the rule, what becomes of them."""
    if alpha == "channel" and channels.in_chans in (1, 3):
        what = f"`in_chans={channels.in_chans}` has no room for alpha beside the colours"
        return _asks("alpha", what, "choose another `alpha`, or 2 or 4 channels")
    if not through or alpha == "channel" or (alpha is None and channels.in_chans in (2, 4)):
        return NOTHING_OPEN
    word = alpha or "ignore"
    how = "what is hidden under transparent pixels is shown" if word == "ignore" else f"images are laid on {word}"
    blank = sum(word in one.blank for one in through)
    shows: list[Alpha] = ["white", "black"]
    better = next((word for word in shows if sum(word in one.blank for one in through) * 2 < blank), "channel")
    advice = f"`alpha={better}` shows their shapes, which are in their transparency"
    if blank == images:
        return _asks("alpha", f"where {how}, all of {words.images(images)} looked at are one colour", advice)
    if blank * 2 > len(through):
        return _warns(f"where {how}, {blank:,} of {words.images(len(through))} that have any are one colour", advice)
    if alpha is not None:
        return NOTHING_OPEN
    what = (
        f"{len(through):,} of {words.images(images)} have transparent pixels, which the model is not known to have "
        "seen: what is hidden under them is shown"
    )
    return _warns(what, "`alpha=white` or `alpha=black` lays them on a background")


def _is_blank(image: NDArray[Any]) -> bool:
    return bool((image == image[0, 0]).all())


# ---------------------------------------------------------------- axes and pages


def _layout(sample: Sequence[Evidence], asked: Reading, channels: Channels) -> Choice:
    shapes = Counter(one.header.axes for one in sample if one.header.axes is not None)
    if not shapes or asked.layout is not None:
        return NOTHING_OPEN
    try:
        found = layout_of(shapes, channels.in_chans)
    except UserError as error:
        return _asks("layout", error.what, error.advice)
    if found is not None:
        return _chosen(found[1], layout=found[0])
    if channels.is_known:
        return NOTHING_OPEN
    return _asks(
        "layout",
        f"arrays of {_shapes(shapes)} may be (height, width, channels) or (channels, height, width)",
        "say which by `layout=hwc` or `layout=chw`",
    )


def _pages(sample: Sequence[Evidence], asked: Reading, channels: Channels) -> Choice:
    if asked.pages is not None:
        return NOTHING_OPEN
    stacks = Counter[Stack](one.header.pages for one in sample if one.header.pages is not None)
    if not stacks:
        return NOTHING_OPEN
    wanted = channels.in_chans
    if wanted is None and channels.bands is not None and max(channels.bands) > 1:
        return _chosen("as `bands` asks", pages="channels")
    found = pages_of(stacks, len(sample), wanted)
    if found is not None:
        return _chosen(found[1], pages=found[0])
    if channels.is_known:
        return NOTHING_OPEN
    number = next(iter(stacks))[0]
    return _asks(
        "pages",
        f"{number} pages of one size are in each file, and no metadata says whether they are {number} channels of one "
        "image or frames, of which training draws one at a visit",
        "say which by `pages=channels` or `pages=frames`",
    )


def _shapes(shapes: Counter[Any]) -> str:
    listed = [" x ".join(map(str, shape)) for shape, _ in shapes.most_common(3)]
    return ", ".join(listed) + (", ..." if len(shapes) > 3 else "")


# ---------------------------------------------------------------- DICOM


def _units(sample: Sequence[Evidence], asked: Reading, channels: Channels) -> Choice:
    units = Counter(one.header.units for one in sample if one.header.units)
    if not units:
        return NOTHING_OPEN
    word = asked.dicom_units
    notes = [*_mixed(sample, units)] if word != "raw" else []
    files = units.total()
    if word is not None:
        return Choice(UNSAID, {}, tuple(notes))
    if channels.is_known:
        what = f"{files:,} DICOM files are read as older models were given them, unsigned ones spread over their depth"
        return Choice(UNSAID, {}, (Note(what, "`dicom_units=rescaled` gives each number in its unit"), *notes))
    return _chosen(f"numbers of {files:,} DICOM files ({_listed(units)})", notes, dicom_units="rescaled")


def _mixed(sample: Sequence[Evidence], units: Counter[str]) -> Iterator[Note]:
    apart = "unless these are one unit, keep them apart"
    if len(units) > 1:
        yield Note(f"the numbers of the DICOM files are not all in one unit ({_listed(units)})", apart)
    if others := sum(not one.header.units for one in sample):
        have = "file has" if units.total() == 1 else "files have"
        what = f"{units.total():,} {have} numbers of DICOM, and {others:,} levels of other formats"
        yield Note(what, apart)
    modes = sorted(
        {one.header.mode for one in sample if one.header.units and one.header.mode.startswith("MONOCHROME1")}
    )
    if len(modes) > 1:
        yield Note(f"DICOM files are inverted, each within its own range ({'; '.join(modes)})", apart)


def _listed(units: Counter[str]) -> str:
    called = {"stored": "as stored", "rescaled": "rescaled to a unit that they do not name"}
    return ", ".join(f"{count:,} {called.get(unit, f'in {unit}')}" for unit, count in units.most_common())
