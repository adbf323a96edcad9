"""What came out, in a few lines: how many images of each class, and how sure the model is of them."""

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from openmae.console.words import in_a_line
from openmae.recipes.predictions import Predictions

_MOST_ROWS = 12  # of the table; of more classes, the most frequent


class Summary:
    """Counts what is predicted as it is written, in memory that does not grow with the images."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions
        self._counts = np.zeros(len(predictions.names), np.int64)
        self._sums = np.zeros(len(predictions.names))
        self._images = 0
        self._low, self._high = np.inf, -np.inf

    def add(self, told: NDArray[np.float32], unreadable: int) -> None:
        """What was told of some images, as `Predictions.told` gives it, and how many beside them could not be read."""
        self._images += len(told) + unreadable
        if not len(told):
            return
        task, count = self._predictions.task, len(self._counts)
        if task == "classification":
            first = told[:, 0].astype(np.int64)
            self._counts += np.bincount(first, minlength=count)
            self._sums += np.bincount(first, told[:, self._predictions.top_k], minlength=count)
        elif task == "multi-label":
            given = told > self._predictions.threshold
            self._counts += given.sum(axis=0)
            self._sums += np.where(given, told, 0).sum(axis=0, dtype=np.float64)
        else:
            self._counts += len(told)
            self._sums += told.sum(axis=0, dtype=np.float64)
            self._low, self._high = min(self._low, float(told.min())), max(self._high, float(told.max()))

    def show(self, console: Console) -> None:
        """Prints it."""
        if self._predictions.task == "regression":
            mean = self._sums[0] / max(1, self._counts[0])
            console.print(f"  from {self._low:.4g} to {self._high:.4g}, {mean:.4g} on average")
            return
        table = Table(
            "class" if self._predictions.task == "classification" else "label", "images", "share", "probability"
        )
        order = [number for number in np.argsort(-self._counts, kind="stable").tolist() if self._counts[number]]
        for number in order[:_MOST_ROWS]:
            count = int(self._counts[number])
            share, sure = count / max(1, self._images), self._sums[number] / count
            table.add_row(in_a_line(self._predictions.names[number]), f"{count:,}", f"{share:.1%}", f"{sure:.1%}")
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
        if len(order) > _MOST_ROWS:
            console.print(f"The {_MOST_ROWS} most frequent of {len(order):,}.")
        console.print("The probability is that of what was predicted, on average.")
