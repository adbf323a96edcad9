"""A table of images, .csv or .parquet: a column `path`, and optionally `label` and `split`, in any case."""

import csv
import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.columns import by_distinct_values, no_column, values
from openmae.data.sources.labels import LabelledSource, label_text, number_labels
from openmae.data.sources.listing import RACY_NS, fingerprint
from openmae.data.sources.named_files import NamedFiles
from openmae.data.sources.parquet import open_parquet, readable
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Names
from openmae.data.sources.splits import KINDS, split_of
from openmae.errors import UserError
from openmae.files.cache import cache_file, keep, recall

_RULES = 3  # changes with what is kept
_COLUMNS = ("path", "label", "split")
_SHOWN = 5  # names in a sentence

TableRow = tuple[Any, ...]  # the cells of some columns; None where there is no such column
PlacesIn = Callable[[Sequence[str]], list[int | None]]  # where these columns are in a header


class TableSource(NamedFiles, LabelledSource):
    """The files that a table names, in its order. What is missing is found when it is read.

    paths: as the table has them, absolute or relative to the table's folder. splits (n,): index into split_names, what
    the column `split` holds; None where the table has no such column. What the table says and the sizes of its files
    are kept between starts until the table is written anew: a file that changed in its place is read as it is now, but
    the fingerprint does not notice.
    """

    label_advice = "add a column 'label', or name the column that holds them by `label_column`"

    def __init__(
        self,
        table: Path,
        paths: Names,
        numbers: NDArray[np.int64] | None,
        classes: tuple[str, ...],
        splits: NDArray[np.int64] | None,
        split_names: tuple[str, ...],
        fingerprint: str,
    ) -> None:
        self.location, self._folder = str(table), str(table.parent)
        self.paths, self.numbers, self.classes = paths, numbers, classes
        self.splits, self.split_names = splits, split_names
        self._fingerprint = fingerprint

    def file(self, index: int) -> str:
        """What the row names, relative to the working folder or whole."""
        return os.path.join(self._folder, self.paths[index])  # noqa: PTH118

    def read(self, index: int) -> bytes:
        """As that of `NamedFiles`; of a file that is not there the error says where it was looked for."""
        try:
            return super().read(index)
        except FileNotFoundError as error:
            if os.path.isabs(self.paths[index]):  # noqa: PTH117
                raise
            said = f"there is no such file in the folder of {self.location}, to which its paths are relative"
            raise FileNotFoundError(said) from error

    @property
    def fingerprint(self) -> str:
        """Of the paths and of the sizes that the files had when the table was first read."""
        return self._fingerprint

    def rows_of(self, selection: Selection) -> dict[str, NDArray[np.int64]]:
        """As `rows_by_split` has them; empty where there is no column `split`."""
        if self.splits is None:
            return {}
        return rows_by_split(self.location, self.splits, self.split_names, selection)


def rows_by_split(
    location: str, splits: NDArray[np.int64], names: Sequence[str], selection: Selection
) -> dict[str, NDArray[np.int64]]:
    """The rows of each split, by what a column says of it or the selection makes of that; empty where all are to be one
    set. splits (n,): index into names. Raises UserError for a cell that says of no split."""
    if selection.is_one_set:
        return {}
    if selection.pair is not None:
        if missing := [word for word in selection.pair if word not in names]:
            known = ", ".join(names[:_SHOWN])
            raise UserError(
                f"{location} has no row of the split {missing[0]}", f"mend `splits`; its column says {known}"
            )
        chosen = [names.index(word) for word in selection.pair]
        return {kind: np.flatnonzero(splits == n) for kind, n in zip(KINDS[:2], chosen, strict=True)}
    kinds = [split_of(name) for name in names]
    if None in kinds:
        unknown = kinds.index(None)
        row = int((splits == unknown).argmax()) + 1
        raise UserError(
            f"row {row:,} of {location} has the split '{names[unknown]}'",
            "write train or val, or say by `splits` which two are train and val",
        )
    numbers = np.array([KINDS.index(kind) for kind in kinds if kind])[splits]
    return {kind: rows for number, kind in enumerate(KINDS) if len(rows := np.flatnonzero(numbers == number))}


def open_table(table: Path, label: str | None = None) -> TableSource:
    """All rows of the table. label: the column of the labels, where it is named. Raises UserError where it cannot be
    read or lacks a path, or that column."""
    real = os.path.realpath(table)
    file = cache_file("table", f"{_RULES} {real}" if label is None else f"{_RULES} {label} {real}")
    status = table.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ino]
    if (kept := recall(file)) is not None and kept[1].get("state") == state:
        arrays, about = kept
    else:
        arrays, about = _read(table, label)
        if status.st_mtime_ns < time.time_ns() - RACY_NS:
            keep(file, arrays, {**about, "state": state})
    return TableSource(
        table,
        Names(arrays["text"], arrays["ends"]),
        arrays.get("numbers"),
        tuple(about["classes"]),
        arrays.get("splits"),
        tuple(about["splits"]),
        about["fingerprint"],
    )


def column_of(table: Path, name: str) -> list[str]:
    """The cells of any column of a table as text, in the order of its rows, empty where there is nothing. Raises
    UserError."""
    return [label_text(cell) for (cell,) in _rows(table, (name,), "group_column")]


def columns_of(table: Path) -> list[str]:
    """What its columns are called; none where it is no table that can be read."""
    kind = table.suffix.lower()
    if kind not in (".csv", ".parquet") or not table.is_file():
        return []
    try:
        if kind == ".parquet":
            with open_parquet(table) as file:
                return list(file.schema_arrow.names)
        with table.open(encoding="utf-8-sig", newline="") as file:
            return _header(csv.reader(file, strict=True))
    except (UserError, OSError, csv.Error, UnicodeDecodeError):
        return []


