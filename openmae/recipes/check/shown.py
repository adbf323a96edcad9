"""What `check` finds of annotations: masks, outlines and boxes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.progress import counting
from openmae.data.annotated import AnnotatedData, find_annotated
from openmae.data.annotations.fitting import IN_CHECK
from openmae.data.sources.listing import list_images
from openmae.data.sources.notes import masks_among
from openmae.data.survey.findings import Finding, InspectedSplit
from openmae.data.survey.shown import Shown, judge_classes, judge_shown, look_at
from openmae.errors import UserError
from openmae.own import is_own
from openmae.recipes.check.settings import Check

_LISTED = 10  # classes that are named


def annotated(settings: Check) -> tuple[AnnotatedData | None, list[Finding]]:
    """DATA with what it shows, None where nothing says what; and what keeps that from being read."""
    place = None if is_own(settings.data) else Path(settings.data)
    is_one = place is not None and (place.is_dir() or place.suffix.lower() in (".json", ".yaml", ".yml"))
    if settings.tile is not None or not is_one:
        return None, []
    try:
        return find_annotated(settings.data, None, settings.reading, settings.selection, settings.masks_hold), []
    except UserError as error:
        return None, [Finding("error", error.what, error.advice)]


def shown_of(opened: AnnotatedData, splits: Sequence[InspectedSplit], workers: int, console: Console) -> list[Shown]:
    """All annotations, read, of each split; says what they are."""
    console.print(f"Annotations: {opened.format}", soft_wrap=True, highlight=False)
    for note in opened.notes:
        if not note.is_warning:
            console.print(with_flags(str(note)), soft_wrap=True, highlight=False)
    found = []
    for split in splits:
        right = opened.of(split.source).right
        sizes = np.stack([split.found.rows["height"], split.found.rows["width"]], axis=1).astype(np.int64)
        with counting(f"reading annotations {split.name}".strip(), len(right), console) as say:
            found.append(look_at(right, sizes, workers, say))
    return found


def facts_of(shown: Shown) -> dict[str, str]:
    """For a column of the table: how much of what."""
    names, counts = shown.right.names, shown.counts.sum(0)
    total = max(1, int(counts.sum()))
    if shown.are_pixels:
        said = [f"{name} {count / total:.1%}" for name, count in zip(names, counts.tolist(), strict=True)]
        rows = {"annotations": "a class of each pixel"}
    else:
        each = shown.counts.sum(1)
        said = [f"{name} {count:,}" for name, count in zip(names, counts.tolist(), strict=True)]
        what = "outlines" if shown.right.kind == "objects" else "boxes"
        rows = {"annotations": what, "objects": f"{int(counts.sum()):,}"}
        if len(each):
            rows["objects an image"] = f"{np.median(each):g}, at most {each.max():,}"
        if crowds := int(shown.crowds.sum()):
            rows["of them crowds"] = f"{crowds:,}"
    rows["cannot be used"] = f"{len(shown.reasons):,}"
    rows["classes"] = f"{len(names):,}"
    rows["in this order"] = ", ".join(said[:_LISTED]) + ", ..." * (len(said) > _LISTED)
    return rows


def findings_of(opened: AnnotatedData, splits: Sequence[InspectedSplit], shown: Sequence[Shown]) -> Iterator[Finding]:
    """What is wrong with them."""
    for split, one in zip(splits, shown, strict=True):
        yield from judge_shown(split.name, one, split.called)
    yield from judge_classes([(split.name, one) for split, one in zip(splits, shown, strict=True)])
    for note in opened.notes:
        if note.is_warning and note.advice != IN_CHECK:  # which lists them
            yield Finding("warning", note.what, note.advice or "look whether that is meant")
    if Path(opened.location).is_dir():
        for note in masks_among(list_images(Path(opened.location)).names):
            yield Finding("note", f"{note.what}, and are judged as masks here", f"for pretrain, {note.advice}")
            break
