"""Progress for people: one live line on a terminal, a bar in a notebook, plain lines now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from openmae.console.notebook import Cell, is_notebook, shown_in_cell
from openmae.console.words import duration

SILENT_SECONDS = 2.0  # before a listing says that it is under way


class Status:
    """A line on the terminal about a listing that takes longer than people like to wait without a word."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.width = 0

    def say(self, text: str) -> None:
        """Shows the text in place of the one before, where stderr is a terminal and some seconds have passed."""
        if sys.stderr.isatty() and time.monotonic() - self.started > SILENT_SECONDS:
            print(f"\r{text:<{self.width}}", end="", file=sys.stderr, flush=True)
            self.width = len(text)

    def done(self) -> None:
        """Takes the line away."""
        if self.width:
            print(f"\r{'':<{self.width}}\r", end="", file=sys.stderr, flush=True)


FIRST_SECONDS = 2.0  # before the first plain line


class Say(Protocol):
    """What `counting` gives."""

    def __call__(self, done: float, more: str = "") -> None:
        """Hears how many images are done, those that are in parts among them, and what else to say of them."""


def of_next(say: Callable[[float], None], done: int) -> Callable[[float], None]:
    """What to tell the share of the next image to that is done, where `done` of them are whole."""
    return lambda share: say(done + share)


PLAIN_SECONDS = 30.0
CELL_SECONDS = 1.0  # before a bar in a notebook: what is quicker needs none
LEAST_BAR = 12  # columns that a bar and the spaces beside it take at least


class Progress:
    """Shows step, loss, learning rate, images/s, the share of time spent waiting for data, and time left."""

    def __init__(self, steps: int, console: Console) -> None:
        self.steps, self.console = steps, console
        self._live = (
            Live(Text(""), console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        )
        self._cell = Cell() if is_notebook() and not console.quiet else None
        self._last_plain = -PLAIN_SECONDS

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._cell is not None:
            self._cell.flush()

    def show(self, step: int, loss: float, lr: float, rate: float, waiting: float, seconds_left: float | None) -> None:
        """After `step` steps: mean loss, rate in images/s, waiting as a share of 0..1; seconds_left may be unknown."""
        parts = {
            "step": f"step {step}/{self.steps}",
            "loss": f"loss {loss:.4f}",
            "lr": f"lr {lr:.2e}",
            "rate": f"{rate:,.0f} images/s",
            "waiting": f"data wait {waiting:.0%}",
            "left": "" if seconds_left is None else f"{duration(seconds_left)} left",
        }
        line = joined(parts.values())
        if self._live is not None:
            for dispensable in ("lr", "waiting", "rate", "loss"):  # on a narrow terminal
                if len(line) > self.console.width:
                    del parts[dispensable]
                    line = joined(parts.values())
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        elif self._cell is not None:
            self._cell.show(line, step / self.steps)
        elif time.monotonic() - self._last_plain >= PLAIN_SECONDS or step == self.steps:
            self._last_plain = time.monotonic()
            self.console.print(line, highlight=False, soft_wrap=True)


def joined(parts: Iterable[str]) -> str:
    """Those that say something, with dots between them."""
    return " · ".join(part for part in parts if part)


@contextmanager
def counting(what: str, total: int, console: Console, before: int = 0, items: str = "images") -> Iterator[Say]:
    """Gives a function to be told how many of `total` items are done: a bar on a terminal or in a notebook, plain
    lines now and then elsewhere, with the time left. before: items that were done at an earlier time, and are not told
    again."""
    started = time.monotonic()
    said = started - PLAIN_SECONDS + FIRST_SECONDS
    columns = (TextColumn(what), BarColumn(None), TextColumn("{task.description}"))
    drawn = Bar(*columns, console=console, transient=True, disable=not console.is_terminal, expand=True)
    with drawn as bar, shown_in_cell(console) as cell:
        task = bar.add_task("", total=total, completed=before)

        def say(done: float, more: str = "") -> None:
            nonlocal said
            now = time.monotonic()
            rate = done / max(1e-9, now - started)
            left = duration((total - before - done) / max(1e-9, rate))
            whole = int(done)
            done_of = f"{before + whole:,} of {total:,} {items}"
            if done > whole:
                done_of += f" and {done - whole:.0%} of the next"
            line = joined((done_of, more, f"{rate:,.0f} {items}/s" if rate >= 0.5 else "", f"{left} left"))
            for shorter in (joined((done_of, more, f"{left} left")), joined((done_of, f"{left} left")), f"{left} left"):
                if console.is_terminal and len(line) > console.width - len(what) - LEAST_BAR:
                    line = shorter
            bar.update(task, completed=before + done, description=line)
            if cell is not None and now - started >= CELL_SECONDS:
                cell.show(f"{what}: {line}", (before + done) / max(1, total))
            elif cell is None and not console.is_terminal and now - said >= PLAIN_SECONDS:
                said = now
                console.print(f"{what}: {line}")

        yield say
