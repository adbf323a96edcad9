"""Which images belong together: of one patient, scene or slide. Images of one group stay on one side of every split."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.joined import Joined
from openmae.data.sources.parquet import ParquetImages, text_column
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Remade, Source, Subset
from openmae.data.sources.table import TableSource, column_of
from openmae.data.sources.windows import Windows, image_of
from openmae.errors import UserError


def groups_of(source: Source, selection: Selection) -> list[str] | None:
    """The group of each image, by its name; None where none is asked for. Raises UserError where an image has none."""
    column, by = selection.group_column, selection.group_by
    if column is None and by is None:
        return None
    if column is not None and by is not None:
        raise UserError("`group_column` and `group_by` both say which images belong together", "give one of them")
    if by is not None:
        of = _finder(by)
        return [of(image_of(source.name(index))) for index in range(len(source))]
    assert column is not None
    found = _column(source, column)
    if "" in found:
        first = source.shown(found.index(""))
        raise UserError(
            f"{found.count(''):,} of {len(found):,} rows of {source.location} have no '{column}' ({first})",
            "fill them, or take the rows out",
        )
    return found


def group_numbers(source: Source, selection: Selection) -> NDArray[np.int64] | None:
    """(n,) the same number for images that belong together, as is asked for or as the source itself says; else None."""
    groups = groups_of(source, selection)
    return source.together if groups is None else numbered(groups)


def numbered(groups: list[str]) -> NDArray[np.int64]:
    """(n,) a number for each name of a group, the same for the same."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)


def _column(source: Source, column: str) -> list[str]:
    if isinstance(source, Subset):
        whole = _column(source.whole, column)
        return [whole[index] for index in source.indices.tolist()]
    if isinstance(source, Remade):
        return _column(source.source, column)
    if isinstance(source, Windows):
        whole = _column(source.source, column)
        return [whole[image] for image in source.places.of.tolist()]
    if isinstance(source, Joined):
        return [group for part in source.parts for group in _column(part, column)]
    if isinstance(source, TableSource):
        return column_of(Path(source.location), column)
    if isinstance(source, ParquetImages):
        return text_column(source.files, column)
    raise UserError(f"{source.location} is no table, and so has no column '{column}'", "give `group_by`, or a table")


def _finder(by: str) -> Callable[[str], str]:
    """What takes a path to its group."""
    kind, colon, rest = by.partition(":")
    if kind == "folder" and (not colon or (rest.isdecimal() and 0 < int(rest) < 100)):
        place = int(rest) - 1 if colon else -1

        def folder_of(path: str) -> str:
            folders = path.strip("/").split("/")[:-1]
            if not folders or place >= len(folders):
                what = f"in {len(folders)} folders" if folders else "in no folder"
                raise UserError(f"{path} lies {what}, which leaves `group_by={by}` nothing to go by", "mend it")
            return folders[place]

        return folder_of
    if kind == "name" and rest:
        try:
            pattern = re.compile(rest)
        except re.error as error:
            raise UserError(f"`group_by` has '{rest}', which is no regular expression ({error})", "mend it") from error

        def found_in(path: str) -> str:
            found = pattern.search(path)
            group = "" if found is None else "/".join(filter(None, found.groups())) or found[0]
            if not group:
                raise UserError(f"`group_by` finds no '{rest}' in {path}", "mend it, or take such images out")
            return group

        return found_in
    raise UserError(f"`group_by` is '{by}'", "give folder, folder:N, or name:REGEX such as name:patient_[0-9]+")
