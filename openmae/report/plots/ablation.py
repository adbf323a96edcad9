"""What an ablation found, as one picture: a panel for each figure, a dot a seed, and the paper's curve behind them on
an axis of its own."""

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

_PAPER, _GREY = "#b4b8be", "#6f747b"
_BESIDE = 0.08  # of the span, left free
_AROUND = 0.5  # of the span of all seeds, above and below
_MOST_ACROSS = 3  # panels beside each other
_MOST_APART = 12  # letters of a name that stand beside each other,
_MOST_IN_ALL = 36  # and of all of them


def ablation_picture(results: Mapping[str, Any]) -> str:
    """SVG; "" where there is nothing to draw. results: as results.json of an ablation has them."""
    rows = [row for row in results.get("rows") or [] if isinstance(row, dict) and isinstance(row.get("of"), dict)]
    figures = [one for one in results.get("figures") or [] if any(row["of"].get(one["name"]) for row in rows)]
    if not figures:
        return ""
    is_axis = all(is_number(row.get("at")) for row in rows)
    places = [float(row["at"]) if is_axis else float(number) for number, row in enumerate(rows)]
    with matplotlib.rc_context(STYLE):
        across = min(len(figures), _MOST_ACROSS)
        down = -(-len(figures) // across)
        figure = Figure((4.9 * across, 3.9 * down + 0.3), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).reshape(-1)
        for free in panels[len(figures) :]:
            free.set_axis_off()
        has_paper = False
        for axis, one in zip(panels, figures, strict=False):
            if is_axis and results.get("is_log"):
                axis.set_xscale("log", base=2)
            has_paper |= _paper(axis, one["name"], rows, places, results.get("curve") or [])
            _ours(axis, one, rows, places, joined=is_axis)
            _named(axis, rows, places, is_axis)
            axis.set_xlabel(drawable(str(results.get("axis", ""))))
            axis.set_title(drawable(str(one.get("said", one["name"]))))
        usual = drawable(str(results.get("usual", "")))
        said = f"Dots: seeds. Lines: bounds of the difference to {usual}, maybe beyond the frame."
        if has_paper:
            said += "\nGrey: the paper's ViT-L on ImageNet-1K, on its own axis; signs are to be compared, not values."
        figure.supxlabel(said, color=_GREY, fontsize="small")
        return svg_text(figure)


def _ours(
    axis: Axes, one: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], places: Sequence[float], *, joined: bool
) -> None:
    """Seeds, their means, and how far these are certain beside the usual row's."""
    at, means = [], []
    for row, place in zip(rows, places, strict=True):
        values = row["of"].get(one["name"]) or []
        if not values:
            continue
        axis.plot([place] * len(values), values, "o", color=BLUE, markersize=4, alpha=0.45, markeredgewidth=0, zorder=4)
        mean = sum(values) / len(values)
        at.append(place)
        means.append(mean)
        apart = (row.get("against") or {}).get(one["name"]) or {}
        if all(is_number(apart.get(key)) for key in ("difference", "low", "high")):
            low, high = (mean + apart[key] - apart["difference"] for key in ("low", "high"))
            axis.plot([place, place], [low, high], color=BLUE, linewidth=1.2, zorder=3)
    axis.plot(
        at,
        means,
        linestyle="-" if joined else "none",
        marker="_",
        markersize=13,
        markeredgewidth=2.4,
        color=BLUE,
        zorder=5,
    )
    # Of two or three seeds bounds may be wider than all that was found: they leave the frame, and the table has them.
    found = [value for row in rows for value in row["of"].get(one["name"]) or []]
    low, high = min(found), max(found)
    beside = _AROUND * ((high - low) or abs(high) or 1.0)
    axis.set_ylim(low - beside, high + beside)
    scale, unit = (100, "%") if one.get("in_points") else (1, "")
    axis.yaxis.set_major_locator(MaxNLocator(5))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{scale * y:.4g}{unit}"))
    axis.tick_params(axis="y", labelcolor=BLUE)
    axis.grid(visible=False, axis="x")


def _paper(
    axis: Axes, figure: str, rows: Sequence[Mapping[str, Any]], places: Sequence[float], curve: Sequence[Any]
) -> bool:
    """Draws the paper's figures behind; gives whether it has any."""
    known = {
        place: row["paper"][figure]
        for row, place in zip(rows, places, strict=True)
        if isinstance(row.get("paper"), dict) and is_number(row["paper"].get(figure))
    }
    is_axis = all(is_number(row.get("at")) for row in rows)
    if is_axis:
        known |= {
            float(one["at"]): one[figure] for one in curve if isinstance(one, dict) and is_number(one.get(figure))
        }
    if not known:
        return False
    right = axis.twinx()
    right.set_zorder(axis.get_zorder() - 1)
    axis.patch.set_visible(False)
    at = sorted(known)
    right.plot(
        at,
        [known[place] for place in at],
        linestyle="-" if is_axis else "none",
        marker="s",
        markersize=5,
        color=_PAPER,
        linewidth=1.6,
    )
    right.grid(visible=False)
    right.set_ylabel("paper", color=_GREY, fontsize="small")
    right.yaxis.set_major_locator(MaxNLocator(5))
    right.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.4g}%"))
    right.tick_params(axis="y", labelcolor=_GREY, length=0)
    for side in ("left", "top", "bottom", "right"):
        right.spines[side].set_visible(False)
    return True


def _named(axis: Axes, rows: Sequence[Mapping[str, Any]], places: Sequence[float], is_axis: bool) -> None:
    names = [drawable(str(row["name"])) for row in rows]
    turned = not is_axis and (max(map(len, names)) > _MOST_APART or sum(map(len, names)) > _MOST_IN_ALL)
    if turned:
        axis.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor")
    else:
        axis.set_xticks(places, names)
    axis.minorticks_off()
    low, high = min(places), max(places)
    if axis.get_xscale() == "log":
        axis.set_xlim(low * (low / high) ** _BESIDE, high * (high / low) ** _BESIDE)
    else:
        axis.set_xlim(low - _BESIDE * (high - low), high + _BESIDE * (high - low))
    axis.tick_params(axis="x", colors=INK)
