"""Images that nobody has labelled -> a table of what a fine-tuned model says of them, or a folder of what is outlined
in them (folder.py).

openmae predict runs/classes new/images --out predictions.csv
openmae predict runs/classes new/images --out predictions.parquet --top-k 5
openmae predict runs/classes new/images --out predictions.csv --sort sorted/ --sort-by link
openmae predict runs/nuclei new/images --out masks/
"""

from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from openmae.commandline.flags import with_flags
from openmae.console.terminal import make_console
from openmae.console.words import encodable, several
from openmae.data.opening import Data, open_images
from openmae.data.sources.labels import several as labels_in
from openmae.data.sources.source import Source
from openmae.distributed.share import Share, share_here
from openmae.errors import UserError
from openmae.evaluate.features import centred_images
from openmae.evaluate.in_batches import RowsOf
from openmae.evaluate.suited import suited
from openmae.files.disk import check_out, room_on_disk
from openmae.files.parsing import to_json
from openmae.files.tables import SUFFIXES, Columns, TableWriter, require_writer
from openmae.files.whole import WholeFile, write_file
from openmae.heads import Answering
from openmae.machine.device import autocast, choose_device, device_of
from openmae.machine.kinds import Precision
from openmae.machine.workers import workers_for
from openmae.recipes.in_parts.about import KEY, SAME_IMAGES, Kind, digest
from openmae.recipes.in_parts.work import Done, Work, batch_size_for, worked_through
from openmae.recipes.levels import check_levels
from openmae.recipes.opened import images_said, part_of, tell
from openmae.recipes.places import place_cells, place_columns
from openmae.recipes.predict.settings import Predict
from openmae.recipes.predict.sort import check_sort, sort_images
from openmae.recipes.predict.summary import Summary
from openmae.recipes.predictions import ERROR, THRESHOLD, Predictions, with_errors
from openmae.version import __version__
from openmae.weights import Loaded, load_model
from openmae.weights.loaded import say_origin

PREDICTIONS = Kind(
    command="predict",
    holds="predictions",
    under_way="a prediction",
    model="classifier",
    others={
        "classifier": "another model, or the same at another step",
        "statistics": "other input statistics",
        "data_fingerprint": SAME_IMAGES,
    },
    flags=("top_k", "threshold", "precision"),
)


def run(settings: Predict) -> None:
    """Predicts what is not predicted yet, and sorts where that is asked for. Raises UserError."""
    share = share_here(settings.part)
    console = make_console()
    console.quiet = not share.speaks
    loaded = load_model(settings.model, **settings.heads)
    say_origin(loaded, console)
    if loaded.outlines is not None:
        _predict_outlines(settings, loaded, share, console)
        return
    if not settings.out.suffix and not isinstance(loaded.model, Answering):
        _ = loaded.segmenter  # which says what to do
    _ = loaded.classifier  # raises where it is none
    check_out(settings.out, *SUFFIXES)
    require_writer(settings.out, "--out")
    predictions = _asked(settings, loaded)
    device = device_of(choose_device(settings.device), share.start)
    batch_size = batch_size_for(settings.batch_size, device)
    workers = workers_for(settings.workers, device, share.start)
    data = open_images(settings.images, settings.selection, settings.reading)
    source = part_of(data, settings.split)
    tell(data, console)
    loaded = suited(loaded, source, settings.reading, workers, console)
    images = centred_images(loaded.encoder, loaded.statistics, source)
    check_levels(loaded.name, loaded.statistics, source, workers, console)
    images_of = images_said(len(source), data.location, settings.split)
    console.print(f"{predictions.task}{_said_of(predictions)}; {images_of}", highlight=False, soft_wrap=True)
    about = _about(settings, loaded, predictions, data, source)
    if settings.sort is not None:
        check_sort(settings.sort, settings.sort_by, source, about)
    with room_on_disk(settings.out.parent):
        if settings.out.exists():
            PREDICTIONS.fitting(settings.out, about)
            console.print(f"{settings.out} has their predictions already")
        else:
            scores_of = _scores_of(loaded, settings.precision, device)
            work = Work(settings.out, "predicting", images, scores_of, batch_size, workers, predictions.told, share)
            if not _predict(work, predictions, about, console):
                return
    if settings.sort is not None:
        with room_on_disk(settings.sort):
            sort_images(settings.sort, settings.sort_by, source, settings.out, predictions, console)


def _predict_outlines(settings: Predict, loaded: Loaded, share: Share, console: Console) -> None:
    """A folder of what is outlined. Raises UserError, Interrupted."""
    # with torchvision, which takes a while
    from openmae.recipes.predict.folder import predict_folder
    from openmae.recipes.predict.masks import Masks
    from openmae.recipes.predict.objects import Objects

    predict_folder(Masks if loaded.outlines == "segmentation" else Objects, settings, loaded, share, console)


