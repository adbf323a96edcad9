"""What a study found, as charts: of each figure a dot a seed, their mean, how far it is certain beside the usual row's,
and the paper's curve behind it on an axis of its own."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openmae.console.words import drawable
from openmae.report.plots.chart import DOT, HEIGHT, Across, Line, Plot, chart
from openmae.report.plots.curves import is_number
from openmae.report.plots.differences import has_bounds, shown_difference, shown_value
from openmae.report.plots.style import BLUE, GREY, percent

_SEED = "#8fafd4"
_MEAN = 2 * DOT
_AROUND = 0.5  # of the span of all seeds, above and below
_EACH = 150  # points, of a plot in the picture of all
_LETTERS = 62  # of a line below it


def study_charts(results: Mapping[str, Any]) -> dict[str, str]:
    """A chart of each figure, by its title. results: as results.json of any study has them."""
    drawn = _drawn(results)
    return {one.title: chart([one], drawn.across) for one in drawn.plots}


def study_picture(results: Mapping[str, Any]) -> str:
    """All of them as one SVG, one above the other; "" where there is nothing to draw."""
    drawn = _drawn(results)
    if not drawn.plots:
        return ""
    height = HEIGHT + (len(drawn.plots) - 1) * _EACH
    return chart(drawn.plots, drawn.across, height, textwrap.wrap(drawn.said, _LETTERS))


def said_of_charts(results: Mapping[str, Any]) -> str:
    """What is to be known of them; "" where there is none."""
    return _drawn(results).said


@dataclass(frozen=True)
class _Drawn:
    plots: Sequence[Plot]
    across: Across
    said: str


def _drawn(results: Mapping[str, Any]) -> _Drawn:
    rows = [row for row in _rows(results) if isinstance(row, dict) and isinstance(row.get("of"), dict)]
    figures = [one for one in results.get("figures") or [] if any(row["of"].get(one["name"]) for row in rows)]
    is_axis = all(is_number(row.get("at")) for row in rows)
    placed = {float(row["at"]) if is_axis else float(number): row for number, row in enumerate(rows)}
    placed = dict(sorted(placed.items()))
    usual = str(results.get("usual") or (rows[0]["name"] if rows else ""))
    curve = results.get("curve") or []
    plots = [_plot(one, placed, usual, _paper(one, placed, curve, is_axis)) for one in figures]
    across = Across(
        drawable(str(results.get("axis", ""))),
        [drawable(str(row["name"])) for row in placed.values()],
        places=list(placed),
        is_log=is_axis and bool(results.get("is_log")),
    )
    return _Drawn(plots, across, _said(plots, usual) if plots else "")


def _said(plots: Sequence[Plot], usual: str) -> str:
    bars = any(line.bars is not None for plot in plots for line in plot.lines)
    said = f"Small dots: seeds. Large ones: their mean. Dashed: that of {drawable(usual)}."
    if bars:
        said += " Bars: the bounds of the difference to it, maybe beyond the frame."
    if any(plot.behind is not None for plot in plots):
        said += " Grey: the paper's ViT-L on ImageNet-1K, on its own axis; signs are to be compared, not values."
    return said


def _rows(results: Mapping[str, Any]) -> list[Any]:
    """Of a table of rows, those; of one of encoders, a row each, compared with the first."""
    if not isinstance(results.get("encoders"), dict):
        return list(results.get("rows") or [])
    figures, encoders = results.get("figures") or [], results["encoders"]
    over = {"gone-on": ("gain", 1), "scratch": ("released_over_scratch", -1)}
    return [
        {
            "name": said,
            "of": {one["name"]: one["of"].get(key) for one in figures},
            "against": {one["name"]: _turned(one.get(over[key][0]), over[key][1]) for one in figures if key in over},
        }
        for key, said in encoders.items()
    ]


def _turned(found: Any, sign: int) -> dict[str, Any]:
    """A difference, or, where the sign is -1, the other way round."""
    found = found if isinstance(found, dict) else {}
    if sign == 1 or not has_bounds(found):
        return {**found, "each": [sign * one for one in found.get("each") or ()]} | (
            {"difference": sign * found["difference"]} if is_number(found.get("difference")) else {}
        )
    return {"difference": -found["difference"], "low": -found["high"], "high": -found["low"]}


def _plot(one: Mapping[str, Any], placed: Mapping[float, Any], usual: str, paper: Line | None) -> Plot:
    """Of a figure. placed: the rows, by where they stand."""
    name = one["name"]
    found = {place: values for place, row in placed.items() if (values := row["of"].get(name))}
    lines = [_seeds(found, number) for number in range(max(map(len, found.values())))]
    lines.append(_means(one, {place: placed[place] for place in found}))
    level = next((_mean(values) for place, values in found.items() if placed[place]["name"] == usual), None)
    everything = [value for values in found.values() for value in values]
    # Bounds may be wider than all that was found: they leave the frame, and the table has them.
    low, high = min(everything), max(everything)
    beside = _AROUND * ((high - low) or abs(high) or 1.0)
    low, high = low - beside, high + beside
    is_share = bool(one.get("in_points"))
    if is_share:
        low, high = max(0.0, low), min(1.0, high)
    title = drawable(str(one.get("said", name)))
    return Plot(title, lines, percent if is_share else None, low, high, level=level, behind=paper)


def _seeds(found: Mapping[float, Sequence[float]], number: int) -> Line:
    """What one seed gave, wherever there are so many."""
    some = {place: values[number] for place, values in found.items() if len(values) > number}
    return Line(np.array([*some]), np.array([*some.values()], np.float64), _SEED, 0, DOT, pointed="a seed")


def _means(one: Mapping[str, Any], placed: Mapping[float, Any]) -> Line:
    """With their bounds, and joined where the rows are numbers."""
    means, bars, told = [], [], []
    for row in placed.values():
        mean = _mean(row["of"][one["name"]])
        apart = (row.get("against") or {}).get(one["name"]) or {}
        known = has_bounds(apart) and is_number(apart.get("difference"))
        bars.append([mean + apart[end] - apart["difference"] if known else np.nan for end in ("low", "high")])
        said = shown_difference(one, apart)
        told.append(shown_value(one, mean) + ("" if said == "-" else f", {said}"))
        means.append(mean)
    joined = all(is_number(row.get("at")) for row in placed.values())
    ends = np.array(bars, np.float64)
    return Line(
        np.array([*placed]),
        np.array(means, np.float64),
        BLUE,
        1.4 if joined else 0,
        _MEAN,
        pointed="mean",
        told=told,
        bars=None if np.isnan(ends).all() else ends,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _paper(one: Mapping[str, Any], placed: Mapping[float, Any], curve: Sequence[Any], is_axis: bool) -> Line | None:
    """The paper's shares of a figure; None where it has none."""
    if not one.get("in_points"):
        return None
    known = {
        place: row["paper"][one["name"]]
        for place, row in placed.items()
        if isinstance(row.get("paper"), dict) and is_number(row["paper"].get(one["name"]))
    }
    if is_axis:
        points = [point for point in curve if isinstance(point, dict) and is_number(point.get(one["name"]))]
        known |= {float(point["at"]): point[one["name"]] for point in points}
    if not known:
        return None
    known = dict(sorted(known.items()))
    shares = np.array([*known.values()], np.float64) / 100
    width, marks = (1.6, DOT) if is_axis else (0.0, _MEAN)
    return Line(np.array([*known]), shares, GREY, width, marks, pointed="paper")
