"""A folder of images, any depth; class sub-folders are labels; `train/` and `val/` inside it are the splits."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openmae.data.order import generator
from openmae.errors import UserError

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))


@dataclass(frozen=True)
class ImageFolder:
    """The images below `root`: paths relative to it, in sorted order, which gives every image its index."""

    root: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Where image `index` lies."""
        return self.root / self.paths[index]

    def read(self, index: int) -> bytes:
        """The file's bytes. Raises OSError."""
        return self.path(index).read_bytes()

    def take(self, indices: NDArray[np.int64]) -> "ImageFolder":
        """These images only, in this order."""
        return replace(self, paths=tuple(self.paths[i] for i in indices))

    @cached_property
    def fingerprint(self) -> str:
        """Changes when an image is added, removed or renamed, or its size in bytes changes."""
        digest = hashlib.sha256()
        for path in self.paths:
            try:
                size = (self.root / path).stat().st_size
            except OSError:
                size = -1
            digest.update(f"{path}\0{size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The class folders' names, sorted. Raises UserError unless there are two or more."""
        names = {path.split("/", 1)[0] for path in self.paths if "/" in path}
        if len(names) < 2 or any("/" not in path for path in self.paths):
            raise UserError(
                f"{self.root} has no labels: put the images of each class in a folder of its own, "
                f"{self.root}/CLASS/..., two classes or more"
            )
        if splits := sorted(names & {"train", "test", "val", "valid", "validation"}):
            raise UserError(
                f"{self.root} has folders called {' and '.join(splits)}, which are no classes: call the splits train "
                "and val, with the class folders inside them"
            )
        return tuple(sorted(names))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(n,) index into class_names. Raises UserError where there are no class folders."""
        number = {name: i for i, name in enumerate(self.class_names)}
        return np.array([number[path.split("/", 1)[0]] for path in self.paths])


def open_folder(data: Path, split: Literal["train", "val"] | None = None) -> ImageFolder:
    """The images of DATA, or of one split of it; of all of it where it has no split folders.

    Raises UserError where there is no folder, or no image in it.
    """
    if not data.exists():
        raise UserError(f"{data} does not exist: give a folder of images")
    if not data.is_dir():
        raise UserError(f"{data} is not a folder: give a folder of images")
    root = data / split if split is not None and has_splits(data) else data
    paths = tuple(sorted(_images(root)))
    if not paths:
        raise UserError(
            f"{root} holds no images ({', '.join(sorted(e[1:] for e in EXTENSIONS))}): give a folder that does"
        )
    return ImageFolder(root, paths)


def has_splits(data: Path) -> bool:
    """Whether DATA is divided into `train/` and `val/`."""
    return (data / "train").is_dir() and (data / "val").is_dir()


def labelled_splits(data: Path, seed: int) -> tuple[ImageFolder, ImageFolder]:
    """(train, val) of labelled DATA. Without split folders, a fifth of each class is held out, by the seed.

    Raises UserError where labels are missing, differ between the splits, or a class has too few images.
    """
    if has_splits(data):
        train, val = open_folder(data, "train"), open_folder(data, "val")
        if unknown := set(val.class_names) - set(train.class_names):
            raise UserError(
                f"{val.root} has classes that {train.root} lacks ({', '.join(sorted(unknown))}): mend the folders"
            )
        return train, val
    everything = open_folder(data)
    train_indices: list[int] = []
    val_indices: list[int] = []
    for label, name in enumerate(everything.class_names):
        members = np.flatnonzero(everything.labels == label)
        if len(members) < 2:
            raise UserError(f"class '{name}' of {data} has one image: give each class two or more")
        members = generator(seed, "split", index=label).permutation(members)
        held_out = max(1, len(members) // 5)
        val_indices.extend(members[:held_out])
        train_indices.extend(members[held_out:])
    return everything.take(np.sort(train_indices)), everything.take(np.sort(val_indices))


def _images(root: Path, prefix: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Relative paths of the images below root. Links to folders are followed, but not in circles; hidden files
    are left out, and so are run folders, whose pictures are no data."""
    try:
        entries = list(os.scandir(root))
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror}): check its permissions") from error
    if {"config.toml", "lock"} <= {entry.name for entry in entries}:
        return
    above |= {os.path.realpath(root)}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink() or os.path.realpath(entry.path) not in above:
                yield from _images(Path(entry.path), f"{prefix}{entry.name}/", above)
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:  # noqa: PTH122 (ten times faster than Path)
            yield prefix + entry.name