def _asked(settings: Predict, loaded: Loaded) -> Predictions:
    """What is to be told of each image. Raises UserError for what suits another task."""
    task, names = loaded.info["task"], loaded.info["class_names"]
    if settings.top_k is not None:
        if task != "classification":
            raise UserError(f"--top-k is for classes, and this model's task is {task}", "leave it out")
        if not 1 <= settings.top_k <= len(names):
            raise UserError(
                f"--top-k is {settings.top_k}, and the model has {len(names):,} classes", f"give 1 to {len(names):,}"
            )
    if settings.threshold is not None:
        if task != "multi-label":
            raise UserError(
                f"--threshold is for several labels at once, and this model's task is {task}", "leave it out"
            )
        if not 0 <= settings.threshold <= 1:
            raise UserError(f"--threshold is {settings.threshold:g}", "give a probability from 0 to 1")
    if settings.sort is not None and task == "regression":
        raise UserError("--sort is for classes, and this model gives numbers", "leave it out")
    joined = next((name for name in map(encodable, names) if labels_in(name) != [name]), None)
    if settings.sort is not None and task == "multi-label" and joined is not None:
        raise UserError(
            f"--sort reads labels from the table, where ; and | stand between them, and one is '{joined}'",
            "leave --sort out, or fine-tune with labels that have none",
        )
    threshold = THRESHOLD if settings.threshold is None else settings.threshold
    return Predictions(task, [encodable(name) for name in names], settings.top_k or 1, threshold)


def _said_of(predictions: Predictions) -> str:
    what = {"classification": "classes", "multi-label": "labels"}.get(predictions.task)
    return f", {len(predictions.names):,} {what}" if what else ""


def _about(settings: Predict, loaded: Loaded, predictions: Predictions, data: Data, source: Source) -> dict[str, Any]:
    """What is known before the images are read, as it is kept of the table."""
    return {
        "openmae": __version__,
        "model": str(settings.model),
        "step": loaded.info["provenance"].get("step"),
        "classifier": digest(loaded.model, loaded.classifier.arguments()),
        "task": predictions.task,
        "class_names": list(predictions.names),
        "top_k": predictions.top_k,
        "threshold": predictions.threshold,
        "precision": settings.precision,
        "statistics": loaded.statistics.to_dict(),
        "data": encodable(data.location),
        "split": settings.split,
        "data_fingerprint": source.fingerprint,
        "images": len(source),
    }


def _scores_of(loaded: Loaded, precision: Precision, device: torch.device) -> RowsOf:
    """(B, C, H, W) as decoded -> scores (B, K)."""
    model, statistics = loaded.classifier.to(device).eval(), loaded.statistics

    @torch.inference_mode()
    def scores_of(batch: Tensor) -> Tensor:
        with autocast(device, precision):
            return model(statistics.normalize(batch.to(device))).float()

    return scores_of


def _predict(work: Work, predictions: Predictions, about: dict[str, Any], console: Console) -> bool:
    """Predicts what is left of this process's share; where all are then predicted, writes the table, and says what came
    out. Gives whether it did."""
    out, summary = work.out, Summary(predictions)
    with worked_through(work, partial(PREDICTIONS.settle, out, about), console) as done:
        if done is None:
            return False
        about = {**about, "unreadable": len(done.left_out)}
        _write(done, work, predictions, about, summary)
    summary.show(console)
    console.print(f"{out}: {several(about['images'], 'row')}", highlight=False, soft_wrap=True)
    if done.left_out:
        index, reason = done.left_out[0]
        console.print(
            f"{several(len(done.left_out), 'image')} could not be read: the column {ERROR} says why "
            f"({work.images.source.shown(index)}: {with_flags(reason)}{', ...' if len(done.left_out) > 1 else ''})",
            style="yellow",
            soft_wrap=True,
        )
    return True


def _write(done: Done, work: Work, predictions: Predictions, about: dict[str, Any], summary: Summary) -> None:
    """The table and what lies beside it, each whole or absent; the table comes last. Raises OSError."""
    out, aside, source = work.out, done.parts.folder, work.images.source
    columns: Columns = {**place_columns(source), **predictions.columns, ERROR: "text"}
    with WholeFile(out, aside=aside / out.name) as whole:
        with TableWriter(whole.file, out.suffix, columns, {KEY: to_json(about, indent=1).decode()}) as table:
            for part in done.finished:
                told = part.rows()
                places = (part.indices - part.start).tolist()
                errors = {index - part.start: encodable(with_flags(reason)) for index, reason in part.left_out}
                cells = predictions.cells(told) if places else {name: [] for name in predictions.columns}
                summary.add(told, len(errors))
                told_of = place_cells(source, columns, range(part.start, part.stop))
                table.write({**told_of, **with_errors(cells, places, errors, part.stop - part.start)})
        whole.close()
        for beside in PREDICTIONS.companions(out):
            write_file(beside, to_json(about, indent=1))
        whole.finish()
