"""What a study found, as one picture: each figure of each encoder, a dot a seed, and the difference that decides."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from openmae.console.words import drawable
from openmae.report.plots.curves import is_number
from openmae.report.plots.figure import svg_text
from openmae.report.plots.style import BLUE, INK, STYLE

_COLOURS = (INK, BLUE, "#c4561e", "#2c8a57")
_ROW = 1.05  # inches
_APART = 0.2  # of rows, between encoders


def study_picture(figures: Sequence[dict[str, Any]], encoders: Mapping[str, str]) -> str:
    """SVG; "" where there is nothing to draw. figures: as results.json of a study has them."""
    shown = [one for one in figures if any(one["of"].get(key) for key in encoders)]
    if not shown:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure((8.2, 0.9 + _ROW * len(shown)), layout="constrained")
        axes = figure.subplots(len(shown), 2, squeeze=False, width_ratios=(3, 2))
        for (left, right), one in zip(axes, shown, strict=True):
            _values(left, one, encoders)
            _gain(right, one)
        axes[0][0].set_title("Seeds (dots) and their mean")
        axes[0][1].set_title("Gain of going on")
        handles = [
            matplotlib.lines.Line2D([], [], color=colour, marker="o", linestyle="", label=said)
            for colour, said in zip(_COLOURS, encoders.values(), strict=False)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        return svg_text(figure)


def _values(axis: Axes, one: dict[str, Any], encoders: Mapping[str, str]) -> None:
    for number, (key, colour) in enumerate(zip(encoders, _COLOURS, strict=False)):
        values = one["of"].get(key) or []
        if not values:
            continue
        height = -number * _APART
        axis.plot(values, [height] * len(values), "o", color=colour, markersize=5, alpha=0.55, markeredgewidth=0)
        mean = sum(values) / len(values)
        axis.plot([mean, mean], [height - _APART / 3, height + _APART / 3], color=colour, linewidth=2.5)
    _bare(axis, one, len(encoders))
    axis.set_ylabel(
        drawable(str(one.get("said", one["name"]))).replace(" (", "\n("), rotation=0, ha="right", va="center"
    )
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.margins(x=0.12)
    if one.get("in_points"):
        low, high = axis.get_xlim()
        axis.set_xlim(max(-0.005, low), min(1.005, high))


def _gain(axis: Axes, one: dict[str, Any]) -> None:
    gain = one.get("gain") or {}
    axis.axvline(0, color="#999999", linewidth=1)
    if all(is_number(gain.get(key)) for key in ("difference", "low", "high")):
        low, mean, high = (gain[key] for key in ("low", "difference", "high"))
        colour = BLUE if low > 0 else "#c4561e" if high < 0 else INK
        axis.plot([low, high], [0, 0], color=colour, linewidth=2.5, solid_capstyle="butt")
        axis.plot([mean], [0], "o", color=colour, markersize=7)
    _bare(axis, one, 1, signed=True)
    axis.set_ylim(-1, 1)
    axis.margins(x=0.25)
    axis.xaxis.set_major_locator(MaxNLocator(5))


def _bare(axis: Axes, one: dict[str, Any], rows: int, *, signed: bool = False) -> None:
    """Without what says nothing; shares in percent, their differences in points."""
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_ylim(-rows * _APART, _APART)
    axis.tick_params(length=0)
    scale, unit = (100, "" if signed else "%") if one.get("in_points") else (1, "")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _number(scale * x, signed) + unit))


def _number(value: float, signed: bool) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:{'+' if signed else ''}.4g}"
