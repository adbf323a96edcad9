"""Pictures of results: who is taken for whom, is confidence to be believed, how numbers are hit, what corruption costs.

Each is SVG text, the same for the same figures. Shapes: n images, K classes.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from openmae.console.words import drawable
from openmae.evaluate.metrics import Bin, Numbers, confused_pairs, confusion_matrix
from openmae.report.plots.chart import Across, Bars, Line, Plot, chart
from openmae.report.plots.figure import svg_text
from openmae.report.plots.style import BLUE, GREY, INK, STYLE, percent

MOST_NAMED = 30  # classes whose names and counts can be read in one matrix
MOST_DRAWN = 500  # classes of the overview
MOST_POINTS = 2000  # of a scatter plot that are kept as shapes; more become pixels
_WIDTH = 8.2  # inches, as wide as the page
_LONGEST_NAME = 22
_LEAST_SPAN = 0.1  # of errors that the colours tell apart
_MAP = "Blues"
_MEMORY = 0.8  # weight of a class in an order over that of the one placed after it


def confusion_picture(labels: Numbers, predicted: Numbers, names: Sequence[str]) -> str:
    """(n,), (n,) -> the counts of each class by what it is called: of all of them, or, of more than MOST_NAMED, of
    those that are most often confused, those that are taken for each other side by side."""
    chosen, title = np.unique(np.concatenate([labels, predicted])), ""
    if len(chosen) > MOST_NAMED:
        chosen, title = _most_confused(labels, predicted, len(names))
    counts = _counts(labels, predicted, chosen)
    if title:
        order = _neighbours(counts)
        counts, chosen = counts[order][:, order], chosen[order]
    images = np.bincount(labels, minlength=len(names))[chosen]
    shares = counts / np.maximum(images, 1)[:, None]
    with matplotlib.rc_context(STYLE):
        side = min(_WIDTH, 2.8 + 0.45 * len(chosen))
        figure = Figure((side, 0.3 + 0.92 * side), layout="constrained")
        axis = _matrix(figure, shares, 1.0)
        shown = [_short(names[number]) for number in chosen]
        axis.set_xticks(range(len(chosen)), shown, rotation=90)
        axis.set_yticks(range(len(chosen)), shown)
        size = float(np.clip(200 * side / _WIDTH / len(chosen), 6.5, 9))
        axis.tick_params(labelsize=size)
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.55 else INK
            axis.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=size, color=colour)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        axis.set_title(title)
        return svg_text(figure)


def shares_picture(counts: NDArray[np.int64], names: Sequence[str], what: str = "pixels") -> str:
    """(K, K) counts of pixels, or of what else, of a class (row) that were taken for a class (column) -> shares of each
    class that occurs or is said to, of the MOST_NAMED largest; what most are taken for is among them."""
    has, said = counts.sum(1), counts.sum(0)
    chosen = np.flatnonzero(has + said)
    part = f", the {MOST_NAMED} largest of {len(chosen)}" if len(chosen) > MOST_NAMED else ""
    weight = np.where(np.arange(len(counts)) == said.argmax(), np.inf, has)
    chosen = np.sort(chosen[np.argsort(-weight[chosen], kind="stable")[:MOST_NAMED]])
    shares = counts[chosen][:, chosen] / np.maximum(has[chosen], 1)[:, None]
    with matplotlib.rc_context(STYLE):
        side = min(_WIDTH, 2.8 + 0.45 * len(chosen))
        figure = Figure((side, 0.3 + 0.92 * side), layout="constrained")
        axis = _matrix(figure, shares, 1.0)
        shown = [_short(names[number]) for number in chosen.tolist()]
        axis.set_xticks(range(len(chosen)), shown, rotation=90)
        axis.set_yticks(range(len(chosen)), shown)
        size = float(np.clip(200 * side / _WIDTH / len(chosen), 6.5, 9))
        axis.tick_params(labelsize=size)
        for row, column in np.argwhere(shares >= 0.005):
            colour = "white" if shares[row, column] > 0.55 else INK
            axis.text(column, row, f"{shares[row, column]:.0%}", ha="center", va="center", fontsize=size, color=colour)
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        axis.set_title(f"Share of each class's {what}{part}", fontsize=10)
        return svg_text(figure)


def overview_picture(labels: Numbers, predicted: Numbers) -> str:
    """The matrix of all classes that occur, those that are taken for each other side by side; "" where
    confusion_picture shows them all or they are more than MOST_DRAWN."""
    occurring = np.unique(np.concatenate([labels, predicted]))
    if not MOST_NAMED < len(occurring) <= MOST_DRAWN:
        return ""
    counts = _counts(labels, predicted, occurring)
    order = _neighbours(counts)
    shares = counts[order][:, order] / np.maximum(counts.sum(1)[order], 1)[:, None]
    with matplotlib.rc_context(STYLE):
        figure = Figure((0.75 * _WIDTH, 0.75 * _WIDTH), layout="constrained")
        # By the root, for one in ten to be seen.
        axis = _matrix(figure, np.sqrt(shares), 1.0)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel("predicted class")
        axis.set_ylabel("true class")
        axis.set_title(f"All {len(occurring):,} classes: blocks are groups that are taken for each other", fontsize=10)
        return svg_text(figure)


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


def scatter_picture(values: NDArray[np.float32], predicted: NDArray[np.float32]) -> str:
    """(n,), (n,) -> predicted over true values; on the diagonal they are equal."""
    with matplotlib.rc_context(STYLE):
        figure = Figure((5.0, 4.6), layout="constrained")
        axis = figure.add_subplot()
        ends = [float(min(values.min(), predicted.min())), float(max(values.max(), predicted.max()))]
        axis.plot(ends, ends, color="#666666", linewidth=1, linestyle="--")
        size = float(np.clip(4000 / len(values), 2, 22))
        axis.scatter(values, predicted, size, color=BLUE, alpha=0.5, linewidths=0, rasterized=len(values) > MOST_POINTS)
        axis.set_xlabel("true value")
        axis.set_ylabel("predicted")
        axis.set_title("Predicted over true values")
        axis.tick_params(length=0)
        return svg_text(figure)


def corruptions_picture(errors: Mapping[str, Mapping[int, float]], clean: float) -> str:
    """Error by kind and severity. errors[kind][severity], clean: 0..1."""
    severities = sorted({severity for of in errors.values() for severity in of})
    table = np.array([[of.get(severity, np.nan) for severity in severities] for of in errors.values()])
    means = np.nanmean(table, axis=1, keepdims=True)
    table = np.hstack([table, means]) if len(severities) > 1 else table
    with matplotlib.rc_context(STYLE):
        figure = Figure((2.6 + 0.7 * table.shape[1], 1.2 + 0.3 * len(table)), layout="constrained")
        highest = max(clean + _LEAST_SPAN, float(np.nanmax(table)))  # or one image more would look like much
        axis = _matrix(figure, table, highest, low=clean, colours="Oranges")
        axis.set_xticks(range(table.shape[1]), [*map(str, severities), "mean"][: table.shape[1]])
        axis.set_yticks(range(len(table)), [kind.replace("_", " ") for kind in errors])
        for (row, column), error in np.ndenumerate(table):
            colour = "white" if error - clean > 0.65 * (highest - clean) else INK
            said = f"{100 * error:.1f}" if np.isfinite(error) else ""
            axis.text(column, row, said, ha="center", va="center", fontsize=9, color=colour)
        axis.set_xlabel("severity")
        axis.set_title(f"Top-1 error in %, {100 * clean:.1f} without corruption", fontsize=10)
        return svg_text(figure)


def _matrix(figure: Figure, values: NDArray[np.float64], high: float, low: float = 0.0, colours: str = _MAP) -> Axes:
    axis = figure.add_subplot()
    axis.grid(visible=False)
    axis.imshow(values, cmap=colours, vmin=min(low, high), vmax=high, aspect="auto", interpolation="nearest")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return axis


def _counts(labels: Numbers, predicted: Numbers, chosen: Numbers) -> Numbers:
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


def _neighbours(counts: Numbers) -> Numbers:
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
