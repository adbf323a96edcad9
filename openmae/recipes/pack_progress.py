"""How far `openmae pack` is: a live bar on a terminal, plain lines now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from openmae.train.console import PLAIN_SECONDS, duration


class PackProgress:
    """Shows images, megabytes written, images/s and time left; a context manager.

    done, written: images and bytes of this session, `skipped` being the images that earlier ones have finished.
    """

    def __init__(self, images: int, console: Console) -> None:
        self.images, self.console = images, console
        self.done = self.skipped = self.written = 0
        self._started = self._last_plain = time.monotonic()
        self._bar = Progress(
            TextColumn("packing"),
            BarColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=images)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def skip(self, images: int) -> None:
        """These are finished since an earlier session."""
        self.skipped += images

    def note(self, images: int, written: int) -> None:
        """So many more images, so many more bytes."""
        self.done += images
        self.written += written
        line = self._line()
        self._bar.update(self._task, completed=self.done + self.skipped, description=line)
        if not self.console.is_terminal and time.monotonic() - self._last_plain >= PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self.console.print(line, soft_wrap=True)

    def _line(self) -> str:
        rate = self.done / max(1e-9, time.monotonic() - self._started)
        left = (self.images - self.skipped - self.done) / rate
        return (
            f"{self.skipped + self.done:,} of {self.images:,} images · {self.written / 1e6:,.0f} MB · "
            f"{rate:,.0f} images/s · {duration(left)} left"
        )
