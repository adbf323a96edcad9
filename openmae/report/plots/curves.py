"""Curves of a run as SVG text, drawn from the lines of metrics.jsonl alone.

A line is a dict with "step" and numbers under names such as "loss"; a number may be missing or null. Every
function gives "" where there is nothing to draw. The same lines give the same text.
"""

import io
import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from openmae.report.plots.style import BLUE, GREY, INK, STYLE, percent, svg_text

Metrics = Sequence[dict[str, Any]]
_PALETTE = (BLUE, "#c4561e", "#2c8a57", "#8a4fa0", "#9a7b12", "#b0305c")
_FEW = 12  # points or fewer are marked, and not smoothed
_LARGEST = 1e100


_SAID = {"top1": "top-1", "top5": "top-5", "mean_ap": "mean average precision", "knn_top1": "kNN top-1"}


def curves(metrics: Metrics) -> dict[str, str]:
    """Every curve that these lines give, by title."""
    drawn = {
        "Training loss": loss_curve(metrics),
        "Evaluations during training": evaluation_curve(metrics),
        "Effective rank of the features (RankMe)": rankme_curve(metrics),
        **validation_curves(metrics),
        "Learning rate": learning_rate_curve(metrics),
        "Gradient norm": gradient_norm_curve(metrics),
        "Speed": speed_curve(metrics),
    }
    return {title: svg for title, svg in drawn.items() if svg}


def loss_curve(metrics: Metrics) -> str:
    """Training loss over steps, as logged (thin) and smoothed."""
    return _one(metrics, "loss", "Training loss")


