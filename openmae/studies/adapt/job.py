"""Is going on from released weights worth it?

    openmae adapt vit_base.pth your/images --labels labelled/ --out studies/xray

Continued pre-training on one's own images has been found to help (Reed et al., arXiv 2103.12718; DIET-CP, arXiv
2509.06990) and not to (arXiv 2409.18536), so the product is the verdict, and "no gain" is a good one: three encoders,
as released, gone on with, and from scratch with as many steps, judged alike over several seeds (docs/adapt.md).
"""

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.console.terminal import make_console
from openmae.console.words import several
from openmae.data.fewer_labels import fewer_labels
from openmae.data.opening import open_data
from openmae.data.sources.source import Source
from openmae.distributed.started import refuse_ranks
from openmae.errors import UserError
from openmae.files.address import whole_address
from openmae.recipes.finetune.job import finetune
from openmae.recipes.in_parts.about import digest
from openmae.recipes.learnt import label_column
from openmae.studies.adapt.conclude import (
    ENCODERS,
    GONE_ON,
    RELEASED,
    SAID,
    SCRATCH,
    Asked,
    conclude,
    judged_by,
    show,
)
from openmae.studies.adapt.settings import Adapt
from openmae.studies.adapt.trainings import (
    OF_ENCODER,
    OF_MODEL,
    few_labels_of,
    from_scratch,
    going_on,
    measure_speed,
)
from openmae.studies.figures import FINETUNED, figures_of
from openmae.studies.judging import (
    Labelled,
    Means,
    judge_by_labels,
    judge_finetuned,
    judge_without_labels,
    means_of,
    no_labels,
    open_labelled,
    unlabelled,
)
from openmae.studies.study import Part, Study
from openmae.studies.trainings import like, train
from openmae.weights import Loaded, load_model
from openmae.weights.loaded import say_origin

LEAST_IMAGES = 20
_SPEED = "speed"
_QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Opened:
    """MODEL, DATA and what judges. labelled: of the first seed; None where there are no labels."""

    model: str
    digest: str
    images: Source
    labelled: Labelled | None
    unlabelled: Source
    few: str | None
    has_splits: bool

    @property
    def fingerprint(self) -> str:
        """Of all images."""
        judging = self.unlabelled.fingerprint if self.labelled is None else self.labelled.fingerprint
        return hashlib.sha256(f"{self.images.fingerprint} {judging}".encode()).hexdigest()


def run(settings: Adapt) -> None:
    """Trains, judges, and says what follows. Raises UserError, Interrupted, NotWritten."""
    refuse_ranks("a study")
    console = make_console(outlives_terminal=True)
    settings, loaded = _model(settings, console)
    means = means_of(settings, console, {settings.model: settings.heads})
    opened = open_all(settings, loaded, means)
    study = Study(settings.out, "adapt", _asked(settings, opened), console, other_code=settings.other_code)
    first, by_seed = _parts(settings, opened, means, study)
    whole = [*first, *(part for parts in by_seed.values() for part in parts)]
    console.print(_plan(settings, opened, len(whole)), soft_wrap=True)
    study.do(first, whole)
    for number, parts in enumerate(by_seed.values(), 1):
        if study.do(parts, whole) and number < len(by_seed):
            conclude(study, _question(settings, opened, list(by_seed)[:number]))
            console.print(f"\nSeed {number} of {len(by_seed)} is done. So far: {settings.out}/report.html")
    said, results = conclude(study, _question(settings, opened, list(by_seed)))
    show(results, said, console)
    for note in results["notes"]:
        console.print(note, soft_wrap=True)
    console.print(
        f"\nKept in {settings.out}: results.json, study.svg, report.html, and every run in its folder. Look at:   "
        f"{settings.out}/report.html",
        soft_wrap=True,
    )


def _model(settings: Adapt, console: Console) -> tuple[Adapt, Loaded]:
    """MODEL, and the settings with the column of labels that it remembers. Raises UserError."""
    loaded = load_model(settings.model, **settings.heads)
    say_origin(loaded, console)
    column = label_column(settings.label_column, settings.labels or settings.data, settings.model, loaded, console)
    return replace(settings, label_column=column), loaded


