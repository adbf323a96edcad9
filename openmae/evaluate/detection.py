"""How well a detector finds the objects of whole images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from openmae.console.progress import of_next
from openmae.data.annotations.annotations import Annotated
from openmae.data.annotations.drawing import as_runs, decompressed, runs
from openmae.data.annotations.objects import Objects, Piece
from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.pool import Hand, ordered
from openmae.data.views.statistics import Statistics
from openmae.distributed.ranks import ALONE, Ranks
from openmae.errors import BrokenImage, UserError
from openmae.evaluate.average_precision import MOST, Annotation, Compared, Kind
from openmae.evaluate.detected import Detected, detected
from openmae.evaluate.segmentation import image_of
from openmae.machine.kinds import Precision
from openmae.transfer.detector import Detector


@dataclass(frozen=True)
class Read:
    """An image (H, W, C) as decoded and its objects; why it is of no use, where it is not."""

    index: int
    image: Any
    objects: Objects | None
    why_none: str = ""


def read_objects(
    annotated: Annotated, pixels: PixelFormat, indices: Sequence[int], workers: int, side: int | None
) -> Any:
    """Images with their objects, in order. side: as `Detector.side`."""
    yield from ordered(partial(_read, annotated, pixels, side), indices, workers, ahead=1)


def _read(annotated: Annotated, pixels: PixelFormat, side: int | None, index: int, hand: Hand) -> Read:
    try:
        image = image_of(annotated.images, pixels, index, hand, side)
        return Read(index, image, annotated.right.objects(index, (image.shape[0], image.shape[1])))
    except (OSError, BrokenImage) as error:
        return Read(index, None, None, str(error))


@dataclass(frozen=True)
class Seen:
    """What an image of this size (H, W) shows, and what was found in it, as COCO's annotations, the surest first."""

    index: int
    size: tuple[int, int]
    right: list[Annotation]
    found: list[Annotation]

    def objects(self, least: float) -> Objects:
        """What was found with this score or more, where outlines were judged with its pixels."""
        sure = [one for one in self.found if one["score"] >= least]
        boxes = np.array([one["bbox"] for one in sure], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([one["category_id"] - 1 for one in sure], np.int64)
        pieces = None
        if any("segmentation" in one for one in self.found):
            pieces = tuple(_piece(one["segmentation"], self.size) for one in sure)
        return Objects(self.size, boxes.astype(np.float32), classes, np.zeros(len(sure), np.bool_), pieces)


def _piece(segmentation: dict[str, Any], size: tuple[int, int]) -> Piece:
    counts = segmentation["counts"]
    found = runs(decompressed(counts.decode() if isinstance(counts, bytes) else counts), size)
    return Piece(0, 0, np.zeros((0, 0), np.bool_)) if found is None else found


def annotations_of(index: int, objects: Objects, masks: bool) -> list[Annotation]:
    """As COCO has them, masks as run lengths."""
    from hotcoco import mask

    height, width = objects.size
    found = []
    for number in range(len(objects)):
        left, top, right, bottom = objects.boxes[number].tolist()
        one: Annotation = {
            "image_id": index,
            "category_id": int(objects.classes[number]) + 1,
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": int(objects.crowd[number]),
        }
        if masks and objects.pieces is not None:
            lengths = {"size": [height, width], "counts": as_runs(objects.pieces[number], objects.size)}
            one["segmentation"] = mask.frPyObjects(lengths, height, width)
        found.append(one)
    return found


def _with_scores(found: Detected, index: int, masks: bool) -> list[Annotation]:
    listed = annotations_of(index, found.objects, masks)
    return [{**one, "score": score} for one, score in zip(listed, found.scores.tolist(), strict=True)]


@dataclass(frozen=True)
class Judged:
    """seen: the images that could be read. masks: whether outlines were judged beside boxes. most: objects of an image
    that count."""

    seen: list[Seen]
    unreadable: list[tuple[int, str]]
    names: tuple[str, ...]
    masks: bool
    most: int

    @property
    def kind(self) -> Kind:
        """What it is judged by first."""
        return "mask" if self.masks else "box"

    @cached_property
    def by_boxes(self) -> Compared:
        """Boxes beside boxes."""
        return self._compared("box")

    @cached_property
    def first(self) -> Compared:
        """Masks beside masks, or boxes where they are all there is."""
        return self._compared("mask") if self.masks else self.by_boxes

    @property
    def headline(self) -> str:
        """The figure that it is judged by."""
        return headline(self.masks)

    def figures(self) -> dict[str, float]:
        """mask_ap, mask_ap50 and mask_ap75, where outlines were judged; the same of boxes."""
        parts = {"mask": self.first, "box": self.by_boxes} if self.masks else {"box": self.by_boxes}
        return {f"{kind}_{name}": value for kind, one in parts.items() for name, value in one.figures().items()}

    @cached_property
    def error(self) -> float | None:
        """Standard error of the headline."""
        return self.first.error()

    def _compared(self, kind: Kind) -> Compared:
        return Compared(
            {one.index: one.size for one in self.seen},
            [right for one in self.seen for right in one.right],
            [found for one in self.seen for found in one.found],
            self.names,
            kind,
            self.most,
        )


def headline(masks: bool) -> str:
    """The figure that a detector is judged by."""
    return "mask_ap50" if masks else "box_ap50"


def judge(
    model: Detector,
    statistics: Statistics,
    annotated: Annotated,
    device: torch.device,
    workers: int,
    *,
    precision: Precision = "fp32",
    ranks: Ranks = ALONE,
    say: Callable[[float], None] = lambda done: None,
) -> Judged:
    """Of all images, shared among the ranks; all get the whole. The model is in evaluation.

    Raises UserError where none can be read.
    """
    mine = range(ranks.rank, len(annotated), ranks.size)
    masks = model.has_masks and annotated.right.kind == "objects"
    most = max(MOST, model.most_objects)
    seen, unreadable = list[Seen](), list[tuple[int, str]]()
    for done, read in enumerate(read_objects(annotated, statistics.pixels, mine, workers, model.side), 1):
        if read.objects is None:
            unreadable.append((read.index, read.why_none))
        else:
            try:
                within = of_next(say, done - 1)
                found = detected(model, statistics, read.image, device, most, precision, say=within)
                right = annotations_of(read.index, read.objects, masks)
                seen.append(Seen(read.index, read.objects.size, right, _with_scores(found, read.index, masks)))
            except BrokenImage as error:  # a part of a large one
                unreadable.append((read.index, str(error)))
        say(done)
    parts = ranks.gather((seen, unreadable))
    everything = sorted((one for part in parts for one in part[0]), key=lambda one: one.index)
    missing = sorted(entry for part in parts for entry in part[1])
    if not everything:
        raise UserError(
            f"none of the {len(annotated)} images can be read with its objects ({missing[0][1]})", "see openmae check"
        )
    return Judged(everything, missing, annotated.right.names, masks, most)
