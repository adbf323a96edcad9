"""All images of a source once through a model, in parts that are whole or absent: killed, it goes on where it was, and
what comes out is the same, byte for byte."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.progress import Say, counting
from openmae.console.words import on_one_line, several
from openmae.data.loading.in_order import CentredImages
from openmae.data.sources.source import Source
from openmae.errors import Interrupted, UserError
from openmae.evaluate.in_batches import Rows, RowsOf, reasons, rows_of_each
from openmae.files.whole import write_file
from openmae.recipes.in_parts.folder import Part, PartsFolder, opened_parts

PART_SECONDS = 20.0  # of work that a kill may cost
PART_BYTES = 2**26  # of rows in memory


@dataclass(frozen=True)
class Work:
    """What is computed of which images.

    out: the file to be; parts lie beside it. what: "embedding". rows_of: of a batch, on the model's device; kept: what
    is kept of its rows (b, ...) on the CPU. batch_size, workers: how many at once, and who loads.
    """

    out: Path
    what: str
    images: CentredImages
    rows_of: RowsOf
    batch_size: int
    workers: int
    kept: Callable[[NDArray[np.float32]], NDArray[np.float32]] = field(default=lambda rows: rows)


@dataclass(frozen=True)
class Done:
    """All images are: the parts; why some could not be read, by their indices; images and seconds of this start."""

    parts: PartsFolder
    left_out: list[tuple[int, str]]
    images: int
    seconds: float

    @property
    def finished(self) -> list[Part]:
        """Every image is in one, in order."""
        return self.parts.finished


def batch_size_for(asked: int | None, device: torch.device) -> int:
    """Images that go through a model at once. Raises UserError for none."""
    if asked is not None and asked < 1:
        raise UserError(f"--batch-size is {asked}", "give 1 or more")
    return asked or (64 if device.type == "cpu" else 256)


@contextmanager
def worked_through(work: Work, settle: Callable[[PartsFolder], None], console: Console) -> Iterator[Done]:
    """Computes what is not computed yet. Within, the parts are there; afterwards they are gone, but not where what is
    done within raises.

    settle: looks whether the folder, which it opens, is of this work. Raises UserError, where no image can be read too,
    and Interrupted.
    """
    total = len(work.images)
    with opened_parts(work.out) as parts:
        settle(parts)
        parts.read()
        started, before = time.monotonic(), parts.stop
        smaller = f"give a --batch-size below {work.batch_size}"
        with to_the_end(parts, work.images.source, total, work.what, smaller, console) as say:
            _go_on(work, parts, say)
        yield Done(parts, parts.left_out, total - before, time.monotonic() - started)
        parts.remove()


@contextmanager
def to_the_end(
    parts: PartsFolder, source: Source, total: int, what: str, smaller: str, console: Console
) -> Iterator[Say]:
    """Within, the parts that are not there yet are made. what: "embedding"; smaller: what to do where the device has
    too little memory. Raises UserError, where no image can be read too, and Interrupted."""
    if parts.stop:
        console.print(f"Resuming: {parts.stop:,} of {several(total, 'image')} are done")
    try:
        with counting(what, total, console, parts.stop) as say:
            yield say
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on where it was") from None
    except torch.OutOfMemoryError as error:
        raise UserError("the device ran out of memory", smaller) from error
    if len(parts.left_out) == total:
        index, reason = parts.left_out[0]
        parts.remove()
        raise UserError(
            f"none of the {total} images in {source.location} can be read (the first: {source.shown(index)}: {reason})",
            "check the files",
        )


def _go_on(work: Work, parts: PartsFolder, say: Say) -> None:
    """Adds parts up to the last image."""
    before = parts.stop
    batches = rows_of_each(work.images, work.rows_of, work.batch_size, work.workers, before)
    waiting = _Waiting(work, parts)
    try:
        for batch in batches:
            if not np.isfinite(batch.rows).all():
                raise UserError(
                    f"the model gives values that are not numbers for images among {batch.start + 1:,} to "
                    f"{batch.stop:,}",
                    "try --precision fp32, or a model whose training went well",
                )
            waiting.take(batch)
            say(batch.stop - before)
    finally:
        batches.close()
        waiting.keep()


class _Waiting:
    """Batches that are not in a part yet."""

    def __init__(self, work: Work, parts: PartsFolder) -> None:
        self.work, self.parts = work, parts
        self.batches: list[Rows] = []
        self.rows: list[NDArray[np.float32]] = []  # of those of them that have any
        self.since = time.monotonic()

    def take(self, batch: Rows) -> None:
        """Holds a batch, and keeps all that are held where there are enough."""
        if len(batch.indices):
            self.rows.append(self.work.kept(batch.rows))
        self.batches.append(batch)
        size = sum(rows.nbytes for rows in self.rows)
        if time.monotonic() - self.since >= PART_SECONDS or size >= PART_BYTES:
            self.keep()

    def keep(self) -> None:
        """Makes a part of what is held."""
        if self.batches and self.batches[-1].stop > self.parts.stop:  # a Ctrl-C may come when it has just been made
            missing = [index for batch in self.batches for index in batch.missing]
            left_out = reasons(self.work.images, missing, self.work.workers) if missing else []
            indices = np.concatenate([batch.indices for batch in self.batches])
            rows = np.concatenate(self.rows) if self.rows else np.empty(0, np.float32)
            self.parts.add(self.batches[-1].stop, indices, rows, left_out)
        self.batches, self.rows, self.since = [], [], time.monotonic()


def list_broken(out: Path, source: Source, left_out: list[tuple[int, str]]) -> Path | None:
    """Writes `path<TAB>reason` of each image that is left out beside the file; None where there is none."""
    file = out.with_name(f"{out.stem}-broken.txt")
    if not left_out:
        file.unlink(missing_ok=True)
        return None
    lines = (f"{on_one_line(source.name(index))}\t{on_one_line(with_flags(reason))}\n" for index, reason in left_out)
    write_file(file, "".join(lines).encode())
    return file
