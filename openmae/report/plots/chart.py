"""Lines, dots and bars over a common axis, written as SVG by ourselves.

A run has half a dozen curves, drawn again with every report: matplotlib takes a fifth of a second for them, this the
hundredth part, and nothing large is imported. Text stays text, in the reader's fonts. Lengths are points, counted from
the upper left corner.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
from numpy.typing import NDArray

from openmae.report.plots.style import FONT, INK, LETTER, percent, printable

Values = NDArray[np.float64]

WIDTH, HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BELOW = 62, 346, 22, 35  # of what is drawn in
_BETWEEN = 28  # two plots, one above the other
_AXIS_BEHIND = 34  # beside the frame, for the ticks of a second axis
_TURNED = 30  # degrees, of names that have no room side by side
_LONGEST_NAME = 22  # letters
_LINE = 13  # of words below
DOT = 1.8
"""The radius of a mark."""
_MARGIN, _MARGIN_OF_WORDS = 0.05, 0.2  # of a span, left free beside what is drawn
_MARGIN_OF_NAMES = 0.1
_FAINT = "#6f747b"
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_BETWEEN_POINTS = 8  # places on the line from one to the next, by which the legend keeps clear of it
_COLUMNS = 2 * WIDTH  # of points that are told apart: of more than a few in one, the first, least, greatest and last


@dataclass(frozen=True)
class Line:
    """x, y: (n,), finite. marks: a dot at each point, so large (its radius). words: beside each point, or none. name:
    what the legend calls it, "" for nothing. pointed: what it is called where a page's reader points at it and the
    legend has no name; told: what is said of each point then, in the place of its value. bars: (n, 2), the ends of an
    error bar at each point, NaN for none; it ends where the frame does. A width of 0 leaves the dots alone. dashes: as
    SVG has them, "" for none."""

    x: Values
    y: Values
    colour: str
    width: float = 1.8
    marks: float = 0
    words: Sequence[str] = ()
    name: str = ""
    pointed: str = ""
    told: Sequence[str] = ()
    bars: Values | None = None
    dashes: str = ""


@dataclass(frozen=True)
class Bars:
    """left, right, low, high: (n,), the edges of each."""

    left: Values
    right: Values
    low: Values
    high: Values
    colour: str
    hatched: bool = False


@dataclass(frozen=True)
class Plot:
    """Lines in one frame over bars, one of all at least. said: the words of a value. low, high: where the axis begins
    and ends, by default a little beyond what is drawn. tall: beside the other plots. level: what values are compared
    with, dashed across. behind: a line on an axis of its own, at the right, in its colour and the same words."""

    title: str
    lines: Sequence[Line]
    said: Callable[[float], str] | None = None
    low: float | None = None
    high: float | None = None
    bars: Sequence[Bars] = ()
    tall: float = 1.0
    level: float | None = None
    behind: Line | None = None


@dataclass(frozen=True)
class Across:
    """What is common to all plots. named: what stands at x = 0, 1, 2, ..., or at `places`, in the place of numbers.
    is_log: whether equal lengths are equal factors. said, low, high: as of a plot; both are given where there are
    bars."""

    label: str = "step"
    named: Sequence[str] = ()
    said: Callable[[float], str] | None = None
    low: float | None = None
    high: float | None = None
    places: Sequence[float] = ()
    is_log: bool = False


@dataclass(frozen=True)
class Axis:
    """From low to high, with these ticks among them; `places` are points from `start` (low) to `end` (high). is_log:
    whether low and high are powers of 2, and places are of them."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]
    is_log: bool = False

    def places(self, values: Values) -> Values:
        """Where values lie."""
        values = np.log2(values) if self.is_log else values
        # Halves first: the difference of the largest two is no number.
        share = (values / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return np.asarray(self.start + share * (self.end - self.start))

    def place(self, value: float) -> float:
        """Where one lies."""
        return float(self.places(np.array([value]))[0])


def chart(plots: Sequence[Plot], shared: Across = Across(), height: float = HEIGHT, below: Sequence[str] = ()) -> str:
    """Plots one above the other over the same x, as SVG; small, so that the text is readable on a phone. below: lines
    of words, which come to the height, as do names that are turned."""
    bottom = height - _BELOW
    across = _across(plots, shared)
    names = [_short(name) for name in shared.named]
    more = _turned(names, across)
    label_at = bottom + 29 + more
    height += more + _LINE * len(below)
    each = (bottom - _TOP - _BETWEEN * (len(plots) - 1)) / sum(plot.tall for plot in plots)
    parts = [f'<rect width="{WIDTH}" height="{height:g}" fill="#ffffff"/>']
    top = float(_TOP)
    for plot in plots:
        parts += _drawn(plot, across, shared, top, top + each * plot.tall)
        top += each * plot.tall + _BETWEEN
    for tick, said in zip(across.ticks, names or _words(across, shared.said), strict=True):
        place = across.place(tick)
        parts.append(_text(place + 3 * bool(more), bottom + 13, said, "end" if more else "middle", turn=bool(more)))
    parts.append(_text((across.start + across.end) / 2, label_at, shared.label, "middle"))
    parts += (_text(4, label_at + _LINE * number, words) for number, words in enumerate(below, 1))
    size = f'width="{WIDTH}pt" height="{height:g}pt" viewBox="0 0 {WIDTH} {height:g}"'
    style = f'font-family="{FONT}" font-size="10" fill="{INK}" stroke-linejoin="round"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def _across(plots: Sequence[Plot], shared: Across) -> Axis:
    right = _RIGHT - _AXIS_BEHIND * any(plot.behind is not None for plot in plots)
    if shared.low is not None and shared.high is not None:
        return _axis(shared.low, shared.high, _LEFT, right, 6)
    x = np.concatenate([line.x for plot in plots for line in (*plot.lines, plot.behind) if line is not None])
    if shared.named:
        x = np.array([*x, *(shared.places or range(len(shared.named)))], np.float64)
    x = np.log2(x) if shared.is_log else x
    margin = _MARGIN_OF_NAMES if shared.named else _MARGIN
    axis = _axis(*_widened(float(x.min()), float(x.max()), margin), _LEFT, right, 6, whole=True)
    if not shared.named:
        return axis
    return replace(axis, ticks=list(shared.places) or range(len(shared.named)), is_log=shared.is_log)


def _turned(names: Sequence[str], across: Axis) -> float:
    """By how much names that have no room side by side go down when they are turned; 0 where they have."""
    if len(names) < 2:
        return 0.0
    apart = float(np.diff(np.sort(across.places(np.array(across.ticks, np.float64)))).min())
    longest = 10 * LETTER * max(map(len, names))
    return longest * math.sin(math.radians(_TURNED)) if longest + 4 > apart else 0.0


def _short(name: str) -> str:
    """What stands below an axis; of the path of a model that is too long, its last part."""
    name = name.rpartition("/")[2] if len(name) > _LONGEST_NAME else name
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 8]}...{name[-5:]}"


