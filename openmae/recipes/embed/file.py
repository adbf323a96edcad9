"""The finished table of features: `.parquet`, or `.npy` with a `.csv` and a `.json` beside it; writing and reading."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from openmae.errors import UserError
from openmae.files.spreadsheets import cells
from openmae.files.whole import WholeFile
from openmae.recipes.in_parts.about import KEY, SAME_IMAGES, Kind, as_json

_TEXTS = ("path", "label")
ROWS = 4096  # of a row group, and of what is read at once

FEATURES = Kind(
    command="embed",
    holds="features",
    under_way="an embedding",
    model="encoder",
    others={
        "encoder": "another model, or the same at another step",
        "statistics": "other input statistics",
        "data_fingerprint": SAME_IMAGES,
    },
    flags=("layer", "pool", "precision", "label_column"),
    beside=(".csv", ".json"),
)

Rows = Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Indices (m,) of images and their vectors (m, D), some at a time."""


@dataclass(frozen=True)
class Columns:
    """What is said of each image beside its vector: path and label, and where it is a window of it, x, y, width and
    height in pixels. of: the cells of image `index`."""

    names: tuple[str, ...]
    of: Callable[[int], tuple[str | int | None, ...]]


def require_writer(out: Path) -> None:
    """Raises UserError where nothing here can write such a file."""
    if out.suffix.lower() == ".parquet":
        _pyarrow()


def write_features(
    out: Path,
    aside: Path,
    about: dict[str, Any],
    count: int,
    width: int,
    rows: Rows,
    columns: Columns,
) -> None:
    """Writes all of it in the folder `aside`, then moves it to its place: `out`, the last to come, is whole or absent.

    about: what the features are. count, width: of all vectors. columns: of each image.
    Raises OSError.
    """
    if out.suffix.lower() == ".parquet":
        with WholeFile(out, aside=aside / out.name) as whole:
            _write_parquet(whole.file, about, width, rows, columns)
            whole.finish()
        return
    places = (*FEATURES.companions(out), out)
    with ExitStack() as until_then:
        files = [until_then.enter_context(WholeFile(place, aside=aside / place.name)) for place in places]
        table, description, whole = files
        text = io.TextIOWrapper(table.file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(columns.names)
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        npy_format.write_array_header_1_0(whole.file, header)
        for indices, vectors in rows:
            whole.file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            writer.writerows(cells(columns.of(index)) for index in indices.tolist())
        text.detach()
        description.file.write(as_json(about))
        for file in files:
            file.close()
        for file in files:
            file.finish()


def read_vectors(out: Path) -> Iterator[NDArray[np.float32]]:
    """The vectors (m, D), some at a time, in the order of the file. Raises UserError where it is damaged."""
    try:
        if out.suffix.lower() == ".parquet":
            _, parquet = _pyarrow()
            with parquet.ParquetFile(out) as file:
                width = file.schema_arrow.field("vector").type.list_size
                for batch in file.iter_batches(ROWS, columns=["vector"]):
                    yield batch.column(0).flatten().to_numpy().reshape(-1, width)
        else:
            stored = np.load(out, mmap_mode="r")
            for start in range(0, len(stored), ROWS):
                yield np.array(stored[start : start + ROWS])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{out} is damaged ({error})", "delete it, and embed again") from error


def _write_parquet(
    file: IO[bytes],
    about: dict[str, Any],
    width: int,
    rows: Rows,
    columns: Columns,
) -> None:
    pyarrow, parquet = _pyarrow()
    kinds = {name: pyarrow.string() if name in _TEXTS else pyarrow.int32() for name in columns.names}
    fields = [*kinds.items(), ("vector", pyarrow.list_(pyarrow.float32(), width))]
    schema = pyarrow.schema(fields, {KEY: json.dumps(about).encode()})
    compression = dict.fromkeys(columns.names, "zstd") | {"vector.list.element": "none"}  # floats hardly shrink
    with parquet.ParquetWriter(file, schema, compression=compression, use_dictionary=["label"]) as writer:
        for indices, vectors in _grouped(rows, width):
            said = zip(*map(columns.of, indices.tolist()), strict=True)
            arrays = [
                *(pyarrow.array(values, kind) for values, kind in zip(said, kinds.values(), strict=True)),
                pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), width),
            ]
            writer.write_table(pyarrow.table(arrays, schema=schema))


def _grouped(rows: Rows, width: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The same, ROWS at a time, however they came."""
    indices, vectors = np.empty(0, np.int64), np.empty((0, width), np.float32)
    for more_indices, more_vectors in rows:
        indices, vectors = np.concatenate([indices, more_indices]), np.concatenate([vectors, more_vectors])
        while len(indices) >= ROWS:
            yield indices[:ROWS], vectors[:ROWS]
            indices, vectors = indices[ROWS:], vectors[ROWS:]
    if len(indices):
        yield indices, vectors


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("writing .parquet needs pyarrow", "pip install pyarrow, or give a .npy") from error
    return pyarrow, parquet
