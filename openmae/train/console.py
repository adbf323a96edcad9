"""Progress for people: one live line on a terminal, plain lines now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_SECONDS = 30.0


class Progress:
    """Shows step, loss, learning rate, images/s, the share of time spent waiting for data, and time left."""

    def __init__(self, steps: int, console: Console) -> None:
        self.steps, self.console = steps, console
        self._live = (
            Live(Text(""), console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        )
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

    def show(self, step: int, loss: float, lr: float, rate: float, waiting: float, seconds_left: float | None) -> None:
        """After `step` steps: mean loss, rate in images/s, waiting as a share of 0..1; seconds_left may be unknown."""
        line = (
            f"step {step}/{self.steps} · loss {loss:.4f} · lr {lr:.2e} · {rate:,.0f} images/s · data wait {waiting:.0%}"
        )
        if seconds_left is not None:
            line += f" · {duration(seconds_left)} left"
        if self._live is not None:
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True))
        elif time.monotonic() - self._last_plain >= PLAIN_SECONDS or step == self.steps:
            self._last_plain = time.monotonic()
            self.console.print(line, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 4 h 05 min, 3 d 07 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, small, size, step in (("min", "s", 60, 1), ("h", "min", 3600, 60), ("d", "h", 86400, 3600)):
        if whole < {"min": 3600, "h": 86400, "d": float("inf")}[unit]:
            return f"{whole // size} {unit} {whole % size // step:02d} {small}"
    raise AssertionError("unreachable")
