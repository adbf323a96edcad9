"""Curves of several runs in common charts, as SVG text; the same lines give the same text."""

from collections.abc import Mapping

from openmae.report.plots.chart import DOT, Line, Plot, chart
from openmae.report.plots.curves import FEW, PALETTE, Metrics, name_of_curve, series, smoothed
from openmae.report.plots.style import percent

_FIRST = ("loss", "rankme", "lr", "grad_norm", "images_per_second", "data_wait")
_DASHES = ("", "6 3", "2 3", "9 3 2 3")  # of as many runs as there are colours, and of the next ones
_SMOOTHED = ("loss", "grad_norm", "images_per_second", "data_wait")


def curves_beside(runs: Mapping[str, Metrics]) -> dict[str, str]:
    """A chart for each figure that one run or more has logged, by title; a line a run, by its name."""
    found = dict.fromkeys(name for metrics in runs.values() for line in metrics for name in line)
    figures = [name for name in found if name.startswith(("eval/", "val_"))]
    drawn = {}
    for name in (_FIRST[0], *figures, *_FIRST[1:]):
        lines = [
            line
            for number, (run, metrics) in enumerate(runs.items())
            if (line := _line(metrics, name, run, number)) is not None
        ]
        if lines:
            shares = (name.startswith("eval/") or name == "data_wait") and all(
                ((line.y >= 0) & (line.y <= 1)).all() for line in lines
            )
            title = name_of_curve(name)
            drawn[title] = chart([Plot(title, lines, percent if shares else None)])
    return drawn


def _line(metrics: Metrics, name: str, run: str, number: int) -> Line | None:
    steps, values = series(metrics, name)
    if not len(steps):
        return None
    few, dashes = len(steps) <= FEW, _DASHES[number // len(PALETTE) % len(_DASHES)]
    values = smoothed(values) if name in _SMOOTHED and not few else values
    return Line(steps, values, PALETTE[number % len(PALETTE)], 1.6, DOT * few, name=run, dashes=dashes)
