"""How the pixels of each channel are distributed, as a picture."""

import io
import math
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from openmae.data.survey.distribution import Distribution
from openmae.data.views.statistics import WHITE

_COLOURS = ("#c4321e", "#2c8a57", "#1f5fa8")  # of red, green and blue
_SINGLE, _INK, _FAINT = "#1f5fa8", "#333333", "#999999"
_BARS = 256
_MOST_PANELS = 48
_LEGEND_LINE = 85  # characters that fit above a single panel
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}


def draw_histogram(found: Distribution) -> bytes:
    """A PNG: one panel for a colour image's three channels, else one a channel (the first 48); mean and deviation
    marked."""
    channels = min(_MOST_PANELS, found.statistics.pixels.in_chans)
    colour = channels == 3 and found.statistics.pixels.bands is None
    panels = [range(3)] if colour else [range(i, i + 1) for i in range(channels)]
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    with rc_context(_STYLE):
        width, height = (7.0, 3.6) if len(panels) == 1 else (3.2 * columns, 2.2 * rows)
        figure = Figure((width, height), dpi=150, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            for channel in panel:
                _draw(axis, found, channel, _COLOURS[channel] if colour else _SINGLE)
            # Black and white are often so frequent that nothing else would be seen beside them.
            top = max(_bars(found, channel)[1][1:-1].max(initial=0) for channel in panel)
            axis.set_ylim(0, 1.2 * top if top else None)
            axis.set_yticks([])
            axis.margins(x=0.02)
            axis.tick_params(labelsize=8, colors=_FAINT)
            labels = axis.get_legend_handles_labels()[1]
            axis.legend(
                frameon=False,
                fontsize=8,
                loc="lower left",
                bbox_to_anchor=(0, 1),
                ncols=3 if sum(map(len, labels)) <= _LEGEND_LINE else 1,
                handlelength=1,
                borderpad=0,
            )
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.supylabel("share of pixels", fontsize=9, color=_INK)
        white = WHITE[found.statistics.pixels.depth]
        unit = f"level of 0 to {white:.0f}" if white > 1 else "value, as in the files"
        figure.supxlabel(f"{unit}; mean ± standard deviation, the mean as a dashed line", fontsize=9, color=_INK)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw(axis: Axes, found: Distribution, channel: int, colour: str) -> None:
    edges, shares = _bars(found, channel)
    axis.stairs(shares, edges, fill=True, color=colour, alpha=0.25, linewidth=0)
    white = WHITE[found.statistics.pixels.depth]
    mean, std = found.statistics.mean[channel] * white, found.statistics.std[channel] * white
    name = found.statistics.pixels.bands[channel] if found.statistics.pixels.bands else channel + 1
    label = f"channel {name}: {mean:.4g} ± {std:.4g}"
    axis.stairs(shares, edges, color=colour, linewidth=1, label=label)
    axis.axvline(mean, color=colour, linewidth=1, linestyle="--")


def _bars(found: Distribution, channel: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(edges, shares) of at most _BARS bars that cover what all channels have but the outermost."""
    if len(found.levels) <= _BARS:
        step = found.levels[1] - found.levels[0]
        return np.append(found.levels, found.levels[-1] + step) - step / 2, found.weights[channel]
    low, high = found.least.min(), max(found.percentiles[-1].max(), found.least.min() + _BARS - 1)
    step = math.ceil((high - low + 1) / _BARS)  # whole levels, so that no bar holds more of them than another
    edges = np.arange(low, high + step + 1, step)
    shares, _ = np.histogram(found.levels, edges, weights=found.weights[channel])
    return edges - 0.5, shares
