"""metrics.jsonl as it grows."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from openmae.files.parsing import read_json


class Lines:
    """Reads what was appended since it was last asked. Where the file is replaced by one that was rewound, it begins
    anew: whoever asks knows what he has seen. The same steps have the same figures.

    stale: the number (st_ino) of a file that is about to be replaced, and is not read; 0 for none.
    """

    def __init__(self, file: Path, stale: int = 0) -> None:
        self._path, self._stale = file, stale
        self._file: BinaryIO | None = None  # held open, so that its number is not given to another
        self._rest = b""

    def new(self) -> list[dict[str, Any]]:
        """Whole lines with a step. Raises OSError."""
        try:
            there = self._path.stat().st_ino
        except FileNotFoundError:
            return []
        if there == self._stale:
            return []
        if self._file is None or os.fstat(self._file.fileno()).st_ino != there:
            self.close()
            self._file, self._rest = self._path.open("rb"), b""
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [line for text in whole if (line := _line(text)) is not None]

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = read_json(text)
    except ValueError:
        return None
    is_one = isinstance(line, dict) and isinstance(line.get("step"), int) and not isinstance(line["step"], bool)
    return line if is_one else None


def figures_of(line: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a line but its step and its time, by name; those of a table as table/name."""
    found: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, Mapping):
            found.update({f"{key}/{name}": number for name, number in figures_of(value).items()})
        elif isinstance(value, int | float) and key not in ("step", "time"):
            found[key] = float(value)
    return found