def open_all(settings: Adapt, loaded: Loaded, means: Means) -> Opened:
    """loaded: MODEL. Raises UserError for what cannot be gone on with or judged by."""
    console = means.console
    selection = settings.selection
    if settings.labels is not None:  # whose column it is
        selection = replace(selection, label_column=None)
    data = open_data(settings.data, selection, settings.reading)
    images = data.train
    if len(images) < LEAST_IMAGES:
        raise UserError(
            f"{settings.data} has {several(len(images), 'image')}", f"give {LEAST_IMAGES} or more to go on with"
        )
    labelled = few = None
    try:
        labelled = open_labelled(settings.labels or settings.data, means, settings.seed, console)
        few = labelled.few(settings.few_labels)
        if few is not None:  # before anything is trained
            _check_few(few, labelled, settings.seed)
    except UserError as error:
        if settings.labels is not None or settings.task is not None or labelled is not None:
            raise
        no_labels(error, console)
    if labelled is None and settings.few_labels not in (None, "none"):
        raise UserError("--few-labels is for labels, and there are none", "give --labels LABELLED, or leave it out")
    name = str(settings.model)
    return Opened(
        whole_address(name) if settings.model.exists() else name,
        digest(loaded.encoder, loaded.encoder.arguments()),
        images,
        labelled,
        unlabelled(data, settings.seed),
        few,
        data.has_splits,
    )


def _check_few(few: str, labelled: Labelled, seed: int) -> None:
    """Raises UserError where there are not so many labels."""
    try:
        fewer_labels(labelled.train, few, labelled.task, seed, labelled.right.groups)
    except UserError as error:
        raise UserError(error.what.replace("`labels", "`few_labels"), error.advice) from error


def _asked(settings: Adapt, opened: Opened) -> dict[str, Any]:
    """What decides the figures: a study goes on only with the same. More seeds may come, and another --worth."""
    names = "minutes epochs batch_size pool task seed precision".split()
    return {
        "model": opened.model,
        "weights": opened.digest[:16],
        "data": whole_address(settings.data),
        "labels": None if settings.labels is None else whole_address(settings.labels),
        "images": opened.fingerprint[:16],
        "answers": None if opened.labelled is None else opened.labelled.answers[:16],
        "few_labels": opened.few,
        **{name: getattr(settings, name) for name in names},
        "selection": settings.selection.to_dict(),
        "reading": settings.reading.to_dict(),
    }


def _encoders(settings: Adapt) -> list[str]:
    return [RELEASED, GONE_ON, *([SCRATCH] if settings.scratch else [])]


def _plan(settings: Adapt, opened: Opened, parts: int) -> str:
    """What is about to be done, in a line."""
    encoders = [SAID[name] for name in _encoders(settings)]
    if opened.labelled is None:
        by = f"neighbour agreement and RankMe on {several(len(opened.unlabelled), 'image')}"
    else:
        by = "kNN and a linear probe"
        if opened.few is not None:
            by = f"kNN, a linear probe and fine-tuning with few labels ({opened.few})"
        by += f" on {several(len(opened.labelled.val), 'labelled image')}"
    return (
        f"{len(opened.images):,} images to go on with; encoders {', '.join(encoders)}, {settings.seeds} seeds, judged "
        f"by {by}: {parts} parts"
    )


def _question(settings: Adapt, opened: Opened, seeds: list[int]) -> Asked:
    labelled = opened.labelled
    notes = []
    if labelled is None:
        notes.append(
            "No labels judged: neighbour agreement and RankMe tell trained encoders from untrained ones, and hardly a "
            "good one from a better one. A few dozen labelled images a class (--labels) tell more."
        )
    elif settings.labels is None and not opened.has_splits:
        notes.append(
            "DATA has no splits, so the encoders that were trained here have seen the judging images too, without "
            "their labels: as in use, where the images are these; to judge for others, give DATA splits train and val."
        )
    if labelled is not None:
        notes.append(
            f"{several(len(labelled.val), 'labelled image')} judged; the nearest neighbours and linear classifiers had "
            f"{len(labelled.train):,} others."
        )
    return Asked(
        str(settings.model),
        figures_of(None if labelled is None else labelled.task, opened.few),
        _encoders(settings),
        seeds,
        settings.seeds,
        settings.seed,
        settings.worth,
        notes,
    )


# ---------------------------------------------------------------- the parts


