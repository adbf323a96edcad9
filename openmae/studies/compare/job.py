"""Which way to pre-train is best on these images?

    openmae compare your/images --out studies/ways --labels labelled/
    openmae compare your/images --out studies/ways --methods mae,simclr,random --budget 5m --also vit_base.pth

A training for each method and seed, of the same model on the same images for the same time, judged on the same images:
means with bounds, and what each method costs, in one table and one picture (docs/compare.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.console.terminal import make_console
from openmae.console.words import duration, several
from openmae.distributed.ranks import refuse_ranks
from openmae.files.address import whole_address
from openmae.model import Architecture
from openmae.recipes.in_parts.about import digest
from openmae.recipes.pretrain.settings import Pretrain
from openmae.studies.base import Base, base_of
from openmae.studies.compare.conclude import Asked, conclude
from openmae.studies.compare.named import MAE, RANDOM, allowed, asked_for
from openmae.studies.compare.settings import Compare
from openmae.studies.compare.trainings import check_method, in_common, trained
from openmae.studies.figures import Figure, figures_of
from openmae.studies.given import in_common as given_in_common
from openmae.studies.jobs import end_with_starter, work
from openmae.studies.judged import Judged
from openmae.studies.judging import Means, judge_by_labels, judge_without_labels, means_of
from openmae.studies.opened import Opened, open_all, what_decides
from openmae.studies.rows import COLLAPSED, Rows, end, few_seeds, show
from openmae.studies.study import Part, Study
from openmae.weights import load_model
from openmae.weights.loaded import say_origin


@dataclass(frozen=True)
class Beside:
    """A released model: the file or name that was given, what its files here are called, and its licence."""

    model: Path
    folder: str
    licence: str


@dataclass(frozen=True)
class Plan:
    """Everything that is to be done. methods: in the order of the table; asked: what all are trained with."""

    settings: Compare
    opened: Opened
    means: Means
    base: Base
    methods: Sequence[str]
    beside: Sequence[Beside]
    asked: Pretrain
    architecture: Architecture

    @property
    def seeds(self) -> range:
        """All of them."""
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    @property
    def trainings(self) -> list[str]:
        """The methods that train."""
        return [name for name in self.methods if name != RANDOM]

    @property
    def usual(self) -> str:
        """The row that all are compared with."""
        return MAE if MAE in self.methods else self.methods[0]

    @property
    def figures(self) -> list[Figure]:
        """That judge."""
        return figures_of(None if self.opened.labelled is None else self.opened.labelled.task, None)

    @property
    def how_long(self) -> str:
        """Of each training."""
        if self.settings.minutes is None:
            return f"{self.settings.epochs:g} times through all of them"
        return f"for {duration(self.settings.minutes * 60)}, whatever a method makes of them"


def run(settings: Compare) -> None:
    """Trains, judges, and shows what is found. Raises UserError, Interrupted, NotWritten."""
    end_with_starter()
    refuse_ranks("a study")
    console = make_console(outlives_terminal=True)
    methods, common = asked_for(settings.methods), given_in_common(settings.set)
    beside = [_beside(model, console) for model in dict.fromkeys(settings.also)]
    means = means_of(settings, console, {})
    opened = open_all(settings, means)
    others_judge = settings.labels is not None and whole_address(settings.labels) != whole_address(settings.data)
    names, left_out = allowed(methods, opened, others_judge=others_judge)
    base = base_of(settings, common, opened.data, means)
    asked = in_common(settings, base)
    for name in names:  # whatever cannot be is refused before anything is written
        check_method(asked, name)
    architecture = base.planned(asked, base.images).architecture
    plan = Plan(settings, opened, means, base, names, beside, asked, architecture)
    study = Study(
        settings.out,
        "compare",
        what_decides(settings, opened, {}),
        console,
        endures=True,
        other_code=settings.other_code,
    )
    parts, parts_of = _parts(plan, study)
    question = _question(plan, parts, parts_of, left_out)
    console.print(_said(plan, parts, left_out), soft_wrap=True)
    work(study, "compare", settings, parts, partial(conclude, study, question))
    results = conclude(study, question)
    show(study, results)
    untrained = [RANDOM, *(str(one.model) for one in beside)]
    end(study, results, is_part=settings.part is not None, untrained=untrained)


def _beside(model: str, console: Console) -> Beside:
    """Raises UserError for what is no model."""
    loaded = load_model(Path(model))
    say_origin(loaded, console)
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in Path(model).name)
    its = digest(loaded.encoder, loaded.encoder.arguments())[:8]
    return Beside(Path(model), f"{name}-{its}", loaded.licence)


def _said(plan: Plan, parts: Sequence[Part], left_out: str) -> str:
    """What is about to be done, and how long it may take."""
    labelled, trainings = plan.opened.labelled, len(plan.trainings) * plan.settings.seeds
    if labelled is None:
        by = f"neighbour agreement and RankMe on {several(len(plan.opened.unlabelled), 'image')}"
    else:
        by = f"{' and '.join(one.said for one in plan.figures)} on {several(len(labelled.val), 'labelled image')}"
    shared = f", shared by {plan.settings.jobs} processes" if plan.settings.jobs > 1 else ""
    lasting = "How long they take is told when each method was trained once"
    if plan.settings.minutes is not None:
        lasting = f"All trainings take about {duration(plan.settings.minutes * 60 * trainings)}"
    beside = f", and {several(len(plan.beside), 'model')} beside" if plan.beside else ""
    return (
        f"\nWays to pre-train: {', '.join(plan.methods)}{beside}; {several(plan.settings.seeds, 'seed')}, "
        f"{several(trainings, 'training')}, each {plan.how_long}, on {several(plan.base.images, 'image')}, judged by "
        f"{by}.{f' {left_out[0].upper()}{left_out[1:]}.' if left_out else ''}\n{lasting}{shared}; starting and judging "
        f"come to that, with {several(len(parts), 'part')} in all."
    )


def _question(
    plan: Plan, parts: Sequence[Part], parts_of: Mapping[tuple[str, int], Sequence[str]], left_out: str
) -> Asked:
    labelled, notes = plan.opened.labelled, []
    if labelled is None:
        notes.append(
            "No labels judged: neighbour agreement and RankMe tell trained encoders from untrained ones, and rank "
            "methods of different kinds badly, for some are trained to score well by them. A few dozen labelled images "
            "a class (--labels) tell more."
        )
    else:
        notes.append(
            f"{several(len(labelled.val), 'labelled image')} judged; {len(labelled.train):,} others were learnt from."
        )
        if plan.settings.labels is None and not plan.opened.data.has_splits:
            notes.append("DATA has no splits: the encoders have seen the judging images too, without their labels.")
    notes += [f"{left_out[0].upper()}{left_out[1:]}."] if left_out else []
    notes.append("Each method has the rate that pretrain would choose; it was not tuned for any of them.")
    if plan.beside:
        notes.append(
            "Models that stand beside were trained elsewhere, on other images and for far longer: what they reach is "
            "no verdict on their method. They have one model for all seeds."
        )
    folders = {name: name for name in plan.methods} | {str(one.model): one.folder for one in plan.beside}
    table = Rows(
        folders,
        plan.usual,
        plan.figures,
        list(plan.seeds),
        plan.settings.seed,
        parts_of,
        [one.folder for one in plan.beside],
    )
    licences = {str(one.model): one.licence for one in plan.beside}
    notes += few_seeds(plan.settings.seeds)
    return Asked(plan.methods, licences, table, plan.architecture, plan.how_long, parts, notes)


# ---------------------------------------------------------------- the parts


def _parts(plan: Plan, study: Study) -> tuple[list[Part], dict[tuple[str, int], list[str]]]:
    """All of them, seed after seed; and which a row needs of each seed."""
    parts: list[Part] = []
    parts_of: dict[tuple[str, int], list[str]] = {}
    for one in plan.beside:
        judging = _judged(plan, study, one.folder, one.model, f"{one.model}", plan.settings.seed, None)
        parts.append(judging)
        parts_of |= {(str(one.model), seed): [judging.name] for seed in plan.seeds}
    for seed in plan.seeds:
        for name in plan.methods:
            training = _trained(plan, study, name, seed)
            model, said = study.path / training.name, f"{name}, seed {seed}"
            judging = _judged(plan, study, name, model, said, seed, training)
            parts += [training, judging]
            parts_of[name, seed] = [training.name, judging.name]
    return parts, parts_of


def _trained(plan: Plan, study: Study, method: str, seed: int) -> Part:
    name, first = f"{method}/seed-{seed}", f"{method}/seed-{plan.settings.seed}"
    do = partial(trained, plan.asked, method, study.path / name, seed, study.path / first, plan.base)
    minutes, is_trained = plan.settings.minutes, method != RANDOM
    expected = minutes * 60 if minutes is not None and is_trained else None
    waits = minutes is not None and is_trained and name != first
    said = f"{method}, seed {seed}" if is_trained else f"weights that nothing has trained, seed {seed}"
    return Part(name, f"training {method}", said, do, expected, (first,) if waits else ())


def _judged(plan: Plan, study: Study, folder: str, model: Path, said: str, seed: int, training: Part | None) -> Part:
    """training: what has to be done before; None of a model that stands beside."""
    file = Judged(study, [seed], [one.folder for one in plan.beside]).file(folder, seed)
    labelled, name = plan.opened.labelled, "" if training is None else training.name

    def do() -> dict[str, Any]:
        collapsed = (study.figures(name) or {}).get(COLLAPSED)
        if collapsed is not None:
            return {COLLAPSED: collapsed}
        if labelled is None:
            return judge_without_labels(model, plan.opened.unlabelled, plan.means, file)
        return judge_by_labels(model, labelled, plan.means, file)

    return Part(f"judged/{file.stem}", "judging", f"judging {said}", do, after=(name,) if name else ())
