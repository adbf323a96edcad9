"""Which way to pre-train is best on these images?

    openmae compare your/images --out studies/ways --labels labelled/
    openmae compare your/images --out studies/ways --methods mae,simclr,random --budget 5m --also vit_base.pth

A training for each method and seed, of the same model on the same images for the same time, each method with the best
of three rates, judged on the same images: means with bounds, and what each method costs, in one table and one picture
(docs/compare.md).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.console.terminal import make_console
from openmae.console.words import duration, several
from openmae.distributed.started import refuse_ranks
from openmae.errors import UserError
from openmae.evaluate.corruptions import KINDS, check_corruptible, kinds_of
from openmae.files.address import whole_address
from openmae.machine.cores import cores
from openmae.model import Architecture
from openmae.recipes.in_parts.about import digest
from openmae.recipes.pretrain.build import Pretraining
from openmae.recipes.training.settings import given
from openmae.report.page.comparison import cost_table, figures_table, rates_table
from openmae.studies.base import base_of
from openmae.studies.compare.conclude import Asked, conclude
from openmae.studies.compare.corrupted import Corruptions, measure_corrupting
from openmae.studies.compare.finetuned import most_labels, shares_of, tuning_of
from openmae.studies.compare.named import RANDOM, allowed, asked_for
from openmae.studies.compare.parts import Parts, parts_of
from openmae.studies.compare.planned import Beside, Plan
from openmae.studies.compare.rates import LEAST_STEPS, held_out
from openmae.studies.compare.settings import Compare
from openmae.studies.compare.trainings import check_method, in_common
from openmae.studies.figures import corrupted_figure
from openmae.studies.given import in_common as given_in_common
from openmae.studies.jobs import end_with_starter, work
from openmae.studies.judging import means_of
from openmae.studies.opened import open_all, what_decides
from openmae.studies.rows import Rows, end, few_seeds, show
from openmae.studies.study import Part, Study
from openmae.studies.tuning import forward
from openmae.weights import Loaded, load_model
from openmae.weights.loaded import say_origin

_HEADS = ",num_heads="  # behind a model of --also
_SPEED, _CORRUPTING = "speed", "corrupting"
_SHAPE = ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads")


def run(settings: Compare) -> None:
    """Trains, judges, and shows what is found. Raises UserError, Interrupted, NotWritten."""
    end_with_starter()
    refuse_ranks("a study")
    console = make_console(outlives_terminal=True)
    plan, left_out = _planned(settings, console)
    rates = list(plan.tries or plan.settings.times)
    own = {"rates": rates} if rates != [1.0] else {}
    study = Study(
        settings.out,
        "compare",
        what_decides(settings, plan.opened, own),
        console,
        endures=True,
        other_code=settings.other_code,
    )
    plan = _timed(plan, study)
    parts = parts_of(plan, study)
    question = _question(plan, parts, left_out)
    console.print(_said(plan, parts.all, left_out), soft_wrap=True)
    work(study, "compare", settings, parts.all, partial(conclude, study, question))
    results = conclude(study, question)
    tables = [make(results) for make in (figures_table, cost_table, rates_table)]
    show(study, results, [(heads, rows) for heads, rows in tables if rows])
    untrained = [RANDOM, *(str(one.model) for one in plan.beside)]
    end(study, results, is_part=settings.part is not None, untrained=untrained)


def _planned(settings: Compare, console: Console) -> tuple[Plan, list[str]]:
    """(what is to be done, but for what the speed of this machine decides; what is said of what is left out). Whatever
    cannot be is refused here, before anything is written. Raises UserError."""
    methods, common = asked_for(settings.methods), given_in_common(settings.set)
    kinds = () if settings.corruptions is None else kinds_of(settings.corruptions)
    also = {Path(model): heads for model, heads in map(_with_heads, settings.also)}
    means = means_of(settings, console, also)
    loaded = {model: _loaded(model, heads, console) for model, heads in also.items()}
    opened = open_all(settings, means)
    others_judge = settings.labels is not None and whole_address(settings.labels) != whole_address(settings.data)
    names, no_supervised = allowed(methods, opened, others_judge=others_judge)
    shares, no_shares = shares_of(settings, opened.labelled)
    base = base_of(settings, common, opened.data, means)
    asked = in_common(base, settings.minutes, settings.epochs)
    for name in names:
        check_method(asked, name)
    planned = base.planned(asked, base.images)
    tunings = [
        tuning_of(settings, one, count, given(opened.labelled), planned, means.device, None)
        for one, count in shares.items()
    ]
    corruptions = None
    if kinds:
        if opened.labelled is None or opened.labelled.task != "classification":
            raise UserError("--corruptions is for classes, and no labels here are", "leave it out")
        down, across = planned.architecture.img_size
        check_corruptible(planned.statistics.pixels, (down, across))
        most = most_labels(tunings)
        corruptions = Corruptions(kinds, corrupted_figure(kinds, None if most is None else most.labels))
    beside = [_beside(model, one, planned.architecture) for model, one in loaded.items()]
    plan = Plan(settings, opened, means, base, names, beside, asked, planned.architecture, None, tunings, corruptions)
    return plan, [one for one in (no_supervised, no_shares) if one]


def _with_heads(word: str) -> tuple[str, dict[str, int | None]]:
    """A model of --also, and its attention heads where these are given with it. Raises UserError."""
    model, _, heads = word.partition(_HEADS)
    if _HEADS in word and not (heads.isdecimal() and int(heads) > 0):
        raise UserError(f"--also is '{word}'", f"give MODEL{_HEADS}N, such as vit.pth{_HEADS}12")
    return model, ({"num_heads": int(heads)} if heads else {})


def _loaded(model: Path, heads: dict[str, int | None], console: Console) -> Loaded:
    """Raises UserError for what is no model."""
    try:
        loaded = load_model(model, **heads)
    except UserError as error:
        what = error.what.replace("`num_heads`", "number of heads")
        raise UserError(what, f"leave {_HEADS[1:]}N out" if heads and what != error.what else error.advice) from error
    say_origin(loaded, console)
    return loaded


def _beside(model: Path, loaded: Loaded, ours: Architecture) -> Beside:
    """ours: of the models that are trained here, to count in what this one takes."""
    one = loaded.encoder
    shape = replace(ours, **{name: getattr(one, name) for name in _SHAPE})
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in model.name)
    its = digest(loaded.encoder, loaded.encoder.arguments())[:8]
    return Beside(model, f"{name}-{its}", loaded.licence, forward(shape))


def _timed(plan: Plan, study: Study) -> Plan:
    """With how fast this machine is, and what that decides: how long fine-tunings may be within a budget."""
    settings = plan.settings
    if settings.minutes is not None and not plan.tunings and not plan.tries and plan.corruptions is None:
        return plan
    speed = Part(_SPEED, _SPEED, "how fast a training is here", plan.base.measured)
    study.do([speed], [speed])
    rate = (study.figures(_SPEED) or {}).get("rate")
    planned = plan.base.planned(plan.asked, plan.base.images)
    tunings = [
        tuning_of(settings, one.labels, one.images, given(plan.opened.labelled), planned, plan.means.device, rate)
        for one in plan.tunings
    ]
    return replace(plan, rate=rate, tunings=tunings, corruptions=_timed_corruptions(plan, study, planned, rate))


def _timed_corruptions(plan: Plan, study: Study, planned: Pretraining, rate: float | None) -> Corruptions | None:
    """With how long a model's take here: to make them, shared by the loader processes, and to be seen by it."""
    asked, labelled = plan.corruptions, plan.opened.labelled
    if asked is None or labelled is None:
        return None

    def measured() -> dict[str, Any]:
        pixels = planned.statistics.pixels
        return {kind: measure_corrupting(kind, labelled.val, plan.architecture, pixels) for kind in KINDS}

    part = Part(_CORRUPTING, _CORRUPTING, "how fast images are corrupted here", measured)
    study.do([part], [part])
    each = study.figures(_CORRUPTING)
    if each is None or rate is None:
        return asked
    making = sum(each[kind] for kind in asked.kinds) / max(1, min(plan.means.workers, cores()))
    seeing = len(asked.sets) * forward(plan.architecture) / rate
    return replace(asked, seconds=len(labelled.val) * (making + seeing))


