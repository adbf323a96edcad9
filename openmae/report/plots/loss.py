"""The curve of the training loss as a PNG, for pages that show no SVG."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from openmae.report.plots.curves import Metrics, loss_lines
from openmae.report.plots.style import STYLE


def loss_png(metrics: Metrics) -> bytes:
    """Training loss over steps, as logged (thin) and smoothed; b"" where there is nothing to draw."""
    lines = loss_lines(metrics)
    if not lines:
        return b""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 3.0), layout="constrained")
        axis = figure.add_subplot()
        for line in lines:
            marks: dict[str, Any] = {"marker": "o", "markersize": 3.5} if line.marks else {}
            axis.plot(line.x, line.y, color=line.colour, linewidth=line.width, **marks)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_major_formatter("{x:,g}")  # no common factor above the axis, where the title stands
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.tick_params(length=0)
        axis.set_xlabel("step")
        axis.set_title("Training loss")
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()
