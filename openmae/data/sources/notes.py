"""What is worth saying of the files that DATA has: those that are left out, those whose names do not say that they are
images, and masks that lie among the images."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from openmae.console.words import in_a_line
from openmae.data.note import Note
from openmae.data.sources.folder import ImageFolder, SplitFolder
from openmae.data.sources.joined import Joined
from openmae.data.sources.listing import SLIDES, UNREAD, Listing, between
from openmae.data.sources.source import Names, Remade, Source, Subset
from openmae.data.sources.splits import split_of
from openmae.data.sources.windows import Windows

_NAMED = 3  # folders in a sentence
_SHOWN = 8  # endings in a sentence
_STRETCHES, _STRETCH = 20, 5_000  # of the names of a large set that are looked at
_LOOKED_FOR = 500  # masks whose images are looked for
_WORDS = "masks?|seg|segs|segmentations?|segmented|gt|ground[ _-]?truth|labels?|annotations?|annots?|mattes?"
_MASK = re.compile(rf"(?P<of>.*[^a-z])?(?P<word>{_WORDS})(?P<number>[^a-z]*)", re.DOTALL)
_PERHAPS = (b"mask", b"seg", b"gt", b"truth", b"label", b"annot", b"matte")
_IMAGE_WORDS = re.compile(
    r"(?<![a-z])(jpeg|jpg|png|tiff?|rgb|raw|the)?(images?|imgs?|photos?|pictures?|pics?|jpg|png|rgb)(?![a-z])"
)
_OF_AN_IMAGE = re.compile(r"[ _.-]+(images?|imgs?|photos?|pictures?|pics?|rgb|sat|raw|orig|original)$")
_OF_WHAT = ("class", "classes", "object", "objects", "instance", "instances", "semantic")  # that masks may be of
_MARKS = re.compile(r"[^a-z0-9]+")


def notes_on(sources: Iterable[Source]) -> Iterator[Note]:
    """Of images that were opened together."""
    parts = [*{id(part): part for source in sources for part in _parts(source)}.values()]
    yield from _of_others([part.listing for part in parts if isinstance(part, ImageFolder)])
    for part in parts:
        yield from map(Note, part.notes)
        if isinstance(part, ImageFolder) and not isinstance(part, SplitFolder):
            yield from _of_folders_alike(part.listing)
        if (names := part.all_names) is not None:
            yield from masks_among(names)


def _parts(source: Source) -> Iterator[Source]:
    """What a source is made of."""
    if isinstance(source, Subset):
        yield from _parts(source.whole)
    elif isinstance(source, Remade):
        yield from _parts(source.source)
    elif isinstance(source, Windows):
        yield source
        yield from _parts(source.source)
    elif isinstance(source, Joined):
        for part in source.parts:
            yield from _parts(part)
    else:
        yield source


# ---------------------------------------------------------------- folders that may not be the classes


def _of_folders_alike(listing: Listing) -> Iterator[Note]:
    """Where each folder has the same folders in it and nothing else, as folds, sites and patients have the classes."""
    inside: dict[str, set[str]] = {}
    for folder in listing.folders:
        top, _, below = folder.rstrip("/").partition("/")
        if top and "/" not in below:
            inside.setdefault(top, set()).update([below] if below else [])
    tops, first = [*inside], next(iter(inside.values()), set())
    if len(tops) < 2 or len(first) < 2 or any(found != first for found in inside.values()):
        return
    if any(map(split_of, first)) or any(not _holds_only(listing, top, first) for top in tops):
        return
    yield Note(
        f"Each of the {len(tops):,} folders has the same folders in it ({_some(sorted(first))}); as labels count the "
        f"outer ones ({_some(tops)})"
    )


def _holds_only(listing: Listing, top: str, folders: Iterable[str]) -> bool:
    """Whether all images of a folder lie in these folders in it, and some in each."""
    counts = [_count(listing, f"{top}/{folder}/") for folder in folders]
    return all(counts) and sum(counts) == _count(listing, f"{top}/")


def _count(listing: Listing, prefix: str) -> int:
    start, stop = between(listing.names, os.fsencode(prefix))
    return stop - start


def _some(names: Sequence[str]) -> str:
    return in_a_line(", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else ""))


# ---------------------------------------------------------------- files that are not called like images


def _of_others(listings: Sequence[Listing]) -> Iterator[Note]:
    images, slides, unread, left_out = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for listing in listings:
        for one in listing.others:
            ending = one.ending[1:].encode()
            unseen = slides if ending in SLIDES else unread if ending in UNREAD else left_out
            (images if one.are_images else unseen)[one.ending] += one.number
    if images:
        yield Note(_said(images, "image", "known by {its} first bytes, not by {its} name{s}"))
    if slides:
        what = _said(slides, "slide", "left out, too large to be taken whole")
        yield Note(what, "read windows of them by `tile='512'`", is_warning=True)
    if unread:
        what = _said(unread, "image", "left out, of {a_kind} not read")
        yield Note(what, "write as PNG or TIFF what is to be used", is_warning=True)
    if left_out:
        yield Note(_said(left_out, "file", "left out, by the first bytes or the ending no image"))


def _said(counts: Counter[str], what: str, how: str) -> str:
    total = counts.total()
    if total == 1:
        return f"1 {what} is {how.format(its='its', s='', a_kind='a kind that is')}: {_counted(counts)}"
    return f"{total:,} {what}s are {how.format(its='their', s='s', a_kind='kinds that are')}: {_counted(counts)}"


def _counted(counts: Counter[str]) -> str:
    named = [f"{count:,} {ending or 'without extension'}" for ending, count in counts.most_common(_SHOWN)]
    rest = counts.total() - sum(count for _, count in counts.most_common(_SHOWN))
    return ", ".join(named) + (f", {rest:,} of other kinds" if rest else "")


# ---------------------------------------------------------------- masks


def masks_among(names: Names) -> Iterator[Note]:
    """Whether images are called as masks of the others are: `1_mask.png` beside `1.png`, `masks/1.png` beside
    `images/1.png`."""
    if not may_have_masks(names):
        return
    looked_at = _some_of(names)
    folders = _mask_folders(looked_at)
    if inside := [name for name in looked_at if _in_one(name, folders)]:
        called = " ".join(sorted({folder.rpartition("/")[2] for folder in folders}))
        yield _note(len(inside), len(looked_at), len(names), inside[0], called)
    by_name = [(name, *found) for name in looked_at if (found := _mask_of(name)) is not None]
    wanted = {image for _, image, _ in by_name[:_LOOKED_FOR]}
    stems = {_plain(name.rpartition(".")[0]) for name in looked_at} if wanted else set()
    there = wanted & (stems | {_OF_AN_IMAGE.sub("", stem) for stem in stems})
    if by_name and len(there) * 2 >= len(wanted):
        first, _, pattern = by_name[0]
        yield _note(len(by_name), len(looked_at), len(names), first, f"'{pattern}'")


def may_have_masks(names: Names) -> bool:
    """Whether any of the names has what a word for masks has in it."""
    text = names.text.tobytes().lower()
    return any(word in text for word in _PERHAPS)


def mask_folders(names: Iterable[str]) -> list[str]:
    """Of folders that lie beside each other, those that are called as the masks of another are."""
    rest = {name: rest_of_mask(name) for name in names}
    images = {rest_of_images(name) for name, without in rest.items() if without is None}
    return [name for name, without in rest.items() if without is not None and without in images]


def _some_of(names: Names) -> Sequence[str]:
    """All, or of many some stretches, in which a mask lies near its image."""
    if len(names) <= _STRETCHES * _STRETCH:
        return names[:]
    starts = (round(i * (len(names) - _STRETCH) / (_STRETCHES - 1)) for i in range(_STRETCHES))
    return [name for start in starts for name in names[start : start + _STRETCH]]


def _note(count: int, looked_at: int, total: int, first: str, pattern: str) -> Note:
    counted = f"{count:,} of {total:,}" if looked_at == total else f"about {count / looked_at:.0%} of {total:,}"
    return Note(
        f"{counted} images are called like masks of the others ({first})",
        f"leave them out by `exclude` {pattern}, if they are",
        is_warning=True,
    )


def _mask_of(name: str) -> tuple[str, str] | None:
    """(path of the image that the file would be a mask of, without extension and marks; a pattern for such names)"""
    folder, slash, file = name.rpartition("/")
    stem = file.rpartition(".")[0]
    found = _MASK.fullmatch(stem.lower())
    if found is None or not found["of"]:
        return None
    start = len(found["of"].rstrip(" _-."))
    pattern = f"*{stem[start : len(found['of']) + len(found['word'])]}*"
    return _plain(folder + slash + stem[:start]), pattern


def _plain(path: str) -> str:
    return path.lower().rstrip(" _-.")


def _mask_folders(names: Sequence[str]) -> set[str]:
    """Folders, by their paths, that are called as the masks of a folder beside them are."""
    beside: dict[str, set[str]] = {}
    last = None
    for name in names:
        folder = name.rpartition("/")[0]
        while folder and folder != last:
            last, (above, _, own) = folder, folder.rpartition("/")
            beside.setdefault(above, set()).add(own)
            folder = above
    return {f"{above}/{own}".lstrip("/") for above, inside in beside.items() for own in mask_folders(sorted(inside))}


def _in_one(name: str, folders: set[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:depth]) in folders for depth in range(1, len(parts)))


def rest_of_mask(name: str) -> str | None:
    """What a name has beside a word for masks; None where it has none."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    words = _MARKS.sub(" ", split).split()
    rest = [word for word in words if not re.fullmatch(_WORDS, word)]
    if len(rest) == len(words):
        return None
    return rest_of_images(" ".join(word for word in rest if word not in _OF_WHAT))


def rest_of_images(name: str) -> str:
    """What a name has beside words for images."""
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return " ".join(_MARKS.sub(" ", _IMAGE_WORDS.sub(" ", split)).split())
