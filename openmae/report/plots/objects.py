"""Pictures of what a detector finds: precision over recall, and how large the objects are that it misses.

Each is SVG text, the same for the same figures.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from openmae.report.plots.chart import Across, Bars, Line, Plot, chart
from openmae.report.plots.style import BLUE, GREY, percent

_BINS = 12
_COLOURS = (BLUE, "#5e8fc9", "#a9c4e4")


def precision_recall_picture(curves: Mapping[str, Sequence[float]]) -> str:
    """Precision at recalls that are evenly apart from 0 to 1, by the overlap that is asked for; "" where there are
    none."""
    lines = [
        Line(np.linspace(0, 1, len(values)), np.array(values, np.float64), colour, name=f"overlap {overlap}")
        for (overlap, values), colour in zip(curves.items(), _COLOURS, strict=False)
    ]
    if not lines:
        return ""
    plot = Plot("Precision, mean of the classes", lines, percent, 0.0, 1.0)
    return chart([plot], Across("recall: share of the objects that are found", said=percent, low=0.0, high=1.0))


def sizes_picture(sides: NDArray[np.float64], is_found: NDArray[np.bool_]) -> str:
    """How many objects of which size (n,), in pixels, were found (n,) and missed; "" where there are none."""
    if not len(sides):
        return ""
    powers = np.log2(np.maximum(sides, 1.0))
    low, high = float(np.floor(powers.min())), float(max(np.ceil(powers.max()), np.floor(powers.min()) + 1))
    edges = np.linspace(low, high, _BINS + 1)
    found, missed = (np.histogram(powers[one], edges)[0].astype(np.float64) for one in (is_found, ~is_found))
    left, right, nothing = edges[:-1], edges[1:], np.zeros(_BINS)
    bars = [Bars(left, right, nothing, found, BLUE), Bars(left, right, found, found + missed, GREY)]
    title = f"Objects: {int(found.sum()):,} found, {int(missed.sum()):,} missed (grey)"
    across = Across("pixels a side (root of the box's area)", said=lambda power: f"{2**power:.0f}", low=low, high=high)
    return chart([Plot(title, [], None, 0.0, bars=bars)], across)
