"""What the jobs ask of the machine: device, loader workers, room on the disk, a console."""

import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
from rich.console import Console
from rich.text import Text
from torch import nn

from openmae.data.memory import ram
from openmae.errors import NotWritten, UserError
from openmae.printable import printable
from openmae.ranks import ALONE, Ranks
from openmae.recipes.choices import Settings
from openmae.train.run import DISK_FULL
from openmae.train.step import is_out_of_memory

Device = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(wanted: Device) -> torch.device:
    """The device asked for, or the best there is. Raises UserError where it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, usable in there.items() if usable))
    if not there[wanted]:
        usable = ", ".join(name for name, is_there in there.items() if is_there)
        raise UserError(f"torch finds no {wanted} device on this machine: choose --device {usable}")
    return torch.device(wanted)


def device_of(device: torch.device, ranks: Ranks) -> torch.device:
    """The one of that type that is this rank's."""
    return torch.device("cuda", ranks.local_rank) if device.type == "cuda" and ranks.size > 1 else device


def tell_ranks(ranks: Ranks, settings: Settings, console: Console) -> None:
    """Says how many processes train together, where it is more than one."""
    if ranks.size > 1:
        held = ", each with a part of the model" if settings.shard else ""
        console.print(f"{ranks.size} processes train together{held}", soft_wrap=True)


def memory_of(device: torch.device, ranks: Ranks = ALONE) -> int:
    """Bytes of memory that the device has in all, or a rank's part of what the machine has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return ram() // ranks.local_size


def check_shares(settings: Settings, ranks: Ranks, unit: int = 1) -> None:
    """Raises UserError where the batch cannot be shared among the ranks, in whole units of so many images."""
    assert settings.batch_size is not None
    if settings.shard and settings.batch_size % ranks.size:
        raise UserError(
            f"--shard with --batch-size {settings.batch_size} and {ranks.size} processes: give a multiple of their "
            "number, or leave --shard out"
        )
    if -(-settings.batch_size // unit) < ranks.size:
        of = f", since it is shared in groups of {unit}" if unit > 1 else ""
        raise UserError(
            f"--batch-size {settings.batch_size} leaves some of the {ranks.size} processes without an image{of}: raise "
            "it, or start fewer"
        )


def workers_for(wanted: int | None, device: torch.device, ranks: Ranks = ALONE) -> int:
    """Loader processes of a rank: as asked, or its share of the cores, all but one of them beside a GPU; on a CPU half
    of them, for training takes them too."""
    cores = max(1, _cores() // ranks.local_size)
    return _as_asked(wanted, min(16, max(1, cores - 1)) if device.type != "cpu" else min(4, cores // 2))


def reading_workers(wanted: int | None) -> int:
    """Processes that read, where nothing is trained beside them: as asked, or one a core. Raises UserError."""
    return _as_asked(wanted, _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_asked(wanted: int | None, default: int) -> int:
    if wanted is not None and wanted < 0:
        raise UserError(f"--workers is {wanted}: give 0 or more")
    return default if wanted is None else wanted


def bytes_of_run(weights: int, learned: int, keep: int, averages: int = 2) -> int:
    """What a run takes at most: the checkpoints that are kept and the one that is being written, each of all weights
    and of `averages` of those that learn; and the weights alone beside them."""
    return 4 * (weights + (keep + 1) * (weights + averages * learned))


def check_room(out: Path, model: nn.Module, keep: int, averages: int = 2) -> None:
    """Raises UserError where the disk that holds `out` has not enough free for a run, beside what is in it.

    averages: that an optimizer keeps of each weight that learns.
    """
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    learned = sum(size for size, learns in sizes if learns)
    needed = bytes_of_run(sum(size for size, _ in sizes), learned, keep, averages)
    free = shutil.disk_usage(out).free + sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    if free < needed:
        raise UserError(
            f"{out} needs {needed / 1e6:,.0f} MB for its checkpoints (--keep {keep}), and the disk has "
            f"{free / 1e6:,.0f} MB free: free some, {'lower --keep, ' if keep > 1 else ''}or choose another --out"
        )


@contextmanager
def room_on_disk(out: Path) -> Iterator[None]:
    """Turns a full disk into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"the disk that holds {out} is full: free some space and run the same command again; what was saved "
            "before is untouched"
        ) from error


@contextmanager
def written(run: Path, steps: int, step: int) -> Iterator[None]:
    """Turns what the disk refuses of a run that has done its work into one sentence."""
    try:
        yield
    except (OSError, UserError) as error:
        cause = error.__cause__ if isinstance(error, UserError) else error
        if not isinstance(cause, OSError):
            raise
        raise NotWritten(
            f"the run in {run} took {step:,} of its {steps:,} steps, but its weights or report could not be written "
            f"({cause.strerror}): mend that and run the same command again, which goes on from the last checkpoint"
        ) from error


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turns torch's want of memory into one sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "the machine ran out of memory: run the same command again with --grad-checkpointing on or a smaller "
            "--micro-batch, which leave the result as it is; the run goes on from its last checkpoint"
        ) from error


def make_console(*, outlives_terminal: bool = False) -> Console:
    """Plain text to standard output, taken as it is; no line is broken where the output is not a terminal.

    outlives_terminal: what can no longer be shown, because the terminal or the reader has left, is dropped.
    """
    file: Any = _Lasting(sys.stdout) if outlives_terminal else None
    console = _Console(file=file, highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        return console
    return _Console(file=file, highlight=False, markup=False, emoji=False, width=10_000)


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