def _header(reader: Any) -> list[str]:
    return [name.strip() for name in next(reader, [])]


def _read(table: Path, label_column: str | None) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and what else is kept of a table."""
    text, labels = bytearray(), list[str]()
    ends, sizes, splits = array("q"), array("q"), array("q")
    seen: dict[str, str] = {}
    split_names: dict[str, int] = {}
    has_splits = False
    for number, (path, label, split) in enumerate(_labelled_rows(table, label_column), 1):
        if not path or not isinstance(path, str) or "\0" in path:
            raise UserError(f"row {number:,} of {table} has no path to a file", "give it one or take the row out")
        has_splits = has_splits or split is not None
        splits.append(split_names.setdefault("" if split is None else str(split).strip(), len(split_names)))
        name = os.fsencode(path)
        text += name
        ends.append(len(text))
        try:
            sizes.append(os.stat(os.path.join(os.fsencode(table.parent), name)).st_size)  # noqa: PTH116, PTH118
        except (OSError, ValueError):
            sizes.append(-1)
        words = label_text(label)
        labels.append(seen.setdefault(words, words))  # one string a class, not one a row
    if not len(ends):
        raise UserError(f"{table} has no rows", "give a row for each image")
    if max(sizes) < 0:
        _check_folder(table, text, ends)
    names, lengths = Names(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64)), np.frombuffer(sizes, np.int64)
    numbers, classes, _ = number_labels(labels)
    arrays: dict[str, NDArray[Any]] = {"text": names.text, "ends": names.ends}
    if numbers is not None:
        arrays["numbers"] = numbers
    if has_splits:
        arrays["splits"] = np.frombuffer(splits, np.int64)
    return arrays, {"classes": classes, "splits": [*split_names], "fingerprint": fingerprint(names, lengths)}


def _check_folder(table: Path, text: bytearray, ends: "array[int]") -> None:
    """Raises UserError where the files, none of which is there, lie below the working folder instead."""
    first = os.fsdecode(bytes(text[: ends[0]]))
    if Path(first).is_file():
        raise UserError(
            f"none of the files of {table} is there, for paths are relative to the folder of the table; but {first} is "
            "there relative to the working folder",
            "move the table to it, or write whole paths",
        )


def _labelled_rows(table: Path, label: str | None) -> Iterator[TableRow]:
    """Path, label and split, the label of a column that may be named."""
    if label is None:
        yield from _rows(table)
        return
    for (path, _, split), (own,) in zip(_rows(table), _rows(table, (label,), "label_column"), strict=True):
        yield path, own, split


def _rows(table: Path, names: Sequence[str] = _COLUMNS, setting: str = "") -> Iterator[TableRow]:
    """The cells of these columns, which a setting names. Raises UserError."""
    rows = _csv_rows if table.suffix.lower() == ".csv" else _parquet_rows
    return rows(table, partial(_places, names=names, table=table, setting=setting))


def _csv_rows(table: Path, places_in: PlacesIn) -> Iterator[TableRow]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = _header(reader)
            places = places_in(header)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UserError(
                        f"line {reader.line_num:,} of {table} has {len(cells)} cells where the first line has "
                        f"{len(header)}",
                        'mend it: a comma inside a name needs quotes around the name, "Tiger, Bengal"'
                        if len(cells) > len(header)
                        else "mend it",
                    )
                yield tuple(None if place is None else cells[place] for place in places)
    except OSError as error:
        raise UserError(f"{table} cannot be read ({error.strerror})", "check its permissions") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{table} is no CSV table in UTF-8 ({error})", "write it anew") from error


def _parquet_rows(table: Path, places_in: PlacesIn) -> Iterator[TableRow]:
    with open_parquet(table) as file:
        header = file.schema_arrow.names
        places = [None if place is None else header[place] for place in places_in(header)]
        with readable(table):
            distinct = by_distinct_values(table, file)
        batches = distinct.iter_batches(columns=[name for name in places if name is not None])
        while True:
            with readable(table):
                if (batch := next(batches, None)) is None:
                    return
                columns = [None if name is None else values(batch.column(name), table) for name in places]
            for row in range(batch.num_rows):
                yield tuple(None if column is None else column[row] for column in columns)


def _places(header: Sequence[str], names: Sequence[str], table: Path, setting: str) -> list[int | None]:
    """Where these columns are in the header, path, label and split also as `Path` or `SPLIT` where nothing is called so
    in small letters. Raises UserError where one is missing that has to be there, or is there twice."""
    ours = [name.lower() if name.lower() in _COLUMNS and name.lower() not in header else name for name in header]
    _check_columns(ours, header, table)
    if names is _COLUMNS:
        return [ours.index(name) if name in ours else None for name in names]
    (name,) = names
    if header.count(name) != 1:
        raise no_column(table, name, header, setting)
    return [header.index(name)]


def _check_columns(ours: Sequence[str], header: Sequence[str], table: Path) -> None:
    if "path" not in ours:
        if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
            raise UserError(f"{table} has its columns separated by something else than commas", "write it with commas")
        columns = ", ".join(f"'{name}'" for name in header) or "none"
        raise UserError(f"{table} has no column 'path' (its columns: {columns})", "name the column of the files so")
    if twice := next((name for name in _COLUMNS if ours.count(name) > 1), None):
        raise UserError(f"{table} has {ours.count(twice)} columns '{twice}'", "rename all but one")
