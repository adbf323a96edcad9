"""Annotated DATA that judges a model which outlines: opened, its classes numbered as the model's are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

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
from openmae.recipes.evaluate.keep import check_results, set_name
from openmae.recipes.evaluate.part import MAY_BE_LEARNT, check_held_out, may_be_learnt, part_for
from openmae.recipes.evaluate.settings import Evaluate
from openmae.recipes.learnt import as_learnt, learnt_from, selected_then
from openmae.recipes.levels import check_levels
from openmae.recipes.opened import say_notes
from openmae.weights import Loaded

_WANTED: dict[str, Wanted] = {"segmentation": "segment", "detection": "detect"}
_FEW = 5  # names in a sentence


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
        f"{loaded.outlines}, {several(len(names), 'class').replace('classs', 'classes')}; "
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


def say_kept(found: AnnotatedSet, model: Path, console: Console) -> None:
    """Where it all is."""
    if found.run is not None:
        console.print(f"\nKept in {found.run}/results.json; pictures in {found.run}/report.html", soft_wrap=True)
    else:
        console.print(f"\n{model} is no run folder, so nothing was kept; pictures need one.", soft_wrap=True)


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
