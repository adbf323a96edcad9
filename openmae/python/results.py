"""openmae.predict, evaluate, reconstruct, export and push: a trained model on images, in pictures, elsewhere."""

from __future__ import annotations  # help() shows Data, not what it stands for

import tempfile
from pathlib import Path
from typing import Any

import PIL.Image

from openmae.console.terminal import worded
from openmae.console.words import printable
from openmae.python.keywords import settings_of, taking, with_keywords
from openmae.python.kinds import AnyModel, Data, Place, at_home, data_of
from openmae.python.run import finished
from openmae.python.tables import read_table
from openmae.recipes import push as pushing
from openmae.recipes import reconstruct as reconstructing
from openmae.recipes.evaluate import job as evaluating
from openmae.recipes.evaluate.settings import Evaluate
from openmae.recipes.export import job as exporting
from openmae.recipes.export.settings import Export
from openmae.recipes.predict import job as predicting
from openmae.recipes.predict.settings import TABLE, Predict
from openmae.recipes.push import Push
from openmae.recipes.reconstruct import Reconstruct


@taking(Evaluate)
def evaluate(model: AnyModel, data: Data, **settings: Any) -> dict[str, Any]:
    """Judges a fine-tuned model by labelled images, and gives how it does.

    That is `figures` (top1 and others; shares are 0..1), `classes`, `confused` and `calibration`, as results.json has
    them.
    """
    given = {"model": finished(model), "data": data_of(data)}
    asked = settings_of("evaluate", Evaluate, {**given, **settings, **at_home(given, settings)})
    return evaluating.evaluate(asked)


@taking(Predict)
def predict(model: AnyModel, images: Data, *, out: Place | None = None, **settings: Any) -> Any:
    """Says of new images what a fine-tuned model takes them for; gives a row for each, as openmae.knn gives its
    figures.

    images: DATA, image files, or a data set. out: a .csv, .parquet or .jsonl to keep the rows in, of a segmenter
    or a detector a folder for what it finds; the same call finds them there, and goes on with what was not finished.
    """
    with tempfile.TemporaryDirectory(prefix="openmae-") as folder:
        place = Path(folder) / "predictions.jsonl" if out is None else out
        given = {"model": finished(model), "images": data_of(images), "out": place}
        asked = settings_of("predict", Predict, {**given, **settings, **at_home(given, settings)})
        with worded(lambda text: printable(with_keywords(text)).replace(f"{folder}/predictions.jsonl", "in memory")):
            predicting.run(asked)
        return read_table(asked.out / TABLE if asked.out.is_dir() else asked.out)


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


@taking(Push)
def push(model: AnyModel, repository: str, **settings: Any) -> str:
    """Uploads a model, with a card that says what it is, to the Hugging Face Hub; gives its address there, or with
    dry_run the folder that was written instead."""
    return pushing.push(settings_of("push", Push, {"model": finished(model), "repository": repository, **settings}))
