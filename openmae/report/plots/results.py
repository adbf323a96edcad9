"""Pictures of results: who is taken for whom, is confidence to be believed. Those that matplotlib draws: figures.py.

Each is SVG text, the same for the same figures. Shapes: n images, K classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openmae.console.words import drawable
from openmae.evaluate.metrics import Bin, Numbers, confused_pairs, confusion_matrix
from openmae.report.plots.chart import Across, Bars, Line, Plot, chart
from openmae.report.plots.matrix import matrix
from openmae.report.plots.style import BLUE, GREY, percent

MOST_NAMED = 30  # classes whose names and counts can be read in one matrix
_LONGEST_NAME = 22
_MEMORY = 0.8  # weight of a class in an order over that of the one placed after it


def confusion_picture(labels: Numbers, predicted: Numbers, names: Sequence[str]) -> str:
    """(n,), (n,) -> the counts of each class by what it is called: of all of them, or, of more than MOST_NAMED, of
    those that are most often confused, those that are taken for each other side by side."""
    chosen, title = np.unique(np.concatenate([labels, predicted])), ""
    if len(chosen) > MOST_NAMED:
        chosen, title = _most_confused(labels, predicted, len(names))
    counts = counts_of(labels, predicted, chosen)
    if title:
        order = neighbours(counts)
        counts, chosen = counts[order][:, order], chosen[order]
    images = np.bincount(labels, minlength=len(names))[chosen]
    shares = counts / np.maximum(images, 1)[:, None]
    said = [[f"{count}" if count else "" for count in row] for row in counts]
    return matrix(shares, said, [_short(names[number]) for number in chosen], title)


def shares_picture(counts: NDArray[np.int64], names: Sequence[str], what: str = "pixels") -> str:
    """(K, K) counts of pixels, or of what else, of a class (row) that were taken for a class (column) -> shares of each
    class that occurs or is said to, of the MOST_NAMED largest; what most are taken for is among them."""
    has, said = counts.sum(1), counts.sum(0)
    chosen = np.flatnonzero(has + said)
    part = f", the {MOST_NAMED} largest of {len(chosen)}" if len(chosen) > MOST_NAMED else ""
    weight = np.where(np.arange(len(counts)) == said.argmax(), np.inf, has)
    chosen = np.sort(chosen[np.argsort(-weight[chosen], kind="stable")[:MOST_NAMED]])
    shares = counts[chosen][:, chosen] / np.maximum(has[chosen], 1)[:, None]
    said = [[f"{share:.0%}" if share >= 0.005 else "" for share in row] for row in shares]
    shown = [_short(names[number]) for number in chosen.tolist()]
    return matrix(shares, said, shown, f"Share of each class's {what}{part}")


def reliability_picture(bins: Sequence[Bin], error: float) -> str:
    """Accuracy over confidence, and how many images have which; on the diagonal confidence is what it claims."""
    left, right, accuracy, confidence, images = (
        np.array(values, dtype=np.float64)
        for values in zip(*((one.low, one.high, one.accuracy, one.confidence, one.images) for one in bins), strict=True)
    )
    nothing = np.zeros_like(left)
    diagonal = Line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "#666666", 1.0)
    shown = [Bars(left, right, nothing, accuracy, BLUE)]
    shown.append(Bars(left, right, accuracy, confidence, "#c4561e", hatched=True))
    title = f"Accuracy; calibration error {error:.1%} (hatched)"
    upper = Plot(title, [diagonal], percent, 0.0, 1.0, shown, tall=3.0)
    lower = Plot("Images", [], None, 0.0, bars=[Bars(left, right, nothing, images, GREY)])
    return chart([upper, lower], Across("confidence", said=percent, low=0.0, high=1.0), height=317)


def counts_of(labels: Numbers, predicted: Numbers, chosen: Numbers) -> Numbers:
    """The confusion matrix of some classes, sorted ones, among themselves."""
    both = np.isin(labels, chosen) & np.isin(predicted, chosen)
    rows, columns = (np.searchsorted(chosen, numbers[both]) for numbers in (labels, predicted))
    return confusion_matrix(rows, columns, len(chosen))


def _most_confused(labels: Numbers, predicted: Numbers, classes: int) -> tuple[Numbers, str]:
    """Up to MOST_NAMED classes, of the most frequent pairs first, and what to call them."""
    chosen: set[int] = set()
    for pair in confused_pairs(labels, predicted):
        if len(chosen | {pair.label, pair.predicted}) > MOST_NAMED:
            break
        chosen |= {pair.label, pair.predicted}
    if not chosen:
        return np.unique(labels)[:MOST_NAMED], f"No mistakes; {MOST_NAMED} of {classes:,} classes"
    return np.array(sorted(chosen)), f"The {len(chosen)} classes most often confused, of {classes:,}"


def neighbours(counts: Numbers) -> Numbers:
    """An order of classes that has those side by side that are taken for each other: each time that one follows which
    is most like those just placed, the last of them weighing most."""
    alike = counts / np.maximum(counts.sum(1), 1)[:, None]
    alike = alike + alike.T
    np.fill_diagonal(alike, 0)
    order = [int(alike.sum(1).argmax())]
    pull = alike[order[0]].copy()
    free = np.ones(len(counts), np.bool_)
    free[order[0]] = False
    while free.any():
        order.append(int(np.where(free, pull, -1).argmax()))
        free[order[-1]] = False
        pull = _MEMORY * pull + alike[order[-1]]
    return np.array(order)


def _short(name: str) -> str:
    name = drawable(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 8]}...{name[-5:]}"
