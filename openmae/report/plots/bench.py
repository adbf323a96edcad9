"""What a benchmark of training steps found: tables as text, and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from openmae.report.plots.figure import svg_text
from openmae.report.plots.style import BLUE, GREY, INK, STYLE

OURS = "openmae"  # what our own contenders' names begin with
_BAR_INCHES, _TITLE_INCHES = 0.3, 0.75


@dataclass(frozen=True)
class Result:
    """A line of bench.json.

    images_per_second, quartiles: median and quartiles over the rounds, of the median step of each. ratio, ratio_range:
    median, least and most over the rounds of the speed over that of the table's reference in the same round.
    tflops: operations that the settings need for an image, times images a second, in 10^12. matmul_tflops: what a
    matrix product of that precision reaches, None where it was not measured. peak_memory: bytes, None where it cannot
    be measured. seconds: of the median step of each round; raw_seconds: of every step of each round.
    """

    contender: str
    model: str
    img_size: int
    patch_size: int
    precision: str
    micro_batch: int
    images_per_second: float
    quartiles: tuple[float, float]
    ratio: float | None
    ratio_range: tuple[float, float] | None
    tflops: float
    matmul_tflops: float | None
    peak_memory: int | None
    seconds: list[float]
    raw_seconds: list[list[float]]


@dataclass(frozen=True)
class Table:
    """Contenders that took turns. reference: the one that ratios are to; failed: (contender, reason) of the others;
    matmul_tflops: of the matrix product, None where it failed."""

    title: str
    reference: str | None
    results: list[Result]
    failed: list[tuple[str, str]]
    matmul_tflops: float | None


def head(table: Table) -> tuple[str, ...]:
    """The names of the columns of `rows`."""
    ratio = f"times {table.reference} (range)"
    return ("contender", "images/s", ratio, "TFLOP/s", "of the matrix product", "peak memory")


def rows(table: Table) -> list[tuple[str, ...]]:
    """A line a contender, those that failed last but for the matrix product; the reason stands in `failures`."""
    shown: list[tuple[str, ...]] = [
        (
            result.contender,
            number(result.images_per_second),
            ratio(result),
            number(result.tflops),
            share(result),
            "-" if result.peak_memory is None else f"{result.peak_memory / 1e9:.2f} GB",
        )
        for result in table.results
    ]
    shown += [(name, "failed", *["-"] * 4) for name, _ in table.failed]
    if table.matmul_tflops is not None:
        shown.append(("matrix product", "-", "-", number(table.matmul_tflops), "100%", "-"))
    return shown


def failures(table: Table) -> list[str]:
    """A sentence for each contender that failed."""
    return [f"{name} failed: {reason}" for name, reason in table.failed]


def ratio(result: Result) -> str:
    """1.52 (1.49 to 1.60)."""
    if result.ratio is None or result.ratio_range is None:
        return "-"
    least, most = result.ratio_range
    return f"{result.ratio:.2f} ({least:.2f} to {most:.2f})"


def share(result: Result) -> str:
    """Of what the matrix product reaches, 64%."""
    return "-" if not result.matmul_tflops else f"{result.tflops / result.matmul_tflops:.0%}"


def number(value: float) -> str:
    """Three digits or more: 1,234, 56.7, 8.90."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value < 1 else f"{value:.{1 if value >= 10 else 2}f}"


def markdown(table: Table) -> str:
    """The title, the table, and what failed."""
    return "\n".join([f"### {table.title}", "", grid(head(table), rows(table)), *_paragraphs(failures(table))]) + "\n"


def grid(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, all columns but the first one flush right."""
    rule = "|".join(["---", *["---:"] * (len(columns) - 1)])
    return "\n".join([_line(columns), f"|{rule}|", *map(_line, lines)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    return [line for sentence in sentences for line in ("", f"{sentence}.")]


def bench_picture(tables: Sequence[Table]) -> str:
    """An SVG: for each table a bar a contender, images a second with quartiles, and, where it was measured, peak
    memory; ours in blue. "" where nothing was measured."""
    tables = [table for table in tables if table.results]
    if not tables:
        return ""
    has_memory = any(result.peak_memory is not None for table in tables for result in table.results)
    heights = [_TITLE_INCHES + _BAR_INCHES * len(table.results) for table in tables]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0 if has_memory else 6.5, sum(heights)), layout="constrained")
        axes = figure.subplots(
            len(tables),
            2 if has_memory else 1,
            squeeze=False,
            width_ratios=(3, 2) if has_memory else None,
            height_ratios=heights,
        )
        for line, table in zip(axes, tables, strict=True):
            _draw_speed(line[0], table)
            if has_memory:
                _draw_memory(line[1], table)
        figure.get_layout_engine().set(h_pad=0.12)  # type: ignore[union-attr, call-arg]  # inches
        return svg_text(figure)


def _draw_speed(axis: Axes, table: Table) -> None:
    values = [result.images_per_second for result in table.results]
    least = [max(0.0, result.images_per_second - result.quartiles[0]) for result in table.results]
    most = [max(0.0, result.quartiles[1] - result.images_per_second) for result in table.results]
    labels = [
        number(result.images_per_second) + ("" if result.ratio is None else f"  ({result.ratio:.2f}×)")
        for result in table.results
    ]
    ends = [value + more for value, more in zip(values, most, strict=True)]
    _bars(axis, table, values, ends, labels)
    places = range(len(values))
    axis.errorbar(values, places, xerr=(least, most), fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
    axis.set_yticks(places, [result.contender for result in table.results])
    axis.set_title(table.title)
    axis.set_xlabel(f"images a second (times {table.reference})")


def _draw_memory(axis: Axes, table: Table) -> None:
    values = [(result.peak_memory or 0) / 1e9 for result in table.results]
    labels = [
        "not measured" if result.peak_memory is None else f"{result.peak_memory / 1e9:.2f}" for result in table.results
    ]
    _bars(axis, table, values, values, labels)
    axis.set_yticks(range(len(values)), [""] * len(values))
    axis.set_xlabel("peak memory, GB")


def _bars(axis: Axes, table: Table, values: Sequence[float], ends: Sequence[float], labels: Sequence[str]) -> None:
    """labels: written behind the ends of the bars."""
    colours = [BLUE if result.contender.startswith(OURS) else GREY for result in table.results]
    axis.barh(range(len(values)), values, height=0.62, color=colours)
    for place, (end, label) in enumerate(zip(ends, labels, strict=True)):
        axis.annotate(label, (end, place), (5, 0), textcoords="offset points", va="center", color=INK, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.42 * max(*ends, 1e-9))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.grid(visible=False, axis="y")
    axis.tick_params(length=0)
