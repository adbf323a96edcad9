"""Is anything wrong with the images, and with what stands beside them? Reads and decodes every one of them once.

    openmae check your/images --out check.csv

Reported, by severity, with what to do about each:

    error     more than 1% of a split cannot be read; the same image in train and in val; the same image with two
              labels; a class of val that train lacks; a group that is both in train and in val; files of which nobody
              can tell how they are to be read; annotations (masks, outlines, boxes) that contradict themselves, or of
              which more than 1% do not fit their images
    warning   other images that cannot be read; images smaller than a patch of 16; copies; more than 1% blank; depths
              or numbers of channels that differ; classes with a single image, with more than 90% of the images, that
              val lacks, or that differ by capitals only; more than half of an image no-data; values such as -9999
              that look like no-data though no file says so; labels of one class only, in one split only, or numbers
              but for a few; other annotations that do not fit, objects without a pixel or there twice, boxes outside
              their images, images without a mask; masks among the images; images of kinds that are not read, or of
              several scales or units
    note      a few blank images; grey images stored as colour; no-data; sizes far from the others; grey beside colour;
              files with several frames; no labels; a third split, test, beside train and val; images in which no
              direction means anything, or that are not as likely in a mirror

The exit code says how bad it is: 0 for nothing or notes, 1 for warnings, 2 for errors (and where the images cannot be
read at all).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from openmae.commandline.flags import flag, with_flags
from openmae.console.terminal import make_console
from openmae.console.words import counted
from openmae.data.dividing import check_apart
from openmae.data.opening import SPLITS, Data, open_data
from openmae.data.sources.groups import groups_of
from openmae.data.sources.labels import several
from openmae.data.sources.notes import notes_on
from openmae.data.sources.source import Source
from openmae.data.survey.bands import names_of, said
from openmae.data.survey.findings import Finding, InspectedSplit, Severity, judge
from openmae.data.survey.frames import FRAMES
from openmae.data.survey.readings import Choice, choose_reading, known_reading
from openmae.data.survey.sample import MOST_LOOKED_AT, evidence, look
from openmae.data.survey.shown import Shown
from openmae.data.tasks import Taken, Task, answers, outputs_of, taken_for
from openmae.distributed.share import share_here
from openmae.errors import UserError
from openmae.files.disk import check_out
from openmae.machine.workers import reading_workers
from openmae.recipes.check.inspected import inspected
from openmae.recipes.check.inventory import require_parquet, write_inventory
from openmae.recipes.check.settings import Check
from openmae.recipes.check.shown import Looked, facts_of, findings_of, looked, shown_of

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "bold yellow", "note": "bold"}
_LISTED = 10  # classes that are named
_CODES: dict[Severity, int] = {"error": 2, "warning": 1, "note": 0}


def run(settings: Check) -> int:
    """Reads, prints, writes; returns the exit code. Raises UserError."""
    return max((_CODES[finding.severity] for finding in check(settings)), default=0)


def check(settings: Check) -> list[Finding]:
    """Does so, and gives what was found, the worst first."""
    share = share_here(settings.part)
    console = make_console()
    console.quiet = not share.speaks
    if settings.out is not None:
        check_out(settings.out, ".csv", ".parquet")
        require_parquet(settings.out)
    found = looked(settings)
    opened, listing = found.annotated, found.listing
    data = opened.data if opened else open_data(settings.data, settings.selection, settings.reading, listing)
    workers, sources = reading_workers(settings.workers), _sources(data)
    choice = _read_as(next(iter(sources.values())), settings, workers, console)
    with inspected(sources, settings, choice.reading, share, workers, console) as seen:
        if seen is None:  # others still read
            return []
        splits = [
            InspectedSplit(name, source, one, *(_labels(source) if opened is None else (None, ())))
            for (name, source), one in zip(sources.items(), seen, strict=True)
        ]
        return _reported(splits, choice, data, found, settings, console)


def _reported(
    splits: list[InspectedSplit], choice: Choice, data: Data, found: Looked, settings: Check, console: Console
) -> list[Finding]:
    """Judges what is in the splits and what stands beside them; prints and writes it."""
    opened, listing = found.annotated, found.listing
    splits, taken, findings = _taken_for(splits, settings.task)
    notes = [*notes_on(split.source for split in splits)]
    console.print(f"Splits: {data.taken or 'none'}", soft_wrap=True)
    shown = shown_of(opened, splits, reading_workers(settings.workers), console) if opened is not None else []
    for note in notes:
        if not note.is_warning:
            console.print(with_flags(note.what), soft_wrap=True, highlight=False)
    console.print()
    _show_images(splits, taken, settings.tile is not None, console, shown)
    findings += _of_bands(splits[0].source, console)
    findings += judge(splits, choice)
    findings += [*_of_splits(data, settings), *found.findings]
    findings += findings_of(opened, splits, shown, listing) if opened is not None else []
    findings += [Finding("warning", note.what, note.advice) for note in notes if note.is_warning]
    findings.sort(key=lambda finding: [*_STYLES].index(finding.severity))
    for finding in findings:
        _show(finding, console)
    if settings.out is not None:
        write_inventory(settings.out, splits, shown)
        images = sum(len(split.source) for split in splits)
        what = "files" if settings.tile is None else "windows"
        console.print(f"A row for each of the {images:,} {what} is in {settings.out}\n")
    looked_at = "; ".join(_looked_at(splits, bool(shown)))
    console.print(f"Looked at: {looked_at}. Not at what the images show.", soft_wrap=True)
    counts = Counter(finding.severity for finding in findings)
    told = [f"{counts[severity]} {severity}{'s' * (counts[severity] != 1)}" for severity in _STYLES]
    console.print("Nothing is wrong with that." if not counts else f"{told[0]}, {told[1]}, {told[2]}.")
    return findings


def _of_bands(source: Source, console: Console) -> Iterator[Finding]:
    """Shows what bands are called; what is wrong with it."""
    try:
        if names := names_of(source):
            console.print(f"Bands: {said(names)}\n", soft_wrap=True, highlight=False)
    except UserError as error:
        yield Finding("warning", error.what, "see that all have the same bands in the same order")


def _of_splits(data: Data, settings: Check) -> Iterator[Finding]:
    """What is wrong with how DATA is divided, whatever the files are."""
    if data.has_unused_test:
        yield Finding(
            "note",
            "there is a third split, test, beside train and val, which is read where it is asked for alone",
            "nothing to do; to measure on it, openmae evaluate RUN DATA --split test",
        )
    if data.has_splits and groups_of(data.train, settings.selection) is not None:
        try:
            check_apart(data, data.train, data.val)
        except UserError as error:
            yield Finding("error", error.what, error.advice)


def _looked_at(splits: Sequence[InspectedSplit], annotations: bool) -> Iterator[str]:
    """What was looked at: nothing else can be said to be in order."""
    if annotations:
        yield "all annotations: whether they fit their images, their classes, objects without pixels and twins"
    yield f"all pixels of every file, of {FRAMES} frames where it has more"
    yield "sizes, channels, depths and the scale of values"
    yield "transparency, no-data and blank images"
    yield "whether directions mean anything in them"
    yield "files that are the same to the byte" + (", also between the splits" if len(splits) > 1 else "")
    yield "names that look like splits, masks or other files than images"
    if any(split.labels is not None for split in splits):
        yield "what labels are taken for, and how many images each class has"


def _sources(data: Data) -> dict[str, Source]:
    """The splits by name, or everything under an empty one."""
    return {split: data.split(split) for split in SPLITS} if data.has_splits else {"": data.all}


def _read_as(source: Source, settings: Check, workers: int, console: Console) -> Choice:
    """How files are read that leave it open, by a sample of them; says it, with the reason."""
    asked = known_reading(source, settings.reading)
    choice = choose_reading(evidence(look(source, 0, workers, MOST_LOOKED_AT, asked)), asked)
    for name, why in choice.why.items():
        console.print(f"Read with {flag(name)} {getattr(choice.reading, name)}: {with_flags(why)}", soft_wrap=True)
    return choice


def _labels(source: Source) -> tuple[NDArray[np.int64] | None, tuple[str, ...], str]:
    """(labels, class names, why there are none)"""
    try:
        return source.labels, source.class_names, ""
    except UserError as error:
        return None, (), str(error)


def _taken_for(
    splits: Sequence[InspectedSplit], task: Task | None
) -> tuple[list[InspectedSplit], Taken | None, list[Finding]]:
    """The splits with what their labels are taken for, as every command takes them, and what stands against it."""
    labelled = [split.source for split in splits if split.labels is not None]
    if not labelled:
        return [*splits], None, []
    try:
        taken = taken_for(labelled, task)
        if taken.task == "regression":
            for source in labelled:
                answers(source, taken.task)
            return [*splits], taken, []
    except UserError as error:
        return [*splits], None, [Finding("warning", error.what, error.advice)]
    several_each = taken.task == "multi-label"
    return (
        [replace(s, each=[several(name) if several_each else (name,) for name in s.class_names]) for s in splits],
        taken,
        [],
    )


def _show_images(
    splits: Sequence[InspectedSplit], taken: Taken | None, are_cut: bool, console: Console, shown: Sequence[Shown]
) -> None:
    """A column a split: how many images, or windows of those that are cut, of which kinds and sizes, with which
    labels or annotations."""
    table = Table(box=None, show_header=len(splits) > 1, padding=(0, 3, 0, 0))
    table.add_column("")
    for split in splits:
        table.add_column(split.name, overflow="fold")
    of_labels = map(facts_of, shown) if shown else (_facts_of_labels(split, taken) for split in splits)
    facts = [{**_facts(split, are_cut), **more} for split, more in zip(splits, of_labels, strict=True)]
    for row in dict.fromkeys(name for fact in facts for name in fact):
        table.add_row(row, *(fact.get(row, "-") for fact in facts))
    console.print(table)
    if taken is not None:
        console.print(with_flags(str(taken)), soft_wrap=True)
    console.print()


def _facts_of_labels(split: InspectedSplit, taken: Taken | None) -> dict[str, str]:
    if split.labels is None:
        return {"classes": "no labels"}
    if taken is None:
        return {"labels": f"{len(split.class_names):,} different ones"}
    if taken.task == "regression":
        values = answers(split.source, taken.task).values
        return {"labels": f"{values.min():.6g} to {values.max():.6g}, mean {values.mean():.6g}"}
    names = outputs_of(split.source, taken.task)
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names[:_LISTED])) + ", ..." * (len(names) > _LISTED)
    return {"classes" if taken.task == "classification" else "labels": f"{len(names):,}", "in this order": listed}


def _facts(split: InspectedSplit, are_cut: bool) -> dict[str, str]:
    rows = split.found.rows[split.found.good]
    kinds = Counter(dict(zip(*(found.tolist() for found in np.unique(rows["kind"], return_counts=True)), strict=True)))
    facts = {"windows" if are_cut else "images": f"{len(split.source):,}"}
    facts["cannot be read"] = f"{len(split.found.reasons):,}"
    if len(rows):
        areas = rows["height"].astype(np.int64) * rows["width"]
        shown = {"smallest": rows[areas.argmin()], "largest": rows[areas.argmax()]}
        facts["median size"] = f"{np.median(rows['height']):.0f} x {np.median(rows['width']):.0f}"
        facts |= {f"{name} size": f"{row['height']} x {row['width']}" for name, row in shown.items()}
    for at, name in enumerate(("format", "mode", "depth")):
        counts: Counter[str] = Counter()
        for number, count in kinds.items():
            counts[split.found.kinds[number][at]] += count
        facts[name] = counted(counts)
    channels = zip(*(found.tolist() for found in np.unique(rows["channels"], return_counts=True)), strict=True)
    facts["channels"] = counted(Counter(dict(channels)))
    if not are_cut:  # a file has many windows
        facts["bytes"] = f"{split.found.rows['bytes'].sum() / 1e6:,.1f} MB"
    return facts


def _show(finding: Finding, console: Console) -> None:
    console.print(f"{finding.severity:<8}", style=_STYLES[finding.severity], end="")
    console.print(with_flags(finding.what), soft_wrap=True)
    for example in finding.examples:
        console.print(f"          {with_flags(example)}", soft_wrap=True, style="dim")
    console.print(f"        -> {with_flags(finding.advice)}\n", soft_wrap=True)
