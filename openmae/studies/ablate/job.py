"""Which setting is best on these images?

    openmae ablate your/images --out studies/ratio --study mask-ratio --labels labelled/
    openmae ablate your/images --out studies/grid --vary mask_ratio=0.5,0.75 --vary target=pixel,hog --minutes 10

A training for each setting and seed, alike in all else, judged on the same images: means with bounds, in one table and
one picture, with the paper's figures behind them where it asked the same (docs/ablate.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rich.console import Console

from openmae.console.terminal import make_console
from openmae.console.words import duration, several
from openmae.distributed.started import refuse_ranks
from openmae.errors import UserError
from openmae.recipes.finetune.job import finetune
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.settings import given
from openmae.studies.ablate.conclude import Asked, conclude
from openmae.studies.ablate.grid import check_names, folder_name, study_of
from openmae.studies.ablate.named import Named, Row
from openmae.studies.ablate.settings import Ablate
from openmae.studies.ablate.trainings import (
    Trained,
    Tuned,
    check_files,
    epochs_of,
    finetuned,
    of_part,
    part_of_images,
    trained,
    tuned,
)
from openmae.studies.base import Base, base_of
from openmae.studies.figures import FINETUNED, Figure, figures_of
from openmae.studies.given import in_common
from openmae.studies.jobs import end_with_starter, work
from openmae.studies.judged import Judged
from openmae.studies.judging import (
    Means,
    judge_by_labels,
    judge_finetuned,
    judge_without_labels,
    means_of,
    open_labelled,
)
from openmae.studies.opened import Opened, open_all, what_decides
from openmae.studies.rows import Rows, end, few_seeds, show
from openmae.studies.study import Part, Study
from openmae.studies.trainings import like, train

_SPEED = "speed"
_PRETRAINED = Row("pretrained")
"""What all rows of a study begin from that fine-tunes."""
_QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Plan:
    """Everything that is to be done. usual: epochs."""

    settings: Ablate
    named: Named
    opened: Opened
    means: Means
    base: Base
    rows: Sequence[Row]
    trainings: Mapping[str, Trained]
    rate: float
    usual: float
    tunings: Tuned | None

    @property
    def seeds(self) -> range:
        """All of them."""
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    @property
    def finetunes(self) -> bool:
        """Whether rows differ in how one encoder is fine-tuned."""
        return self.tunings is not None

    @property
    def figures(self) -> list[Figure]:
        """That judge."""
        labelled = self.opened.labelled
        found = figures_of(None if labelled is None else labelled.task, "all" if self.finetunes else None)
        if not self.finetunes:
            return found
        return [replace(one, said=one.said.replace(" (all)", "")) for one in found if one.name == FINETUNED]


def run(settings: Ablate) -> None:
    """Trains, judges, and shows what is found. Raises UserError, Interrupted, NotWritten."""
    end_with_starter()
    refuse_ranks("a study")
    console = make_console(outlives_terminal=True)
    common, named = in_common(settings.set), study_of(settings)
    check_names(named.rows)
    means = means_of(settings, console, {})
    is_for_labels = any(row.blocks is not None for row in named.rows)
    opened = open_all(settings, means, "--study partial fine-tunes" if is_for_labels else "")
    base = base_of(settings, common, opened.data, means)
    rows = _rows(named, base)
    if any(row.images < 1 for row in rows):
        check_files(base)
    begun = [_PRETRAINED] if any(row.blocks for row in rows) else rows
    trained(base, begun, settings.epochs)  # whatever cannot be is refused before anything is written
    study = Study(
        settings.out, "ablate", _asked(settings, named, opened), console, endures=True, other_code=settings.other_code
    )
    speed = Part(_SPEED, _SPEED, "how fast a training is here", base.measured)
    study.do([speed], [speed])
    rate = _rate(study)
    epochs = epochs_of(settings, base, rate)
    trainings = {one.row.name: one for one in trained(base, begun, epochs)}
    tunings = tuned(settings, base, rows, given(opened.labelled), rate) if is_for_labels else None
    plan = Plan(settings, named, opened, means, base, rows, trainings, rate, epochs, tunings)
    parts, parts_of = _parts(plan, study)
    asked = _question(plan, parts, parts_of)
    console.print(_said(plan, parts), soft_wrap=True)
    work(study, "ablate", settings, parts, partial(conclude, study, asked))
    results = conclude(study, asked)
    show(study, results)
    end(study, results, is_part=settings.part is not None)


def _rate(study: Study) -> float:
    figures = study.figures(_SPEED)
    if figures is None:
        raise UserError(f"the speed cannot be measured here ({study.why_failed(_SPEED)})", "mend that")
    return float(figures["rate"])


def _rows(named: Named, base: Base) -> list[Row]:
    """Those that there are: an encoder may have fewer blocks."""
    if not any(row.blocks for row in named.rows):
        return list(named.rows)
    depth = base.planned(base.asked, base.images).architecture.depth
    return [row for row in named.rows if row.blocks == "all" or float(given(row.blocks)) < depth]


def _asked(settings: Ablate, named: Named, opened: Opened) -> dict[str, Any]:
    epochs = settings.finetune_epochs
    length = {} if epochs is None else {"finetune_epochs": epochs}
    own = {**length, "study": settings.study, "rows": [row.name for row in named.rows], "vary": sorted(settings.vary)}
    return what_decides(settings, opened, own)


def _said(plan: Plan, parts: Sequence[Part]) -> str:
    """What is about to be done, and how long it may take."""
    labelled, images = plan.opened.labelled, plan.base.images
    if labelled is None:
        by = f"neighbour agreement and RankMe on {several(len(plan.opened.unlabelled), 'image')}"
    else:
        by = f"{' and '.join(one.said for one in plan.figures)} on {several(len(labelled.val), 'labelled image')}"
    seconds = [one.work / plan.rate for one in plan.trainings.values()]
    asks = f"{plan.settings.study or 'A grid'}{f' (paper, {plan.named.source})' if plan.named.source else ''}"
    trainings = plan.settings.seeds * len(seconds)
    tunings = () if plan.tunings is None else [*plan.tunings.seconds.values()]
    more = f" and {plan.settings.seeds * len(tunings)} fine-tunings" if tunings else ""
    take = f", those of the fine-tunings about {_lasting(plan, tunings)}" if tunings else ""
    shared = f", shared by {plan.settings.jobs} processes" if plan.settings.jobs > 1 else ""
    return (
        f"\n{asks}: {plan.named.axis} {', '.join(row.name for row in plan.rows)}; "
        f"{several(plan.settings.seeds, 'seed')}, {several(trainings, 'training')}{more}, each "
        f"{plan.usual:.3g} epochs of {several(images, 'image')}, "
        f"judged by {by}.\nBy the speed of this machine the steps of all trainings take about "
        f"{_lasting(plan, seconds)}{take}{shared}; starting and judging come to that, with "
        f"{several(len(parts), 'part')} in all."
    )


def _lasting(plan: Plan, seconds: Sequence[float]) -> str:
    """What takes so many seconds each, of every seed."""
    each = f"{duration(min(seconds))} to {duration(max(seconds))} each"
    return f"{duration(plan.settings.seeds * sum(seconds))} ({each})"


def _question(plan: Plan, parts: Sequence[Part], parts_of: Mapping[tuple[str, int], Sequence[str]]) -> Asked:
    labelled, notes = plan.opened.labelled, []
    if labelled is None:
        notes.append(
            "No labels judged: neighbour agreement and RankMe tell trained encoders from untrained ones, and rank "
            "different ones badly. A few dozen labelled images a class (--labels) tell more."
        )
    else:
        notes.append(
            f"{several(len(labelled.val), 'labelled image')} judged; {len(labelled.train):,} others were learnt from."
        )
        if plan.settings.labels is None and not plan.opened.data.has_splits:
            notes.append("DATA has no splits: the encoders have seen the judging images too, without their labels.")
    notes += few_seeds(plan.settings.seeds)
    work = {name: one.work for name, one in plan.trainings.items()}
    usual = work.get(plan.named.usual)
    computing = {} if usual is None else {name: one / usual for name, one in work.items()}
    folders = {row.name: folder_name(row) for row in plan.rows}
    table = Rows(folders, plan.named.usual, plan.figures, list(plan.seeds), plan.settings.seed, parts_of)
    return Asked(plan.settings.study or "", plan.named, plan.rows, table, computing, parts, notes)


# ---------------------------------------------------------------- the parts


def _parts(plan: Plan, study: Study) -> tuple[list[Part], dict[tuple[str, int], list[str]]]:
    """All of them, seed after seed; and which a row needs of each seed."""
    parts: list[Part] = []
    parts_of: dict[tuple[str, int], list[str]] = {}
    for seed in plan.seeds:
        for one in plan.trainings.values():
            training = _trained(plan, study, one, seed)
            parts.append(training)
            if not plan.finetunes:
                judging = _judged(plan, study, one.row, seed)
                parts.append(judging)
                parts_of[one.row.name, seed] = [training.name, judging.name]
        if plan.finetunes:
            for row in plan.rows:
                tuning = _finetuned(plan, study, row, seed)
                parts.append(tuning)
                parts_of[row.name, seed] = [parts[-1].after[0], tuning.name]
    return parts, parts_of


def _trained(plan: Plan, study: Study, one: Trained, seed: int) -> Part:
    name = f"{folder_name(one.row)}/seed-{seed}"
    run = study.path / name

    def do() -> dict[str, Any]:
        asked: Pretrain = replace(one.asked, out=run, seed=seed)
        if one.row.images < 1:
            table = part_of_images(plan.base, one.row.images, study.path / "data" / f"{folder_name(one.row)}.csv")
            asked = of_part(asked, table)
        return train(asked, plan.means.console)

    said = (
        f"{plan.named.axis} {one.row.name}, seed {seed}" if one.row is not _PRETRAINED else f"pre-training, seed {seed}"
    )
    return Part(name, "training", said, do, one.work / plan.rate)


def _judged(plan: Plan, study: Study, row: Row, seed: int) -> Part:
    training = f"{folder_name(row)}/seed-{seed}"
    model, file = study.path / training, Judged(study, [seed]).file(folder_name(row), seed)
    if plan.opened.labelled is None:
        do = partial(judge_without_labels, model, plan.opened.unlabelled, plan.means, file)
    else:
        do = partial(judge_by_labels, model, plan.opened.labelled, plan.means, file)
    said = f"judging {plan.named.axis} {row.name}, seed {seed}"
    return Part(f"judged/{file.stem}", "judging", said, do, after=(training,))


def _finetuned(plan: Plan, study: Study, row: Row, seed: int) -> Part:
    training = f"{folder_name(_PRETRAINED)}/seed-{seed}"
    folder, settings = study.path / FINETUNED, plan.settings
    name, first = f"{folder_name(row)}-seed-{seed}", f"{folder_name(row)}-seed-{settings.seed}"
    labelled, tunings = given(plan.opened.labelled), given(plan.tunings)
    file = Judged(study, [seed]).file(folder_name(row), seed, FINETUNED)

    def do() -> dict[str, Any]:
        model, run = str(study.path / training), folder / name
        asked = replace(finetuned(settings, given(row.blocks)), model=model, out=run, seed=seed, epochs=tunings.epochs)
        if name != first:
            asked = like(asked, folder / first)
        finetune(asked, plan.means.console)
        held_out = labelled if seed == settings.seed else open_labelled(labelled.data, plan.means, seed, _QUIET)
        return judge_finetuned(folder / name, held_out, plan.means, file)

    after = (training,) if name == first else (training, f"{FINETUNED}/{first}")
    said, seconds = f"fine-tuning the last blocks, {row.name}, seed {seed}", tunings.seconds[row.name]
    return Part(f"{FINETUNED}/{name}", "fine-tuning", said, do, seconds, after=after)