# ---------------------------------------------------------------- what is said


def _said(plan: Plan, parts: Sequence[Part], left_out: Sequence[str]) -> str:
    """What is about to be done, and how long it may take."""
    labelled, trainings = plan.opened.labelled, len(plan.trainings) * plan.settings.seeds
    if labelled is None:
        by = f"neighbour agreement and RankMe on {several(len(plan.opened.unlabelled), 'image')}"
    else:
        *most, last = [one.said for one in plan.figures]
        by = f"{'; '.join(most)} and {last} on {several(len(labelled.val), 'labelled image')}"
    beside = f", and {several(len(plan.beside), 'model')} beside" if plan.beside else ""
    lines = [
        f"\nWays to pre-train: {', '.join(plan.methods)}{beside}; {several(plan.settings.seeds, 'seed')}, "
        f"{several(trainings, 'training')}, each {plan.how_long}, on {several(plan.base.images, 'image')}, judged by "
        f"{by}.",
        *_sentences(left_out),
        _rates(plan),
        *_tunings(plan),
        *_corruptions(plan),
        _lasting(plan, len(parts)),
    ]
    return "\n".join(line for line in lines if line)


def _sentences(clauses: Sequence[str]) -> list[str]:
    return [f"{one[0].upper()}{one[1:]}." for one in clauses]