def _parts(settings: Adapt, opened: Opened, means: Means, study: Study) -> tuple[list[Part], dict[int, list[Part]]]:
    """Those that come first, and those of each seed."""
    out, console = study.path, means.console
    first = [_judged(settings, opened, means, study, RELEASED, settings.seed)]
    if settings.minutes is not None:
        images, device = len(opened.images), means.device.type
        speed = partial(measure_speed, settings, out / _SPEED, images, device, console)
        first.insert(0, Part(_SPEED, _SPEED, "how fast a training is here", speed))
    by_seed = {}
    for seed in range(settings.seed, settings.seed + settings.seeds):
        parts = [_trained(settings, opened, study, console, GONE_ON, seed)]
        parts.append(_judged(settings, opened, means, study, GONE_ON, seed))
        if settings.scratch:
            parts.append(_trained(settings, opened, study, console, SCRATCH, seed))
            parts.append(_judged(settings, opened, means, study, SCRATCH, seed))
        if opened.few is not None:
            parts += [_finetuned(settings, opened, means, study, encoder, seed) for encoder in _encoders(settings)]
        by_seed[seed] = parts
    return first, by_seed


def _trained(settings: Adapt, opened: Opened, study: Study, console: Console, encoder: str, seed: int) -> Part:
    run, first = (study.path / encoder / f"seed-{number}" for number in (seed, settings.seed))

    def do() -> dict[str, Any]:
        if encoder == SCRATCH:
            asked, own = from_scratch(settings, run, seed, study.path / GONE_ON / first.name), list[str]()
        else:
            asked, own = going_on(settings, run, seed, _epochs(settings, opened, study)), OF_MODEL
        return train(asked if run == first else like(asked, first, own), console)

    expected = None if settings.minutes is None else settings.minutes * 60
    said = f"{'going on' if encoder == GONE_ON else SAID[encoder]}, seed {seed}"
    after = [] if settings.minutes is None else [_SPEED]
    after += [] if run == first else [f"{encoder}/{first.name}"]
    after += [f"{GONE_ON}/{first.name}"] if encoder == SCRATCH else []
    return Part(f"{encoder}/seed-{seed}", "training", said, do, expected, tuple(after))


def _epochs(settings: Adapt, opened: Opened, study: Study) -> float | None:
    """As given, or as many as --minutes allow at the speed that was measured."""
    speed = study.figures(_SPEED)
    if settings.minutes is None or speed is None:
        return settings.epochs
    return float(f"{settings.minutes * 60 * speed['images_per_second'] / len(opened.images):.4g}")


def _encoder(settings: Adapt, study: Study, encoder: str, seed: int) -> Path:
    return settings.model if encoder == RELEASED else study.path / encoder / f"seed-{seed}"


def _judged(settings: Adapt, opened: Opened, means: Means, study: Study, encoder: str, seed: int) -> Part:
    model, file = _encoder(settings, study, encoder, seed), judged_by(study, [seed]).file(encoder, seed)
    if opened.labelled is None:
        do = partial(judge_without_labels, model, opened.unlabelled, means, file)
    else:
        do = partial(judge_by_labels, model, opened.labelled, means, file)
    of = "" if encoder == RELEASED else f", seed {seed}"
    after = () if encoder == RELEASED else (f"{encoder}/seed-{seed}",)
    return Part(f"judged/{file.stem}", "judging", f"judging {ENCODERS[encoder]}{of}", do, after=after)


def _finetuned(settings: Adapt, opened: Opened, means: Means, study: Study, encoder: str, seed: int) -> Part:
    model, run = _encoder(settings, study, encoder, seed), study.path / "finetuned" / f"{encoder}-seed-{seed}"
    labels, labelled, file = opened.few, opened.labelled, judged_by(study, [seed]).file(encoder, seed, FINETUNED)
    assert labels is not None
    assert labelled is not None

    def do() -> dict[str, Any]:
        asked = few_labels_of(model, settings, run, labels, seed)
        if seed != settings.seed:
            asked = like(asked, run.parent / f"{encoder}-seed-{settings.seed}")
        elif encoder != RELEASED:
            asked = like(asked, run.parent / f"{RELEASED}-seed-{seed}", OF_ENCODER)
        finetune(asked, means.console)
        held_out = labelled if seed == settings.seed else open_labelled(labelled.data, means, seed, _QUIET)
        return judge_finetuned(run, held_out, means, file)

    said = f"fine-tuning {ENCODERS[encoder]} with few labels ({labels}), seed {seed}"
    after = [] if encoder == RELEASED else [f"{encoder}/seed-{seed}", f"finetuned/{RELEASED}-seed-{seed}"]
    after += [] if seed == settings.seed else [f"finetuned/{encoder}-seed-{settings.seed}"]
    return Part(f"finetuned/{encoder}-seed-{seed}", "fine-tuning", said, do, after=tuple(after))
