"""What tables say of each image: its path, and, of a window of one, where it lies in it."""

from collections.abc import Iterable
from typing import Any

from openmae.console.words import encodable
from openmae.data.sources.source import Source
from openmae.data.sources.windows import has_windows, window_of
from openmae.files.tables import Columns

PLACE = ("x", "y", "width", "height")


def place_columns(source: Source) -> Columns:
    """The columns' names and kinds: path, and where some images are windows, PLACE."""
    kinds: Columns = {"path": "text"}
    return {**kinds, **dict.fromkeys(PLACE, "whole")} if has_windows(source) else kinds


def place_of(name: str) -> tuple[str, int | None, int | None, int | None, int | None]:
    """(path, x, y, width, height) of an image of this name; of a whole one the path alone."""
    window = window_of(name)
    return (encodable(name), None, None, None, None) if window is None else (encodable(window.path), *window[1:])


def place_cells(source: Source, columns: Columns, indices: Iterable[int]) -> dict[str, list[Any]]:
    """The cells of these images, of those of the columns that are of places."""
    names = (source.name(index) for index in indices)
    if PLACE[0] not in columns:
        return {"path": [encodable(name) for name in names]}
    found = [place_of(name) for name in names]
    return {column: [row[at] for row in found] for at, column in enumerate(("path", *PLACE))}
