"""Columns of parquet files in no more memory than their distinct values take: a file of 1 KB may repeat one value of
10 MB in a million rows, and pyarrow, unless told otherwise, makes each of them anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openmae.commandline.words import suggestion
from openmae.errors import UserError

_MOST_CHARACTERS = 2**15  # of a path, a label or a split
_VALUES_A_BYTE = 64  # of a file; more, beyond a million, are repetitions that no table of images has
_LEAST_REFUSED = 10**6


def by_distinct_values(file: Path, opened: Any) -> Any:
    """The pyarrow.parquet.ParquetFile once more: texts and bytes come as a dictionary and numbers into it.

    Raises UserError where it says that it has far more values than bytes.
    """
    from pyarrow.parquet import ParquetFile

    schema, metadata = opened.schema, opened.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    most = max([metadata.num_rows, *(sum(g.column(i).num_values for g in groups) for i in range(metadata.num_columns))])
    if most > _LEAST_REFUSED + _VALUES_A_BYTE * file.stat().st_size:
        raise UserError(f"{file} says that it has {most:,} values, which its {file.stat().st_size:,} bytes cannot tell")
    columns = [schema.column(number) for number in range(len(schema))]
    repeated = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    return ParquetFile(file, memory_map=True, metadata=metadata, read_dictionary=repeated)


def values(column: Any, file: Path) -> list[Any]:
    """The values of a pyarrow array as Python has them, equal texts being one object. Raises UserError for a text so
    long that it is neither a path nor a label."""
    import pyarrow
    import pyarrow.compute

    if isinstance(column, pyarrow.ChunkedArray):
        return [value for chunk in column.chunks for value in values(chunk, file)]
    if pyarrow.types.is_struct(column.type):
        found = [values(part, file) for part in column.flatten()]
        names = [field.name for field in column.type]
        return [dict(zip(names, row, strict=True)) for row in zip(*found, strict=True)]
    if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        inside, ends, there = values(column.values, file), column.offsets.to_pylist(), column.is_valid().to_pylist()
        return [inside[a:b] if is_there else None for a, b, is_there in zip(ends, ends[1:], there, strict=False)]
    if not pyarrow.types.is_dictionary(column.type):
        return list(column.to_pylist())
    distinct = column.dictionary
    longest = pyarrow.compute.max(pyarrow.compute.binary_length(distinct)).as_py() or 0
    if longest > _MOST_CHARACTERS:
        raise UserError(f"{file} has a path or label of {longest:,} bytes", "give shorter ones")
    texts = distinct.to_pylist()
    numbers = column.indices.to_pylist()
    if any(number is not None and not 0 <= number < len(texts) for number in numbers):
        raise UserError(f"{file} is damaged: a column names a value that its dictionary lacks", "write it anew")
    return [None if number is None else texts[number] for number in numbers]


def no_column(file: Path, name: str, header: Sequence[str], setting: str) -> UserError:
    """What to say where a column that a setting names is not there, or is there twice."""
    count = header.count(name)
    near = "" if count else suggestion(name, list(header))
    columns = ", ".join(f"'{column}'" for column in header) or "none"
    return UserError(
        f"{file} has {count or 'no'} column{'s' * (count > 1)} '{name}'{near}; its columns: {columns}",
        f"mend `{setting}`",
    )
