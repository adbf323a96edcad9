"""Large images as windows of one size: where they lie, what they are called, and a source of them.

A window is called as its image is, and behind that is its place, in pixels of the upright image from its top left
corner, as W3C's Media Fragments write it: `slides/a.svs#xywh=1024,512,512,512`. Whoever has the name can stitch.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.joined import Joined
from openmae.data.sources.source import LabelKind, Remade, Source, Subset
from openmae.errors import BrokenImage, UserError

MIN_DETAIL = 0.05
_LEAST, _MOST = 16, 8192  # pixels a side
_WORD = re.compile(r"(\d{1,9})(?::(\d{1,9}))?")
_MARK = b"#xywh="
_NAME = re.compile(r"(.*)#xywh=(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", re.DOTALL)


class Window(NamedTuple):
    """Pixels x to x + width and y to y + height of the image `path`, upright."""

    path: str
    x: int
    y: int
    width: int
    height: int


def window_of(name: str) -> Window | None:
    """The window that is called so; None for the name of a whole image."""
    found = _NAME.fullmatch(name)
    return None if found is None else Window(found[1], *(int(number) for number in found.groups()[1:]))


def has_windows(source: Source) -> bool:
    """Whether some of its images are windows, cut here or when they were packed."""
    if isinstance(source, Subset):
        return has_windows(source.whole)
    if isinstance(source, Remade):
        return has_windows(source.source)
    if isinstance(source, Joined):
        return any(map(has_windows, source.parts))
    if isinstance(source, Windows):
        return bool(source.places.boxes.any())
    return (names := source.all_names) is not None and _MARK in names.text.tobytes()


def image_of(name: str) -> str:
    """What the image is called that a window is of; a whole image's own name."""
    window = window_of(name)
    return name if window is None else window.path


@dataclass(frozen=True)
class Tiling:
    """How images are cut. side: of a window, in pixels; overlap: pixels that neighbours have in common, at least;
    min_detail: share, 0 to 1, of a window that is not background, below which it is left out (tiles/detail.py)."""

    side: int
    overlap: int = 0
    min_detail: float = MIN_DETAIL

    @classmethod
    def asked(cls, word: str, min_detail: float | None) -> "Tiling":
        """What "512" or "512:64" asks for. Raises UserError for what cannot be."""
        found = _WORD.fullmatch(word.strip())
        if found is None:
            raise UserError(
                f"`tile` is '{word}'", "give a number of pixels, such as 512, or with the overlap, such as 512:64"
            )
        side, overlap = int(found[1]), int(found[2] or 0)
        if not _LEAST <= side <= _MOST:
            raise UserError(f"`tile` is {word}: windows of {side:,} pixels a side", f"give {_LEAST} to {_MOST}")
        if overlap >= side:
            raise UserError(f"`tile` is {word}: windows cannot overlap by all of their {side} pixels", "give less")
        share = MIN_DETAIL if min_detail is None else min_detail
        if not 0 <= share <= 1:
            raise UserError(f"`tile_min_detail` is {share:g}", "give a share from 0 to 1; 0 leaves nothing out")
        return cls(side, overlap, share)

    def places(self, length: int) -> NDArray[np.int64]:
        """Where windows begin along a side of so many pixels. The last one ends where the image does, so that it
        overlaps more and nothing is padded; a side that is no longer than a window is taken whole."""
        if length <= self.side:
            return np.zeros(1, np.int64)
        step = self.side - self.overlap
        last = length - self.side
        return np.minimum(np.arange(0, last + step, step), last)

    def count(self, size: tuple[int, int]) -> int:
        """How many windows an image (height, width) has."""
        return len(self.places(size[0])) * len(self.places(size[1]))

    def grid(self, size: tuple[int, int]) -> NDArray[np.int64]:
        """(n, 4) x, y, width and height of the windows of an image (height, width), row by row."""
        height, width = size
        rows, columns = self.places(height), self.places(width)
        y, x = (found.reshape(-1) for found in np.meshgrid(rows, columns, indexing="ij"))
        sides = np.broadcast_to([min(width, self.side), min(height, self.side)], (len(x), 2))
        return np.column_stack([x, y, sides])


WHOLE_IMAGE = (0, 0, 0, 0)
"""In place of x, y, width and height, of an image that is taken as it is: it is small, or it cannot be read."""


@dataclass(frozen=True)
class Places:
    """of (n,): which image each window is of, ascending; boxes (n, 4): x, y, width, height, or WHOLE_IMAGE; broken: why
    an image cannot be cut, which then stands there whole; notes: what is to be said of them."""

    of: NDArray[np.int64]
    boxes: NDArray[np.int32]
    broken: Mapping[int, str]
    notes: tuple[str, ...] = ()


class Windows(Source):
    """The windows of another source's images, image by image. cut: -> the encoded window (x, y, width, height) of an
    image; it raises as `Source.read` does. Labels and groups are the image's, and all its windows belong together."""

    def __init__(
        self,
        source: Source,
        tiling: Tiling,
        places: Places,
        cut: Callable[[Source, int, tuple[int, int, int, int]], bytes],
    ) -> None:
        self.source, self.tiling, self.places, self.cut = source, tiling, places, cut
        self.location = source.location

    def __len__(self) -> int:
        return len(self.places.of)

    def name(self, index: int) -> str:
        """The image's, with the place behind it where it is not all of it."""
        image, box = self._place(index)
        name = self.source.name(image)
        return name if box == WHOLE_IMAGE else f"{name}#xywh={','.join(map(str, box))}"

    def file(self, index: int) -> str | None:
        """Of an image that is taken whole."""
        image, box = self._place(index)
        return self.source.file(image) if box == WHOLE_IMAGE else None

    def read(self, index: int) -> bytes:
        """The window, encoded as formats.window does it, or the image where it is taken whole."""
        image, box = self._place(index)
        if image in self.places.broken:
            raise BrokenImage(self.places.broken[image])
        return self.source.read(image) if box == WHOLE_IMAGE else self.cut(self.source, image, box)

    def _place(self, index: int) -> tuple[int, tuple[int, int, int, int]]:
        x, y, width, height = self.places.boxes[index].tolist()
        return int(self.places.of[index]), (x, y, width, height)

    @property
    def fingerprint(self) -> str:
        """Of the images and of which windows these are."""
        digest = hashlib.sha256(f"{self.source.fingerprint} {self.tiling.side}".encode())
        digest.update(self.places.of.tobytes())
        digest.update(self.places.boxes.tobytes())
        return digest.hexdigest()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The source's."""
        return self.source.class_names

    @property
    def label_kind(self) -> LabelKind:
        """The source's."""
        return self.source.label_kind

    @property
    def labels(self) -> NDArray[np.int64]:
        """Each window's image's."""
        return self.source.labels[self.places.of]

    @property
    def packed_as(self) -> Mapping[str, Any]:
        """The source's."""
        return self.source.packed_as

    @property
    def notes(self) -> tuple[str, ...]:
        """How many windows there are, and what was left out."""
        return self.places.notes

    @property
    def together(self) -> NDArray[np.int64]:
        """All windows of an image, and of images that belong together."""
        groups = self.source.together
        return self.places.of if groups is None else groups[self.places.of]
