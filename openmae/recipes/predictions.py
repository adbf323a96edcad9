"""What a classifier says of images, as columns of a table: one naming for `predict` and `evaluate --save`.

classification: class and probability, of what is most likely; class_2 and probability_2, ..., of what follows.
multi-label: labels, those above a threshold with ; between them; and of each label, p(LABEL).
regression: value, in the unit of the labels.

Shapes: n images, K classes or labels, k of them that are told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openmae.data.sources.labels import SEPARATORS
from openmae.data.tasks import Task
from openmae.files.tables import Columns

THRESHOLD = 0.5
ERROR = "error"  # why an image could not be read; its other cells but the path are empty


@dataclass(frozen=True)
class Predictions:
    """How scores become columns. names: of the model's outputs (K). top_k: classes that are told of each image, 1 to K.
    threshold: 0..1, above which a label is given."""

    task: Task
    names: Sequence[str]
    top_k: int = 1
    threshold: float = THRESHOLD

    @property
    def columns(self) -> Columns:
        """What they are called."""
        if self.task == "regression":
            return {"value": "number"}
        if self.task == "multi-label":
            return {"labels": "text", **{f"p({name})": "number" for name in self.names}}
        found: Columns = {}
        for place in range(1, self.top_k + 1):
            more = "" if place == 1 else f"_{place}"
            found = {**found, f"class{more}": "text", f"probability{more}": "number"}
        return found

    def told(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores (n, K) -> what is told of them: the numbers of k classes and then their probabilities (n, 2 k); the
        probability of each label (n, K); the value (n, 1). Of classes that are equal the first comes first."""
        if self.task == "regression":
            return scores
        exact = torch.from_numpy(scores).double()
        if self.task == "multi-label":
            return exact.sigmoid().float().numpy()
        order = exact.sort(dim=1, descending=True, stable=True).indices[:, : self.top_k]
        shares = exact.softmax(dim=1).gather(1, order)
        return torch.cat([order, shares], dim=1).float().numpy()

    def cells(self, told: NDArray[np.float32]) -> dict[str, list[Any]]:
        """The columns of what `told` gives."""
        if self.task == "regression":
            return {"value": told[:, 0].tolist()}
        if self.task == "multi-label":
            given = [self.joined(row) for row in told > self.threshold]
            return {"labels": given, **{f"p({name})": told[:, k].tolist() for k, name in enumerate(self.names)}}
        found: dict[str, list[Any]] = {}
        for place, (name, share) in enumerate(zip(*[iter(self.columns)] * 2, strict=True)):
            found[name] = [self.names[number] for number in told[:, place].astype(np.int64).tolist()]
            found[share] = told[:, self.top_k + place].tolist()
        return found

    def joined(self, given: NDArray[np.bool_]) -> str:
        """The labels that are given (K), as a table has them; empty for none."""
        return SEPARATORS[0].join(self.names[number] for number in np.flatnonzero(given).tolist())


def with_errors(
    cells: Mapping[str, Sequence[Any]], places: Sequence[int], errors: Mapping[int, str], count: int
) -> dict[str, list[Any]]:
    """The columns for `count` images, of which `cells` has those at `places`, and the column of errors, of others."""
    found: dict[str, list[Any]] = {}
    for name, column in cells.items():
        whole: list[Any] = [None] * count
        for place, cell in zip(places, column, strict=True):
            whole[place] = cell
        found[name] = whole
    return {**found, ERROR: [errors.get(place) for place in range(count)]}
