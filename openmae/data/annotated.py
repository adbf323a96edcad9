"""Opens annotated DATA, whatever format it has.

images/ with masks/ of the same names     classes of pixels, or numbers of objects; train/ and val/ either way up
COCO's JSON, YOLO's data.yaml, Pascal VOC's XML
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.console.words import in_a_line
from openmae.data.annotations.annotations import Annotated, Annotations, Painted
from openmae.data.annotations.coco_folders import coco_files, open_coco
from openmae.data.annotations.fitting import fitted
from openmae.data.annotations.found import Found
from openmae.data.annotations.holding import MasksHold
from openmae.data.annotations.mask_folders import Wanted, open_masks
from openmae.data.annotations.voc import is_voc, open_voc, xml_files
from openmae.data.annotations.yolo import open_yolo, read_yaml, yaml_files
from openmae.data.dividing import check_apart, together, without_a_fifth
from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.held_out import without_a_fifth_of_all
from openmae.data.note import Note
from openmae.data.opening import Data, Split
from openmae.data.parts import Openers, Parts
from openmae.data.sources.listing import Listing, list_images, matching
from openmae.data.sources.selection import WHOLE, Selection
from openmae.data.sources.source import Source, Subset
from openmae.errors import BrokenImage, UserError

_FORMATS = (
    "a folder with images/ and masks/ of the same names, COCO's JSON, YOLO's data.yaml or Pascal VOC's XML with the "
    "images, each as docs/labels.md shows it"
)


@dataclass(frozen=True)
class AnnotatedData:
    """Annotated DATA: it was listed once. all: every image that has an annotation. data: the images alone, with the
    splits that they have. format: in words. notes: what is worth saying of the files.
    """

    all: Annotated
    data: Data
    format: str
    notes: tuple[Note, ...]

    @property
    def location(self) -> str:
        """As it was given."""
        return self.data.location

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called, in order."""
        return self.all.right.names

    def split(self, which: Split) -> Annotated:
        """As `Data.split`."""
        return self.of(self.data.split(which))

    def of(self, images: Source) -> Annotated:
        """Some of its images, with what they show."""
        if images is self.all.images:
            return self.all
        if not isinstance(images, Subset) or images.whole is not self.all.images:
            raise ValueError("these are no images of this")
        return Annotated(images, self.all.right.take(images.indices))


def open_annotated(
    data: str,
    wanted: Wanted | None,
    *,
    reading: Reading = UNSAID,
    selection: Selection = WHOLE,
    masks_hold: MasksHold | None = None,
) -> AnnotatedData:
    """Looks what DATA is, and what it holds.

    wanted: "segment" (classes of pixels, which objects are made of too) or "detect" (objects); None: as they are.
    masks_hold: what numbers in masks are; None: as they look. Raises UserError where there is nothing of the kind,
    where it is not clear, and where what is there contradicts itself.
    """
    if selection.tile is not None:
        raise UserError("`tile` is for images without annotations", "leave it out")
    opened = find_annotated(data, wanted, reading, selection, masks_hold)
    if opened is None:
        raise UserError(f"{data} has no images with annotations that are read", f"give {_FORMATS}")
    return opened


def find_annotated(
    data: str,
    wanted: Wanted | None,
    reading: Reading,
    selection: Selection,
    masks_hold: MasksHold | None,
    listing: Listing | None = None,
) -> AnnotatedData | None:
    """As `open_annotated`, but None where nothing says what images show. listing: of a folder, what of it is asked for,
    where that is known."""
    found = _found(data, wanted, selection, masks_hold, listing)
    if found is None:
        return None
    right, notes = fitted(data, found.images, _as_wanted(data, found.right, wanted), reading)
    whole = Annotated(found.images, right)
    openers: Openers = {"all": lambda: found.images}
    openers.update((kind, partial(found.images.take, places)) for kind, places in found.places.items())
    images = Data(data, Parts(openers, found.taken), selection)
    opened = AnnotatedData(whole, images, found.format, (*found.notes, *notes, *found.tally.notes()))
    for kind, places in found.places.items():
        _check_not_empty(opened, kind, places)
    if not found.places:
        _check_not_empty(opened, "", np.arange(len(whole)))
    return opened


