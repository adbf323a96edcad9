"""The objects of one image: boxes, classes, and which pixels are theirs.

Shapes: n objects of an image of H x W pixels, h x w of them within an object's bounds.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.orientation import upright
from openmae.errors import TooLarge

MOST_BYTES = 2**31  # of all masks of an image as one array


class Piece(NamedTuple):
    """The pixels of one object: a mask (h, w) from row `top` and column `left` of its image on."""

    top: int
    left: int
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), behind the last pixel; of a mask that has pixels at all of its edges."""
        height, width = self.mask.shape
        return self.left, self.top, self.left + width, self.top + height


@dataclass(frozen=True)
class Objects:
    """size: (H, W) of the image as it is decoded, upright. boxes: (n, 4) left, top, right and bottom in its pixels, of
    which the first begins at 0. classes: (n,) index into the names of classes. crowd: (n,) whether it is nothing to
    learn or to judge: several that nobody told apart, or one that is hardly to be seen. pieces: the pixels of each,
    None where boxes are all that is known.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    pieces: tuple[Piece, ...] | None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def masks(self) -> NDArray[np.bool_] | None:
        """(n, H, W), None where boxes are all that is known. Raises BrokenImage where that is more than 2 GiB; the
        pieces are never larger than what is drawn."""
        if self.pieces is None:
            return None
        shape = (len(self), *self.size)
        if np.prod(shape, dtype=np.int64) > MOST_BYTES:
            raise TooLarge(f"{len(self):,} masks of {self.size[0]} x {self.size[1]} pixels are too many", "cut it")
        masks = np.zeros(shape, np.bool_)
        for mask, piece in zip(masks, self.pieces, strict=True):
            height, width = piece.mask.shape
            mask[piece.top : piece.top + height, piece.left : piece.left + width] = piece.mask
        return masks

    def take(self, chosen: NDArray[Any]) -> Self:
        """Some of them. chosen: (n,) bool, or indices."""
        places = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        pieces = None if self.pieces is None else tuple(self.pieces[place] for place in places)
        return type(self)(self.size, self.boxes[places], self.classes[places], self.crowd[places], pieces)

    def turned(self, orientation: int) -> Self:
        """The same of the image turned upright. orientation: 1 to 8, as EXIF numbers them."""
        if orientation == 1:
            return self
        (height, width), boxes = self.size, self.boxes.astype(np.float64)
        if orientation >= 5:
            boxes = boxes[:, [1, 0, 3, 2]]
            height, width = width, height
        if orientation in (2, 3, 6, 7):
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        if orientation in (3, 4, 7, 8):
            boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
        pieces = None
        if self.pieces is not None:
            own = type(self)(self.size, bounds(self.pieces), self.classes, self.crowd, None).turned(orientation)
            corners = own.boxes[:, :2].astype(int).tolist()
            turned = (upright(piece.mask[..., None], orientation)[..., 0] for piece in self.pieces)
            pieces = tuple(Piece(top, left, mask) for (left, top), mask in zip(corners, turned, strict=True))
        return type(self)((height, width), boxes.astype(np.float32), self.classes, self.crowd, pieces)


def bounds(pieces: tuple[Piece, ...]) -> NDArray[np.float32]:
    """(n, 4) the box of each."""
    return np.array([piece.box for piece in pieces], np.float32).reshape(-1, 4)


def cut(mask: NDArray[np.bool_], top: int = 0, left: int = 0) -> Piece | None:
    """The piece of a mask (H, W) that begins at this place, without what is empty around it; None where all is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Piece(top + int(rows[0]), left + int(columns[0]), np.ascontiguousarray(inside))


def numbered(labels: NDArray[Any]) -> list[Piece]:
    """The piece of each number but 0, in ascending order. labels: (H, W) integers, at least 0."""
    from scipy.ndimage import find_objects

    numbers, whose = np.unique(labels, return_inverse=True) if labels.size and labels.max() >= 2**20 else (None, labels)
    if numbers is None:
        numbers = np.flatnonzero(np.bincount(labels.ravel()))
        places = np.zeros(int(numbers[-1]) + 1 if len(numbers) else 1, np.int32)
        places[numbers] = np.arange(len(numbers))
        whose = places[labels]
    if not len(numbers) or numbers[0] != 0:
        whose = whose + 1
    whose = whose.reshape(labels.shape).astype(np.int32)
    return [
        Piece(down.start, across.start, whose[down, across] == number)
        for number, (down, across) in enumerate(find_objects(whose), 1)
    ]