def _rates(plan: Plan) -> str:
    """How the rate of each method is chosen."""
    if not plan.tries:
        times = plan.settings.times[0]
        rate = "the rate" if times == 1 else f"{times:.3g} times the rate"
        return f"Each method has {rate} that pretrain would choose; it is not tuned for any of them."
    tried = ", ".join(f"{one:.3g}" for one in plan.tries)
    part = 10 * len(plan.tries)
    return (
        f"The rate of each method is chosen among {tried} times the one that pretrain would choose, by trials of "
        f"1/{part} of a training each ({LEAST_STEPS} steps at least), which come to its trainings; all seeds have "
        f"the best one. Trials are judged by {_chooser(plan)}."
    )


def _chooser(plan: Plan) -> str:
    """What the rates are chosen by."""
    if plan.chooser is None:
        return (
            "each method's own loss on images that a trial has not seen, for want of labels: of methods that can "
            "collapse, a low loss may be the worse one"
        )
    _, away = given(held_out(plan.chooser, plan.settings.seed))
    return f"nearest neighbours of {several(len(away), 'training image')} whose labels are held out, none of val"


def _tunings(plan: Plan) -> list[str]:
    """What is fine-tuned."""
    if not plan.tunings:
        return []
    each = ", ".join(
        f"{one.labels} ({several(one.images, 'label')}, {given(one.asked.epochs):.3g} epochs)" for one in plan.tunings
    )
    cut = ""
    if any(one.is_cut for one in plan.tunings):
        cut = "; fewer epochs than finetune would take, so that none takes over a third of the budget"
    return [f"All are fine-tuned on {each}, on the same draw of labels of a seed{cut}."]


def _corruptions(plan: Plan) -> list[str]:
    """What is corrupted."""
    if plan.corruptions is None:
        return []
    return [f"Each model is judged on {several(len(plan.corruptions.sets), 'set')} of corrupted val images, too."]


def _lasting(plan: Plan, parts: int) -> str:
    """How long it may take."""
    known = {name: seconds for name, seconds in plan.in_all.items() if seconds is not None}
    shared = f", shared by {plan.settings.jobs} processes" if plan.settings.jobs > 1 else ""
    told = f"with {several(parts, 'part')} in all"
    if not known:
        return f"How long they take is told when each was done once{shared}; {told}."
    each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in known.items())
    whole = f", {duration(sum(known.values()))} together" if len(known) > 1 else ""
    by = "This takes about: " if plan.rate is None else "By the speed of this machine it takes about: "
    return f"{by}{each}{whole}{shared}; starting and judging come to that, {told}."


def _question(plan: Plan, parts: Parts, left_out: Sequence[str]) -> Asked:
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
    notes += [*_sentences(left_out), _rates(plan), *_tunings(plan)]
    if plan.corruptions is not None:
        kinds = several(len(plan.corruptions.kinds), "kind")
        notes.append(
            f"The corruption error is a mean over {kinds} of corruption at 5 severities (ImageNet-C's): less is "
            "better, so a difference below 0 is in favour of the method."
        )
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
        parts.of,
        [one.folder for one in plan.beside],
        parts.beside,
    )
    licences = {str(one.model): one.licence for one in plan.beside}
    notes += few_seeds(plan.settings.seeds)
    return Asked(plan, licences, table, parts.all, notes, _chooser(plan))
