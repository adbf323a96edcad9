"""openmae.evaluate, reconstruct and export: a trained model on images, in pictures, elsewhere."""

from __future__ import annotations  # help() shows Data, not what it stands for

import tempfile
from pathlib import Path
from typing import Any

import PIL.Image

from openmae.console.terminal import worded
from openmae.console.words import printable
from openmae.python.keywords import settings_of, taking, with_keywords
from openmae.python.kinds import AnyModel, Data, Place, data_of
from openmae.python.run import finished
from openmae.recipes import reconstruct as reconstructing
from openmae.recipes.evaluate import job as evaluating
from openmae.recipes.evaluate.settings import Evaluate
from openmae.recipes.export import job as exporting
from openmae.recipes.export.settings import Export
from openmae.recipes.reconstruct import Reconstruct


@taking(Evaluate)
def evaluate(model: AnyModel, data: Data, **settings: Any) -> dict[str, Any]:
    """Judges a fine-tuned model by labelled images, and gives how it does.

    That is `figures` (top1 and others; shares are 0..1), `classes`, `confused` and `calibration`, as results.json has
    them.
    """
    asked = settings_of("evaluate", Evaluate, {"model": finished(model), "data": data_of(data), **settings})
    return evaluating.evaluate(asked)


@taking(Reconstruct)
def reconstruct(model: AnyModel, images: Any, *, out: Place | None = None, **settings: Any) -> PIL.Image.Image:
    """Draws what the model fills in: masked | reconstruction | original; gives the picture, which a notebook shows.

    images: one image file, several, or DATA, of which the first are taken. out: a .png to keep it in.
    """
    with tempfile.TemporaryDirectory(prefix="openmae-") as folder:
        place = Path(folder) / "picture.png" if out is None else out
        given = {"model": finished(model), "images": images, "out": place, **settings}
        asked = settings_of("reconstruct", Reconstruct, given)
        with worded(lambda text: printable(with_keywords(text)).replace(f"{folder}/picture.png", "drawn")):
            reconstructing.run(asked)
        with PIL.Image.open(asked.out) as picture:
            return picture.copy()


@taking(Export)
def export(model: AnyModel, **settings: Any) -> Path:
    """Writes a model in another library's format, checked with that library on real images; gives where it is."""
    asked = settings_of("export", Export, {"model": finished(model), **settings})
    exporting.run(asked)
    return asked.out
