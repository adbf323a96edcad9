"""The page of an ablation: a table, a picture with the paper's curve behind it, and the runs.

results.json of one holds {"axis", "usual", "figures": [{"name", "said", "in_points"}], "rows": [{"name", "at", "of":
{figure: [one a seed]}, "against": {figure: {"difference", "low", "high"}}, "paper": {figure: percent}, "as_paper":
{figure: words}, "computing", "failed": [{"part", "why", "collapsed"}]}], "curve": [{"at", figure: percent}],
"sentence", "progress", "notes", "rule", "runs"}; anything may be missing.
"""

from collections.abc import Mapping
from typing import Any

from openmae.report.page.html import escaped, facts, numbers_table, paragraph, section
from openmae.report.page.study import charts_of, mapping, runs_section
from openmae.report.plots.differences import shown_difference, shown_value

PAPER = "paper"


def ablation_page(results: Mapping[str, Any]) -> list[str]:
    """The body of the page. results: what results.json holds, of an ablation."""
    source = f" (paper, {results['source']})" if results.get("source") else ""
    return [
        facts(
            {
                "Study": f"{results.get('name') or results.get('axis', '')}{source}",
                "Compared with": str(results.get("usual", "")),
                **how_far(results),
            }
        ),
        section(
            "What is shown",
            sentence_of(results),
            numbers_table(*ablation_table(results)),
            charts_of(results),
            *(paragraph(str(note)) for note in results.get("notes") or ()),
        ),
        failed_section(results),
        section("How it is judged", paragraph(str(results.get("rule") or ""))),
        runs_section(results.get("runs")),
    ]


def how_far(results: Mapping[str, Any]) -> dict[str, str]:
    """Facts of any study of rows: its seeds, and whether it is complete."""
    state = "complete" if results.get("complete") else str(results.get("progress", ""))
    return {"Seeds": str(results.get("seeds", "")), "State": state}


def sentence_of(results: Mapping[str, Any]) -> str:
    """What is shown, in bold; "" where nothing is said."""
    return f"<p><b>{escaped(results['sentence'])}</b></p>" if results.get("sentence") else ""


def failed_section(results: Mapping[str, Any]) -> str:
    """Which parts failed, and why; "" where none did."""
    failed = [one for row in rows_of(results) for one in row.get("failed") or [] if isinstance(one, dict)]
    return section("Failed", *(paragraph(f"{one.get('part')}: {one.get('why')}") for one in failed))


def is_ablation(results: Any) -> bool:
    """Whether results.json is of one."""
    return isinstance(results, dict) and isinstance(results.get("rows"), list)


def rows_of(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those that are rows."""
    rows = results.get("rows")
    return [row for row in rows if isinstance(row, dict) and "name" in row] if isinstance(rows, list) else []


def ablation_table(results: Mapping[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    """(heads, rows): of each row its mean over the seeds by each figure, how far it is from the usual one, and what the
    paper has."""
    figures = [one for one in results.get("figures") or [] if isinstance(one, dict) and "name" in one]
    usual, rows = str(results.get("usual", "")), rows_of(results)
    theirs = [one for one in figures if any(one["name"] in mapping(row.get("paper")) for row in rows)]
    heads = [str(results.get("axis", ""))]
    for one in figures:
        heads += [str(one.get("said", one["name"])), f"to {usual}"]
        heads += [PAPER, "its way?"] if one in theirs else []
    has_computing = len({round(row["computing"], 2) for row in rows if row.get("computing")}) > 1
    heads += ["computing"] if has_computing else []
    return tuple(heads), [_row(row, figures, theirs, usual, has_computing) for row in rows]


def without_figure(row: Mapping[str, Any]) -> str:
    """What stands for a figure that there is not."""
    failed = [one for one in row.get("failed") or [] if isinstance(one, dict)]
    if not failed:
        return "-"
    return "collapsed" if all(one.get("collapsed") for one in failed) else "failed"


def _row(
    row: Mapping[str, Any],
    figures: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    usual: str,
    has_computing: bool,
) -> list[str]:
    cells = [str(row["name"])]
    for one in figures:
        values = mapping(row.get("of")).get(one["name"]) or []
        mean = shown_value(one, sum(values) / len(values)) if values else without_figure(row)
        is_usual = row["name"] == usual
        cells += [
            mean,
            "" if is_usual else shown_difference(one, mapping(mapping(row.get("against")).get(one["name"]))),
        ]
        if one in theirs:
            paper = mapping(row.get("paper")).get(one["name"])
            cells += ["" if paper is None else f"{paper:.1f}%", str(mapping(row.get("as_paper")).get(one["name"], ""))]
    if has_computing:
        cells.append(f"{row['computing']:.2f}x" if row.get("computing") else "")
    return cells
