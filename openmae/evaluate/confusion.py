"""How well classes of pixels are told, from how often which was taken for which.

Shapes: K classes; counts (K, K) int64: pixels of a class (row) that were taken for a class (column).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.views.outlined import IGNORED

_MOST_PAIRS = 20  # most confused ones that are kept


def confusion(right: NDArray[np.integer], found: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """(K, K) counts of pixels of two maps of one shape; those that are IGNORED in `right` do not count."""
    asked = right != IGNORED
    pairs = right[asked].astype(np.int64) * classes + found[asked]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassOverlap:
    """Of one class, 0 to 1: iou, overlap over union; dice, twice the overlap over both areas; None of a class that
    neither occurs nor was found. pixels: that it has. taken_for: the other class that most of it went to."""

    name: str
    pixels: int
    iou: float | None
    dice: float | None
    accuracy: float | None
    taken_for: str | None


def overlaps(counts: NDArray[np.int64], names: tuple[str, ...]) -> list[ClassOverlap]:
    """Of each class."""
    found = []
    for index, name in enumerate(names):
        hit, has, said = int(counts[index, index]), int(counts[index].sum()), int(counts[:, index].sum())
        others = counts[index].copy()
        others[index] = 0
        found.append(
            ClassOverlap(
                name,
                has,
                hit / (has + said - hit) if has + said else None,
                2 * hit / (has + said) if has + said else None,
                hit / has if has else None,
                names[int(others.argmax())] if others.any() else None,
            )
        )
    return found


def most_confused(counts: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs of different classes among the K, the most frequent first, as results.json has them: label, predicted,
    times, share of the label's. counts may be larger, where what lies beyond K is of no class."""
    among = counts[: len(names), : len(names)] * ~np.eye(len(names), dtype=np.bool_)
    order = np.argsort(-among, axis=None, kind="stable")[:_MOST_PAIRS].tolist()
    pairs = [divmod(place, len(names)) for place in order]
    return [
        {
            "label": names[label],
            "predicted": names[predicted],
            "times": int(among[label, predicted]),
            "share": float(among[label, predicted] / counts[label].sum()),
        }
        for label, predicted in pairs
        if among[label, predicted]
    ]


def overlap_figures(counts: NDArray[np.int64]) -> dict[str, float]:
    """miou and dice, means over the classes that occur or were found; pixel_accuracy; mean_accuracy over those that
    occur. 0 to 1; NaN where nothing was asked."""
    hit, has, said = counts.diagonal(), counts.sum(1), counts.sum(0)
    seen = has + said > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "miou": float((hit / (has + said - hit))[seen].mean()) if seen.any() else float("nan"),
            "dice": float((2 * hit / (has + said))[seen].mean()) if seen.any() else float("nan"),
            "pixel_accuracy": float(hit.sum() / counts.sum()) if counts.any() else float("nan"),
            "mean_accuracy": float((hit / has)[has > 0].mean()) if has.any() else float("nan"),
        }
