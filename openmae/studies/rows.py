"""The rows of a study's table, each trained with every seed and compared with the usual one: what is found of them by
now, what is shown, and where it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table as Shown

from openmae.errors import RUN_AGAIN, Interrupted, UserError
from openmae.files.whole import write_file
from openmae.report.page.ablation import ablation_table
from openmae.report.page.run import write_report
from openmae.report.plots.differences import has_bounds, said_bounds
from openmae.report.plots.study import study_picture
from openmae.studies.figures import RANKME, Figure
from openmae.studies.intervals import NO_BOUNDS, Interval, level_of, together
from openmae.studies.judged import Judged
from openmae.studies.study import Part, Study

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Heads and rows of words."""
PICTURE = "study.svg"
COLLAPSED = "collapsed"
"""Of what a part found: why there is nothing to judge, and no use in trying once more."""


@dataclass(frozen=True)
class Rows:
    """folders: of each row, by its name, the folder of its runs. usual: the row that all are compared with. figures:
    that judge. seeds: all of them; seed: draws images anew. parts_of: of each row and seed, those that have to be done.
    untrained: folders of rows that no seed trained, so that one model stands for all. beside: of each row, seed and
    figure, the parts that this figure needs besides."""

    folders: Mapping[str, str]
    usual: str
    figures: Sequence[Figure]
    seeds: Sequence[int]
    seed: int
    parts_of: Mapping[tuple[str, int], Sequence[str]]
    untrained: Sequence[str] = ()
    beside: Mapping[tuple[str, int, str], Sequence[str]] = field(default_factory=dict)

    @property
    def level(self) -> float:
        """Of each bound, so that all hold together."""
        return level_of(max(1, len(self.figures) * (len(self.folders) - 1)))

    def apart(self, study: Study) -> dict[str, dict[str, Interval]]:
        """Of each row, by each figure, how far it is from the usual one; nothing where that is not known yet."""
        judged = Judged(study, [], self.untrained)
        found: dict[str, dict[str, Interval]] = {name: {} for name in self.folders}
        usual = self.folders[self.usual]
        for one in self.figures:
            done, alone = {name: self._done(study, name, one) for name in self.folders}, dict[str, Interval]()
            for name, folder in self.folders.items():
                both = [seed for seed in done[name] if seed in done[self.usual]]
                if name != self.usual and both:
                    mine = replace(judged, seeds=both)
                    alone[name] = mine.apart(folder, usual, one, self.level, self.seed)
            for name, interval in together(alone).items():
                found[name][one.name] = interval
        return found

    def rows(self, study: Study, apart: Mapping[str, Mapping[str, Interval]]) -> list[dict[str, Any]]:
        """As results.json has them: of each its figures, one a seed, its distances, and what failed."""
        judged = Judged(study, [], self.untrained)

        def by_seed(name: str, folder: str, one: Figure) -> list[float]:
            done = self._done(study, name, one)
            return replace(judged, seeds=done).by_seed(folder, one) if done else []

        return [
            {
                "name": name,
                "of": {one.name: by_seed(name, folder, one) for one in self.figures},
                "against": {figure: one.to_dict() for figure, one in apart[name].items()},
                "failed": self._failed(study, name),
            }
            for name, folder in self.folders.items()
        ]

    def _done(self, study: Study, name: str, figure: Figure) -> list[int]:
        """The seeds that this row is judged of by this figure."""

        def needs(seed: int) -> list[str]:
            return [*self.parts_of[name, seed], *self.beside.get((name, seed, figure.name), ())]

        found = {seed: [study.figures(part) for part in needs(seed)] for seed in self.seeds}
        return [seed for seed, parts in found.items() if all(one is not None and COLLAPSED not in one for one in parts)]

    def _failed(self, study: Study, name: str) -> list[dict[str, Any]]:
        """The first part of each seed that failed or collapsed, and why."""
        found: list[dict[str, Any]] = []
        for seed in self.seeds:
            besides = [part for one in self.figures for part in self.beside.get((name, seed, one.name), ())]
            for part in [*self.parts_of[name, seed], *besides]:
                collapsed = (study.figures(part) or {}).get(COLLAPSED)
                if (why := study.why_failed(part) or collapsed) is not None:
                    found.append({"part": part, "why": why} | ({COLLAPSED: True} if collapsed else {}))
                    break
        return found

    def sentence(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """What is shown, by the first figure that decides; then by which others it is otherwise, and of which rows."""
        first, *others = [one for one in self.figures if one.decides]
        compared = [row for row in rows if row["against"].get(first.name)]
        if not compared:
            return f"Nothing can be compared with {self.usual} yet."
        said, same = [f"By {first.said}: {self._shown(compared, first)}."], list[str]()
        for one in others:
            both = [row for row in compared if row["against"].get(one.name)]
            differing = [row for row in both if _sign(row, one) != _sign(row, first)]
            if differing:
                said.append(f"Otherwise by {one.said}: {self._shown(differing, one)}.")
            elif both and any(_has_bounds(row, one) for row in both):
                same.append(one.said)
        if same:
            said.append(f"By {' and by '.join(same)} it is the same.")
        return " ".join(said)

    def _shown(self, rows: Sequence[Mapping[str, Any]], figure: Figure) -> str:
        """Which of these are better, which are worse, and of which nobody knows."""
        shown = []
        for sign, word in ((1, "better"), (-1, "worse")):
            which = [row for row in rows if _sign(row, figure) == sign]
            named = [f"{row['name']} ({said_bounds(row['against'][figure.name], figure.in_points)})" for row in which]
            if named:
                shown.append(f"{', '.join(named)} {_are(named)} {word} than {self.usual}")
        rest = [row for row in rows if _sign(row, figure) == 0]
        for of_two in (False, True):
            if named := [row["name"] for row in rest if bool(row["against"][figure.name].get("each")) == of_two]:
                why = ", for two seeds give no bounds" * of_two
                shown.append(f"{', '.join(named)} {_are(named)} not shown to differ from {self.usual}{why}")
        return "; ".join(shown)

    @property
    def rule(self) -> str:
        """What the bounds tell."""
        rankme = " RankMe tells trained from untrained encoders and ranks different ones badly."
        bounds = (
            "their bounds tell what other images of the same kind (the judging ones drawn anew, the same for both) and "
            "other seeds (Student's t, by how much seeds differ in all rows) might have given, and hold for all of "
            f"them together in 95 of 100 cases ({100 * self.level:.2f}% each)."
        )
        if len(self.seeds) == NO_BOUNDS:
            bounds = "two seeds tell too little of how much seeds differ to give them bounds, so nothing is shown."
        return (
            f"Differences to {self.usual} are means over the seeds; {bounds}"
            f"{rankme * any(one.name == RANKME.name for one in self.figures)}"
        )


def few_seeds(seeds: int) -> list[str]:
    """What so few of them do not tell."""
    if seeds == 1:
        return ["One seed: the bounds tell nothing of what another one would have given."]
    if seeds == NO_BOUNDS:
        return [
            "Two seeds give no bounds, so what each of them gave stands beside a difference: the same command with "
            "--seeds 3 adds one, and bounds."
        ]
    return []


def state(study: Study, parts: Sequence[Part]) -> dict[str, Any]:
    """How far it is, and its runs, as results.json has them."""
    progress = study.progress(parts)
    return {
        "complete": progress.done == progress.of,
        "progress": str(progress),
        "runs": [
            {"name": name, "steps": part["figures"].get("steps"), "seconds": part["figures"].get("seconds")}
            for name, part in study.parts.items()
            if (study.path / name / "config.toml").exists()
        ],
    }


def show(study: Study, results: dict[str, Any], tables: Sequence[Table] = ()) -> None:
    """Writes the picture and the page, and shows the tables, an ablation's by default, with what is to be known of
    them."""
    console = study.console
    if svg := study_picture(results):
        write_file(study.path / PICTURE, svg.encode())
    write_report(study.path)
    for heads, rows in tables or [ablation_table(results)]:
        table = Shown(*heads)
        for row in rows:
            table.add_row(*row)
        console.print()
        console.print(table)
    console.print(f"\n{results['sentence']}", style="bold", soft_wrap=True)
    for row in results["rows"]:
        for one in row["failed"]:
            how = "has collapsed" if one.get(COLLAPSED) else "failed"
            console.print(f"{one['part']} {how}: {one['why']}", style="yellow", soft_wrap=True)
    for note in results["notes"]:
        console.print(note, soft_wrap=True)


def end(study: Study, results: dict[str, Any], *, is_part: bool, untrained: Sequence[str] = ()) -> None:
    """Says where everything is. is_part: others may be at the rest. untrained: rows that tell nothing of trainings.

    Raises UserError where nothing came out, Interrupted where something is left to do.
    """
    trained = [row for row in results["rows"] if row["name"] not in untrained]
    failed = next((one["why"] for row in trained for one in row["failed"] if not one.get(COLLAPSED)), None)
    if failed is not None and not any(any(row["of"].values()) for row in trained):
        raise UserError(f"every training failed (the first: {failed})", "mend that, and run the same command again")
    if not results["complete"]:
        if is_part:
            said = f"\nOther processes are at the rest ({results['progress']}): the last one makes the table"
            study.console.print(said)
            return
        raise Interrupted(f"{results['progress']}: the same command goes on where it was", code=RUN_AGAIN)
    study.console.print(
        f"\nKept in {study.path}: results.json, study.svg, report.html, and every run in its folder. Look at:   "
        f"{study.path}/report.html",
        soft_wrap=True,
    )


def _sign(row: Mapping[str, Any], figure: Figure) -> int:
    """1 where a row is shown to be better by this figure, -1 where it is worse."""
    found = row["against"][figure.name]
    return 0 if not has_bounds(found) else 1 if found["low"] > 0 else -1 if found["high"] < 0 else 0


def _has_bounds(row: Mapping[str, Any], figure: Figure) -> bool:
    return has_bounds(row["against"][figure.name])


def _are(named: Sequence[str]) -> str:
    return "is" if len(named) == 1 else "are"
