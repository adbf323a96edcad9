"""What the jobs share that read every image once: progress, where the result goes, how to say it."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from openmae.errors import UserError
from openmae.train.console import PLAIN_SECONDS, duration
from openmae.weights import Loaded

_MOST_KINDS = 4  # of formats, modes and the like that are named
_FIRST_SECONDS = 2.0  # before the first plain line


def check_out(out: Path, *suffixes: str) -> None:
    """Makes the folder of `out`. Raises UserError, before anything long begins, where the result could not be written
    to it."""
    if out.suffix.lower() not in suffixes:
        raise UserError(f"--out is {out}: give a file that ends in {' or '.join(suffixes)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out.parent} cannot be made ({error.strerror}): choose another --out") from error
    if out.is_dir():
        raise UserError(f"--out is {out}, which is a folder: give a file")


def say_origin(loaded: Loaded, console: Console) -> None:
    """The licence of weights that somebody else trained, and what had to be assumed of them."""
    if loaded.origin:
        console.print(f"{loaded.name}: {loaded.origin}", style="yellow", soft_wrap=True)


class Say(Protocol):
    """What `counting` gives."""

    def __call__(self, done: int, more: str = "") -> None:
        """Hears how many images are done, and what else to say of them."""


@contextmanager
def counting(what: str, total: int, console: Console, before: int = 0) -> Iterator[Say]:
    """Gives a function to be told how many of `total` images are done: a bar on a terminal, plain lines now and then
    elsewhere, with the time left. before: images that were done at an earlier time, and are not told again."""
    started = time.monotonic()
    said = started - PLAIN_SECONDS + _FIRST_SECONDS
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=before)

        def say(done: int, more: str = "") -> None:
            nonlocal said
            now = time.monotonic()
            rate = done / max(1e-9, now - started)
            left = duration((total - before - done) / max(1e-9, rate))
            parts = (f"{before + done:,} of {total:,} images", more, f"{rate:,.0f} images/s", f"{left} left")
            line = " · ".join(part for part in parts if part)
            bar.update(task, completed=before + done, description=line)
            if not console.is_terminal and now - said >= PLAIN_SECONDS:
                said = now
                console.print(f"{what}: {line}")

        yield say


def pace(images: int, seconds: float) -> str:
    """250 images in 3 s, 86 images/s."""
    return f"{images:,} images in {duration(seconds)}, {images / max(1e-9, seconds):,.0f} images/s"


def counted(counts: Counter[str] | Counter[int]) -> str:
    """The most frequent ones, `JPEG: 246, PNG: 4`; `JPEG` where there is one kind."""
    kinds = [(str(kind).replace(",", ""), count) for kind, count in counts.most_common()]
    if len(kinds) == 1:
        return kinds[0][0]
    more = f", and {len(kinds) - _MOST_KINDS:,} more kinds" if len(kinds) > _MOST_KINDS else ""
    return ", ".join(f"{kind}: {count:,}" for kind, count in kinds[:_MOST_KINDS]) + more


def several(count: int, what: str) -> str:
    """1 shard, 2,000 shards."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def size_of(count: float) -> str:
    """Bytes as 12 MB, 3.4 GB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
