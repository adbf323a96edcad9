"""What the judged encoders of a study add up to: figures, differences with their bounds, the verdict."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Shown

from openmae.data.tasks import Task
from openmae.files.whole import write_file
from openmae.report.page.run import write_report
from openmae.report.page.study import RESULTS, study_table
from openmae.report.plots.study import study_picture
from openmae.studies.adapt.verdict import Figure, Findings, Verdict, points
from openmae.studies.intervals import Interval, between, between_parts, level_of
from openmae.studies.outcomes import Outcome, read_outcomes
from openmae.studies.study import Study

RELEASED, GONE_ON, SCRATCH = "released", "gone-on", "scratch"
SAID = {RELEASED: "as released", GONE_ON: "gone on with", SCRATCH: "from scratch"}
ENCODERS = {
    RELEASED: "the released encoder",
    GONE_ON: "the encoder that went on",
    SCRATCH: "the encoder from scratch",
}
PICTURE = "study.svg"
RANKME = Figure("rankme", "RankMe", in_points=False, decides=False)


def figures_of(task: Task | None, labels: str | None) -> list[Figure]:
    """What encoders are judged by. task: of the labels, None where there are none. labels: of how few fine-tuning gets,
    None for no fine-tuning."""
    if task is None:
        return [Figure("agreement", "neighbour agreement"), RANKME]
    called = {"classification": "top-1", "multi-label": "mean AP", "regression": "R²"}[task]
    shares = task != "regression"
    found = [Figure("knn", f"kNN {called}", shares), Figure("linear", f"linear {called}", shares)]
    if labels is not None:
        found.append(Figure("finetuned", f"fine-tuned {called} ({labels.replace('-', ' ')})", shares))
    return found


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


def judged_file(study: Path, encoder: str, seed: int, figure: str) -> Path:
    """Where what was said of each image is kept: of the released encoder once, but for fine-tuning."""
    name = encoder if encoder == RELEASED and figure != "finetuned" else f"{encoder}-seed-{seed}"
    return study / "judged" / f"{'finetuned-' * (figure == 'finetuned')}{name}.npz"


def conclude(study: Study, asked: Asked) -> tuple[Verdict | None, dict[str, Any]]:
    """Writes results.json, the picture and the page of the parts that are done; gives the verdict, None before the last
    seed is, and what results.json holds. Raises UserError where a file of the study is damaged, OSError."""
    level = level_of(len(asked.figures))
    found = {figure.name: _compared(study, asked, figure, level) for figure in asked.figures}
    has_scratch = SCRATCH in asked.encoders
    gain, released, gone_on = (
        {name: one[pair] for name, one in found.items() if pair in one}
        for pair in ((GONE_ON, RELEASED), (RELEASED, SCRATCH), (GONE_ON, SCRATCH))
    )
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
                "of": {name: _by_seed(study, asked, figure, name) for name in asked.encoders},
                "gain": gain[figure.name].to_dict(),
                **({"released_over_scratch": released[figure.name].to_dict()} if has_scratch else {}),
                **({"gone_on_over_scratch": gone_on[figure.name].to_dict()} if has_scratch else {}),
            }
            for figure in asked.figures
        ],
        "worth": asked.worth,
        "seeds": list(asked.seeds),
        "notes": list(asked.notes),
        "rule": _rule(len(asked.figures), asked.worth, level),
        "runs": [
            {"name": name, "steps": part["figures"].get("steps"), "seconds": part["figures"].get("seconds")}
            for name, part in study.parts.items()
            if (study.path / name / "config.toml").exists()
        ],
    }
    write_file(study.path / RESULTS, json.dumps(results, indent=1).encode())
    svg = study_picture(results["figures"], results["encoders"])  # type: ignore[arg-type]
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
        f"{points(worth)} of a hundred; else nothing is decided. From scratch means the "
        "same model, images a step and number of steps."
    )


def _compared(study: Study, asked: Asked, figure: Figure, level: float) -> dict[tuple[str, str], Interval]:
    """The differences between each encoder and those after it that are asked for."""
    pairs = [(GONE_ON, RELEASED)]
    if SCRATCH in asked.encoders:
        pairs += [(RELEASED, SCRATCH), (GONE_ON, SCRATCH)]
    if figure.name == RANKME.name:
        return {pair: _ranks_apart(study, asked, pair, level) for pair in pairs}
    outcomes = {name: [_outcome(study, name, seed, figure) for seed in asked.seeds] for name in asked.encoders}
    return {
        (better, other): between(list(zip(outcomes[better], outcomes[other], strict=True)), level, asked.seed)
        for better, other in pairs
    }


def _ranks_apart(study: Study, asked: Asked, pair: tuple[str, str], level: float) -> Interval:
    parts = [[_judged(study, name, seed) for name in pair] for seed in asked.seeds]
    whole = [(one["rankme"], other["rankme"]) for one, other in parts]
    without = [(np.array(one["rankme_without"]), np.array(other["rankme_without"])) for one, other in parts]
    return between_parts(whole, without, level)


def _by_seed(study: Study, asked: Asked, figure: Figure, encoder: str) -> list[float]:
    """The figures, one a seed; of the released encoder one for all, unless it is fine-tuned. Without those of images
    that do not tell."""
    seeds = asked.seeds if encoder != RELEASED or figure.name == "finetuned" else asked.seeds[:1]
    if figure.name == RANKME.name:
        return [_judged(study, encoder, seed)["rankme"] for seed in seeds]
    found = [_outcome(study, encoder, seed, figure).figure() for seed in seeds]
    return [one for one in found if math.isfinite(one)]


def _judged(study: Study, encoder: str, seed: int) -> dict[str, Any]:
    """Figures of the part that judged it."""
    return study.parts[f"judged/{judged_file(study.path, encoder, seed, '').stem}"]["figures"]


def _outcome(study: Study, encoder: str, seed: int, figure: Figure) -> Outcome:
    return read_outcomes(judged_file(study.path, encoder, seed, figure.name))[figure.name]
