"""The parts of a comparison: trials of rates, trainings, and what judges them; and which of them a figure needs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.recipes.training.settings import given
from openmae.studies.compare.corrupted import judge_corrupted
from openmae.studies.compare.finetuned import Tuned, Tuning, finetuned, most_labels
from openmae.studies.compare.named import RANDOM
from openmae.studies.compare.planned import Plan
from openmae.studies.compare.rates import Trial, best_of, found_of, part_of, tried
from openmae.studies.compare.trainings import trained
from openmae.studies.figures import FINETUNED
from openmae.studies.judged import Judged
from openmae.studies.judging import judge_by_labels, judge_without_labels, open_labelled
from openmae.studies.rows import COLLAPSED
from openmae.studies.study import Part, Study

_QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Parts:
    """all: of a study, in their order. of: of each row and seed, those that every figure needs; beside: those that one
    needs besides."""

    all: list[Part]
    of: dict[tuple[str, int], list[str]]
    beside: dict[tuple[str, int, str], list[str]]


@dataclass(frozen=True)
class _Model:
    """That is judged. row: its name in the table; folder: what its files are called; training: the part that leaves it,
    "" of one that stands beside."""

    row: str
    folder: str
    path: Path
    said: str
    seed: int
    training: str


def parts_of(plan: Plan, study: Study) -> Parts:
    """All of them: rates first, then seed after seed."""
    found = Parts([], {}, {})
    for name in plan.trainings:
        found.all.extend(_trial(plan, study, name, times) for times in plan.tries)
    for one in plan.beside:
        model = _Model(str(one.model), one.folder, one.model, f"{one.model}", plan.settings.seed, "")
        judging = _judged(plan, study, model)
        found.all.append(judging)
        found.of.update({(model.row, seed): [judging.name] for seed in plan.seeds})
    for seed in plan.seeds:
        models = []
        for name in plan.methods:
            training = _trained(plan, study, name, seed)
            run = study.path / training.name
            models.append(_Model(name, name, run, f"{name}, seed {seed}", seed, training.name))
            judging = _judged(plan, study, models[-1])
            found.all.extend((training, judging))
            found.of[name, seed] = [training.name, judging.name]
        models += [
            _Model(str(one.model), one.folder, one.model, f"{one.model}, seed {seed}", seed, "") for one in plan.beside
        ]
        for model in models:
            _beside(plan, study, model, found)
    return found


def _beside(plan: Plan, study: Study, model: _Model, found: Parts) -> None:
    """What fine-tunes a model, and what corrupts images for it."""
    for tuning in plan.tunings:
        part = _finetuned(plan, study, model, tuning)
        found.all.append(part)
        found.beside[model.row, model.seed, tuning.figure] = [part.name]
    if plan.corruptions is None:
        return
    part = _corrupted(plan, study, model)
    if part.name not in (one.name for one in found.all):
        found.all.append(part)
    found.beside[model.row, model.seed, plan.corruptions.figure.name] = [part.name]


# ---------------------------------------------------------------- rates and trainings


def _trial(plan: Plan, study: Study, method: str, times: float) -> Part:
    name, asked = part_of(method, times), plan.trial(method)
    trial = Trial(method, times, asked, study.path / name, plan.aside(method))
    said = f"{method}, a short training with {times:.3g} times the usual rate"
    do = partial(tried, trial, plan.chooser, plan.means)
    return Part(name, f"trial of {method}", said, do, plan.seconds_of(method, asked))


def chosen(plan: Plan, study: Study, method: str) -> float:
    """The rate of a method, in what pretrain would choose: of trials that are done."""
    if not plan.tries:
        return plan.settings.times[0]
    return best_of(found_of(study, method, plan.tries), is_loss=plan.chooser is None)


def _trained(plan: Plan, study: Study, method: str, seed: int) -> Part:
    name, first = f"{method}/seed-{seed}", f"{method}/seed-{plan.settings.seed}"
    times: Callable[[], float] = partial(chosen, plan, study, method)
    do = partial(trained, plan.asked, method, study.path / name, seed, study.path / first, plan.base, times)
    is_trained = method != RANDOM
    waits = plan.settings.minutes is not None and is_trained and name != first
    after = [part_of(method, one) for one in plan.tries] if is_trained else []
    said = f"{method}, seed {seed}" if is_trained else f"weights that nothing has trained, seed {seed}"
    expected = plan.seconds_of(method) if is_trained else None
    return Part(name, f"training {method}", said, do, expected, (*after, *([first] if waits else [])))


# ---------------------------------------------------------------- what judges


def _unless_collapsed(study: Study, training: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    collapsed = (study.figures(training) or {}).get(COLLAPSED) if training else None
    return do() if collapsed is None else {COLLAPSED: collapsed}


def _file(plan: Plan, study: Study, model: _Model, figure: str = "") -> Path:
    return Judged(study, [model.seed], [one.folder for one in plan.beside]).file(model.folder, model.seed, figure)


def _after(model: _Model, *more: str) -> tuple[str, ...]:
    return (*([model.training] if model.training else []), *more)


def _judged(plan: Plan, study: Study, model: _Model) -> Part:
    file, labelled = _file(plan, study, model), plan.opened.labelled

    def do() -> dict[str, Any]:
        if labelled is None:
            return judge_without_labels(model.path, plan.opened.unlabelled, plan.means, file)
        return judge_by_labels(model.path, labelled, plan.means, file)

    whole = partial(_unless_collapsed, study, model.training, do)
    return Part(f"judged/{file.stem}", "judging", f"judging {model.said}", whole, after=_after(model))


def _tuned(model: _Model, tuning: Tuning) -> str:
    """The part and folder of a fine-tuning."""
    return f"{FINETUNED}/{tuning.labels}/{model.folder}-seed-{model.seed}"


def _finetuned(plan: Plan, study: Study, model: _Model, tuning: Tuning) -> Part:
    name, labelled = _tuned(model, tuning), given(plan.opened.labelled)
    one = Tuned(model.path, study.path / name, model.seed, bool(model.training))
    file = _file(plan, study, model, tuning.figure)
    do = partial(finetuned, one, tuning, labelled, plan.means, file)
    whole = partial(_unless_collapsed, study, model.training, do)
    said = f"fine-tuning {model.said}, on {tuning.labels} of the labels"
    beside = next((one for one in plan.beside if one.folder == model.folder), None)
    seconds = plan.seconds_of_tuning(tuning, beside)
    return Part(name, f"fine-tuning on {tuning.labels}", said, whole, seconds, _after(model))


def _corrupted(plan: Plan, study: Study, model: _Model) -> Part:
    asked, labelled = given(plan.corruptions), given(plan.opened.labelled)
    file = _file(plan, study, model, asked.figure.name)
    most = most_labels(plan.tunings)
    path = model.path if most is None else study.path / _tuned(model, most)

    def do() -> dict[str, Any]:
        held_out = labelled
        if most is not None and model.seed != plan.settings.seed:
            held_out = open_labelled(labelled.data, plan.means, model.seed, _QUIET)
        return judge_corrupted(path, held_out, plan.means, file, asked, is_finetuned=most is not None)

    whole = partial(_unless_collapsed, study, model.training, do)
    after = _after(model) if most is None else _after(model, _tuned(model, most))
    said = f"corrupting images for {model.said}"
    return Part(f"judged/{file.stem}", "corrupting", said, whole, asked.seconds, after)
