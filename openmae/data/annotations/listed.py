"""Objects that a file lists: boxes, polygons and run lengths, in a few arrays whatever their number.

Shapes: n images, m objects, of which some have outlines: polygons of several rings, or run lengths.
"""

import hashlib
from array import array
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from openmae.data.annotations.annotations import Annotations, Kind
from openmae.data.annotations.drawing import polygons, runs
from openmae.data.annotations.objects import Objects, Piece, bounds
from openmae.data.annotations.tally import Tally
from openmae.errors import BrokenImage


class Listing:
    """Objects as they are read, those of an image one after the other."""

    def __init__(self) -> None:
        self.starts, self.sizes = array("q", [0]), array("q")
        self.boxes, self.classes, self.crowd = array("d"), array("q"), array("b")
        self.rings, self.points = array("q", [0]), array("d")
        self.of_rings, self.of_runs = array("q", [0]), array("q", [0])
        self.counts = array("I")

    def add(
        self,
        label: int,
        box: Sequence[float] | None,
        rings: Sequence[NDArray[np.float64]] = (),
        counts: NDArray[np.int64] | None = None,
        crowd: bool = False,
    ) -> None:
        """One object of the image that is being read. box: left, top, right, bottom; None where its outline tells."""
        self.classes.append(label)
        self.crowd.append(crowd)
        self.boxes.extend((np.nan,) * 4 if box is None else box)
        for ring in rings:
            self.points.frombytes(np.ascontiguousarray(ring, np.float64).tobytes())
            self.rings.append(len(self.points) // 2)
        if counts is not None:
            self.counts.frombytes(counts.astype(np.uint32).tobytes())
        self.of_rings.append(len(self.rings) - 1)
        self.of_runs.append(len(self.counts))

    def end_image(self, size: tuple[int, int]) -> None:
        """The image has no more. size: (H, W) as the file says it, (0, 0) where it does not."""
        self.starts.append(len(self.classes))
        self.sizes.extend(size)


@final
class Listed(Annotations):
    """relative: whether points and boxes are shares of the image's sides. with_pieces: whether outlines are known; an
    object without one is left out then."""

    def __init__(self, location: str, names: tuple[str, ...], listing: Listing, kind: Kind, relative: bool) -> None:
        self.location, self.names, self.kind, self.relative = location, names, kind, relative
        self.starts, self.sizes = _array(listing.starts), _array(listing.sizes).reshape(-1, 2)
        self.boxes = np.array(listing.boxes, np.float32).reshape(-1, 4)
        self.classes, self.crowd = _array(listing.classes), np.array(listing.crowd, np.bool_)
        self.rings, self.of_rings = _array(listing.rings), _array(listing.of_rings)
        self.points = np.array(listing.points, np.float64).reshape(-1, 2)
        self.counts, self.of_runs = np.array(listing.counts, np.uint32), _array(listing.of_runs)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def has_outline(self) -> NDArray[np.bool_]:
        """(m,) whether an object has one."""
        return np.asarray((np.diff(self.of_rings) > 0) | (np.diff(self.of_runs) > 0))

    @property
    def fingerprint(self) -> str:
        """Of all that is listed."""
        digest = hashlib.sha256(f"{self.kind} {self.relative} {self.names}".encode(errors="surrogateescape"))
        for part in (self.starts, self.sizes, self.boxes, self.classes, self.crowd, self.points, self.counts):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def own_size(self, index: int) -> tuple[int, int] | None:
        """As the file says it."""
        height, width = self.sizes[index].tolist()
        return (height, width) if height else None

    def listed(self, index: int) -> int:
        """Those that are not left out for want of an outline."""
        own = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return int(self.has_outline[own].sum()) if self.kind == "objects" else own.stop - own.start

    def shown(self, index: int) -> set[int]:
        """Those of the objects that are listed."""
        return {*self.classes[int(self.starts[index]) : int(self.starts[index + 1])].tolist()}

    def objects(self, index: int, size: tuple[int, int]) -> Objects:
        """Those of image `index`, its boxes cut to the image."""
        said = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
        if said != (0, 0) and said != size:
            raise BrokenImage(
                f"its objects are of {said[0]} x {said[1]} pixels, and the image {size[0]} x {size[1]}",
                "mend the sizes that the annotations name, or give the images that they were made on",
            )
        scale = np.array([size[1], size[0]] if self.relative else [1, 1], np.float64)
        kept: list[int] = []
        pieces: list[Piece] = []
        for number in range(int(self.starts[index]), int(self.starts[index + 1])):
            if self.kind == "objects":
                if (piece := self._piece(number, size, scale)) is None:
                    continue
                pieces.append(piece)
            kept.append(number)
        boxes = self.boxes[kept] * np.tile(scale, 2).astype(np.float32)
        boxes[:, [0, 2]], boxes[:, [1, 3]] = boxes[:, [0, 2]].clip(0, size[1]), boxes[:, [1, 3]].clip(0, size[0])
        found = tuple(pieces) if self.kind == "objects" else None
        if found:
            unsaid = ~((boxes[:, 2:] > boxes[:, :2]).all(1))  # NaN too
            boxes[unsaid] = bounds(found)[unsaid]
        objects = Objects(size, boxes, self.classes[kept], self.crowd[kept], found)
        return objects if found is not None else objects.take(np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1)))

    def _piece(self, number: int, size: tuple[int, int], scale: NDArray[np.float64]) -> Piece | None:
        """The pixels of an object; None where it has none."""
        first, last = int(self.of_runs[number]), int(self.of_runs[number + 1])
        if last > first:
            counts = self.counts[first:last].astype(np.int64)
            if int(counts.sum()) != size[0] * size[1]:
                raise BrokenImage(
                    f"the run lengths of one of its objects are of {int(counts.sum()):,} pixels, and the image has "
                    f"{size[0] * size[1]:,}"
                )
            return runs(counts, size)
        rings = range(int(self.of_rings[number]), int(self.of_rings[number + 1]))
        return polygons([self.points[self.rings[ring] : self.rings[ring + 1]] * scale for ring in rings], size)

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """None is known."""
        raise ValueError("objects are no classes of pixels until they are painted")


def listed(location: str, names: tuple[str, ...], listing: Listing, tally: Tally, relative: bool = False) -> Listed:
    """Of objects where most have an outline, and of boxes where most have none; says what is left out for it."""
    whole = Listed(location, names, listing, "objects", relative)
    has_outline = whole.has_outline
    if has_outline.sum() * 2 >= len(has_outline) and len(has_outline):
        if without := int((~has_outline).sum()):
            tally.add("{n} object{s} {have} a box and no outline, and {are} left out", location, "", without)
        return whole
    if with_outline := int(has_outline.sum()):
        tally.add(
            "{n} object{s} {have} an outline, but most have none: boxes are taken alone", location, "", with_outline
        )
    return Listed(location, names, listing, "boxes", relative)


def _array(values: "array[Any]") -> NDArray[np.int64]:
    return np.array(values, np.int64)
