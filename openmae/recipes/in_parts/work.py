"""All images of a source once through a model, in parts that are whole or absent: killed, it goes on where it was, and
what comes out is the same, byte for byte."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.progress import Say, counting
from openmae.console.words import on_one_line, pace, several
from openmae.data.loading.in_order import CentredImages
from openmae.data.sources.source import Source
from openmae.distributed.share import WHOLE, Share
from openmae.errors import Interrupted, UserError
from openmae.evaluate.in_batches import Rows, RowsOf, reasons, rows_of_each
from openmae.files.whole import write_file
from openmae.recipes.in_parts.folder import Part, PartsFolder, opened_parts
from openmae.recipes.in_parts.said import say_done

PART_SECONDS = 20.0  # of work that a kill may cost
PART_BYTES = 2**26  # of rows in memory
_UNIT = 256  # images


@dataclass(frozen=True)
class Work:
    """What is computed of which images.

    out: the file to be; parts lie beside it. what: "embedding". rows_of: of a batch, on the model's device; kept: what
    is kept of its rows (b, ...) on the CPU. batch_size, workers: how many at once, and who loads. share: which of them
    this process does.
    """

    out: Path
    what: str
    images: CentredImages
    rows_of: RowsOf
    batch_size: int
    workers: int
    kept: Callable[[NDArray[np.float32]], NDArray[np.float32]] = field(default=lambda rows: rows)
    share: Share = WHOLE

    @property
    def unit(self) -> int:
        """Shares begin where a batch would, so that rows are those of one process; the same ones for the usual batches
        of a GPU and a CPU."""
        return _UNIT if _UNIT % self.batch_size == 0 else self.batch_size


@dataclass(frozen=True)
class Done:
    """All images are: the parts, with every image in one, in order."""

    parts: PartsFolder

    @property
    def finished(self) -> list[Part]:
        """The parts."""
        return self.parts.finished

    @property
    def left_out(self) -> list[tuple[int, str]]:
        """Why some could not be read, by their indices."""
        return self.parts.left_out


def batch_size_for(asked: int | None, device: torch.device) -> int:
    """Images that go through a model at once. Raises UserError for none."""
    if asked is not None and asked < 1:
        raise UserError(f"--batch-size is {asked}", "give 1 or more")
    return asked or (64 if device.type == "cpu" else 256)


@contextmanager
def worked_through(work: Work, settle: Callable[[PartsFolder], None], console: Console) -> Iterator[Done | None]:
    """Computes what is not computed yet of this process's share, and says how fast. Within, the parts of all images are
    there, or None where others are still to come; afterwards they are gone, but not where what is done within raises.

    settle: looks whether the folder, which it opens, is of this work. Raises UserError, where no image can be read too,
    and Interrupted.
    """
    source, smaller = work.images.source, f"give a --batch-size below {work.batch_size}"
    with opened_parts(work.out, work.share, work.unit) as parts:
        settle(parts)
        with all_of_them(parts, len(source), work.what, smaller, partial(_go_on, work, parts), console) as whole:
            if whole is not None:
                require_some(whole, source)
            yield None if whole is None else Done(whole)


@contextmanager
def all_of_them(
    parts: PartsFolder, total: int, what: str, smaller: str, go_on: Callable[[Say], None], console: Console
) -> Iterator[PartsFolder | None]:
    """As `worked_through`, of a folder that is settled, and of `total` images. what: "embedding"; smaller: what to do
    where the device has too little memory; go_on: adds this process's parts, up to the last image of its share."""
    share = parts.share
    if not (share.is_whole and parts.of > 1):  # else only puts together what others do
        parts.read(total)
        span = share.span(total, parts.unit)
        before, began = parts.stop, time.monotonic()
        if before > span.start:
            console.print(f"Resuming: {before - span.start:,} of {several(len(span), 'image')} are done")
        with _to_the_end(smaller), counting(what, len(span), console, before - span.start) as say:
            go_on(say)
        parts.end()
        console.print(pace(span.stop - before, time.monotonic() - began))
    with parts.together(total) as whole:
        if not share.is_whole:
            say_done(share, whole is not None, console)
        yield whole
        if whole is not None:
            whole.remove()


def require_some(whole: PartsFolder, source: Source) -> None:
    """Raises UserError where no image can be read."""
    if len(whole.left_out) == len(source):
        index, reason = whole.left_out[0]
        whole.remove()
        raise UserError(
            f"none of the {len(source)} images in {source.location} can be read (the first: {source.shown(index)}: "
            f"{reason})",
            "check the files",
        )


@contextmanager
def _to_the_end(smaller: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on where it was") from None
    except torch.OutOfMemoryError as error:
        raise UserError("the device ran out of memory", smaller) from error


def _go_on(work: Work, parts: PartsFolder, say: Say) -> None:
    """Adds parts up to the last image of the share."""
    before, stop = parts.stop, work.share.span(len(work.images), work.unit).stop
    batches = rows_of_each(work.images, work.rows_of, work.batch_size, work.workers, before, stop)
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
