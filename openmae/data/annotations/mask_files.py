"""Masks that are files of their own, one or more for each image."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from openmae.data.annotations.annotations import Annotations, Kind, ignored_of, index_type
from openmae.data.annotations.classes import Values
from openmae.data.annotations.label_images import grey_of, label_image, label_size
from openmae.data.annotations.objects import Objects, Piece, bounds, cut, numbered
from openmae.data.sources.open_file import read_file
from openmae.data.sources.source import Names
from openmae.errors import BrokenImage

Holding = Literal["values", "regions", "numbers", "pieces"]
"""What the pixels of a mask are. values: numbers or colours of classes. regions: of the class that its folder is called
after, wherever they are not 0. numbers: of objects, each its own. pieces: of one object, wherever they are not 0."""
_VOID = 255  # of 8-bit masks in which nothing is 254: the border that nobody judges


@dataclass(frozen=True)
class Files:
    """Masks, those of an image beside each other. paths: relative to root; sizes: (files,) in bytes; starts: (n + 1,)
    where those of each image begin."""

    root: str
    paths: Names
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]


@final
class MaskFiles(Annotations):
    """classes: (files,) index into names of each file, where its folder tells. values: what numbers are, where masks
    hold classes."""

    def __init__(
        self,
        files: Files,
        holding: Holding,
        names: tuple[str, ...],
        classes: NDArray[np.int64],
        values: Values | None = None,
    ) -> None:
        self.location, self.paths, self.sizes, self.starts = files.root, files.paths, files.sizes, files.starts
        self.holding, self.names, self.classes, self.values = holding, names, classes, values
        self.kind: Kind = "classes" if holding in ("values", "regions") else "objects"

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def fingerprint(self) -> str:
        """Of the names of the files, their sizes when they were listed, and of what is read as what."""
        digest = hashlib.sha256(f"{self.holding} {self.names}".encode(errors="surrogateescape"))
        for part in (self.paths.text, self.paths.ends, self.sizes, self.starts, self.classes):
            digest.update(part.tobytes())
        if self.values is not None:
            digest.update(self.values.values.tobytes() + self.values.classes.tobytes())
        return digest.hexdigest()

    def files(self, index: int) -> list[str]:
        """Those of image `index`."""
        return self.paths[int(self.starts[index]) : int(self.starts[index + 1])]

    def called(self, index: int) -> str:
        """The first of its files."""
        return self.paths[int(self.starts[index])]

    def pixels(self, index: int, size: tuple[int, int] | None = None) -> list[NDArray[Any]]:
        """(H, W) or (H, W, 3) of each file. Raises BrokenImage where one is of another size."""
        found = []
        for file in self.files(index):
            try:
                own = label_image(
                    read_file(os.path.join(self.location, file)),  # noqa: PTH118
                    self.values is not None and self.values.is_colour,
                )
            except BrokenImage as error:
                raise BrokenImage(f"its mask {file} cannot be read: {error.what}", error.advice) from error
            if size is not None and own.shape[:2] != size:
                raise BrokenImage(
                    f"its mask {file} is {own.shape[0]} x {own.shape[1]} pixels, and the image {size[0]} x {size[1]}",
                    "make both one size",
                )
            found.append(own)
        return found

    def own_size(self, index: int) -> tuple[int, int] | None:
        """Of its first mask."""
        return label_size(read_file(os.path.join(self.location, self.called(index))))  # noqa: PTH118

    def listed(self, index: int) -> int:
        """As many as there are files, where each is an object."""
        return int(self.starts[index + 1] - self.starts[index]) if self.holding == "pieces" else 0

    def shown(self, index: int) -> set[int]:
        """Of numbers of classes, those that are not ignored; otherwise those of the files in which anything is not
        0."""
        found = self.pixels(index)
        if self.values is None:
            own = self.classes[int(self.starts[index]) : int(self.starts[index + 1])].tolist()
            return {label for label, pixels in zip(own, found, strict=True) if pixels.any()}
        mask = self.values.mask(found[0])
        return {*np.unique(mask).tolist()} - {ignored_of(mask)}

    def objects(self, index: int, size: tuple[int, int]) -> Objects:
        """Those of all of its files."""
        if self.kind == "classes":
            raise ValueError("classes of pixels are known alone")
        pieces: list[Piece] = []
        classes: list[int] = []
        first = int(self.starts[index])
        for number, pixels in enumerate(self.pixels(index, size), first):
            own = numbered(numbers_of(pixels)) if self.holding == "numbers" else _one(pixels)
            pieces += own
            classes += [int(self.classes[number])] * len(own)
        found = tuple(pieces)
        return Objects(size, bounds(found), np.array(classes, np.int64), np.zeros(len(found), np.bool_), found)

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """(H, W), of regions the later folder over the earlier."""
        if self.kind == "objects":
            raise ValueError("objects are no classes of pixels until they are painted")
        found = self.pixels(index, size)
        if self.values is not None:
            return self.values.mask(found[0])
        mask: NDArray[Any] = np.zeros(size, index_type(len(self.names)))
        for number, pixels in enumerate(found, int(self.starts[index])):
            mask[any_of(pixels)] = self.classes[number]
        return mask


def any_of(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """(H, W) where it is not 0."""
    return np.asarray(pixels.any(-1) if pixels.ndim == 3 else pixels != 0)


def _one(pixels: NDArray[Any]) -> list[Piece]:
    piece = cut(any_of(pixels))
    return [] if piece is None else [piece]


def numbers_of(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W) the number of each object: colours are numbers too, and what is void is no object."""
    numbers = grey_of(pixels)
    if numbers.ndim == 3:
        return numbers.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    if numbers.dtype == np.uint8 and (void := numbers == _VOID).any():
        others = numbers[~void]
        if others.any() and (others != _VOID - 1).all():
            return np.where(void, 0, numbers)
    return numbers
