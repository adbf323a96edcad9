"""What stands beside the images of a source, one for one: the interface, and what is made of one by another."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from openmae.data.annotations.objects import Objects
from openmae.data.annotations.orientations import orientation_of
from openmae.data.formats.orientation import upright
from openmae.data.sources.source import Source

Kind = Literal["classes", "objects", "boxes"]
"""What a label is of. classes: a class of each pixel. objects: the outline of each object; boxes: its box alone."""
BACKGROUND = "background"


def index_type(classes: int) -> type[np.uint8] | type[np.uint16]:
    """Of masks of so many classes: its largest value is what is ignored."""
    return np.uint8 if classes < 256 else np.uint16


def ignored_of(mask: NDArray[Any]) -> int:
    """The value of pixels that nobody judges."""
    return int(np.iinfo(mask.dtype).max)


class Annotations(ABC):
    """What images show, by the index of each. It is small, and can be pickled.

    What cannot be read, or does not fit its image, raises BrokenImage or OSError, as the images do that cannot be read.
    """

    location: str
    names: tuple[str, ...]
    """What the classes are called, in order."""
    kind: Kind

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when what images show does: of files that are read with the images, when their size does."""

    @abstractmethod
    def objects(self, index: int, size: tuple[int, int]) -> Objects:
        """Those of image `index`, which is (H, W). ValueError where classes of pixels are known alone."""

    @abstractmethod
    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """(H, W) the class of each pixel, index into names; the dtype's largest value, 255 or 65535, where it is
        ignored. ValueError where objects are known: `Painted` makes classes of them."""

    @abstractmethod
    def own_size(self, index: int) -> tuple[int, int] | None:
        """(H, W) that what tells of image `index` has itself; None where it has none."""

    def listed(self, index: int) -> int:
        """How many objects image `index` is said to have, those without a pixel in it too; 0 where nobody counts."""
        return 0

    @abstractmethod
    def shown(self, index: int) -> set[int]:
        """Classes, index into names, of which image `index` has an object, or a pixel. Raises OSError and BrokenImage
        where nobody can tell."""

    def called(self, index: int) -> str:
        """The file that tells of image `index`, as it stands in a sentence; empty where one tells of many."""
        return ""

    def take(self, indices: NDArray[np.int64]) -> "Annotations":
        """Those of these images only, in this order."""
        return Chosen(self, indices)


@dataclass(frozen=True)
class Annotated:
    """Images, and what they show, index by index."""

    images: Source
    right: Annotations

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: NDArray[np.int64]) -> "Annotated":
        """Some of them."""
        return Annotated(self.images.take(indices), self.right.take(indices))


class Remade(Annotations):
    """Another's, in another form."""

    def __init__(self, whole: Annotations) -> None:
        self.whole, self.location, self.names = whole, whole.location, whole.names
        self.kind: Kind = whole.kind

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def fingerprint(self) -> str:
        """The other's."""
        return self.whole.fingerprint

    def called(self, index: int) -> str:
        """As the other says."""
        return self.whole.called(index)

    def own_size(self, index: int) -> tuple[int, int] | None:
        """The other's."""
        return self.whole.own_size(index)

    def listed(self, index: int) -> int:
        """As the other says."""
        return self.whole.listed(index)

    def shown(self, index: int) -> set[int]:
        """The other's."""
        return self.whole.shown(index)

    def objects(self, index: int, size: tuple[int, int]) -> Objects:
        """The other's."""
        return self.whole.objects(index, size)

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The other's."""
        return self.whole.mask(index, size)


@final
class Chosen(Remade):
    """Some of another's."""

    def __init__(self, whole: Annotations, indices: NDArray[np.int64]) -> None:
        super().__init__(whole)
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def fingerprint(self) -> str:
        """Of the other and of which these are."""
        return hashlib.sha256(self.whole.fingerprint.encode() + self.indices.tobytes()).hexdigest()

    def called(self, index: int) -> str:
        """As the other says."""
        return self.whole.called(int(self.indices[index]))

    def own_size(self, index: int) -> tuple[int, int] | None:
        """The other's."""
        return self.whole.own_size(int(self.indices[index]))

    def listed(self, index: int) -> int:
        """As the other says."""
        return self.whole.listed(int(self.indices[index]))

    def shown(self, index: int) -> set[int]:
        """The other's."""
        return self.whole.shown(int(self.indices[index]))

    def objects(self, index: int, size: tuple[int, int]) -> Objects:
        """The other's."""
        return self.whole.objects(int(self.indices[index]), size)

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The other's."""
        return self.whole.mask(int(self.indices[index]), size)


@final
class Painted(Remade):
    """Objects as classes of pixels: background, and behind it the classes of the objects. Where objects overlap, the
    later one counts; where several stand as one crowd and no object does, nothing is judged."""

    kind: Kind

    def __init__(self, whole: Annotations) -> None:
        super().__init__(whole)
        self.names, self.kind = (BACKGROUND, *whole.names), "classes"

    def shown(self, index: int) -> set[int]:
        """Background, and the classes of the objects."""
        return {0, *(label + 1 for label in self.whole.shown(index))}

    def objects(self, index: int, size: tuple[int, int]) -> Objects:
        """None are told apart."""
        raise ValueError("objects were made classes of pixels")

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """(H, W)"""
        found = self.whole.objects(index, size)
        if found.pieces is None:
            raise ValueError("boxes have no outlines")
        mask: NDArray[Any] = np.zeros(size, index_type(len(self.names)))
        for place in np.argsort(~found.crowd, kind="stable").tolist():  # crowds first, all others over them
            top, left, piece = found.pieces[place]
            part = mask[top : top + piece.shape[0], left : left + piece.shape[1]]
            part[piece] = ignored_of(mask) if found.crowd[place] else found.classes[place] + 1
        return mask


@final
class Turned(Remade):
    """Of images as they are stored, made those of images as they are seen: turned as each image's EXIF says."""

    def __init__(self, whole: Annotations, images: Source) -> None:
        super().__init__(whole)
        self.images = images

    def _stored(self, index: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
        orientation = orientation_of(self.images.read(index))
        return orientation, size if orientation < 5 else (size[1], size[0])

    def objects(self, index: int, size: tuple[int, int]) -> Objects:
        """Upright."""
        orientation, stored = self._stored(index, size)
        return self.whole.objects(index, stored).turned(orientation)

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Upright."""
        orientation, stored = self._stored(index, size)
        return upright(self.whole.mask(index, stored)[..., None], orientation)[..., 0]
