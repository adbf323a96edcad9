"""How fast a machine trains: measured by a few steps here, or read from what `openmae bench` wrote elsewhere."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from openmae.console.progress import counting
from openmae.data.loading.stream import Batch
from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.machine.kinds import Precision
from openmae.machine.lanes import Lanes
from openmae.model import SIZES, MaskedAutoencoder
from openmae.recipes.bench.steps import random_parts
from openmae.train.learner import Learner
from openmae.train.optimizers import adamw
from openmae.train.step import take_step

MOST_STEPS, FEW_STEPS = 20, 5
_OURS = "openmae"  # the contender of bench.json
_LEAST_RATE, _MOST = 1e6, 1e24  # operations a second, and bytes, that a machine may have


@dataclass(frozen=True)
class Speed:
    """rate: floating-point operations a second that the model asks for (see cost.py). said: how this is known."""

    rate: float
    said: str


@dataclass(frozen=True)
class _Entry:
    model: str
    precision: Precision
    rate: float
    memory: int | None


@dataclass(frozen=True)
class Measured:
    """What a bench.json says of our own steps. device: cpu or cuda. memory: bytes that a step took at most, None where
    that is not known."""

    machine: str
    device: str
    entries: tuple[_Entry, ...]

    @property
    def memory(self) -> int | None:
        """Bytes that the largest step took, None where that is not known."""
        return max((entry.memory for entry in self.entries if entry.memory), default=None)

    @property
    def precision(self) -> Precision:
        """What an automatic choice takes on that machine."""
        return "bf16" if any(entry.precision == "bf16" for entry in self.entries) else "fp32"

    def speed(self, model: str, precision: Precision) -> Speed:
        """Of the same model and precision, else of the nearest model; of that precision, if there is any."""
        order = list(SIZES)

        def distance(entry: _Entry) -> tuple[bool, int]:
            return entry.precision != precision, abs(order.index(entry.model) - order.index(model))

        entry = min(self.entries, key=distance)
        same = distance(entry) == (False, 0)
        instead = "" if same else f", for want of {model} in {precision}"
        return Speed(entry.rate, f"as {entry.model} in {entry.precision} reached on {self.machine}{instead}")


def read_measured(file: Path) -> Measured:
    """What `openmae bench --out FOLDER` wrote to FOLDER/bench.json. Raises UserError for anything else."""
    file = file / "bench.json" if file.is_dir() else file
    advice = "give the bench.json that openmae bench --out FOLDER writes"
    try:
        found = read_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--measured {file} cannot be read ({error})", advice) from error
    try:
        entries = tuple(_entry(result) for result in found["results"] if _is_ours(result))
        if found["device"] not in ("cpu", "cuda", "mps"):
            raise ValueError(f"device {found['device']}")
        measured = Measured(" ".join(str(found["machine"]).split()), found["device"], entries)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"--measured {file} is not of openmae bench ({error!r})", advice) from error
    if not entries:
        raise UserError(f"--measured {file} has no result of {_OURS} itself", advice)
    return measured


def _is_ours(result: Any) -> bool:
    return bool(result["contender"] == _OURS)


def _entry(result: Any) -> _Entry:
    rate, memory = float(result["tflops"]) * 1e12, result["peak_memory"]
    if result["model"] not in SIZES or result["precision"] not in ("bf16", "fp32"):
        raise ValueError(f"{result['model']} in {result['precision']}")
    if not _LEAST_RATE < rate < _MOST:
        raise ValueError(f"tflops {result['tflops']}")
    if memory is not None and not 0 < memory < _MOST:
        raise ValueError(f"peak_memory {memory}")
    return _Entry(result["model"], result["precision"], rate, None if memory is None else int(memory))


def dry_run(
    model: MaskedAutoencoder,
    device: torch.device,
    precision: Precision,
    batch_size: int,
    most: int,
    work: int,
    deadline: float,
    console: Console,
) -> Speed:
    """Takes real steps on random images, up to MOST_STEPS of up to `most` images, and says how fast steps of batch_size
    images would be: the update of the weights, which few images feel more, is timed by itself.

    work: operations of an image. deadline: when to end, by time.perf_counter; one step is timed in any case.
    """
    model.to(device).train()
    optimizer = adamw(model, (0.9, 0.95), 0.05)
    clock, most_lanes = _Clock(optimizer), Lanes.here(device)

    def step(batches: Iterator[Batch], count: int) -> tuple[float, float]:
        return clock.timed(model, batches, optimizer, count, device, precision, most_lanes.of(count))

    def fits(seconds: float) -> bool:
        return time.perf_counter() + seconds < deadline

    def batches_of(count: int) -> Iterator[Batch]:
        return cycle(random_parts(model, count, most_lanes.of(count), masks=1))

    count, batches = 1, batches_of(1)
    step(batches, count)  # memory is fetched, and the processor's libraries start
    times = [step(batches, count)]
    # As many images as leave time for a few steps: a processor works better on many.
    while 2 * count <= most and fits((FEW_STEPS + 1) * 2 * sum(times[0])):
        count *= 2
        batches = batches_of(count)
        times = [step(batches, count)]
    with counting(f"measuring in {precision}", MOST_STEPS * count, console) as say:
        while len(times) < MOST_STEPS and fits(sum(times[-1])):
            times.append(step(batches, count))
            say(count * len(times))
    computing, updating = (float(np.median(part)) for part in zip(*times, strict=True))
    seconds = computing / count * batch_size + updating
    steps = "one step" if len(times) == 1 else f"{len(times)} steps"
    where = "CPU" if device.type == "cpu" else "GPU"
    each = f"{count} image{'s' * (count > 1)}"
    return Speed(work * batch_size / seconds, f"{steps} of {each} in {precision} on this {where}")


class _Clock:
    """Times steps, and the update of the weights in them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.began = self.updating = 0.0
        optimizer.register_step_pre_hook(self._begin)
        optimizer.register_step_post_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.updating = time.perf_counter() - self.began

    def timed(
        self,
        model: MaskedAutoencoder,
        batches: Iterator[Batch],
        optimizer: torch.optim.Optimizer,
        count: int,
        device: torch.device,
        precision: Precision,
        lanes: Lanes,
    ) -> tuple[float, float]:
        """Seconds of a step without its update, and of that."""
        began = time.perf_counter()
        learner = Learner(model, _loss_of)
        taken = take_step(
            learner, batches, optimizer, batch_size=count, device=device, precision=precision, lanes=lanes
        )
        _ = taken.norm  # waits for the device
        return time.perf_counter() - began - self.updating, self.updating


def _loss_of(model: MaskedAutoencoder, batch: Batch) -> Tensor:
    loss: Tensor = model(batch.images, batch.visible, batch.queries).loss
    return loss
