"""How often a classifier is right, where it errs, and whether its confidence can be believed.

Shapes: n images, K classes or labels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.evaluate.ranking import auroc

BINS = 15
_UNEQUAL = 2  # times as many images of one class as of another

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ClassFigures:
    """How one class fares. images: of this class; accuracy: the share of them that is called so (its recall), 0..1;
    precision: the share of those called so that are of this class, None where none is called so; taken_for: the wrong
    class that its images are called most often, `times` times, None where they are all right."""

    name: str
    images: int
    accuracy: float
    precision: float | None
    taken_for: str | None
    times: int


@dataclass(frozen=True)
class LabelFigures:
    """How one of several labels fares. images: that have it; average_precision and auroc, None where all have it
    or none; f1: where a label is given to images that more likely than not have it, 0 where it is never right."""

    name: str
    images: int
    average_precision: float | None
    auroc: float | None
    f1: float


@dataclass(frozen=True)
class Pair:
    """Images of class `label` that are called `predicted`."""

    label: int
    predicted: int
    times: int


@dataclass(frozen=True)
class Bin:
    """Images whose confidence is above `low` and up to `high`: how many, their mean confidence, their accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """The share of rows of scores (n, classes) whose label (n,) is among the k highest; of equals the first come
    first."""
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    ahead = ~(scores <= own) | ((scores == own) & before)  # what is not a number is ahead of everything
    return (ahead.sum(dim=1) < k).double().mean().item()


def confusion_matrix(labels: Numbers, predicted: Numbers, classes: int) -> Numbers:
    """(n,) and (n,) -> (K, K): how many images of the row's class are called the column's."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def confused_pairs(labels: Numbers, predicted: Numbers) -> list[Pair]:
    """Classes that are taken for another, the most frequent pair first; does not need K x K numbers."""
    wrong = labels != predicted
    pairs, times = np.unique(np.stack([labels[wrong], predicted[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-times, kind="stable")
    return [Pair(int(pairs[0, i]), int(pairs[1, i]), int(times[i])) for i in order]


def class_figures(labels: Numbers, predicted: Numbers, names: tuple[str, ...]) -> list[ClassFigures]:
    """Of each class that has images, the most accurate first."""
    images, called = (np.bincount(numbers, minlength=len(names)) for numbers in (labels, predicted))
    right = np.bincount(labels[labels == predicted], minlength=len(names))
    worst: dict[int, Pair] = {}
    for pair in confused_pairs(labels, predicted):
        worst.setdefault(pair.label, pair)
    found = [
        ClassFigures(
            names[number],
            int(images[number]),
            float(right[number] / images[number]),
            float(right[number] / called[number]) if called[number] else None,
            names[worst[number].predicted] if number in worst else None,
            worst[number].times if number in worst else 0,
        )
        for number in np.flatnonzero(images).tolist()
    ]
    return sorted(found, key=lambda one: -one.accuracy)


def balanced_accuracy(labels: Numbers, predicted: Numbers) -> float:
    """The mean of the accuracies of the classes that have images, 0..1: each class weighs the same."""
    images = np.bincount(labels)
    right = np.bincount(labels[labels == predicted], minlength=len(images))
    return float((right[images > 0] / images[images > 0]).mean())


def balanced_error(labels: Numbers, predicted: Numbers) -> float:
    """The standard error of `balanced_accuracy`, the classes drawn apart from each other."""
    images = np.bincount(labels)
    right = np.bincount(labels[labels == predicted], minlength=len(images))
    images, right = images[images > 0], right[images > 0]
    share = right / images
    return float(np.sqrt((share * (1 - share) / images).sum()) / len(images))


def are_unequal(labels: Numbers) -> bool:
    """Whether the commonest class has twice the images of the rarest, or more: then accuracy says little of the rare
    ones, and balanced accuracy does."""
    images = np.bincount(labels)
    return bool(images.max() >= _UNEQUAL * images[images > 0].min())


def calibration(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> list[Bin]:
    """The bins, of equal width over 0..1, that hold images. confidence (n,): the probability of what was predicted.

    Source: Guo et al., arXiv 1706.04599, section 2, with 15 bins as there.
    """
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (confidence, right.astype(np.float64)))
    confident, accurate = (total / np.maximum(images, 1) for total in sums)
    return [
        Bin(float(edges[i]), float(edges[i + 1]), int(images[i]), float(confident[i]), float(accurate[i]))
        for i in np.flatnonzero(images)
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error, 0..1: how far accuracy and confidence are apart, mean over the images (Guo et al.,
    arXiv 1706.04599, equation 3)."""
    return sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / sum(one.images for one in bins)


def label_figures(
    scores: NDArray[np.float32], values: NDArray[np.float32], names: tuple[str, ...]
) -> list[LabelFigures]:
    """Of each label, the best average precision first. scores (n, K), above 0 for more likely than not; values (n, K),
    1 for each label that applies."""
    from sklearn.metrics import average_precision_score  # takes more than a second, and few tasks need it

    found = []
    for number, name in enumerate(names):
        has, said = values[:, number] > 0, scores[:, number] > 0
        tells = has.any() and not has.all()
        precision = float(average_precision_score(has, scores[:, number])) if tells else None
        area = auroc(scores[:, number], has) if tells else None
        both = int((has & said).sum())
        f1 = 2 * both / max(1, int(has.sum()) + int(said.sum()))
        found.append(LabelFigures(name, int(has.sum()), precision, area, f1))
    return sorted(found, key=lambda one: 1 if one.average_precision is None else -one.average_precision)
