"""The console that commands print to."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from openmae.console.notebook import is_notebook
from openmae.console.words import printable


class _Console(Console):
    """Whose reader may leave: that ends the command, and is no error (cli.py). What it is given is text alone: colours
    are rich's own. words: how it is worded."""

    def __init__(self, words: Callable[[str], str], **how: Any) -> None:
        super().__init__(**how)
        self._words = words

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(self._words(text), **how)

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
        if self.stream.closed:  # as it may be where this one ends after it
            return
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


_WORDS: ContextVar[Callable[[str], str]] = ContextVar("words", default=printable)


@contextmanager
def worded(words: Callable[[str], str]) -> Iterator[None]:
    """Within, what consoles that are made are given to print is worded so, safe to print in any case."""
    before = _WORDS.set(words)
    try:
        yield
    finally:
        _WORDS.reset(before)


def make_console(*, outlives_terminal: bool = False) -> Console:
    """Plain text to standard output, taken as it is; no line is broken where the output is not a terminal.

    outlives_terminal: what can no longer be shown, because the terminal or the reader has left, is dropped.
    """
    file: Any = _Lasting(sys.stdout) if outlives_terminal else None
    # To a notebook text is a stream too: rich would make an output of its own of each line, or take it for a terminal.
    terminal = False if is_notebook() else None
    how: dict[str, Any] = {"file": file, "highlight": False, "markup": False, "emoji": False}
    how |= {"force_jupyter": False, "force_terminal": terminal}
    console = _Console(_WORDS.get(), **how)
    return console if console.is_terminal else _Console(_WORDS.get(), **how, width=10_000)
