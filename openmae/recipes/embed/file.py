"""The finished table of features: `.parquet`, or `.npy` with a `.csv` and a `.json` beside it; writing and reading."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from openmae.errors import UserError
from openmae.files.parsing import to_json
from openmae.files.spreadsheets import cells
from openmae.files.whole import WholeFile
from openmae.recipes.in_parts.about import KEY, SAME_IMAGES, Kind

_TEXTS = ("path", "label")
_GRID = ("rows", "columns")  # of patches
ROWS = 4096  # of a row group, and of what is read at once
_GROUP_BYTES = 2**26  # of a row group of grids

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
"""Indices (m,) of images and their vectors (m, D) or grids of vectors (m, h, w, D), some at a time."""


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
    shape: tuple[int, ...],
    rows: Rows,
    columns: Columns,
) -> None:
    """Writes all of it in the folder `aside`, then moves it to its place: `out`, the last to come, is whole or absent.

    about: what the features are. count: of images; shape: of what each has, (D,) or (h, w, D). columns: of each image.
    Raises OSError.
    """
    if out.suffix.lower() == ".parquet":
        with WholeFile(out, aside=aside / out.name) as whole:
            _write_parquet(whole.file, about, shape, rows, columns)
            whole.finish()
        return
    places = (*FEATURES.companions(out), out)
    with ExitStack() as until_then:
        files = [until_then.enter_context(WholeFile(place, aside=aside / place.name)) for place in places]
        table, description, whole = files
        text = io.TextIOWrapper(table.file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(columns.names)
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
        npy_format.write_array_header_1_0(whole.file, header)
        for indices, vectors in rows:
            whole.file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
            writer.writerows(cells(columns.of(index)) for index in indices.tolist())
        text.detach()
        description.file.write(to_json(about, indent=1))
        for file in files:
            file.close()
        for file in files:
            file.finish()


def read_vectors(out: Path) -> Iterator[NDArray[np.float32]]:
    """The vectors (m, D), or grids (m, h, w, D), some at a time, in the order of the file. Raises UserError where it is
    damaged."""
    with _whole(out):
        if out.suffix.lower() == ".parquet":
            _, parquet = _pyarrow()
            with parquet.ParquetFile(out) as file:
                is_grid = "vectors" in file.schema_arrow.names
                for batch in file.iter_batches(ROWS, columns=[*_GRID, "vectors"] if is_grid else ["vector"]):
                    yield _vectors(batch)
        else:
            stored = np.load(out, mmap_mode="r")
            for start in range(0, len(stored), ROWS):
                yield np.array(stored[start : start + ROWS])


def map_vectors(file: Path) -> NDArray[np.float32]:
    """All (n, D) of a .npy, of which memory holds what is looked at. Raises UserError where it is damaged."""
    with _whole(file):
        found: NDArray[np.float32] = np.load(file, mmap_mode="r")
        return found


def _vectors(rows: Any) -> NDArray[np.float32]:
    """What a table or batch of pyarrow's has, (m, D) or (m, h, w, D)."""
    *grid, column = rows.columns
    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    width = (column.type.value_type if grid else column.type).list_size
    values = (column.flatten() if grid else column).flatten().to_numpy()
    return values.reshape(len(column), *(side[0].as_py() for side in grid), width)


def read_grids(out: Path, rows: Sequence[int]) -> NDArray[np.float32]:
    """The grids (n, h, w, D) of these rows of the file, ascending. Raises UserError where it is damaged."""
    with _whole(out):
        if out.suffix.lower() != ".parquet":
            return np.array(np.load(out, mmap_mode="r")[list(rows)])
        _, parquet = _pyarrow()
        found: list[NDArray[np.float32]] = []
        with parquet.ParquetFile(out) as file:
            first = 0
            for number in range(file.num_row_groups):
                stop = first + file.metadata.row_group(number).num_rows
                wanted = [row - first for row in rows if first <= row < stop]
                if wanted:
                    table = file.read_row_group(number, columns=[*_GRID, "vectors"])
                    found.append(_vectors(table)[wanted])
                first = stop
        return np.concatenate(found)


@contextmanager
def _whole(out: Path) -> Iterator[None]:
    """Turns what comes of a damaged file into one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{out} is damaged ({error})", "delete it, and embed again") from error


def _write_parquet(
    file: IO[bytes],
    about: dict[str, Any],
    shape: tuple[int, ...],
    rows: Rows,
    columns: Columns,
) -> None:
    pyarrow, parquet = _pyarrow()
    vector, (*grid, width) = pyarrow.list_(pyarrow.float32(), shape[-1]), shape
    kinds = {name: pyarrow.string() if name in _TEXTS else pyarrow.int32() for name in columns.names}
    fields = [*kinds.items(), ("vector", vector)]
    plain = "vector.list.element"
    if grid:
        fields[-1:] = [*dict.fromkeys(_GRID, pyarrow.int32()).items(), ("vectors", pyarrow.list_(vector))]
        plain = "vectors.list.element.list.element"
    schema = pyarrow.schema(fields, {KEY: json.dumps(about).encode()})
    compression = {name: "zstd" for name, _ in fields[:-1]} | {plain: "none"}  # floats hardly shrink
    at_once = min(ROWS, max(1, _GROUP_BYTES // (4 * math.prod(shape)))) if grid else ROWS
    with parquet.ParquetWriter(file, schema, compression=compression, use_dictionary=["label"]) as writer:
        for indices, values in _grouped(rows, shape, at_once):
            said = zip(*map(columns.of, indices.tolist()), strict=True)
            arrays = [
                *(pyarrow.array(column, kind) for column, kind in zip(said, kinds.values(), strict=True)),
            ]
            vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), width)
            if grid:
                arrays += [pyarrow.array([side] * len(indices), pyarrow.int32()) for side in grid]
                ends = np.arange(len(indices) + 1, dtype=np.int32) * math.prod(grid)
                vectors = pyarrow.ListArray.from_arrays(pyarrow.array(ends), vectors)
            writer.write_table(pyarrow.table([*arrays, vectors], schema=schema))


def _grouped(
    rows: Rows, shape: tuple[int, ...], at_once: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The same, so many at a time, however they came."""
    indices, vectors = np.empty(0, np.int64), np.empty((0, *shape), np.float32)
    for more_indices, more_vectors in rows:
        indices, vectors = np.concatenate([indices, more_indices]), np.concatenate([vectors, more_vectors])
        while len(indices) >= at_once:
            yield indices[:at_once], vectors[:at_once]
            indices, vectors = indices[at_once:], vectors[at_once:]
    if len(indices):
        yield indices, vectors


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("writing .parquet needs pyarrow", "pip install pyarrow, or give a .npy") from error
    return pyarrow, parquet
