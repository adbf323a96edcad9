"""How good the features of each layer are, as a picture."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from openmae.report.plots.figure import svg_text
from openmae.report.plots.style import BLUE, INK, STYLE, percent

_COLOURS = (BLUE, "#c4561e")
_DASHES = (":", "--", "-.")


def layers_curve(title: str, lines: Mapping[str, Sequence[tuple[int, float]]], levels: Mapping[str, float]) -> str:
    """An SVG of (layer, figure) points, a line a name, the best point of all ringed; levels to compare with, such as
    raw pixels, are dashed across. Figures that are all of 0..1 are shown in percent."""
    values = [value for points in lines.values() for _, value in points] + list(levels.values())
    shares = all(0 <= value <= 1 for value in values)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 3.4), layout="constrained")
        axis = figure.add_subplot()
        for (name, points), colour in zip(lines.items(), _COLOURS, strict=False):
            axis.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=name)
        for (name, level), dashes in zip(levels.items(), _DASHES, strict=False):
            axis.axhline(level, color=INK, linewidth=1, linestyle=dashes, label=name)
        best = max((point for points in lines.values() for point in points), key=lambda point: point[1])
        axis.plot(*best, marker="o", markersize=10, markerfacecolor="none", markeredgecolor=INK)
        said = f"{100 * best[1]:.1f}%" if shares else f"{best[1]:.3f}"
        axis.annotate(said, best, (0, 9), textcoords="offset points", ha="center", color=INK)
        axis.xaxis.set_major_locator(MaxNLocator(13, integer=True))
        axis.margins(x=0.07, y=0.14)
        axis.tick_params(length=0)
        axis.set_xlabel("layer (block after which the features are taken)")
        axis.set_title(title)
        if shares:
            axis.yaxis.set_major_formatter(percent)
        figure.legend(loc="outside lower center", ncols=2)
        return svg_text(figure)
