"""Images with masks of their own: classes of pixels, numbers of objects, or a mask an object."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openmae.console.words import in_a_line, several
from openmae.data.annotations.annotations import BACKGROUND
from openmae.data.annotations.classes import ClassList, Values, find_class_list
from openmae.data.annotations.found import Found, images_of
from openmae.data.annotations.holding import LOOKED_AT, Held, MasksHold, held
from openmae.data.annotations.label_images import grey_of
from openmae.data.annotations.mask_files import Files, Holding, MaskFiles
from openmae.data.annotations.pairing import Pairs, pair
from openmae.data.annotations.splits import by_folders, by_lists
from openmae.data.annotations.tally import Tally
from openmae.data.note import Note
from openmae.data.sources.listing import Listing
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Names
from openmae.errors import BrokenImage, UserError
from openmae.machine.cores import cores

Wanted = Literal["segment", "detect"]
_OBJECT = "object"
_MOST_VALUES = 1_000  # different ones, of masks whose classes nothing names
_AT_ONCE = 256  # masks that wait for each other


def open_masks(
    root: Path, listing: Listing, selection: Selection, wanted: Wanted | None, asked: MasksHold | None
) -> Found | None:
    """None where nothing is called as masks of images are. Raises UserError where it is not clear what they hold."""
    pairs = pair(listing.names)
    if pairs is None:
        return None
    tally = Tally()
    if pairs.alone:
        tally.add("{n} image{s} {have} no mask, and {are} left out", pairs.alone[0], "", len(pairs.alone))
    if pairs.lost:
        tally.add("{n} mask{s} {are} of no image, and left out", pairs.lost[0], "", len(pairs.lost))
    masks = [_chosen(root, own, wanted) for own in pairs.masks]
    reading = _Reading(root, listing, masks)
    look = reading.look()
    lists = find_class_list(_folders_of(root, pairs, masks))
    right, notes = _held_by(reading, look, lists, asked)
    stems = [name.rpartition("/")[2].rpartition(".")[0] for name in pairs.names]
    places = {} if selection.is_one_set else by_lists(root / "ImageSets" / "Segmentation", stems)
    taken = "as ImageSets/Segmentation lists them" if places else ""
    if not places:
        places, taken = by_folders(str(root), pairs.folders, selection)
    what = {"values": "masks of classes", "regions": "a mask a class", "numbers": "masks of numbered objects",
            "pieces": "a mask an object"}[right.holding]  # fmt: skip
    return Found(what, images_of(root, listing, pairs.names), right, places, taken, tally, tuple(notes))


def _folders_of(root: Path, pairs: Pairs, masks: Sequence[Sequence[tuple[str, str]]]) -> Iterator[Path]:
    """Where a list of classes may lie: with the masks, and in all folders above."""
    folders = {name.rpartition("/")[0] for own in masks for name, _ in own[:1]}
    for folder in sorted(folders | {name.rpartition("/")[0] for name in pairs.names}):
        place = root / folder
        yield place
        while place != root:
            place = place.parent
            yield place


def _chosen(root: Path, masks: list[tuple[str, str]], wanted: Wanted | None) -> list[tuple[str, str]]:
    """Of masks of classes and masks of objects of one image, as VOC and CVAT write both, those that are wanted."""
    folders = {name.rpartition("/")[0].lower() for name, _ in masks}
    if len(folders) < 2 or len({own for _, own in masks}) > 1:
        return masks
    words = ("object", "instance") if wanted == "detect" else ("class", "semantic")
    found = [mask for mask in masks if any(word in mask[0].rpartition("/")[0].lower() for word in words)]
    if len({name.rpartition("/")[0] for name, _ in found}) == 1:
        return found
    raise UserError(
        f"images of {root} have masks in several folders, {in_a_line(', '.join(sorted(folders)))}",
        "leave all but one out by `exclude`",
    )


class _Reading:
    """Reads masks of classes or objects that are not known yet."""

    def __init__(self, root: Path, listing: Listing, masks: Sequence[Sequence[tuple[str, str]]]) -> None:
        self.root, self.masks = str(root), masks
        paths = Names.of(name for own in masks for name, _ in own)
        size = dict(zip(listing.names, listing.sizes.tolist(), strict=True))
        sizes = np.array([size[name] for name in paths], np.int64)
        self.files = Files(self.root, paths, sizes, np.cumsum([0, *map(len, masks)]).astype(np.int64))
        folders = [own for each in masks for _, own in each]
        self.folders = tuple(sorted({*folders} - {""}))
        number = {name: place for place, name in enumerate(self.folders)}
        self.of_folder = np.array([number.get(own, 0) for own in folders], np.int64)

    def as_held(
        self, holding: Holding, names: tuple[str, ...], values: Values | None = None, first: int = 0
    ) -> MaskFiles:
        """What they are then. first: the class of the first folder."""
        classes = self.of_folder + first
        return MaskFiles(self.files, holding, names, classes, values)

    def look(self) -> list[NDArray[Any]]:
        """Some masks, from all over. Raises UserError where none can be read."""
        plain = self.as_held("pieces", (_OBJECT,))
        count = len(self.masks)
        found: list[NDArray[Any]] = []
        reason: BrokenImage | OSError | None = None
        for index in np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int)).tolist():
            try:
                found += plain.pixels(index)
            except (BrokenImage, OSError) as error:
                reason = reason or error
        if not found:
            advice = reason.advice if isinstance(reason, BrokenImage) else ""
            what = reason.what if isinstance(reason, BrokenImage) else f"{plain.called(0)}: {reason}"
            raise UserError(f"none of the masks of {self.root} can be read ({what})", advice or "mend them")
        return found

    def all_values(self) -> list[int]:
        """Every value that occurs, read from all masks."""
        plain = self.as_held("pieces", (_OBJECT,))
        found: set[int] = set()

        def of(index: int) -> set[int]:
            try:
                return {value for mask in plain.pixels(index) for value in np.unique(grey_of(mask)).tolist()}
            except (BrokenImage, OSError):
                return set()

        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(self.masks), _AT_ONCE):
                for values in pool.map(of, range(start, min(start + _AT_ONCE, len(self.masks)))):
                    found |= values
        return sorted(found)


def _held_by(
    reading: _Reading, look: list[NDArray[Any]], lists: ClassList | None, asked: MasksHold | None
) -> tuple[MaskFiles, list[Note]]:
    names = reading.folders or (_OBJECT,)
    if asked is None and lists is not None and not reading.folders:
        return _by_list(reading, look, lists)
    if asked == "classes" and lists is not None and not reading.folders:
        return _by_list(reading, look, lists)
    found = held(reading.root, look, asked, by_folder=bool(reading.folders))
    several_each = any(len(own) > 1 for own in reading.masks) and (
        not reading.folders or any(len({folder for _, folder in own}) < len(own) for own in reading.masks)
    )
    if found.is_binary and several_each and asked != "classes":
        return reading.as_held("pieces", names), [Note("Each mask is an object: images have several, and " + found.why)]
    if found.holds == "objects":
        return reading.as_held("numbers", names), [Note(f"The masks hold objects: {found.why}")]
    if reading.folders:
        return reading.as_held("regions", (BACKGROUND, *names), None, 1), [
            Note(f"Each mask is of the class that its folder is called after ({in_a_line(', '.join(names))})")
        ]
    if several_each:
        raise UserError(
            f"images of {reading.root} have several masks each, and these hold several numbers",
            "say by `masks_hold='objects'` that they are of objects, or leave all but one out by `exclude`",
        )
    if found.is_binary:
        values = Values.of({0: 0, found.foreground: 1}, 2)
        return reading.as_held("values", (BACKGROUND, _OBJECT), values), [
            Note(f"The masks hold two classes, {BACKGROUND} and {_OBJECT}: {found.why}")
        ]
    return _by_numbers(reading, found)


def _by_list(reading: _Reading, look: list[NDArray[Any]], lists: ClassList) -> tuple[MaskFiles, list[Note]]:
    in_colour = any(grey_of(mask).ndim == 3 for mask in look)
    is_colour = bool(lists.colours) and (in_colour or _are_palettes(reading, lists))
    if in_colour and not lists.colours:
        raise UserError(
            f"the masks of {reading.root} are in colour, and {lists.file} names no colours",
            "add columns r, g and b to it, or a column color such as #ff8000",
        )
    values = Values.of(lists.colours if is_colour else lists.indices, len(lists.names), is_colour)
    said = f"{several(len(lists.names), 'class')} by {'colour' if is_colour else 'number'}"
    return reading.as_held("values", lists.names, values), [Note(f"The masks hold {said}, as {lists.file} names them")]


def _are_palettes(reading: _Reading, lists: ClassList) -> bool:
    """Whether the numbers stand for colours that the list names: masks with a palette, all of whose colours it has."""
    values = Values.of(lists.colours, len(lists.names), is_colour=True)
    coloured = reading.as_held("values", lists.names, values)
    try:
        for index in range(min(len(coloured), 8)):
            for mask in coloured.pixels(index):
                values.mask(mask)
    except (BrokenImage, OSError):
        return False
    return True


def _by_numbers(reading: _Reading, found: Held) -> tuple[MaskFiles, list[Note]]:
    """Classes that are called by their numbers."""
    numbers = [value for value in reading.all_values() if value != 65_535]
    if numbers and numbers[-1] == 255:  # ignored, unless there are more
        numbers.pop()
    if len(numbers) > _MOST_VALUES:
        raise UserError(
            f"the masks of {reading.root} have {len(numbers):,} different values, which are hardly classes",
            "if they are numbers of objects, give `masks_hold='objects'`; else name the classes in a classes.csv",
        )
    values = Values.of({value: place for place, value in enumerate(numbers)}, len(numbers))
    names = tuple(map(str, numbers))
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return reading.as_held("values", names, values), [
        Note(f"The masks hold classes: {found.why}"),
        Note(f"The {len(names)} classes are called by their numbers ({shown}), for nothing names them",
             "a classes.csv beside the masks does, with a first line index,name"),
    ]  # fmt: skip
