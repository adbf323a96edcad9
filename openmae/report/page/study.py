"""The page of a study: what its runs add up to, a table, a picture, and the runs themselves.

results.json of a study holds {"verdict": {"kind", "sentence", "beside"}, "encoders": {name: what it is called},
"figures": [{"name", "said", "in_points", "of": {encoder: [a figure a seed]}, "gain": {"difference", "low", "high"}}],
"runs": [{"name", "seconds", "steps", "page"}], "notes": [sentences], "rule": sentences}; anything may be missing.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from openmae.console.words import duration
from openmae.report.page.html import drawn, escaped, facts, numbers_table, paragraph, section
from openmae.report.plots.curves import is_number
from openmae.report.plots.differences import shown_difference, shown_value
from openmae.report.plots.study import said_of_charts, study_charts

_SAID = {
    "gain": "worth it",
    "no gain": "no gain",
    "worse": "a loss",
    "mixed": "neither is better throughout",
    "undecided": "undecided",
    "unfinished": "not known yet",
}


def study_page(results: Any) -> list[str]:
    """The body of the page. results: what results.json holds."""
    if not isinstance(results, dict) or not isinstance(results.get("figures"), list):
        return [paragraph("Nothing of this study is complete yet.")]
    figures = [one for one in results["figures"] if _is_figure(one)]
    encoders = {str(key): str(said) for key, said in mapping(results.get("encoders")).items()}
    charts = charts_of({**results, "figures": figures, "encoders": encoders})
    verdict = mapping(results.get("verdict"))
    return [
        section(
            "Verdict",
            facts({"Going on is": _SAID.get(str(verdict.get("kind")), str(verdict.get("kind", "")))}),
            *(f"<p><b>{escaped(verdict[name])}</b></p>" for name in ("sentence",) if verdict.get(name)),
            paragraph(str(verdict.get("beside") or "")),
        ),
        section(
            "Figures",
            numbers_table(*study_table(figures, encoders)),
            charts,
            *(paragraph(str(note)) for note in results.get("notes") or ()),
        ),
        section("How it is judged", paragraph(str(results.get("rule") or ""))),
        runs_section(results.get("runs")),
    ]


def study_table(figures: list[dict[str, Any]], encoders: Mapping[str, str]) -> tuple[tuple[str, ...], list[list[str]]]:
    """(heads, rows): of each figure its mean over the seeds for each encoder, and the difference with its bounds."""
    rows = []
    for one in figures:
        of, gain = one["of"], mapping(one.get("gain"))
        said = [shown_value(one, sum(of[key]) / len(of[key])) if of.get(key) else "" for key in encoders]
        rows.append([str(one.get("said", one["name"])), *said, shown_difference(one, gain)])
    return ("figure", *encoders.values(), "gain of going on"), rows


def charts_of(results: Mapping[str, Any]) -> str:
    """A chart of each figure, side by side as there is room, and what is to be known of them."""
    charts = "".join(drawn(svg, f"{title} of each") for title, svg in study_charts(results).items())
    return f'{paragraph(said_of_charts(results))}<div class="curves">{charts}</div>' if charts else ""


def runs_section(runs: Any) -> str:
    """A row for each run, with how long its steps took."""
    found = [one for one in runs if isinstance(one, dict) and one.get("name")] if isinstance(runs, list) else []
    rows = [_run(str(one["name"]), one.get("steps"), one.get("seconds")) for one in found]
    if not rows:
        return ""
    head = "<tr><th>run</th><th>steps</th><th>time of its steps</th></tr>"
    return section(
        "Runs",
        f'<div class="scroll"><table class="numbers"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>',
    )


def _run(name: str, steps: Any, seconds: Any) -> str:
    link = f'<a href="{escaped(quote(name))}/report.html">{escaped(name)}</a>'
    cells = f"{steps:,}" if is_number(steps) else "", duration(seconds) if is_number(seconds) else ""
    return f"<tr><th>{link}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _is_figure(one: Any) -> bool:
    of = one.get("of") if isinstance(one, dict) and "name" in one else None
    return isinstance(of, dict) and all(isinstance(v, list) and all(map(is_number, v)) for v in of.values())


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, or nothing where it is none."""
    return value if isinstance(value, dict) else {}
