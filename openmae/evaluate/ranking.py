"""How well scores put the images that have a label before those that have not: AUROC and average precision, and how far
another draw of as many images would move them.

Shapes: n images. Scores are (n,), the higher the surer; has is (n,) bool, with both kinds in it.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Has = NDArray[np.bool_]
Influence = NDArray[np.float64]


def auroc(scores: Scores, has: Has) -> float:
    """The area under the ROC curve: how often an image that has the label scores above one that has not, 0..1, of
    equals half as often; 0.5 is guessing."""
    return float(_placements(scores, has)[has].mean())


def auroc_influence(scores: Scores, has: Has) -> Influence:
    """(n,): by how much the AUROC would change for an image that counted a little more, a unit of weight."""
    own, share = _placements(scores, has), np.where(has, has.sum(), (~has).sum())
    return (own - own[has].mean()) / share


def precision_influence(scores: Scores, has: Has) -> Influence:
    """(n,): likewise, of the average precision as scikit-learn defines it (no interpolation, equals at once)."""
    levels, place = np.unique(-scores, return_inverse=True)  # the surest first
    positives = np.bincount(place, weights=has, minlength=len(levels))
    images, right = np.bincount(place, minlength=len(levels)).cumsum(), positives.cumsum()
    precision, total = right / images, has.sum()
    average = float((positives * precision).sum() / total)
    # An image of one more weight counts at its own level and at every lower one.
    one_more = np.cumsum((positives / images)[::-1])[::-1]
    wrong_more = np.cumsum((positives * precision / images)[::-1])[::-1]
    found: Influence = (has * (precision[place] - average + one_more[place]) - wrong_more[place]) / total
    return found


def error_of_mean(influences: Sequence[Influence]) -> float | None:
    """The standard error of the mean of figures over the same n images, from their influences on each: the
    infinitesimal jackknife (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 6), which for
    one AUROC is DeLong's. None where there is none, or one image alone."""
    if not influences or (count := len(influences[0])) < 2:
        return None
    together = np.mean(influences, axis=0)
    return math.sqrt(float(np.square(together).sum()) * count / (count - 1))


def _placements(scores: Scores, has: Has) -> NDArray[np.float64]:
    """(n,): of each image that has the label, the share of the others that score below it; of each other one, the share
    of those that score above."""
    found = np.empty(len(scores))
    for own, others, sign in ((has, ~has, 1), (~has, has, -1)):
        ordered, asked = np.sort(sign * scores[others]), sign * scores[own]
        below, up_to = (np.searchsorted(ordered, asked, side) for side in ("left", "right"))
        found[own] = (below + up_to) / 2 / len(ordered)
    return found
