"""What the jobs share that read every image once: progress, where the result goes."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openmae.errors import UserError
from openmae.train.console import PLAIN_SECONDS, duration


def check_out(out: Path, *suffixes: str) -> None:
    """Raises UserError, before anything long begins, where the result could not be written to `out`."""
    if out.suffix.lower() not in suffixes:
        raise UserError(f"--out is {out}: give a file that ends in {' or '.join(suffixes)}")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is not a folder: make it first, or choose another --out")


@contextmanager
def counting(what: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told how many of `total` images are done: a bar on a terminal, plain lines now and then
    elsewhere, with the time left."""
    started = said = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, rate="")

        def say(done: int) -> None:
            nonlocal said
            now = time.monotonic()
            rate = done / max(1e-9, now - started)
            bar.update(task, completed=done, rate=f"{rate:,.0f} images/s")
            if not console.is_terminal and now - said >= PLAIN_SECONDS:
                said = now
                left = duration((total - done) / max(1e-9, rate))
                console.print(f"{what}: {done:,} of {total:,} images · {rate:,.0f} images/s · {left} left")

        yield say


def pace(images: int, seconds: float) -> str:
    """250 images in 3 s, 86 images/s."""
    return f"{images:,} images in {duration(seconds)}, {images / max(1e-9, seconds):,.0f} images/s"


def counted(counts: Counter[str] | Counter[int]) -> str:
    """The frequent ones first, `JPEG: 246, PNG: 4`; `JPEG` where there is one kind."""
    kinds = counts.most_common()
    return str(kinds[0][0]) if len(kinds) == 1 else ", ".join(f"{kind}: {count:,}" for kind, count in kinds)
