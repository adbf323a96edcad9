"""What the jobs ask of the machine: device, loader workers, room on the disk, a console."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from openmae.data.memory import ram
from openmae.errors import UserError
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


def memory_of(device: torch.device) -> int:
    """Bytes of memory that the device has in all."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else ram()


def workers_for(wanted: int | None, device: torch.device) -> int:
    """Loader processes: as asked, or all cores but one beside a GPU; on a CPU half of them, for they share it."""
    cores = _cores()
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


def check_room(out: Path, needed: int) -> None:
    """Raises UserError where the disk that holds `out` has less than `needed` bytes free, beside what is in it."""
    free = shutil.disk_usage(out).free + sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    if free < needed:
        raise UserError(
            f"{out} needs {needed / 1e6:,.0f} MB for its checkpoints and the disk has {free / 1e6:,.0f} MB free: "
            "free some, or choose another --out"
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
def enough_memory() -> Iterator[None]:
    """Turns torch's want of memory into one sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "the machine ran out of memory: run the same command again with a smaller --micro-batch, which leaves "
            "the batch as it is; the run goes on from its last checkpoint"
        ) from error


def make_console() -> Console:
    """Plain text to standard output, taken as it is; no line is broken where the output is not a terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=10_000)
