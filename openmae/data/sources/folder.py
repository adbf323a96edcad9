"""A folder of images, any depth; class sub-folders are labels."""

import os
from bisect import bisect_left
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.listing import EXTENSIONS, Listing
from openmae.data.sources.open_file import read_file
from openmae.data.sources.source import Names, Source, Subset
from openmae.errors import UserError

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
SPLIT_NAMES = frozenset(("train", "training", "test", "testing", "val", "valid", "validation"))


class ImageFolder(Source):
    """The images below `root`: paths relative to it, sorted by their bytes, which gives every image its index.

    The listing of a large set is kept between starts and made anew when a folder has changed, that is, when a file
    was added, removed or renamed. A file that was written anew in its place is read as it is now, but of a large set
    the fingerprint does not notice.
    """

    def __init__(self, root: Path, listing: Listing) -> None:
        self.root, self.listing, self.paths = root, listing, listing.names
        self.location = str(root)
        self._prefix = f"{root}/"

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Path relative to the folder."""
        return self.paths[index]

    def path(self, index: int) -> Path:
        """Where image `index` lies."""
        return self.root / self.paths[index]

    def read(self, index: int) -> bytes:
        """The file's bytes. Raises OSError, and BrokenImage for what is no file of a size that images have."""
        return read_file(f"{self._prefix}{self.paths[index]}")

    @property
    def fingerprint(self) -> str:
        """Of the paths and of the sizes that the files had when they were listed."""
        return self.listing.fingerprint

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The class folders' names, sorted. Raises UserError unless there are two or more."""
        return class_folders(self.paths, self.location)[0]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(n,) index into class_names. Raises UserError where there are no class folders."""
        return class_folders(self.paths, self.location)[1]


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
        raise UserError(
            f"{root} holds no images ({', '.join(sorted(e[1:] for e in EXTENSIONS))}), no .tar shards and no .parquet "
            "files",
            "give a folder that does",
        )
    return ImageFolder(root, listing)


def misnamed_splits(source: Source) -> tuple[str, ...]:
    """Names of the folders in a folder of images that look like splits but are none; empty for other sources."""
    whole = source.whole if isinstance(source, Subset) else source
    if not isinstance(whole, ImageFolder):
        return ()
    return tuple(sorted(name for name in SPLIT_NAMES if (whole.root / name).is_dir()))


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
        names.append(name)
        start = end
    if len(names) == 1:
        raise UserError(
            f"all images of {location} are of one class, its folder {names[0]}", "give images of two classes or more"
        )
    if not names:
        raise UserError(
            f"{location} has no labels",
            f"put the images of each class in a folder of its own, {location}/CLASS/..., two classes or more",
        )
    if splits := sorted(SPLIT_NAMES & set(names)):
        raise UserError(
            f"{location} has folders called {' and '.join(splits)}, which are no classes",
            "call the splits train and val, with the class folders inside them",
        )
    return tuple(names), labels
