"""A notebook's cell: one output that changes, where a terminal has a line that does."""

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

_SECONDS = 0.25  # between changes: each is a message to the page, and kept until it is shown


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    found = sys.modules.get("IPython")
    return found is not None and getattr(found.get_ipython(), "kernel", None) is not None


class Cell:
    """An output of the cell that runs: a bar and a line. It appears with the first `show`."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = 0.0
        self._last: tuple[str, float] | None = None

    def show(self, line: str, share: float) -> None:
        """Shown in place of what it showed, unless that was a moment ago. share: of the work that is done, 0..1."""
        self._last = line, share
        if time.monotonic() - self._shown >= _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Shows what was not shown yet."""
        if self._last is not None:
            (line, share), self._last = self._last, None
            bar = f'<progress max="1" value="{share:.4f}" style="width: 16em; vertical-align: middle"></progress>'
            self._put({"text/plain": line, "text/html": f"{bar} <code>{html.escape(line)}</code>"})

    def clear(self) -> None:
        """Takes it away."""
        self._last = None
        if self._handle is not None:
            self._put({"text/plain": "", "text/html": ""})

    def _put(self, bundle: dict[str, str]) -> None:
        self._shown = time.monotonic()
        if self._handle is None:
            from IPython.display import display

            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


@contextmanager
def shown_in_cell(console: Console) -> Iterator[Cell | None]:
    """An output that is there within; None where there is no notebook, or nothing is to be said."""
    cell = Cell() if is_notebook() and not console.quiet else None
    try:
        yield cell
    finally:
        if cell is not None:
            cell.clear()
