"""A matrix of classes as coloured cells with words in them, written as SVG by ourselves, as chart.py writes lines: each
fine-tuning has one. Lengths are points, counted from the upper left corner.
"""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from openmae.report.plots.style import FONT, INK, LETTER, printable

WIDEST = 590.0  # as wide as the page
_TOP, _EDGE, _WORDS = 24.0, 8.0, 20.0  # room for the title, beside the cells, for what an axis is called
_COLOURS = ((247, 250, 254), (102, 159, 214), (8, 48, 107))  # of shares of 0, a half and 1
_DARK = 0.55  # above which words are white


def matrix(shares: NDArray[np.float64], said: Sequence[Sequence[str]], names: Sequence[str], title: str) -> str:
    """shares: (K, K), 0..1, of true (rows) by predicted classes. said: (K, K) what stands in each cell, "" for nothing.
    names: (K,). The SVG text, the same for the same."""
    width = min(WIDEST, 202 + 32.4 * len(names))
    height = 22 + 0.92 * width
    size = float(np.clip(200 * width / WIDEST / max(1, len(names)), 6.5, 9))
    named = LETTER * size * max(map(len, names), default=0) + 6
    left, bottom = _WORDS + named, height - _WORDS - named
    xs = np.linspace(left, width - _EDGE, len(names) + 1)
    ys = np.linspace(_TOP, bottom, len(names) + 1)
    parts = [f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>']
    parts.append(_text(left, _TOP - 8, title, size=10))
    parts += _cells(shares, said, xs, ys, size)
    for number, name in enumerate(names):
        across, down = (xs[number] + xs[number + 1]) / 2, (ys[number] + ys[number + 1]) / 2
        parts.append(_text(left - 4, down + 0.36 * size, name, "end", size))
        parts.append(_text(across + 0.36 * size, bottom + 4, name, "end", size, turned=True))
    parts.append(_text((left + width - _EDGE) / 2, height - 6, "predicted class", "middle", 10))
    parts.append(_text(12, (_TOP + bottom) / 2, "true class", "middle", 10, turned=True))
    whole = f'width="{width:g}pt" height="{height:g}pt" viewBox="0 0 {width:g} {height:g}"'
    style = f'font-family="{FONT}" fill="{INK}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {whole} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def _cells(
    shares: NDArray[np.float64],
    said: Sequence[Sequence[str]],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    size: float,
) -> Iterator[str]:
    yield _cell(0.0, float(xs[0]), float(ys[0]), float(xs[-1]), float(ys[-1]))
    for row, column in np.argwhere(shares > 0).tolist():
        x, y, right, below = float(xs[column]), float(ys[row]), float(xs[column + 1]), float(ys[row + 1])
        yield _cell(share := float(shares[row, column]), x, y, right, below)
        if words := said[row][column]:
            colour = "#ffffff" if share > _DARK else ""
            yield _text((x + right) / 2, (y + below) / 2 + 0.36 * size, words, "middle", size, colour=colour)


def _cell(share: float, x: float, y: float, right: float, below: float) -> str:
    channels = (np.interp(share, (0.0, 0.5, 1.0), values) for values in zip(*_COLOURS, strict=True))
    fill = "#" + "".join(f"{round(float(channel)):02x}" for channel in channels)
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{right - x:.2f}" height="{below - y:.2f}" fill="{fill}"/>'


def _text(
    x: float, y: float, words: str, anchor: str = "start", size: float = 10, colour: str = "", turned: bool = False
) -> str:
    """turned: from below to above."""
    more = f' transform="rotate(-90 {x:.2f} {y:.2f})"' if turned else ""
    more += f' fill="{colour}"' if colour else ""
    place = f'x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" font-size="{size:.2f}"{more}'
    return f"<text {place}>{escape(printable(words), quote=False)}</text>"
