"""The page of a comparison of ways to pre-train: what was found of each and what it costs, the rates that were tried, a
chart for each figure, and the runs.

results.json of one is as an ablation's (ablation.py), with {"model", "images", "how_long", "cost_columns": [the heads
of each row's "cells"], "rates": {"by", "is_loss", "in_points", "error", "methods": [{"method", "tried": [{"times",
"blr", "figure", "why"}], "chosen"}]}}; figures may have "is_error"; anything may be missing.
"""

from collections.abc import Mapping
from typing import Any

from openmae.console.words import several
from openmae.report.page.ablation import failed_section, how_far, rows_of, sentence_of, without_figure
from openmae.report.page.html import details, escaped, facts, numbers_table, paragraph, section
from openmae.report.page.study import charts_of, mapping, runs_section
from openmae.report.plots.curves import is_number
from openmae.report.plots.differences import has_bounds, said_bounds, shown_difference, shown_value, signed

Table = tuple[tuple[str, ...], list[list[str]]]


def is_comparison(results: Any) -> bool:
    """Whether results.json is of one."""
    return isinstance(results, dict) and results.get("study") == "compare"


def comparison_page(results: Mapping[str, Any]) -> list[str]:
    """The body of the page. results: what results.json holds, of a comparison."""
    runs = results.get("runs")
    usual = str(results.get("usual", ""))
    heads, rates = rates_table(results)
    return [
        facts(
            {
                "Model": str(results.get("model", "")),
                "Images": f"{results['images']:,}" if is_number(results.get("images")) else "",
                "Each training": str(results.get("how_long", "")),
                **how_far(results),
            }
        ),
        section(
            "What is shown",
            sentence_of(results),
            _figures(results),
            paragraph(
                f"Below a mean over the seeds is how far it is from that of {usual}, and within what bounds; in bold "
                "where these leave out 0. A method with wide bounds is not known to be as good as it looks; two seeds "
                "have none, and what each of them gave stands there."
            ),
            charts_of(results),
        ),
        section("What each costs", numbers_table(*cost_table(results))),
        section(
            "Rates tried",
            numbers_table(heads, rates),
            paragraph(_of_rates(mapping(results.get("rates")))) if rates else "",
            *map(paragraph, rates_out(results)),
        ),
        section("To be known", *(paragraph(str(note)) for note in results.get("notes") or ())),
        failed_section(results),
        section("How it is judged", paragraph(str(results.get("rule") or ""))),
        details(f"{several(len(runs), 'run')}", runs_section(runs)) if isinstance(runs, list) and runs else "",
    ]


# ---------------------------------------------------------------- figures


def figures_table(results: Mapping[str, Any]) -> Table:
    """(heads, rows): of each row its mean over the seeds by each figure, and in a second line how far it is from the
    usual one."""
    figures, usual = figures_in(results), results.get("usual")
    rows = []
    for row in rows_of(results):
        cells = [str(row["name"])]
        for one in figures:
            bounds = shown_difference(one, _apart(row, one)).replace(" points", "")
            cells.append(_mean(row, one) + ("" if row["name"] == usual or bounds == "-" else f"\n{bounds}"))
        rows.append(cells)
    return (str(results.get("axis", "")), *(str(one.get("said", one["name"])) for one in figures)), rows


def figures_in(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """That judge."""
    return [one for one in results.get("figures") or [] if isinstance(one, dict) and "name" in one]


def _apart(row: Mapping[str, Any], one: Mapping[str, Any]) -> Mapping[str, Any]:
    """How far a row is from the usual one. Two shares are no further apart than 1, whatever the bounds of few seeds."""
    found = mapping(mapping(row.get("against")).get(one["name"]))
    if not one.get("in_points"):
        return found
    return {key: min(1.0, max(-1.0, value)) if is_number(value) else value for key, value in found.items()}


def _mean(row: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    values = mapping(row.get("of")).get(one["name"]) or []
    return shown_value(one, sum(values) / len(values)) if values else without_figure(row)


def _figures(results: Mapping[str, Any]) -> str:
    """The table, a difference and its bounds below each mean."""
    figures, rows = figures_in(results), rows_of(results)
    if not figures or not rows:
        return ""
    heads = "".join(f"<th>{escaped(one.get('said', one['name']))}</th>" for one in figures)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{escaped(_mean(row, one))}{_below(one, _apart(row, one))}</td>" for one in figures)
        body += f"<tr><th>{escaped(row['name'])}</th>{cells}</tr>"
    head = f"<thead><tr><th>{escaped(results.get('axis', ''))}</th>{heads}</tr></thead>"
    return f'<div class="scroll"><table class="numbers">{head}<tbody>{body}</tbody></table></div>'


def _below(one: Mapping[str, Any], apart: Mapping[str, Any]) -> str:
    in_points = bool(one.get("in_points"))
    said = said_bounds(apart, in_points)
    if not said or not is_number(apart.get("difference")):
        return ""
    mean = signed(apart["difference"], in_points)
    mean = f"<b>{mean}</b>" if has_bounds(apart) and (apart["low"] > 0 or apart["high"] < 0) else mean
    return f"<br><small>{mean}<br>{said}</small>"


# ---------------------------------------------------------------- costs and rates


def cost_table(results: Mapping[str, Any]) -> Table:
    """(heads, rows): what a training by each method takes."""
    heads = [str(head) for head in results.get("cost_columns") or results.get("columns") or []]
    rows = [
        [str(row["name"]), *(str(cell) for cell in (list(row.get("cells") or []) + [""] * len(heads))[: len(heads)])]
        for row in rows_of(results)
    ]
    return (str(results.get("axis", "")), *heads), rows if heads else []


def rates_table(results: Mapping[str, Any]) -> Table:
    """(heads, rows): what came of each rate that was tried, by method, and which was chosen."""
    found = mapping(results.get("rates"))
    methods = [one for one in found.get("methods") or [] if isinstance(one, dict) and one.get("tried")]
    tried = sorted({one["times"] for method in methods for one in method["tried"]})
    rows = []
    for method in methods:
        by_times = {one["times"]: one for one in method["tried"]}
        cells = [_tried(found, by_times.get(times)) for times in tried]
        chosen = method.get("chosen")
        rows.append([str(method["method"]), *cells, "" if chosen is None else f"{chosen:.3g}x"])
    return ("method", *(f"{times:.3g}x" for times in tried), "chosen"), rows


def rates_out(results: Mapping[str, Any]) -> list[str]:
    """A sentence for each rate that was out of the choice, with why."""
    methods = mapping(results.get("rates")).get("methods") or []
    return [
        f"{method['method']} at {one['times']:.3g}x is out: {one['why']}"
        for method in methods
        for one in method.get("tried") or []
        if one.get("why")
    ]


def _tried(rates: Mapping[str, Any], one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    if not is_number(one.get("figure")):
        return "out"
    return f"{one['figure']:.4g}" if rates.get("is_loss") else shown_value(rates, one["figure"])


def _of_rates(rates: Mapping[str, Any]) -> str:
    less = "a loss, so less is better" if rates.get("is_loss") else "more is better"
    said = (
        f"Multiples of the base rate that pretrain would choose for as many steps, judged by {rates.get('by')}: {less}."
    )
    error = rates.get("error")
    if is_number(error):
        said += (
            f" So few images tell a figure to ± {100 * error:.1f} points: of rates that are nearer to each other, "
            "chance has chosen."
        )
    return said