def _drawn(plot: Plot, across: Axis, shared: Across, top: float, bottom: float) -> Iterator[str]:
    """In a group that says which values its places are, for pages that answer to the mouse (report/page/page.js)."""
    values = [*(line.y for line in plot.lines), *(ends for bars in plot.bars for ends in (bars.low, bars.high))]
    margin = _MARGIN_OF_WORDS if any(line.words for line in plot.lines) else _MARGIN
    low, high = _widened(min(float(one.min()) for one in values), max(float(one.max()) for one in values), margin)
    low, high = low if plot.low is None else plot.low, high if plot.high is None else plot.high
    up = _axis(low, high, bottom, top, 6 if bottom - top > HEIGHT / 2 else 3)
    axes = f'data-across="{_ends(across)}" data-shares="{"1" if plot.said is percent else ""}"'
    if shared.named:
        named = [[across.place(tick), name] for tick, name in zip(across.ticks, shared.named, strict=True)]
        axes += f' data-named="{_quoted(json.dumps(named))}"'
    yield f'<g class="plot" data-label="{_quoted(shared.label)}" {axes}>'
    for tick in across.ticks:
        place = across.place(tick)
        yield _stroke([(place, top), (place, bottom)], "#e9ebee", 0.8)
    for tick, said in zip(up.ticks, _words(up, plot.said), strict=True):
        place = up.place(tick)
        yield _stroke([(across.start, place), (across.end, place)], "#e9ebee", 0.8)
        yield _text(_LEFT - 4, place + 3.6, said, "end")
    for bars in plot.bars:
        yield from _standing(bars, across, up)
    if plot.behind is not None:
        yield from _behind(plot, plot.behind, across, up)
    yield _stroke([(_LEFT, top), (_LEFT, bottom), (across.end, bottom)], "#999999", 0.8)
    yield _text(_LEFT, top - 6, plot.title, size=11)
    if plot.level is not None:
        ends = [(across.start, up.place(plot.level)), (across.end, up.place(plot.level))]
        yield _stroke(ends, "#999999", 0.8, ' stroke-dasharray="4 3"')
    for line in plot.lines:
        yield from _line(line, line.name or line.pointed or plot.title, across, up)
    yield from _legend(plot, across, up)
    yield "</g>"