def loss_png(metrics: Metrics) -> bytes:
    """The same as a PNG, for pages that show no SVG; b"" where there is nothing to draw."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = _plot(metrics, "loss", "Training loss")
        if figure is not None:
            figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def learning_rate_curve(metrics: Metrics) -> str:
    """Learning rate over steps."""
    return _one(metrics, "lr", "Learning rate", smooth=False)


def gradient_norm_curve(metrics: Metrics) -> str:
    """Norm of the whole gradient over steps, before any clipping, as logged (thin) and smoothed."""
    return _one(metrics, "grad_norm", "Gradient norm")


def speed_curve(metrics: Metrics) -> str:
    """Images a second, and below it the share of time spent waiting for data."""
    parts = {
        "Images a second": series(metrics, "images_per_second"),
        "Time spent waiting for data": series(metrics, "data_wait"),
    }
    parts = {title: points for title, points in parts.items() if len(points[0])}
    if not parts:
        return ""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(len(parts))
        for axis, (title, points) in zip(axes, parts.items(), strict=True):
            _draw(axis, *points)
            axis.set_title(title)
            axis.set_ylim(0, max(0.05, 1.15 * points[1].max()))
        if "Time spent waiting for data" in parts:
            axes[-1].yaxis.set_major_formatter(percent)
        return svg_text(figure)


def evaluation_curve(metrics: Metrics) -> str:
    """Everything logged under "eval/", one line a name; shares of 0..1 are shown in percent."""
    names = sorted({name for line in metrics for name in line if name.startswith("eval/")})
    found = {name.removeprefix("eval/"): series(metrics, name) for name in names}
    found = {name: points for name, points in found.items() if len(points[0])}
    if not found:
        return ""
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _figure(1)
        for number, (name, (steps, values)) in enumerate(found.items()):
            said = _SAID.get(name, name)
            axis.plot(steps, values, color=_PALETTE[number % len(_PALETTE)], marker="o", markersize=3.5, label=said)
        axis.set_title("Evaluations during training")
        if all(0 <= v <= 1 for _, values in found.values() for v in values):
            axis.yaxis.set_major_formatter(percent)
        axis.legend()
        return svg_text(figure)


def rankme_curve(metrics: Metrics) -> str:
    """Effective rank of held features over steps, from 1 to their width."""
    return _one(metrics, "rankme", "Effective rank of the features (RankMe)", smooth=False)


def validation_curves(metrics: Metrics) -> dict[str, str]:
    """Everything logged under "val_", a curve each, by title."""
    names = {"val_loss": "Val loss", "val_r2": "R² on val", "val_mae": "Mean absolute error on val"}
    names["val_rmse"] = "Root mean squared error on val"
    drawn = {title: _one(metrics, name, title, smooth=False) for name, title in names.items()}
    return {title: svg for title, svg in drawn.items() if svg}


def blocks_curve(points: Sequence[tuple[str, float]], name: str) -> str:
    """A figure over the number of last blocks that learn, each value written beside its point (paper, Figure 9).

    points: (blocks as given: "0", "0.5", "4", "all"; value), in any order, one or more. name: of the figure. Values
    that are all of 0..1 are shown in percent.
    """
    ordered = sorted(points, key=lambda point: math.inf if point[0] == "all" else float(point[0]))
    values = [value for _, value in ordered]
    shares = all(0 <= value <= 1 for value in values)
    with matplotlib.rc_context(STYLE):
        figure, (axis,) = _figure(1)
        axis.plot(range(len(ordered)), values, color=BLUE, linewidth=1.6, marker="o", markersize=5)
        for place, value in enumerate(values):
            said = f"{100 * value:.1f}" if shares else f"{value:.3g}"
            beside = values[max(0, place - 1) : place + 2]
            below = len(beside) > 1 and value == min(beside) and max(beside) > value  # above it would cross the line
            offset = (0, -15 if below else 7)
            axis.annotate(said, (place, value), offset, textcoords="offset points", ha="center", color=INK)
        axis.set_xticks(range(len(ordered)), [blocks for blocks, _ in ordered])
        axis.set_xlabel("last blocks that learn (0: the head alone)")
        axis.set_title(name)
        axis.margins(x=0.08, y=0.2)
        if shares:
            axis.yaxis.set_major_formatter(percent)
        return svg_text(figure)


def series(metrics: Metrics, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of the lines in which both are finite numbers."""
    points = [(line.get("step"), line.get(name)) for line in metrics]
    kept = [point for point in points if all(is_number(value) for value in point)]
    steps, values = np.array(kept, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred running mean over 5% of the points; at the ends, over the points there are."""
    window = max(3, len(values) // 20) | 1
    weights = np.ones(window)
    half = window // 2
    sums = np.convolve(values, weights)[half : half + len(values)]
    counts = np.convolve(np.ones_like(values), weights)[half : half + len(values)]
    return np.asarray(sums / counts, dtype=np.float64)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value read from JSON is a finite number, and none so large that drawing it overflows."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _one(metrics: Metrics, name: str, title: str, smooth: bool = True) -> str:
    with matplotlib.rc_context(STYLE):
        figure = _plot(metrics, name, title, smooth)
        return "" if figure is None else svg_text(figure)


def _plot(metrics: Metrics, name: str, title: str, smooth: bool = True) -> Figure | None:
    steps, values = series(metrics, name)
    if not len(steps):
        return None
    figure, (axis,) = _figure(1)
    _draw(axis, steps, values, smooth)
    axis.set_title(title)
    return figure


def _draw(axis: Axes, steps: NDArray[np.float64], values: NDArray[np.float64], smooth: bool = True) -> None:
    if len(steps) <= _FEW:
        axis.plot(steps, values, color=BLUE, linewidth=1.6, marker="o", markersize=3.5)
    elif smooth:
        axis.plot(steps, values, color=GREY, linewidth=0.9)
        axis.plot(steps, smoothed(values), color=BLUE, linewidth=1.8)
    else:
        axis.plot(steps, values, color=BLUE, linewidth=1.8)


def _figure(rows: int) -> tuple[Figure, list[Axes]]:
    """Plots one above the other with common steps; small, so that the text is readable on a phone. Margins are fixed:
    to fit them to the numbers takes nearly as long as to draw."""
    figure = Figure(figsize=(5.0, 3.0))
    figure.subplots_adjust(left=0.17, right=0.97, bottom=0.16, top=0.9, hspace=0.3)
    axes = [figure.add_subplot(rows, 1, number + 1) for number in range(rows)]
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_major_formatter("{x:,g}")  # no common factor above the axis, where the title stands
        axis.yaxis.set_major_locator(MaxNLocator(5 if rows == 1 else 3, steps=[1, 2, 2.5, 5, 10]))
        axis.tick_params(length=0)
    for upper in axes[:-1]:
        upper.tick_params(labelbottom=False)
    axes[-1].set_xlabel("step")
    return figure, axes
