"""What the judged rows of an ablation add up to: means with their bounds, and whether they go the paper's way."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table as Shown

from openmae.files.whole import write_file
from openmae.report.page.ablation import ablation_table
from openmae.report.page.run import write_report
from openmae.report.page.study import RESULTS
from openmae.report.plots.ablation import ablation_picture
from openmae.studies.ablate.grid import folder_name
from openmae.studies.ablate.named import Named, Row
from openmae.studies.figures import RANKME, Figure
from openmae.studies.intervals import Interval, level_of
from openmae.studies.judged import Judged
from openmae.studies.study import Part, Study

PICTURE = "study.svg"


@dataclass(frozen=True)
class Asked:
    """Of what it is asked, and how. name: of the study, "" of a grid of one's own. rows: those that can be judged.
    figures: that judge; seeds: all of them. computing: of each row, in usual ones. parts: the whole table. parts_of: of
    each row and seed, those that have to be done."""

    name: str
    named: Named
    rows: Sequence[Row]
    figures: Sequence[Figure]
    seeds: Sequence[int]
    seed: int
    computing: Mapping[str, float]
    parts: Sequence[Part]
    parts_of: Mapping[tuple[str, int], Sequence[str]]
    notes: Sequence[str]


def conclude(study: Study, asked: Asked) -> dict[str, Any]:
    """Writes results.json of the parts that are done; gives what it holds. Raises UserError where a file of the study
    is damaged, OSError."""
    progress = study.progress(asked.parts)
    done = {row.name: _seeds(study, asked, row) for row in asked.rows}
    usual = next(row for row in asked.rows if row.name == asked.named.usual)
    level = level_of(max(1, len(asked.figures) * (len(asked.rows) - 1)))
    judged = Judged(study, [])

    def against(row: Row, figure: Figure) -> Interval | None:
        seeds = [seed for seed in done[row.name] if seed in done[usual.name]]
        if row is usual or not seeds:
            return None
        return replace(judged, seeds=seeds).apart(folder_name(row), folder_name(usual), figure, level, asked.seed)

    rows = []
    for row in asked.rows:
        apart = {figure.name: against(row, figure) for figure in asked.figures}
        mine = replace(judged, seeds=done[row.name])
        rows.append(
            {
                "name": row.name,
                "at": row.at,
                "of": {figure.name: mine.by_seed(folder_name(row), figure) for figure in asked.figures},
                "against": {name: one.to_dict() for name, one in apart.items() if one is not None},
                "paper": dict(row.paper),
                "as_paper": _as_paper(row, usual, apart),
                "computing": asked.computing.get(row.name),
                "failed": _failed(study, asked, row),
            }
        )
    results = {
        "study": study.kind,
        "name": asked.name,
        "source": asked.named.source,
        "axis": asked.named.axis,
        "is_log": asked.named.is_log,
        "usual": usual.name,
        "figures": [asdict(figure) for figure in asked.figures],
        "rows": rows,
        "curve": [{"at": at, **one} for at, one in sorted(asked.named.curve.items())],
        "seeds": len(asked.seeds),
        "complete": progress.done == progress.of,
        "progress": str(progress),
        "sentence": _sentence(asked, rows),
        "notes": [*asked.notes, *asked.named.notes],
        "rule": _rule(asked, level),
        "runs": [
            {"name": name, "steps": part["figures"].get("steps"), "seconds": part["figures"].get("seconds")}
            for name, part in study.parts.items()
            if (study.path / name / "config.toml").exists()
        ],
    }
    write_file(study.path / RESULTS, json.dumps(results, indent=1).encode())
    return results


def show(study: Study, results: dict[str, Any], console: Console) -> None:
    """Writes the picture and the page, and shows the table."""
    if svg := ablation_picture(results):
        write_file(study.path / PICTURE, svg.encode())
    write_report(study.path)
    heads, rows = ablation_table(results)
    table = Shown(*heads)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)
    console.print(f"\n{results['sentence']}", style="bold", soft_wrap=True)
    for row in results["rows"]:
        for one in row["failed"]:
            console.print(f"{one['part']} failed: {one['why']}", style="yellow", soft_wrap=True)


def _seeds(study: Study, asked: Asked, row: Row) -> list[int]:
    """Those that this row is judged of."""
    wanted = {seed: asked.parts_of[row.name, seed] for seed in asked.seeds}
    return [seed for seed, names in wanted.items() if all(study.figures(name) is not None for name in names)]


def _failed(study: Study, asked: Asked, row: Row) -> list[dict[str, str]]:
    """The first part of each seed that failed, and why."""
    found = []
    for seed in asked.seeds:
        for name in asked.parts_of[row.name, seed]:
            if (why := study.why_failed(name)) is not None:
                found.append({"part": name, "why": why})
                break
    return found


def _as_paper(row: Row, usual: Row, apart: Mapping[str, Interval | None]) -> dict[str, str]:
    """Of each figure that the paper has of both: whether ours goes the same way, within its bounds."""
    found = {}
    for name in row.paper.keys() & usual.paper.keys() & apart.keys():
        ours, theirs = apart[name], row.paper[name] - usual.paper[name]
        if ours is None or not theirs:
            continue
        sign = 1 if ours.low > 0 else -1 if ours.high < 0 else 0
        found[name] = "not shown" if sign == 0 else "as in the paper" if sign * theirs > 0 else "the other way"
    return found


def _sentence(asked: Asked, rows: Sequence[dict[str, Any]]) -> str:
    """What is shown, by the first figure that decides."""
    figure = next(one for one in asked.figures if one.decides)
    usual, said = asked.named.usual, figure.said
    others = [row for row in rows if row["against"].get(figure.name)]
    if not others:
        return f"Nothing can be compared with {usual} yet."
    shown = []
    for better, word in ((True, "better"), (False, "worse")):
        which = [row for row in others if _sign(row["against"][figure.name]) == (1 if better else -1)]
        named = [f"{row['name']} ({figure.bounds(_interval(row['against'][figure.name]))})" for row in which]
        if named:
            shown.append(f"{', '.join(named)} {'is' if len(named) == 1 else 'are'} {word} than {usual}")
    rest = [row["name"] for row in others if _sign(row["against"][figure.name]) == 0]
    if rest:
        shown.append(f"{', '.join(rest)} {'is' if len(rest) == 1 else 'are'} not shown to differ from {usual}")
    return f"By {said}: {'; '.join(shown)}."


def _sign(found: Mapping[str, Any]) -> int:
    low, high = found.get("low"), found.get("high")
    return 1 if low is not None and low > 0 else -1 if high is not None and high < 0 else 0


def _interval(found: Mapping[str, Any]) -> Interval:
    return Interval(**{name: float("nan") if value is None else value for name, value in found.items()})


def _rule(asked: Asked, level: float) -> str:
    rankme = " RankMe tells trained from untrained encoders and ranks different ones badly."
    return (
        f"Every row is trained with {len(asked.seeds)} seeds, in all else alike. Differences to "
        f"{asked.named.usual} are means over the seeds; their bounds tell what other images of the same kind (the "
        "judging ones drawn anew, the same for both) and other seeds (Student's t) might have given, and hold for all "
        f"of them together in 95 of 100 cases ({100 * level:.2f}% each)."
        + (" The paper's model, images and training are far larger: signs are compared, not values." * _has(asked))
        + rankme * any(one.name == RANKME.name for one in asked.figures)
    )


def _has(asked: Asked) -> bool:
    return any(row.paper for row in asked.rows)
