"""Average precision of objects, as COCO has it: hotcoco counts, which is pycocotools to the last digit.

Shapes: T overlaps (0.5 to 0.95), R recalls (0 to 1 in 101 places), K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openmae.errors import UserError

Kind = Literal["box", "mask"]
Annotation = dict[str, Any]
MOST = 100  # surest objects of an image that count, as COCO's
SURE = 0.5  # score from which an object counts as said, where one is told from the other
_KINDS: dict[Kind, str] = {"box": "bbox", "mask": "segm"}
_BLOCKS = 20  # of images, that are left out in turn
_EVERYWHERE = [[0.0, 1e10]]  # areas of objects


def check_counting() -> None:
    """Raises UserError, before anything long begins, where hotcoco is not installed."""
    try:
        import hotcoco  # noqa: F401
    except ImportError as error:
        raise UserError(
            "hotcoco counts how good a detector is, and is not there", "pip install 'openmae[detect]'"
        ) from error


@dataclass(frozen=True)
class ClassPrecision:
    """Of one class, 0 to 1: ap, over all overlaps; ap50; recall, the share of its objects that are found at all.
    objects: how many there are; taken_for: the other class that most of them are said to be, or nothing."""

    name: str
    objects: int
    ap: float
    ap50: float
    recall: float
    taken_for: str | None


class Compared:
    """What was found beside what is there, as boxes or as masks.

    images: size (H, W) of each, by its number. right: COCO's annotations with image_id, category_id from 1, bbox, area,
    iscrowd and segmentation; found: the same with a score. most: objects of an image that count, the surest ones.
    """

    def __init__(
        self,
        images: dict[int, tuple[int, int]],
        right: Sequence[Annotation],
        found: Sequence[Annotation],
        names: Sequence[str],
        kind: Kind,
        most: int,
    ) -> None:
        self.images, self.names, self.kind, self.most = images, names, kind, most
        self.right = [{**one, "id": number} for number, one in enumerate(right, 1)]
        self._found = found
        self._counted = self._beside(found)

    def _beside(self, found: Sequence[Annotation]) -> Any:
        """What is there beside this, counted."""
        from hotcoco import COCO, COCOeval  # an extra, which few need

        listed = [{"id": number, "height": size[0], "width": size[1]} for number, size in self.images.items()]
        categories = [{"id": number, "name": str(number)} for number in range(1, len(self.names) + 1)]
        there = COCO({"images": listed, "annotations": self.right, "categories": categories})
        kept = ("image_id", "category_id", "score", "segmentation" if self.kind == "mask" else "bbox")
        said = there.load_res([{key: one[key] for key in kept} for one in found])
        counted = COCOeval(there, said, _KINDS[self.kind])
        counted.params.max_dets = [1, 10, self.most]
        counted.params.area_rng, counted.params.area_rng_lbl = _EVERYWHERE, ["all"]
        counted.evaluate()
        counted.accumulate()
        return counted

    @property
    def precision(self) -> NDArray[np.float64]:
        """(T, R, K), -1 of a class that no object has."""
        return np.asarray(self._counted.eval["precision"])[..., 0, -1]

    def figures(self) -> dict[str, float]:
        """ap, ap50 and ap75, means over the classes that occur; NaN where nothing is there."""
        precision = self.precision
        parts = {"ap": precision, "ap50": precision[0], "ap75": precision[5]}
        return {name: _mean(part) for name, part in parts.items()}

    def error(self) -> float | None:
        """Standard error of ap50, by leaving out each of 20 parts of the images in turn (jackknife); None of one."""
        numbers = sorted(self.images)
        blocks = min(_BLOCKS, len(numbers))
        if blocks < 2:
            return None
        parts = {
            str(block): [number for place, number in enumerate(numbers) if place % blocks != block]
            for block in range(blocks)
        }
        found = self._counted.slice_by(parts)
        without = np.array([found[name]["AP50"] for name in parts])
        without = without[without >= 0]
        if len(without) < 2:
            return None
        return float(math.sqrt((blocks - 1) / blocks * np.square(without - without.mean()).sum()))

    def curves(self) -> dict[str, list[float]]:
        """Precision at recalls 0, 0.01, ... 1, by the overlap that is asked for: means over the classes that occur."""
        precision = self.precision
        occurs = (precision >= 0).all((0, 1))
        if not occurs.any():
            return {}
        return {f"{0.5 + 0.05 * place:.2f}": precision[place][:, occurs].mean(1).tolist() for place in (0, 5, 8)}

    @cached_property
    def confused(self) -> NDArray[np.int64]:
        """(K + 1, K + 1) objects of a class (row) that were surely said to be of a class (column); the last row and
        column are of nothing."""
        found = self._counted.confusion_matrix(iou_thr=0.5, min_score=SURE)
        return np.asarray(found["matrix"]).astype(np.int64)

    @cached_property
    def _each(self) -> dict[str, Any]:
        sure = [one for one in self._found if one["score"] >= SURE]
        return self._beside(sure).image_diagnostics(iou_thr=0.5, score_thr=SURE)

    def sizes(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(n,) pixels a side of each object, the root of its box's area, and whether it was surely found."""
        status = self._each["gt_status"]
        asked = [one for one in self.right if not one["iscrowd"]]
        sides = np.array([math.sqrt(one["bbox"][2] * one["bbox"][3]) for one in asked])
        return sides, np.array([status.get(one["id"]) == "matched" for one in asked], np.bool_)

    def of_images(self) -> dict[int, float]:
        """F1 of what is surely said of each image that shows or is said to show something."""
        return {number: one["f1"] for number, one in self._each["img_summary"].items()}

    def classes(self) -> list[ClassPrecision]:
        """Of each class that occurs."""
        precision, recall = self.precision, np.asarray(self._counted.eval["recall"])[0, :, 0, -1]
        occurs, called = np.asarray((precision >= 0).all((0, 1))), (*self.names, "nothing")
        counts = np.bincount(
            [one["category_id"] - 1 for one in self.right if not one["iscrowd"]], minlength=len(occurs)
        )
        found = []
        for number in np.flatnonzero(occurs).tolist():
            others = self.confused[number].copy()
            others[number] = 0
            ap, ap50 = precision[:, :, number].mean(), precision[0, :, number].mean()
            taken = called[int(others.argmax())] if others.any() else None
            found.append(
                ClassPrecision(
                    self.names[number], int(counts[number]), float(ap), float(ap50), float(recall[number]), taken
                )
            )
        return found


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision >= 0]
    return float(known.mean()) if len(known) else float("nan")
