"""A folder of images, any depth; class sub-folders are labels."""

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.labels import NO_LABEL, LabelledSource, class_name
from openmae.data.sources.listing import EXTENSIONS, SLIDES, Listing
from openmae.data.sources.named_files import NamedFiles
from openmae.data.sources.source import LabelKind, Names
from openmae.data.sources.splits import split_of
from openmae.errors import UserError

_SHOWN = 5  # kinds of files in a sentence
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


class ImageFolder(NamedFiles):
    """The images below `root`: paths relative to it, sorted by their bytes, which gives every image its index.

    The listing of a large set is kept between starts and made anew when a folder has changed, that is, when a file
    was added, removed or renamed. A file that was written anew in its place is read as it is now, but of a large set
    the fingerprint does not notice.
    """

    def __init__(self, root: Path, listing: Listing) -> None:
        self.root, self.listing, self.paths = root, listing, listing.names
        self.location = str(root)
        self._prefix = f"{root}/"

    def path(self, index: int) -> Path:
        """Where image `index` lies."""
        return self.root / self.paths[index]

    def file(self, index: int) -> str:
        """Where image `index` lies."""
        return f"{self._prefix}{self.paths[index]}"

    @property
    def fingerprint(self) -> str:
        """Of the paths and of the sizes that the files had when they were listed."""
        return self.listing.fingerprint

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The class folders' names, sorted. Raises UserError unless there are two or more."""
        return class_folders(self.paths, self.location)[0]

    @property
    def label_kind(self) -> LabelKind:
        """The names of folders."""
        return "folders"

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(n,) index into class_names. Raises UserError where there are no class folders."""
        return class_folders(self.paths, self.location)[1]


class SplitFolder(ImageFolder, LabelledSource):
    """A folder of images with folders for splits in it: the classes are the folders inside these.

    parts: the images of each such folder, by its path from root. What lies elsewhere, or is reached from a split alone,
    has no label.
    """

    label_advice = "leave out what lies beside the splits, by `exclude`, or give one of them"

    def __init__(self, root: Path, listing: Listing, parts: Mapping[str, ImageFolder]) -> None:
        super().__init__(root, listing)
        labelled = {folder: part for folder, part in parts.items() if _has_labels(part)}
        self.classes = tuple(sorted({name for part in labelled.values() for name in part.class_names}))
        number = {name: i for i, name in enumerate(self.classes)}
        self.numbers = np.full(len(self), NO_LABEL, np.int64) if labelled else None
        for folder, part in labelled.items():
            labels = np.array([number[name] for name in part.class_names])[part.labels]
            for own, place in _places(part.paths, folder, self.paths):
                self.numbers[place] = labels[own]  # type: ignore[index]

    class_names = LabelledSource.class_names
    labels = LabelledSource.labels


def _has_labels(part: ImageFolder) -> bool:
    try:
        return len(part.class_names) > 0
    except UserError:
        return False


def _places(paths: Names, folder: str, whole: Names) -> Iterator[tuple[int, int]]:
    """(index in the sorted paths of a folder, index in the sorted paths of the whole) of what is in both."""
    place = bisect_left(whole, os.fsencode(f"{folder}/"), key=os.fsencode)
    for own, path in enumerate(paths):
        wanted = os.fsencode(f"{folder}/{path}")
        while place < len(whole) and os.fsencode(whole[place]) < wanted:
            place += 1
        if place < len(whole) and os.fsencode(whole[place]) == wanted:
            yield own, place


def unpacking(archive: str) -> str:
    """What to do about a compressed archive."""
    if archive.endswith(".zip"):
        return "unzip it and give the folder"
    return (
        f"{'gunzip' if archive.endswith('gz') else 'uncompress'} it and give the .tar, or unpack it and give the folder"
    )


def open_folder(root: Path, listing: Listing) -> ImageFolder:
    """The images that were listed below root. Raises UserError where there is none."""
    if not len(listing.names):
        if packed := next((path for path in root.rglob("*") if path.name.endswith(COMPRESSED)), None):
            raise UserError(f"{root} holds no images, but {packed.relative_to(root)}", unpacking(packed.name))
        counts = Counter[str]()
        for one in listing.others:
            counts[one.ending or "without extension"] += one.number
        are_slides = any(ending[1:].encode() in SLIDES for ending in counts)
        others = ", ".join(f"{count:,} {ending}" for ending, count in counts.most_common(_SHOWN))
        raise UserError(
            f"{root} holds no images ({', '.join(sorted(e[1:] for e in EXTENSIONS))}), no .tar shards and no .parquet "
            f"files{f', but files that are not read: {others}' if others else ''}",
            "read whole slides in windows, by `tile='512'`" if are_slides else "give a folder that does",
        )
    return ImageFolder(root, listing)


def class_folders(paths: Names, location: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """(class names, labels (n,)) of sorted paths: the first folder of each. Raises UserError unless there are two."""
    names: list[str] = []
    labels = np.empty(len(paths), np.int64)
    start = 0
    while start < len(paths):
        name, slash, _ = paths[start].partition("/")
        if not slash:
            names.clear()
            break
        after = os.fsencode(name) + b"0"  # the character that follows the slash
        end = bisect_left(paths, after, start, key=os.fsencode)
        labels[start:end] = len(names)
        names.append(class_name(name))
        start = end
    if twice := next((name for name in names if names.count(name) > 1), None) if len({*names}) < len(names) else None:
        raise UserError(f"{location} has two folders that are both called {twice} when it is written", "rename one")
    if len(names) == 1:
        advice = f"give {location}/{names[0]}" if split_of(names[0]) else "give images of two classes or more"
        raise UserError(f"all images of {location} are of one class, its folder {names[0]}", advice)
    if not names:
        raise UserError(
            f"{location} has no labels",
            f"put the images of each class in a folder of its own, {location}/CLASS/..., two classes or more",
        )
    return tuple(names), labels
