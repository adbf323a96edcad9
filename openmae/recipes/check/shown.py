"""What `check` finds of annotations: masks, outlines and boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.progress import counting
from openmae.data.annotated import AnnotatedData, find_annotated
from openmae.data.annotations.fitting import IN_CHECK
from openmae.data.sources.listing import Listing, list_images, matching
from openmae.data.sources.notes import masks_among
from openmae.data.survey.findings import Finding, InspectedSplit
from openmae.data.survey.shown import Shown, judge_classes, judge_shown, look_at
from openmae.errors import UserError
from openmae.own import is_own
from openmae.recipes.check.settings import Check

_LISTED = 10  # classes that are named


@dataclass(frozen=True)
class Looked:
    """annotated: DATA with what it shows, None where nothing says what. findings: what keeps that from being read.
    listing: of what is asked for, where DATA is a folder."""

    annotated: AnnotatedData | None = None
    findings: tuple[Finding, ...] = ()
    listing: Listing | None = None


def looked(settings: Check) -> Looked:
    """Whether anything says what DATA shows."""
    place = None if is_own(settings.data) else Path(settings.data)
    if settings.tile is not None or place is None:
        return Looked()
    if not (is_folder := place.is_dir()) and place.suffix.lower() not in (".json", ".yaml", ".yml"):
        return Looked()
    listing, selection = None, settings.selection
    try:
        listing = matching(list_images(place), selection) if is_folder else None
        found = find_annotated(settings.data, None, settings.reading, selection, settings.masks_hold, listing)
        return Looked(found, (), listing)
    except UserError as error:
        return Looked(None, (Finding("error", error.what, error.advice),), listing)


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


def findings_of(
    opened: AnnotatedData, splits: Sequence[InspectedSplit], shown: Sequence[Shown], listing: Listing | None
) -> Iterator[Finding]:
    """What is wrong with them. listing: of the folder, where DATA is one."""
    for split, one in zip(splits, shown, strict=True):
        yield from judge_shown(split.name, one, split.called)
    yield from judge_classes([(split.name, one) for split, one in zip(splits, shown, strict=True)])
    for note in opened.notes:
        if note.is_warning and note.advice != IN_CHECK:  # which lists them
            yield Finding("warning", note.what, note.advice or "look whether that is meant")
    if listing is not None:
        for note in masks_among(listing.names):
            yield Finding("note", f"{note.what}, and are judged as masks here", f"for pretrain, {note.advice}")
            break
