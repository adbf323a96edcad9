"""How good a model is on labelled images: figures, curves, confusions, from its scores alone."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openmae.console.words import encodable
from openmae.data.loading.in_order import CentredImages
from openmae.data.sources.source import Source
from openmae.data.tasks import Answers
from openmae.evaluate.metrics import (
    balanced_accuracy,
    calibration,
    calibration_error,
    class_figures,
    confused_pairs,
    label_figures,
)
from openmae.evaluate.predict import FIGURES, mean_auroc, measure, standard_error

MOST_PAIRS = 20  # most confused ones that are kept
_WITH_ERROR = {"balanced_accuracy", "auroc", *(name for names in FIGURES.values() for name in names)}
MOST_NAMES = 200  # unreadable images and absent classes that are kept


@dataclass(frozen=True)
class Judged:
    """Scores (n, K) of those of the images that could be read, `indices` (n,) among them; the answers of all images.

    outputs: "present" where outputs of classes without images were left out; absent: those classes, or those that
    count although they have no images.
    """

    images: CentredImages
    scores: Tensor
    indices: NDArray[np.int64]
    answers: Answers
    outputs: str = "all"
    absent: Sequence[str] = field(default=())

    @property
    def right(self) -> Answers:
        """The answers in the order of the scores."""
        return replace(self.answers, values=self.answers.values[self.indices])

    @property
    def source(self) -> Source:
        """Where the images come from."""
        return self.images.source

    def unreadable(self) -> list[str]:
        """Names of the images that have no scores."""
        missing = np.setdiff1d(np.arange(len(self.images)), self.indices)
        return [self.source.name(index) for index in missing.tolist()]

    def probabilities(self) -> NDArray[np.float64]:
        """(n, K), 0..1; of several labels each on its own."""
        scores = self.scores.double()
        return (scores.sigmoid() if self.answers.task == "multi-label" else scores.softmax(1)).numpy()

    def predicted(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(n,) the class that is predicted, and its probability; without n x K numbers more."""
        best, predicted = self.scores.max(dim=1)
        return predicted.numpy(), (best - self.scores.logsumexp(dim=1)).exp().double().numpy()


def judge(judged: Judged) -> dict[str, Any]:
    """All figures, as plain values for results.json."""
    right = judged.right
    figures = {name: value for name, value in measure(judged.scores, right).items() if math.isfinite(value)}
    names = [encodable(name) for name in judged.unreadable()]
    found: dict[str, Any] = {
        "task": right.task,
        "images": len(judged.indices),
        "unreadable": names[:MOST_NAMES],
        "outputs": judged.outputs,
        "absent": list(judged.absent[:MOST_NAMES]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    if right.task == "multi-label":
        labels = label_figures(judged.scores.numpy(), right.values.astype(np.float32), right.names)
        figures["mean_f1"] = float(np.mean([one.f1 for one in labels]))
        found["labels"] = [asdict(one) for one in labels]
    if right.task == "classification":
        values, (predicted, confidence) = right.values.astype(np.int64), judged.predicted()
        bins = calibration(confidence, predicted == values)
        figures["balanced_accuracy"] = balanced_accuracy(values, predicted)
        figures["calibration_error"] = calibration_error(bins)
        images = np.bincount(values, minlength=len(right.names))
        found["classes"] = [asdict(one) for one in class_figures(values, predicted, right.names)]
        found["confused"] = [
            {
                "label": right.names[pair.label],
                "predicted": right.names[pair.predicted],
                "times": pair.times,
                "share": pair.times / int(images[pair.label]),
            }
            for pair in confused_pairs(values, predicted)[:MOST_PAIRS]
        ]
        found["calibration"] = [asdict(one) for one in bins]
    if (area := mean_auroc(judged.scores, right)) is not None:
        figures["auroc"] = area
    errors = {name: standard_error(name, judged.scores, right) for name in figures if name in _WITH_ERROR}
    return {**found, "figures": figures, "errors": {name: error for name, error in errors.items() if error is not None}}
