"""The table that `check` writes: a row for each file, as .csv or .parquet."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from openmae.commandline.flags import with_flags
from openmae.console.words import encodable
from openmae.data.survey.findings import InspectedSplit
from openmae.data.survey.shown import Shown
from openmae.errors import UserError
from openmae.files.spreadsheets import cells
from openmae.files.whole import WholeFile

COLUMNS: dict[str, type] = {
    "name": str,
    "split": str,
    "label": str,
    "bytes": int,
    "format": str,
    "mode": str,
    "height": int,
    "width": int,
    "channels": int,
    "depth": str,
    "frames": int,
    "blank": bool,
    "missing": float,
    "digest": str,
    "objects": int,
    "reason": str,
}
_ROWS_A_GROUP = 100_000


def require_parquet(out: Path) -> None:
    """Raises UserError where `out` is to be a .parquet and nothing here can write one."""
    if out.suffix.lower() == ".parquet":
        _pyarrow()


def write_inventory(out: Path, splits: Sequence[InspectedSplit], shown: Sequence[Shown]) -> None:
    """Writes the table whole or not at all. Raises OSError.

    shown: what the images of each split show, where that is annotated; objects are counted where it tells any apart,
    and the reason is why an annotation is not used. digest: BLAKE2b of 16 bytes, in hex. Of a file that gives no image
    nothing is told but why: a table, or a link in a folder, may have named any.
    """
    with WholeFile(out) as whole:
        rows = _all_rows(splits, shown)
        (_write_parquet if out.suffix.lower() == ".parquet" else _write_csv)(whole.file, rows)
        whole.finish()


def _all_rows(splits: Sequence[InspectedSplit], shown: Sequence[Shown]) -> Iterator[tuple[Any, ...]]:
    """Those of every split."""
    for number, split in enumerate(splits):
        yield from _rows(split, shown[number] if shown else None)


def _rows(split: InspectedSplit, shown: Shown | None) -> Iterator[tuple[Any, ...]]:
    """In the order of COLUMNS."""
    counts = None if shown is None or shown.are_pixels else shown.counts.sum(1)
    faults = {} if shown is None else shown.reasons
    for index, row in enumerate(split.found.rows):
        name = encodable(split.source.name(index))  # a file's name may be no text
        label = split.class_names[split.labels[index]] if split.labels is not None else None
        if row["height"]:
            kind = split.found.kinds[row["kind"]]
            shape = (int(row["height"]), int(row["width"]), int(row["channels"]))
            yield (
                name,
                split.name,
                label,
                int(row["bytes"]),
                *kind[:2],
                *shape,
                kind[2],
                int(row["frames"]),
                bool(row["blank"]),
                round(float(row["missing"]), 6),
                row["digest"].tobytes().hex(),
                None if counts is None or index in faults else int(counts[index]),
                with_flags(faults[index]) if index in faults else None,
            )
        else:
            yield name, split.name, label, *[None] * 12, with_flags(split.found.reasons[index])


def _write_csv(file: BinaryIO, rows: Iterator[tuple[Any, ...]]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(map(cells, rows))
    text.detach()


def _write_parquet(file: BinaryIO, rows: Iterator[tuple[Any, ...]]) -> None:
    pyarrow, parquet = _pyarrow()
    types = {str: pyarrow.string(), int: pyarrow.int64(), bool: pyarrow.bool_(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS_A_GROUP)):
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(pyarrow.table(columns, schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("writing .parquet needs pyarrow", "pip install pyarrow, or give a .csv") from error
    return pyarrow, parquet