def _line(line: Line, called: str, across: Axis, up: Axis) -> Iterator[str]:
    points = _thinned(across.places(line.x), up.places(line.y))
    if line.bars is not None:
        for x, ends in zip(across.places(line.x), np.clip(up.places(line.bars), up.end, up.start), strict=True):
            if np.isfinite(ends).all() and ends[0] != ends[1]:
                yield _stroke([(x, ends[0]), (x, ends[1])], line.colour, 1.2)
    more = f' class="line" data-name="{_quoted(called)}" data-up="{_ends(up)}"'
    more += f' data-told="{_quoted(json.dumps(list(line.told)))}"' if line.told else ""
    yield _stroke(points, line.colour, line.width, more + _dashed(line))
    if line.marks:
        yield from (f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{line.marks:g}" fill="{line.colour}"/>' for x, y in points)
    yield from _beside(line, points)


def _behind(plot: Plot, line: Line, across: Axis, beside: Axis) -> Iterator[str]:
    """A line on an axis of its own, with its ticks at the right."""
    low, high = _widened(float(line.y.min()), float(line.y.max()), _MARGIN_OF_WORDS)
    up = _axis(low, high, beside.start, beside.end, 3)
    for tick, said in zip(up.ticks, _words(up, plot.said), strict=True):
        yield _text(across.end + 4, up.place(tick) + 3.6, said, colour=_FAINT)
    yield from _line(line, line.name or line.pointed, across, up)


def _standing(bars: Bars, across: Axis, up: Axis) -> Iterator[str]:
    if bars.hatched:
        hatch = f'<path d="M0,6 L6,0" stroke="{bars.colour}" stroke-width="1"/>'
        yield f'<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse">{hatch}</pattern>'
    fill = 'fill="url(#hatch)"' if bars.hatched else f'fill="{bars.colour}" stroke="#ffffff"'
    left, right, ends = across.places(bars.left), across.places(bars.right), (up.places(bars.low), up.places(bars.high))
    top, bottom = np.minimum(*ends), np.maximum(*ends)
    for x, wide, y, high in zip(left, right - left, top, bottom - top, strict=True):
        if high > 0:
            yield f'<rect x="{x:.2f}" y="{y:.2f}" width="{wide:.2f}" height="{high:.2f}" {fill}/>'


def _beside(line: Line, points: Sequence[tuple[float, float]]) -> Iterator[str]:
    """The words of a line's points: above them, or below where the line would cross them."""
    for place, words in enumerate(line.words):
        x, y = points[place]
        beside = [height for _, height in points[max(0, place - 1) : place + 2]]
        yield _text(x, y + (15 if y == max(beside) > min(beside) else -7), words, "middle")


def _legend(plot: Plot, across: Axis, up: Axis) -> Iterator[str]:
    """Names beside pieces of their lines, in the corner where least of all lines lies."""
    named = [line for line in plot.lines if line.name]
    if not named:
        return
    high = 15 * len(named) + 4
    wide = min(float(across.end - across.start), 34 + 10 * LETTER * max(len(line.name) for line in named))
    drawn = [(across.places(line.x), up.places(line.y)) for line in plot.lines]
    between = np.linspace(0, 1, _BETWEEN_POINTS, endpoint=False)
    x, y = (
        np.concatenate([np.append(one[:-1, None] + np.diff(one)[:, None] * between, one[-1]) for one in ones])
        for ones in zip(*drawn, strict=True)
    )
    corners = [(left, top) for top in (up.end, up.start - high) for left in (across.start + 4, across.end - wide)]

    def covered(corner: tuple[float, float]) -> int:
        left, top = corner
        return int(((x > left) & (x < left + wide) & (y > top) & (y < top + high)).sum())

    left, top = min(corners, key=covered)
    size = f'width="{wide:.2f}" height="{high - 3}"'
    yield f'<rect x="{left:.2f}" y="{top + 2:.2f}" {size} fill="#ffffff" opacity="0.6"/>'
    for number, line in enumerate(named):
        middle = top + 11 + 15 * number
        yield _stroke([(left + 4, middle), (left + 24, middle)], line.colour, line.width, _dashed(line))
        yield _text(left + 30, middle + 3.6, line.name)


def _widened(low: float, high: float, margin: float = _MARGIN) -> tuple[float, float]:
    """A span with a margin; one of no width, or of less than can be told apart, around its value."""
    size = max(abs(low), abs(high))
    if high / 2 - low / 2 <= 1e-12 * size or size < 1e-200:
        around = 0.05 * size if size >= 1e-200 else 0.05
        low, high = low - around, high + around
    more = 2 * margin * (high / 2 - low / 2)
    return low - more, high + more


def _axis(low: float, high: float, start: float, end: float, most: int, whole: bool = False) -> Axis:
    """With at most so many steps between ticks at round values; whole: at whole ones."""
    wished = (high - low) / most
    size = 10.0 ** math.floor(math.log10(wished))
    step = next(size * step for step in _STEPS if size * step >= wished * (1 - 1e-9))
    if whole:
        step = float(max(1, math.ceil(step - 1e-9)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, start, end, [step * number for number in range(first, last + 1)])


def _words(axis: Axis, said: Callable[[float], str] | None) -> list[str]:
    """Of the ticks; of numbers with the digits that tell one from the next."""
    if said is not None:
        return [said(tick) for tick in axis.ticks]
    largest = max((abs(tick) for tick in axis.ticks), default=1.0)
    step = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else largest
    digits = min(15, max(6, 2 + math.ceil(math.log10(largest / step)))) if largest > 0 else 6
    return [f"{tick:,.{digits}g}" for tick in axis.ticks]


def _thinned(x: Values, y: Values) -> list[tuple[float, float]]:
    """The points that look the same: of the many that lie in one column, the first, least, greatest and last."""
    if len(x) <= 4 * _COLUMNS:
        return list(zip(x.tolist(), y.tolist(), strict=True))
    columns = np.floor(x * _COLUMNS / WIDTH)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(columns)) + 1, [len(x)]])
    kept: list[int] = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        part = y[begin:end]
        kept += sorted({begin, begin + int(part.argmin()), begin + int(part.argmax()), end - 1})
    return list(zip(x[kept].tolist(), y[kept].tolist(), strict=True))


def _dashed(line: Line) -> str:
    return f' stroke-dasharray="{line.dashes}"' if line.dashes else ""


def _stroke(points: Sequence[tuple[float, float]], colour: str, width: float, more: str = "") -> str:
    """more: attributes, with a space before each."""
    places = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"{more}/>'


def _ends(axis: Axis) -> str:
    return f"{axis.low!r} {axis.high!r} {axis.start:.2f} {axis.end:.2f}{' log' * axis.is_log}"


def _quoted(words: str) -> str:
    """As the value of an attribute."""
    return escape(printable(words), quote=True)


def _text(
    x: float, y: float, words: str, anchor: str = "start", size: int = 10, *, colour: str = "", turn: bool = False
) -> str:
    """size: in points; 10 is that of the whole. turn: rising to the right."""
    more = "" if size == 10 else f' font-size="{size}"'
    more += f' fill="{colour}"' if colour else ""
    more += f' transform="rotate(-{_TURNED} {x:.2f} {y:.2f})"' if turn else ""
    more += "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.2f}" y="{y:.2f}"{more}>{escape(printable(words), quote=False)}</text>'
