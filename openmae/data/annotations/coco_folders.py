"""COCO's files where people have them: one beside the images, one for each split in annotations/, or one in each
split's folder, as Roboflow writes them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from openmae.console.words import in_a_line, several
from openmae.data.annotations.coco import Coco, add_objects, looks_like_coco, read_coco, same_classes
from openmae.data.annotations.found import Found, images_of
from openmae.data.annotations.listed import Listing, listed
from openmae.data.annotations.splits import Places, by_folders
from openmae.data.annotations.tally import Tally
from openmae.data.sources import listing as files
from openmae.data.sources.selection import Selection
from openmae.data.sources.splits import Kind, split_in_path, split_of
from openmae.errors import UserError

_MOST_FILES = 64  # of JSON that are looked into
_TRIED = 200  # names by which the folder of the images is found


def coco_files(root: Path) -> list[Path]:
    """The files in a folder, and in the folders in it, that may be COCO's."""
    found = sorted([*root.glob("*.json"), *root.glob("*/*.json")])
    if len(found) > _MOST_FILES:  # one an image, as other tools write
        found = [file for file in found if "coco" in file.name.lower() or file.name.startswith("instances")]
    found = [file for file in found if file.is_file() and looks_like_coco(file)]
    instances = [file for file in found if file.name.startswith("instances")]
    return instances or found


def open_coco(root: Path, paths: Sequence[Path], listing: files.Listing, selection: Selection) -> Found | None:
    """None where none of the files is COCO's. Raises UserError where they do not fit each other or the images."""
    tally = Tally()
    read = [coco for path in paths if (coco := read_coco(path, tally)) is not None]
    if not read:
        return None
    by_kind = _by_split(root, read, selection)
    first = next(iter(by_kind.values()))
    for coco in by_kind.values():
        same_classes([*first.names.values()], [*coco.names.values()], (str(first.file), str(coco.file)))
    names = tuple(first.names.values())
    numbers = {name: number for number, name in enumerate(names)}
    objects, images, places = Listing(), list[str](), dict[Kind, Any]()
    lookup = _Lookup(root, listing)
    for kind, coco in by_kind.items():
        start = len(images)
        _check_one_each(coco)
        for image, name in lookup.resolved(coco, kind, tally):
            images.append(name)
            add_objects(objects, coco, image, numbers, tally)
        if kind != "all" and not selection.is_one_set:
            places[kind] = np.arange(start, len(images))
    taken = ", ".join(f"{by_kind[kind].file.relative_to(root)} for {kind}" for kind in places)
    shown: Places = places
    if not places:
        shown, taken = by_folders(str(root), [PurePosixPath(name).parts[:-1] for name in images], selection)
    if unlisted := len(listing.names) - len({*images}):
        tally.add("{n} image{s} {are} not listed, and left out", lookup.first_but(images), "", unlisted)
    right = listed(str(root), names, objects, tally)
    what = f"COCO, {several(len(by_kind), 'file')}"
    return Found(what, images_of(root, listing, images), right, shown, taken, tally)


def _check_one_each(coco: Coco) -> None:
    """Raises UserError where two of its images are one file."""
    seen: set[str] = set()
    for _, name, _ in coco.images:
        if name in seen:
            raise UserError(f"{coco.file} lists the image {in_a_line(name)} twice", "keep one of the entries")
        seen.add(name)


def _by_split(root: Path, read: Sequence[Coco], selection: Selection) -> dict[Any, Coco]:
    """The one file of all, or the file of each split, train first. Raises UserError where there are others."""
    if len(read) == 1:
        return {"all": read[0]}
    kinds: dict[Any, list[Coco]] = defaultdict(list)
    for coco in read:
        name = str(coco.file.relative_to(root))
        if selection.pair is not None:
            words = [word in name for word in selection.pair]
            kinds["train" if words[0] else "val" if words[1] else None].append(coco)
        else:
            kinds[split_in_path(name)].append(coco)
    if selection.pair is not None:
        kinds.pop(None, None)
    if None in kinds or any(len(found) > 1 for found in kinds.values()) or "train" not in kinds:
        shown = in_a_line(", ".join(str(coco.file.relative_to(root)) for coco in read[:4]))
        raise UserError(
            f"{root} has {len(read)} files of annotations ({shown}), and their names do not tell one for train and one "
            "for val",
            "give the one that is meant in the place of the folder, or call them so",
        )
    return {kind: kinds[kind][0] for kind in ("train", "val", "test") if kind in kinds}


class _Lookup:
    """Finds the images that a file names."""

    def __init__(self, root: Path, listing: files.Listing) -> None:
        self.root, self.names = root, {*listing.names}
        self.folders = sorted({name.rpartition("/")[0] for name in self.names})
        self.by_base: dict[str, list[str]] = defaultdict(list)
        for name in listing.names:
            self.by_base[name.rpartition("/")[2]].append(name)

    def resolved(self, coco: Coco, kind: str, tally: Tally) -> Iterator[tuple[int, str]]:
        """(number among its images, name in the listing) of those that are there. Raises UserError where none is."""
        wanted = [_plain(name) for _, name, _ in coco.images]
        prefix = self._prefix(coco, kind, wanted[:_TRIED])
        taken: set[str] = set()
        for number, name in enumerate(wanted):
            place = self._alone(name) if prefix is None else f"{prefix}{name}"
            if place in self.names and place not in taken:
                taken.add(place)
                yield number, place
            else:
                tally.add("{n} listed image{s} {are} not there, and {are} left out", coco.images[number][1])
        if not taken:
            raise UserError(
                f"none of the {len(wanted):,} images that {coco.file} lists is in {self.root} (the first is "
                f"{in_a_line(coco.images[0][1])})",
                "give the folder that holds both, or mend the names",
            )

    def _prefix(self, coco: Coco, kind: str, wanted: Sequence[str]) -> str | None:
        """The folder, with a slash, that the names are relative to, in which most are found; None where none is."""
        beside = str(coco.file.parent.relative_to(self.root)).removeprefix(".")
        ours = [folder for folder in self.folders if split_of(folder.rpartition("/")[2]) == kind]
        tried = [beside, f"{beside}/images".lstrip("/"), *ours, "", "images", *self.folders]
        counts = {
            prefix: sum(f"{prefix}{name}" in self.names for name in wanted)
            for prefix in (f"{folder}/" if folder else "" for folder in dict.fromkeys(tried))
        }
        best = max(counts, key=lambda prefix: counts[prefix])
        return best if counts[best] else None

    def _alone(self, name: str) -> str:
        """The only file of that name, of paths that are another machine's; empty where there is none, or several."""
        found = self.by_base.get(name.rpartition("/")[2], [])
        return found[0] if len(found) == 1 else ""

    def first_but(self, taken: Sequence[str]) -> str:
        """The first image that is not among these."""
        return min(self.names - {*taken})


def _plain(name: str) -> str:
    """A file name as COCO has it, as a path from some folder on."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts)
