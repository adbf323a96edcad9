"""Whether a training fits: its batch among the processes, its checkpoints on the disk, its work in memory."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from packaging.version import Version
from rich.console import Console
from torch import nn

from openmae.distributed.ranks import Ranks
from openmae.errors import NotWritten, UserError
from openmae.machine.device import is_out_of_memory
from openmae.train.checkpoint import KEEP

_SHARDS = Version("2.9")  # of torch, on CPUs


def tell_ranks(ranks: Ranks, shard: bool, console: Console) -> None:
    """Says how many processes train together, where it is more than one."""
    if ranks.size > 1:
        held = ", each with a part of the model" if shard else ""
        console.print(f"{ranks.size} processes train together{held}", soft_wrap=True)


def check_sharded(shard: bool, device: torch.device, ranks: Ranks) -> None:
    """Raises UserError where this torch cannot shard a model among CPUs."""
    # torch 2.6 has not what fully_shard calls; of 2.7 and 2.8 gloo adds gradients up where it should average them.
    if shard and ranks.size > 1 and device.type == "cpu" and Version(torch.__version__) < _SHARDS:
        raise UserError(
            f"--shard on CPUs needs torch {_SHARDS} or newer, and this is torch {torch.__version__}",
            "leave it out, or install a newer torch",
        )


def check_shares(batch_size: int, shard: bool, ranks: Ranks, unit: int = 1) -> None:
    """Raises UserError where the batch cannot be shared among the ranks, in whole units of so many images."""
    if shard and batch_size % ranks.size:
        raise UserError(
            f"--shard with --batch-size {batch_size} and {ranks.size} processes",
            "give a multiple of their number, or leave --shard out",
        )
    if -(-batch_size // unit) < ranks.size:
        of = f", since it is shared in groups of {unit}" if unit > 1 else ""
        raise UserError(
            f"--batch-size {batch_size} leaves some of the {ranks.size} processes without an image{of}",
            "raise it, or start fewer",
        )


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
            f"{free / 1e6:,.0f} MB free",
            f"free some, {'lower --keep, ' if keep > 1 else ''}or choose another --out",
        )


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
            "the machine ran out of memory",
            "run the same command again with --grad-checkpointing on or a smaller "
            "--micro-batch, which leave the result as it is; the run goes on from its last checkpoint",
        ) from error


RUN_BYTES = bytes_of_run(1, 1, KEEP)
"""Of a parameter, what a run takes on the disk at most."""
