"""Tables of any number of rows, written a block at a time: .csv, .parquet, or .jsonl, one JSON object a line."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from openmae.errors import UserError
from openmae.files.spreadsheets import cells

SUFFIXES = (".csv", ".parquet", ".jsonl")
ROWS = 2**14  # of a row group of parquet

Kind = Literal["text", "number", "whole"]
Columns = Mapping[str, Kind]
"""The columns' names, in their order, and what is in them; numbers are float32, whole ones
int32."""


def require_writer(file: Path, flag: str) -> None:
    """Raises UserError, before anything long begins, where nothing here can write such a file. flag: that it was given
    by."""
    if file.suffix.lower() not in SUFFIXES:
        raise UserError(f"{flag} is {file}", f"give a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if file.suffix.lower() == ".parquet":
        _pyarrow()


class TableWriter:
    """Writes rows to a file that is open: as its suffix says. A context manager; the file stays open.

    about: what parquet keeps of the table in its metadata, by key. None is an empty cell, and null.
    """

    def __init__(self, file: BinaryIO, suffix: str, columns: Columns, about: Mapping[str, str] | None = None) -> None:
        self._columns, self._suffix, self._file = columns, suffix.lower(), file
        self._waiting: dict[str, list[Any]] = {name: [] for name in columns}
        self._parquet: Any = None
        self._schema: Any = None
        if self._suffix == ".parquet":
            arrow = _pyarrow()
            kinds = {"text": arrow.string(), "number": arrow.float32(), "whole": arrow.int32()}
            self._schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()], dict(about or {}))
            self._parquet = arrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        elif self._suffix == ".csv":
            self._file.write(_as_csv([list(columns)]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush(1)
        if self._parquet is not None:
            self._parquet.close()

    def write(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Some rows, by the names of their columns, all of which are there. Raises OSError."""
        if self._suffix == ".parquet":  # its groups do not tell how the rows came
            for name, column in self._waiting.items():
                column.extend(rows[name])
            self._flush(ROWS)
            return
        columns = [rows[name] for name in self._columns]
        if self._suffix == ".csv":
            self._file.write(_as_csv(zip(*(map(_short, column) for column in columns), strict=True)))
            return
        for row in zip(*columns, strict=True):
            said = {name: _number(cell) for name, cell in zip(self._columns, row, strict=True)}
            self._file.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")

    def _flush(self, least: int) -> None:
        """Makes row groups of what waits, while that is so many rows."""
        while self._parquet is not None and len(next(iter(self._waiting.values()))) >= least:
            arrow = _pyarrow()
            arrays = [arrow.array(self._waiting[f.name][:ROWS], f.type) for f in self._schema]
            self._parquet.write_table(arrow.table(arrays, schema=self._schema))
            for column in self._waiting.values():
                del column[:ROWS]


def _as_csv(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(map(cells, rows))
    return text.getvalue().encode()


def _short(cell: Any) -> Any:
    return f"{cell:.6g}" if isinstance(cell, float) else cell


def _number(cell: Any) -> Any:
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("writing .parquet needs pyarrow", "pip install pyarrow, or give a .csv") from error
    return pyarrow
