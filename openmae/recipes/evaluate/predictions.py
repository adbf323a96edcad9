"""A table with a row for each image that was classified, beside its label."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmae.commandline.flags import with_flags
from openmae.console.words import encodable
from openmae.errors import UserError
from openmae.evaluate.in_batches import reasons
from openmae.evaluate.judge import Judged
from openmae.files.tables import Columns, TableWriter, require_writer
from openmae.files.whole import WholeFile
from openmae.recipes.places import place_cells, place_columns
from openmae.recipes.predictions import ERROR, Predictions, with_errors

OWN = "label_probability"  # of classes, that of the label


def check_save(file: Path | None, data: str) -> None:
    """Makes the folder of the file. Raises UserError, before anything long begins, where it could not be written.

    data: what may not be written over.
    """
    if file is None:
        return
    require_writer(file, "--save")
    if file.resolve() == Path(data).resolve():
        raise UserError(f"--save is {file}, which is DATA itself", "give another file")
    if file.is_dir():
        raise UserError(f"--save is {file}, which is a folder", "give a file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{file.parent} cannot be made ({error.strerror})", "choose another --save") from error


def save_predictions(file: Path, judged: Judged, workers: int) -> None:
    """Writes the table, complete or as it was before: path, label, what `openmae predict` has of each image, and, of
    classes, the probability of the label. Raises UserError where it cannot be written.

    workers: processes that may look why an image could not be read, 0 for this one.
    """
    right, answers, source = judged.right, judged.answers, judged.source
    names = [encodable(name) for name in right.names]
    predictions = Predictions(right.task, names)
    cells = predictions.cells(predictions.told(judged.scores.numpy()))
    columns: Columns = {**place_columns(source), "label": "text", **predictions.columns}
    if right.task == "classification":
        own = judged.scores.double().softmax(1).gather(1, torch.from_numpy(right.values)[:, None])[:, 0]
        cells[OWN] = own.float().tolist()
        columns = {**columns, OWN: "number"}
        labels = [names[number] if number >= 0 else None for number in answers.values.tolist()]
    elif right.task == "multi-label":
        labels = [predictions.joined(row) for row in answers.values > 0]
    else:
        columns = {**columns, "label": "number"}
        labels = answers.values[:, 0].tolist()
    missing = np.setdiff1d(np.arange(len(source)), judged.indices).tolist()
    errors = {index: encodable(with_flags(reason)) for index, reason in reasons(judged.images, missing, workers)}
    rows: dict[str, list[Any]] = {
        **place_cells(source, columns, range(len(source))),
        "label": labels,
        **with_errors(cells, judged.indices.tolist(), errors, len(source)),
    }
    try:
        with WholeFile(file) as whole:
            with TableWriter(whole.file, file.suffix, {**columns, ERROR: "text"}) as table:
                table.write(rows)
            whole.finish()
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror})", "choose another --save") from error
