"""Pictures of results that matplotlib draws, which is large: all of many classes, how numbers are hit, what corruption
costs.

Each is SVG text, the same for the same figures. Shapes: n images.
"""

from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from openmae.evaluate.metrics import Numbers
from openmae.report.plots.figure import svg_text
from openmae.report.plots.results import MOST_NAMED, counts_of, neighbours
from openmae.report.plots.style import BLUE, INK, STYLE

MOST_DRAWN = 500  # classes of the overview
MOST_POINTS = 2000  # of a scatter plot that are kept as shapes; more become pixels
_WIDTH = 8.2  # inches, as wide as the page
_LEAST_SPAN = 0.1  # of errors that the colours tell apart
_MAP = "Blues"


def overview_picture(labels: Numbers, predicted: Numbers) -> str:
    """The matrix of all classes that occur, those that are taken for each other side by side; "" where
    confusion_picture shows them all or they are more than MOST_DRAWN."""
    occurring = np.unique(np.concatenate([labels, predicted]))
    if not MOST_NAMED < len(occurring) <= MOST_DRAWN:
        return ""
    counts = counts_of(labels, predicted, occurring)
    order = neighbours(counts)
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
