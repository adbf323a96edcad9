"""Curves of a run as SVG text, drawn from the lines of metrics.jsonl alone.

A line is a dict with "step" and numbers under names such as "loss"; a number may be missing or null. Every
function gives "" where there is nothing to draw. The same lines give the same text.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from openmae.report.plots.chart import DOT, Across, Line, Plot, chart
from openmae.report.plots.style import BLUE, GREY, percent

Metrics = Sequence[dict[str, Any]]
PALETTE = (BLUE, "#c4561e", "#2c8a57", "#8a4fa0", "#9a7b12", "#b0305c")
FEW = 12  # points or fewer are marked, and not smoothed
_LARGEST = 1e100


_SAID = {
    **{"top1": "top-1", "top5": "top-5", "mean_ap": "mean average precision", "knn_top1": "kNN top-1"},
    **{"miou": "mIoU", "dice": "mean Dice", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "class accuracy"},
    **{f"{kind}_ap{more}": f"{kind} AP{more}" for kind in ("mask", "box") for more in ("", "50", "75")},
}

_TITLES = {
    "loss": "Training loss",
    "rankme": "Effective rank of the features (RankMe)",
    "lr": "Learning rate",
    "grad_norm": "Gradient norm",
    "images_per_second": "Images a second",
    "data_wait": "Time spent waiting for data",
}
_ON_VAL = {
    "val_loss": "Val loss",
    "val_r2": "R² on val",
    "val_mae": "Mean absolute error on val",
    "val_rmse": "Root mean squared error on val",
}


def name_of_curve(name: str) -> str:
    """The title of what was logged under a name."""
    bare = name.removeprefix("eval/")
    return _TITLES.get(name) or _ON_VAL.get(name) or _SAID.get(bare, bare)


def curves(metrics: Metrics) -> dict[str, str]:
    """Every curve that these lines give, by title."""
    drawn = {
        _TITLES["loss"]: loss_curve(metrics),
        "Evaluations during training": evaluation_curve(metrics),
        _TITLES["rankme"]: rankme_curve(metrics),
        **validation_curves(metrics),
        _TITLES["lr"]: learning_rate_curve(metrics),
        _TITLES["grad_norm"]: gradient_norm_curve(metrics),
        "Speed": speed_curve(metrics),
    }
    return {title: svg for title, svg in drawn.items() if svg}


def loss_curve(metrics: Metrics) -> str:
    """Training loss over steps, as logged (thin) and smoothed."""
    return _one(metrics, "loss")


def loss_lines(metrics: Metrics) -> list[Line]:
    """What it is drawn of, none where there is nothing."""
    return _lines(metrics, "loss")


def learning_rate_curve(metrics: Metrics) -> str:
    """Learning rate over steps."""
    return _one(metrics, "lr", smooth=False)


def gradient_norm_curve(metrics: Metrics) -> str:
    """Norm of the whole gradient over steps, before any clipping, as logged (thin) and smoothed."""
    return _one(metrics, "grad_norm")


def speed_curve(metrics: Metrics) -> str:
    """Images a second, and below it the share of time spent waiting for data."""
    plots = [
        Plot(_TITLES[name], lines, percent if name == "data_wait" else None, 0.0, _room_above(lines))
        for name in ("images_per_second", "data_wait")
        if (lines := _lines(metrics, name))
    ]
    return chart(plots) if plots else ""


def evaluation_curve(metrics: Metrics) -> str:
    """Everything logged under "eval/", one line a name; shares of 0..1 are shown in percent."""
    names = sorted({name for line in metrics for name in line if name.startswith("eval/")})
    found = {name.removeprefix("eval/"): series(metrics, name) for name in names}
    lines = [
        Line(steps, values, PALETTE[number % len(PALETTE)], 1.5, marks=DOT, name=_SAID.get(name, name))
        for number, (name, (steps, values)) in enumerate(found.items())
        if len(steps)
    ]
    if not lines:
        return ""
    shares = all(((line.y >= 0) & (line.y <= 1)).all() for line in lines)
    return chart([Plot("Evaluations during training", lines, percent if shares else None)])


def rankme_curve(metrics: Metrics) -> str:
    """Effective rank of held features over steps, from 1 to their width."""
    return _one(metrics, "rankme", smooth=False)


def validation_curves(metrics: Metrics) -> dict[str, str]:
    """Everything logged under "val_", a curve each, by title."""
    drawn = {title: _one(metrics, name, smooth=False) for name, title in _ON_VAL.items()}
    return {title: svg for title, svg in drawn.items() if svg}


def blocks_curve(points: Sequence[tuple[str, float]], name: str, *, is_share: bool) -> str:
    """A figure over the number of last blocks that learn, each value written beside its point (paper, Figure 9).

    points: (blocks as given: "0", "0.5", "4", "all"; value), in any order, one or more. name: of the figure. is_share:
    whether values are shown in percent.
    """
    ordered = sorted(points, key=lambda point: math.inf if point[0] == "all" else float(point[0]))
    values = np.array([value for _, value in ordered], np.float64)
    said = [f"{100 * value:.1f}" if is_share else f"{value:.3g}" for value in values.tolist()]
    line = Line(np.arange(len(values), dtype=np.float64), values, BLUE, 1.6, marks=DOT, words=said)
    plot = Plot(name, [line], percent if is_share else None)
    return chart([plot], Across("last blocks that learn (0: the head alone)", [blocks for blocks, _ in ordered]))


def series(metrics: Metrics, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of the lines in which both are finite numbers."""
    points = [(line.get("step"), line.get(name)) for line in metrics]
    kept = [point for point in points if all(is_number(value) for value in point)]
    steps, values = np.array(kept, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred running mean over 5% of the points; at the ends, over the points there are."""
    half = max(3, len(values) // 20) // 2
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((sums[last] - sums[first]) / (last - first), dtype=np.float64)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value read from JSON is a finite number, and none so large that drawing it overflows."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _one(metrics: Metrics, name: str, smooth: bool = True) -> str:
    lines = _lines(metrics, name, smooth)
    return chart([Plot(name_of_curve(name), lines)]) if lines else ""


def _lines(metrics: Metrics, name: str, smooth: bool = True) -> list[Line]:
    """What there is under a name, none where there is nothing: of many points the thin line is what was logged."""
    steps, values = series(metrics, name)
    if not len(steps):
        return []
    if len(steps) <= FEW:
        return [Line(steps, values, BLUE, 1.6, marks=DOT)]
    if smooth:
        logged = Line(steps, values, GREY, 0.9, pointed="as logged")
        return [logged, Line(steps, smoothed(values), BLUE, pointed="smoothed")]
    return [Line(steps, values, BLUE)]


def _room_above(lines: Sequence[Line]) -> float:
    return max(0.05, 1.15 * max(float(line.y.max()) for line in lines))
