"""A table with a row for each image that was classified."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmae.console.words import encodable
from openmae.errors import UserError
from openmae.evaluate.judge import Judged
from openmae.files.spreadsheets import cells
from openmae.files.whole import write_file

_SUFFIXES = (".csv", ".parquet")
Columns = Mapping[str, Sequence[Any]]


def check_save(file: Path | None, data: str) -> None:
    """Makes the folder of the file. Raises UserError, before anything long begins, where it could not be written.

    data: what may not be written over.
    """
    if file is None:
        return
    if file.suffix.lower() not in _SUFFIXES:
        raise UserError(f"--save is {file}", f"give a file that ends in {' or '.join(_SUFFIXES)}")
    if file.resolve() == Path(data).resolve():
        raise UserError(f"--save is {file}, which is DATA itself", "give another file")
    if file.is_dir():
        raise UserError(f"--save is {file}, which is a folder", "give a file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{file.parent} cannot be made ({error.strerror})", "choose another --save") from error
    if file.suffix.lower() == ".parquet":
        _pyarrow()


def save_predictions(file: Path, judged: Judged) -> None:
    """Writes the table, complete or as it was before. Raises UserError where it cannot be written."""
    columns = predictions(judged)
    data = _as_csv(columns) if file.suffix.lower() == ".csv" else _as_parquet(columns)
    try:
        write_file(file, data)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror})", "choose another --save") from error


def predictions(judged: Judged) -> Columns:
    """path, label and predicted of each image that could be read, and

    classification: confidence, the probability of what is predicted, and label_probability;
    multi-label: the probability of each label, in a column p(LABEL); labels are joined by ; and given above 1/2.
    """
    right, shares = judged.right, judged.probabilities()
    paths = {"path": [encodable(judged.source.name(index)) for index in judged.indices.tolist()]}
    if right.task == "regression":
        return {**paths, "label": right.values[:, 0].tolist(), "predicted": judged.scores[:, 0].tolist()}
    if right.task == "multi-label":
        has, said = ([_joined(row, right.names) for row in rows] for rows in (right.values > 0, shares > 0.5))
        each = {f"p({name})": shares[:, number].tolist() for number, name in enumerate(right.names)}
        return {**paths, "label": has, "predicted": said, **each}
    rows, predicted, labels = np.arange(len(shares)), judged.scores.argmax(1).numpy(), right.values.astype(np.int64)
    return {
        **paths,
        "label": [right.names[number] for number in labels.tolist()],
        "predicted": [right.names[number] for number in predicted.tolist()],
        "confidence": shares[rows, predicted].tolist(),
        "label_probability": shares[rows, labels].tolist(),
    }


def _joined(row: Sequence[bool], names: Sequence[str]) -> str:
    return ";".join(name for name, applies in zip(names, row, strict=True) if applies)


def _as_csv(columns: Columns) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    shown = [[_short(cell) for cell in column] for column in columns.values()]
    writer.writerows(map(cells, zip(*shown, strict=True)))
    return text.getvalue().encode()


def _short(cell: Any) -> Any:
    return f"{cell:.6g}" if isinstance(cell, float) else cell


def _as_parquet(columns: Columns) -> bytes:
    arrow = _pyarrow()
    file = io.BytesIO()
    arrow.parquet.write_table(arrow.table(dict(columns)), file)
    return file.getvalue()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("--save to .parquet needs pyarrow", "pip install pyarrow, or give a .csv") from error
    return pyarrow
