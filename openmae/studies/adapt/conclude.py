"""What the judged encoders of a study add up to: figures, differences with their bounds, the verdict."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as Shown

from openmae.files.study import RESULTS
from openmae.files.whole import write_file
from openmae.report.page.run import write_report
from openmae.report.page.study import study_table
from openmae.report.plots.study import study_picture
from openmae.studies.adapt.verdict import Findings, Verdict, points
from openmae.studies.figures import Figure
from openmae.studies.intervals import Interval, level_of
from openmae.studies.judged import Judged
from openmae.studies.study import Study

RELEASED, GONE_ON, SCRATCH = "released", "gone-on", "scratch"
SAID = {RELEASED: "as released", GONE_ON: "gone on with", SCRATCH: "from scratch"}
ENCODERS = {
    RELEASED: "the released encoder",
    GONE_ON: "the encoder that went on",
    SCRATCH: "the encoder from scratch",
}
PICTURE = "study.svg"


@dataclass(frozen=True)
class Asked:
    """Of whom it is asked, and how. model: as the user calls it. seeds: those that are done."""

    model: str
    figures: Sequence[Figure]
    encoders: Sequence[str]
    seeds: Sequence[int]
    of: int
    seed: int
    worth: float
    notes: Sequence[str]


def judged_by(study: Study, seeds: Sequence[int]) -> Judged:
    """What was found of the encoders: no seed has trained the released one."""
    return Judged(study, seeds, (RELEASED,))


def conclude(study: Study, asked: Asked) -> tuple[Verdict | None, dict[str, Any]]:
    """Writes results.json, the picture and the page of the parts that are done; gives the verdict, None before the last
    seed is, and what results.json holds. Raises UserError where a file of the study is damaged, OSError."""
    level, judged = level_of(len(asked.figures)), judged_by(study, asked.seeds)
    has_scratch = SCRATCH in asked.encoders

    def apart(better: str, other: str) -> dict[str, Interval]:
        if not {better, other} <= {*asked.encoders}:
            return {}
        return {one.name: judged.apart(better, other, one, level, asked.seed) for one in asked.figures}

    gain, released, gone_on = apart(GONE_ON, RELEASED), apart(RELEASED, SCRATCH), apart(GONE_ON, SCRATCH)
    said = None
    if len(asked.seeds) == asked.of:  # whoever looks before may not stop when he likes what he sees
        said = Findings(
            asked.figures,
            gain,
            released if has_scratch else None,
            gone_on if has_scratch else None,
            asked.worth,
            asked.of,
            asked.model,
            str(study.path / GONE_ON / f"seed-{asked.seeds[0]}"),
        ).verdict()
    results = {
        "study": study.kind,
        "verdict": _unfinished(asked) if said is None else asdict(said),
        "encoders": {name: SAID[name] for name in asked.encoders},
        "figures": [
            {
                **asdict(figure),
                "of": {name: judged.by_seed(name, figure) for name in asked.encoders},
                "gain": gain[figure.name].to_dict(),
                **({"released_over_scratch": released[figure.name].to_dict()} if has_scratch else {}),
                **({"gone_on_over_scratch": gone_on[figure.name].to_dict()} if has_scratch else {}),
            }
            for figure in asked.figures
        ],
        "worth": asked.worth,
        "seeds": list(asked.seeds),
        "notes": [*asked.notes, *study.notes()],
        "rule": _rule(len(asked.figures), asked.worth, level),
        "runs": [
            {"name": name, "steps": part["figures"].get("steps"), "seconds": part["figures"].get("seconds")}
            for name, part in study.parts.items()
            if (study.path / name / "config.toml").exists()
        ],
    }
    write_file(study.path / RESULTS, json.dumps(results, indent=1).encode())
    svg = study_picture(results)
    write_file(study.path / PICTURE, svg.encode())
    write_report(study.path)
    return said, results


def _unfinished(asked: Asked) -> dict[str, str]:
    return {"kind": "unfinished", "sentence": f"Done for {len(asked.seeds)} of {asked.of} seeds: no verdict yet."}


def show(results: dict[str, Any], said: Verdict | None, console: Console) -> None:
    """The table, and the verdict below it."""
    heads, rows = study_table(results["figures"], results["encoders"])
    table = Shown(*heads)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)
    assert said is not None
    console.print(f"\n{said.sentence}", style="bold", soft_wrap=True)
    if said.beside:
        console.print(said.beside, soft_wrap=True)


def _rule(figures: int, worth: float, level: float) -> str:
    return (
        "Differences are means over the seeds. Their bounds tell what other images of the same kind (the judging ones "
        "drawn anew, the same for both encoders) and other seeds (Student's t over those that were trained) might have "
        f"given, and hold for all {figures} figures together in 95 of 100 cases ({100 * level:.1f}% each). A gain is "
        "claimed where the bounds of a figure lie above 0 and no figure's lie below; no gain where all end below "
        f"{points(worth)} of a hundred; else nothing is decided. Two seeds give no bounds, and decide nothing. From "
        "scratch means the same model, images a step and number of steps."
    )