def train_and_val(opened: AnnotatedData, seed: int) -> tuple[Annotated, Annotated]:
    """Its splits; without any, a fifth of the images is held out by the seed, the same every time, groups of images
    whole. Raises UserError where the two have a file or a group in common."""
    data = opened.data
    if data.has_splits:
        train, val = data.train, data.val
    elif (groups := together(data)) is not None:
        train, val = without_a_fifth(data, groups, None, seed)
    else:
        train, val = without_a_fifth_of_all(data.all, seed)
    check_apart(data, train, val)
    return opened.of(train), opened.of(val)


def _found(
    data: str, wanted: Wanted | None, selection: Selection, asked: MasksHold | None, listing: Listing | None
) -> Found | None:
    place = Path(data)
    if place.is_file() and place.suffix.lower() == ".json":
        root = place.parent.parent if place.parent.name.lower() == "annotations" else place.parent
        found = open_coco(root, [place], _listed(root, selection), selection)
        if found is None:
            raise UserError(
                f"{place} has no images, annotations and categories, as COCO's JSON has", f"give {_FORMATS}"
            )
        return found
    if place.is_file() and place.suffix.lower() in (".yaml", ".yml"):
        if (described := read_yaml(place)) is None:
            raise UserError(f"{place} names no classes, as YOLO's data.yaml does", f"give {_FORMATS}")
        root = described.root if described.root.is_dir() else place.parent
        return open_yolo(root, described, _listed(root, selection), selection)
    if not place.is_dir():
        raise UserError(f"{data} {'is no folder' if place.exists() else 'does not exist'}", f"give {_FORMATS}")
    listing = _listed(place, selection) if listing is None else listing
    if not len(listing.names):
        return None
    endings = {one.ending for one in listing.others}
    if ".json" in endings and (files := coco_files(place)):
        found = open_coco(place, files, listing, selection)
        if found is not None:
            return found
    if endings & {".yaml", ".yml"}:
        describe = [one for file in yaml_files(place) if (one := read_yaml(file)) is not None]
        if len(describe) > 1:
            raise UserError(
                f"{place} has several files that name classes ({', '.join(one.file.name for one in describe)})",
                "give the one that is meant in the place of the folder",
            )
        if describe:
            return open_yolo(place, describe[0], listing, selection)
    boxes = [file for file in xml_files(place) if is_voc(file)] if ".xml" in endings else []
    if boxes and wanted != "segment" and asked is None:
        return open_voc(place, boxes, listing, selection)
    if (found := open_masks(place, listing, selection, wanted, asked)) is not None:
        return found
    if boxes:
        return open_voc(place, boxes, listing, selection)
    return open_yolo(place, None, listing, selection) if ".txt" in endings else None


def _listed(root: Path, selection: Selection) -> Listing:
    return matching(list_images(root), selection)


def _as_wanted(location: str, right: Annotations, wanted: Wanted | None) -> Annotations:
    if wanted == "segment" and right.kind == "objects":
        return Painted(right)
    if wanted == "segment" and right.kind == "boxes":
        raise UserError(f"{location} has boxes, which have no outlines to segment", "detect them by openmae detect")
    if wanted == "detect" and right.kind == "classes":
        raise UserError(
            f"the masks of {location} hold classes, {', '.join(right.names[:4])}, and no objects to detect",
            "segment them by openmae segment, or, if each number is an object, give `masks_hold='objects'`",
        )
    return right


def _check_not_empty(opened: AnnotatedData, kind: str, places: NDArray[np.int64]) -> None:
    """Raises UserError where no image of a split shows anything, or all pixels of its masks are of one class."""
    right = opened.all.right
    of = f"the split {kind} of {opened.location}" if kind else opened.location
    if not len(places):
        raise UserError(f"{of} has no annotated image", "give some")
    why_none, shown = "", set[int]()
    enough = 2 if right.kind == "classes" and len(right.names) > 1 else 1
    for index in places if kind != "test" else ():
        try:
            shown |= right.shown(int(index))
            if len(shown) >= enough:
                return
        except (OSError, BrokenImage) as error:
            why_none = why_none or f"{right.called(int(index))}: {error}".removeprefix(": ")
    if kind == "test":
        return
    if why_none and not shown:
        raise UserError(f"{of} has no image whose annotation can be used (the first: {why_none})", "mend them")
    what = "no object at all" if right.kind != "classes" else "no pixel that is judged"
    for only in shown:
        what = f"no pixel of any class but {in_a_line(right.names[only])}"
    raise UserError(f"{of} has {what}", "give annotations that have some, or leave the split out")
