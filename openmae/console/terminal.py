"""The console that commands print to."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from openmae.console.words import printable


class _Console(Console):
    """Whose reader may leave: that ends the command, and is no error (cli.py). What it is given is text alone: colours
    are rich's own."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Lasting(io.TextIOBase):
    """A stream whose reader may leave."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def write(self, text: str) -> int:
        with self._until_it_leaves():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._until_it_leaves():
            self.stream.flush()

    @contextmanager
    def _until_it_leaves(self) -> Iterator[None]:
        """What is written from then on goes nowhere, also what Python writes as it ends."""
        try:
            yield
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def make_console(*, outlives_terminal: bool = False) -> Console:
    """Plain text to standard output, taken as it is; no line is broken where the output is not a terminal.

    outlives_terminal: what can no longer be shown, because the terminal or the reader has left, is dropped.
    """
    file: Any = _Lasting(sys.stdout) if outlives_terminal else None
    console = _Console(file=file, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return _Console(file=file, highlight=False, markup=False, emoji=False, width=10_000)
