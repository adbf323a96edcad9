"""Images inside parquet files, as data sets on the Hugging Face Hub have them, read at random."""

import contextlib
import hashlib
import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.columns import by_distinct_values, no_column, values
from openmae.data.sources.image_columns import image_column, of_row
from openmae.data.sources.labels import LabelledSource, label_text, number_labels
from openmae.data.sources.packing import check_packing
from openmae.data.sources.source import LabelKind, Names
from openmae.errors import BrokenImage, UserError
from openmae.files.parsing import read_json
from openmae.machine.memory import bounded_growth, ram

_LABELS = ("label", "labels", "fine_label")
MOST_IN_MEMORY = 2 << 30  # bytes of images that are read whole when the source is opened
MOST_IN_CACHE = 256 << 20  # bytes of row groups that a process keeps otherwise
_LEAST_BOUND = 2**32  # bytes that reading one file may take, or half of the machine's memory
_MOST_OPEN = 16  # files kept open by one process


def open_parquet(file: Path) -> Any:
    """The pyarrow.parquet.ParquetFile. Raises UserError where it cannot be read."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError("reading .parquet needs pyarrow", "pip install pyarrow") from error
    with readable(file):
        opened = ParquetFile(file, memory_map=True)
        _ = opened.schema_arrow  # is made when it is asked for
        return opened


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into UserError, and one that would fill the memory too."""
    import pyarrow

    try:
        with bounded_growth(max(_LEAST_BOUND, ram() // 2)):
            yield
    except (OSError, ValueError, MemoryError, pyarrow.ArrowException) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{file} cannot be read as parquet ({said})", "check the file") from error


def holds_images(table: Path, key: str | None = None) -> bool:
    """Whether it has a column of images, called `key` where that is given. Raises UserError where it cannot be read,
    or nobody can tell which column it is."""
    return _column(table, key) is not None


def _column(table: Path, key: str | None) -> str | None:
    """Of images. Raises UserError, naming the file."""
    with open_parquet(table) as file:
        try:
            return image_column(file.schema_arrow, key)
        except UserError as error:
            raise UserError(f"{table}: {error.what}", error.advice) from error


class ParquetImages(LabelledSource):
    """The rows of some parquet files: file by file, in the order of the rows.

    A file can only be read by row groups. Up to 2 GiB (and a sixteenth of the machine's memory) of images are
    therefore read when the source is opened, and shared by the processes that are forked later. Of more, each process
    keeps the row groups last used, up to 256 MiB; then an image in random order costs the reading of a row group (100
    images as the Hub writes them): `openmae pack` makes shards that are read by the image.

    column: with the images, or with their pixels, which are read as .npy files. names: their paths where the files
    tell them, else file#row.
    """

    label_advice = "add a column 'label', or name the column that holds them by `label_column`"

    def __init__(
        self,
        location: str,
        files: Sequence[Path],
        column: str,
        names: Names,
        numbers: NDArray[np.int64] | None,
        classes: tuple[str, ...],
        kind: LabelKind,
    ) -> None:
        self.location, self.files, self.column = location, tuple(files), column
        self.names, self.numbers, self.classes, self.kind = names, numbers, classes, kind
        self.groups: list[tuple[int, int]] = []  # file and place in it, of every row group
        self.first_rows: list[int] = []  # of every row group
        sizes = []
        rows = 0
        for number, file in enumerate(self.files):
            with open_parquet(file) as opened, readable(file):
                for place in range(opened.num_row_groups):
                    self.groups.append((number, place))
                    self.first_rows.append(rows)
                    group = opened.metadata.row_group(place)
                    rows += group.num_rows
                    sizes.append(_column_bytes(group, column))
        most = max(sizes, default=1) or 1
        self._capacity = max(1, MOST_IN_CACHE // most)
        self._forget()
        if sum(sizes) <= min(MOST_IN_MEMORY, ram() // 16):
            self._capacity = len(sizes)
            for number in range(len(sizes)):
                with contextlib.suppress(OSError):  # reading its images says so
                    self._group(number)

    def _forget(self) -> None:
        self.cached: OrderedDict[int, Any] = OrderedDict()
        self._open = lru_cache(_MOST_OPEN)(_open_images)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("cached", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The image's path where the files tell it, else file#row."""
        return self.names[index]

    @property
    def all_names(self) -> Names:
        """As `name` gives them."""
        return self.names

    def read(self, index: int) -> bytes:
        """The image's bytes. Raises OSError where the file cannot be read, BrokenImage where the row has no bytes."""
        number = bisect_right(self.first_rows, index) - 1
        rows, place = self._group(number), index - self.first_rows[number]
        if place >= len(rows):
            raise BrokenImage("the table has no bytes of it")
        return of_row(rows[place])

    def read_many(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        """Each image's bytes, or what was raised instead; every row group is read once."""
        order = sorted(range(len(indices)), key=lambda place: indices[place])
        found = dict(zip(order, super().read_many([indices[place] for place in order]), strict=True))
        return [found[place] for place in range(len(indices))]

    def read_each(self, indices: Sequence[int]) -> Iterator[bytes | OSError | BrokenImage]:
        """All at once, as read_many does."""
        return iter(self.read_many(indices))

    @cached_property
    def fingerprint(self) -> str:
        """Of the files' names and of their footers, which tell the rows and the sizes of the columns."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as opened:
                opened.seek(-8, os.SEEK_END)
                length = int.from_bytes(opened.read(4), "little")
                opened.seek(-8 - length, os.SEEK_END)
                digest.update(os.fsencode(file.name) + b"\0" + opened.read(length))
        return digest.hexdigest()

    def _group(self, number: int) -> Any:
        """The images of a row group, an array of pyarrow's. Raises OSError."""
        if (images := self.cached.get(number)) is not None:
            self.cached.move_to_end(number)
            return images
        import pyarrow

        file, place = self.groups[number]
        most = max(_LEAST_BOUND, ram() // 4)
        try:
            opened = self._open(self.files[file])
            kind = opened.schema_arrow.field(self.column).type
            leaf = f"{self.column}.bytes" if pyarrow.types.is_struct(kind) else self.column
            size = _column_bytes(opened.metadata.row_group(place), self.column)
            check_packing(f"row group {place}", size, self.files[file].stat().st_size)
            if size > most:
                raise OSError(f"its row group {place} takes {size / 2**30:.1f} GiB: write it anew with smaller ones")
            with bounded_growth(2 * most):
                images = opened.read_row_group(place, columns=[leaf], use_threads=False).column(0)
        except (UserError, OSError, MemoryError, pyarrow.ArrowException) as error:
            raise OSError(f"{self.files[file]}: {error}") from error
        if pyarrow.types.is_struct(images.type):
            images = images.flatten()[0]
        while len(self.cached) >= self._capacity:
            self.cached.popitem(last=False)
        self.cached[number] = images
        return images


def _open_images(file: Path) -> Any:
    """To read them from, in which the same image many times is there once."""
    opened = open_parquet(file)
    with readable(file):
        return by_distinct_values(file, opened)


def open_parquet_images(
    location: str, files: Sequence[Path], key: str | None = None, label_column: str | None = None
) -> ParquetImages:
    """The images of these files. key: their column, where it is named; label_column: that of their labels. Raises
    UserError where one cannot be read or has no such column."""
    text, ends, labels = bytearray(), array("q"), list[str]()
    column = None
    classes: list[str] | None = None
    for file in files:
        with open_parquet(file) as opened:
            schema = opened.schema_arrow
            column = _column(file, key) if column is None else column
            if column is None or column not in schema.names:
                raise UserError(
                    f"{file} has no column of images (its columns: {', '.join(schema.names)})",
                    "give files with a column 'image' of encoded images, or a table with a column 'path' of files",
                )
            label = label_column or next((name for name in _LABELS if name in schema.names), None)
            if label_column is not None and schema.names.count(label_column) != 1:
                raise no_column(file, label_column, schema.names, "label_column")
            classes = classes or _hub_classes(schema, label)
            for paths, texts in _rows(file, opened, column, label):
                for path in paths:
                    text += os.fsencode(str(path or f"{file.name}#{len(ends)}"))
                    ends.append(len(text))
                labels += texts
    if not len(ends):
        raise UserError(f"{location} holds no images", "give files with rows")
    numbers, class_names, kind = number_labels(labels, classes)
    names = Names(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64))
    return ParquetImages(location, files, column or "", names, numbers, class_names, kind)


def _rows(file: Path, opened: Any, column: str, label: str | None) -> Iterator[tuple[list[str | None], list[str]]]:
    """Paths (None where there is none) and labels of the rows, without their images."""
    import pyarrow

    kind = opened.schema_arrow.field(column).type
    path = f"{column}.path" if pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0 else None
    if label is not None and pyarrow.types.is_struct(opened.schema_arrow.field(label).type):
        label = None  # such as boxes, and nobody has named it
    with readable(file):
        distinct = by_distinct_values(file, opened)
    for place in range(opened.num_row_groups):
        rows = opened.metadata.row_group(place).num_rows
        wanted = [name for name in (path, label) if name is not None]
        with readable(file):
            found = distinct.read_row_group(place, columns=wanted, use_threads=False)
            paths = [entry["path"] for entry in values(found.column(column), file)] if path else [None] * rows
            labels = [label_text(value) for value in values(found.column(label), file)] if label else [""] * rows
        yield paths, labels


def has_column(file: Path, column: str) -> bool:
    """Whether it has a column of this name. Raises UserError where it cannot be read."""
    with open_parquet(file) as opened:
        return column in opened.schema_arrow.names


def text_column(files: Sequence[Path], column: str) -> list[str]:
    """The cells of a column of files, row by row, as text, empty where there is nothing. Raises UserError."""
    found: list[str] = []
    for file in files:
        with open_parquet(file) as opened, readable(file):
            if column not in opened.schema_arrow.names:
                raise no_column(file, column, opened.schema_arrow.names, "group_column")
            distinct = by_distinct_values(file, opened)
            for place in range(opened.num_row_groups):
                cells = distinct.read_row_group(place, columns=[column], use_threads=False).column(column)
                found += [label_text(cell) for cell in values(cells, file)]
    return found


def _hub_classes(schema: Any, label: str | None) -> list[str] | None:
    """The names of a ClassLabel, which the `datasets` library keeps in the schema."""
    try:
        feature = read_json(schema.metadata[b"huggingface"])["info"]["features"][label]
        names = feature.get("feature", feature)["names"]  # of one label, or of each of several
        return [str(name) for name in names]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _column_bytes(group: Any, column: str) -> int:
    """Decoded size of the images of a row group."""
    parts = [group.column(i) for i in range(group.num_columns)]
    return sum(p.total_uncompressed_size for p in parts if _is_of(p.path_in_schema, column))


def _is_of(path: str, column: str) -> bool:
    """Whether a leaf of the schema has the images of a column, or their pixels, and not their paths."""
    return path in (column, f"{column}.bytes") or path.startswith((f"{column}.list.", f"{column}.bag."))
