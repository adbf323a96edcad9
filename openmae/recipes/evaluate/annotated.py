"""Annotated DATA that judges a model which outlines: opened, its classes numbered as the model's are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from openmae.console.progress import counting
from openmae.console.words import in_a_line, several
from openmae.data.annotated import open_annotated, train_and_val
from openmae.data.annotations.annotations import Annotated
from openmae.data.annotations.holding import MasksHold
from openmae.data.annotations.mask_folders import Wanted
from openmae.data.annotations.matched import matched
from openmae.data.sources.selection import WHOLE
from openmae.data.sources.source import Source
from openmae.errors import UserError
from openmae.evaluate.suited import suited
from openmae.files.address import whole_address
from openmae.machine.device import choose_device
from openmae.machine.workers import workers_for
from openmae.recipes.evaluate.keep import check_results, set_name
from openmae.recipes.evaluate.part import MAY_BE_LEARNT, check_held_out, may_be_learnt, part_for
from openmae.recipes.evaluate.settings import Evaluate
from openmae.recipes.learnt import as_learnt, learnt_from, selected_then
from openmae.recipes.levels import check_levels
from openmae.recipes.opened import say_notes
from openmae.report.page.results import shown_figures
from openmae.weights import Loaded
from openmae.weights.loaded import TRAINED_WELL

_WANTED: dict[str, Wanted] = {"segmentation": "segment", "detection": "detect"}
_FEW = 5  # names in a sentence
_MOST_ROWS = 40  # of the table of classes; of more, those that do worst


class Unreadable(Protocol):
    """What a look at images gives: those that were of no use, and why, beside what it found."""

    @property
    def unreadable(self) -> list[tuple[int, str]]:
        """Index and reason of each."""
        ...


J = TypeVar("J", bound=Unreadable)


@dataclass(frozen=True)
class AnnotatedSet:
    """loaded: the model, for images that are read as these are. run: the run folder that keeps what is found, under
    `name`; None where the model is none."""

    loaded: Loaded
    annotated: Annotated
    run: Path | None
    name: str


def open_set(settings: Evaluate, loaded: Loaded, workers: int, console: Console) -> AnnotatedSet:
    """Opens what judges the model, and says what that is. Raises UserError, also where something is asked for that is
    for classes of whole images."""
    _check_asked(settings, loaded.outlines or "")
    loaded.check_numbers(TRAINED_WELL)
    model, provenance = settings.model, loaded.info["provenance"]
    selection = as_learnt(settings.selection, settings.data, model, loaded, console)
    opened = open_annotated(
        settings.data,
        _WANTED[loaded.outlines or ""],
        reading=settings.reading,
        selection=selection,
        masks_hold=settings.masks_hold or _masks_held(provenance.get("masks_hold")),
    )
    split, is_drawn = part_for(opened.data, settings.split, model, loaded)
    if is_drawn:
        train, val = train_and_val(opened, provenance.get("seed", 0))
        check_held_out(settings.data, val.images, model, loaded)
        annotated = train if split == "train" else val
    else:
        annotated = opened.all if split == "all" else opened.split(split)
    say_notes(opened.notes, console)
    names = loaded.info["class_names"]
    annotated = Annotated(annotated.images, matched(annotated.right, names, str(model)))
    loaded = suited(loaded, annotated.images, settings.reading, workers, console)
    check_levels(loaded.name, loaded.statistics, annotated.images, workers, console)
    known, then = learnt_from(model, loaded), selected_then(loaded)
    part = "" if split == "all" else f" ({split})"
    console.print(
        f"{loaded.outlines}, {several(len(names), 'class')}; "
        f"{several(len(annotated), 'image')} of {settings.data}{part}",
        highlight=False,
        soft_wrap=True,
    )
    if may_be_learnt(settings.data, split, known, then):
        console.print(MAY_BE_LEARNT, style="yellow")
    run = model if (model / "config.toml").exists() else None
    if run is not None:
        check_results(run)
    beside = selection.beside(then if whole_address(settings.data) == known else WHOLE)
    return AnnotatedSet(loaded, annotated, run, set_name(settings.data, split, beside))


def say_unreadable(images: Source, unreadable: list[tuple[int, str]], data: str, console: Console) -> None:
    """How many of the images that judge were of no use, and why the first one was. unreadable: index and reason of
    each."""
    if not unreadable:
        return
    names = ", ".join(in_a_line(images.name(index)) for index, _ in unreadable[:_FEW])
    console.print(
        f"{len(unreadable):,} of {several(len(images), 'image')} cannot be read with what they show, and "
        f"{'is' if len(unreadable) == 1 else 'are'} left out "
        f"({names}{', ...' if len(unreadable) > _FEW else ''}; the first: {unreadable[0][1]}): see openmae check "
        f"{data}",
        style="yellow",
        soft_wrap=True,
    )


class Kind(Protocol[J]):
    """What segmenters and detectors differ in. smaller: what to do where memory runs out."""

    doing: str
    smaller: str

    def judge(self, seen: AnnotatedSet, device: torch.device, workers: int, say: Callable[[float], None]) -> J:
        """All of the images; its model is moved to the device."""
        ...

    def found(self, seen: AnnotatedSet, judged: J) -> dict[str, Any]:
        """The figures as results.json has them, kept in the run where there is one."""
        ...

    def show(self, found: dict[str, Any], console: Console) -> None:
        """Prints a row for each class, and what else is to be said."""
        ...


def evaluated(settings: Evaluate, loaded: Loaded, kind: Kind[J], console: Console) -> dict[str, Any]:
    """Prints the figures, keeps them in the run, and gives them as results.json has them. Raises UserError."""
    device = choose_device(settings.device)
    workers = workers_for(settings.workers, device)
    seen = open_set(settings, loaded, workers, console)
    with counting(kind.doing, len(seen.annotated), console) as say:
        try:
            judged = kind.judge(seen, device, workers, say)
        except torch.OutOfMemoryError as error:
            raise UserError(f"{device} ran out of memory", kind.smaller) from error
    say_unreadable(seen.annotated.images, judged.unreadable, settings.data, console)
    found = kind.found(seen, judged)
    for name, value in shown_figures(found["figures"], found["images"], found["errors"]).items():
        console.print(f"  {name:<28}{value:>16}")
    kind.show(found, console)
    if seen.run is not None:
        console.print(f"\nKept in {seen.run}/results.json; pictures in {seen.run}/report.html", soft_wrap=True)
    else:
        console.print(f"\n{settings.model} is no run folder, so nothing was kept; pictures need one.", soft_wrap=True)
    return found


def show_classes(
    rows: list[dict[str, Any]], counted: str, shares: dict[str, str], headline: str, console: Console
) -> None:
    """Prints a row for each class, of very many those that do worst. counted: what a class has many of; shares: titles
    by the keys that they stand for; headline: one of these keys."""
    table = Table("class", counted, *shares.values(), "mostly taken for")
    worst = sorted(rows, key=lambda one: 2 if one[headline] is None else one[headline])[:_MOST_ROWS]
    for one in rows if len(rows) <= _MOST_ROWS else worst:
        each = ("-" if one[key] is None else f"{one[key]:.1%}" for key in shares)
        taken = "-" if one["taken_for"] is None else in_a_line(one["taken_for"])
        table.add_row(in_a_line(one["name"]), f"{one[counted]:,}", *each, taken)
    for column in table.columns[1:5]:
        column.justify = "right"
    console.print(table)
    if len(rows) > _MOST_ROWS:
        console.print(f"The {_MOST_ROWS} worst of {len(rows):,}.")


def _masks_held(said: object) -> MasksHold | None:
    known: dict[object, Literal["classes", "objects"]] = {"classes": "classes", "objects": "objects"}
    return known.get(said)


def _check_asked(settings: Evaluate, task: str) -> None:
    if settings.corruptions is not None:
        raise UserError(f"--corruptions is for classification, and this model's task is {task}", "leave it out")
    if settings.classes is not None:
        raise UserError(f"--classes is for classification, and this model's task is {task}", "leave it out")
    if settings.save is not None:
        raise UserError(
            f"--save is for classes and labels of whole images, and this model's task is {task}",
            "openmae predict RUN IMAGES --out FOLDER writes what it finds in each image",
        )
