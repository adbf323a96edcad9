"""A contender's own process: it builds what it measures, and takes steps of it when it is told to."""

import gc
import math
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from openmae.data.stream import Batch
from openmae.model import Architecture, MaskedAutoencoder
from openmae.train.optimizers import adamw
from openmae.train.step import Precision, autocast, is_out_of_memory, take_step

TURN_SECONDS = 1.0  # a turn is as many steps as take this long
LR = 1e-4
_WATCH_SECONDS = 0.5
_MASKS = 4  # batches of masks that are drawn beforehand
_SIZES = {"cpu": (1024, 2048, 4096), "gpu": (4096, 8192, 16384)}  # of the matrices that are multiplied
_MOST_REASON = 100  # characters


@dataclass(frozen=True)
class Where:
    """device: a torch device's type. precision: what products are computed in; weights are float32 either way."""

    device: str
    precision: Precision


class Job(Protocol):
    """What a contender does again and again.

    amount: what a step gets done: images, or operations of a matrix product. base: bytes resident before the model
    was built, None where it is not known.
    """

    amount: float
    base: int | None

    def resize(self, micro_batch: int) -> None:
        """Makes the input of the steps to come."""

    def step(self) -> None:
        """Starts a step; on a GPU it may end later."""

    def rest(self) -> None:
        """Lets go of what a step makes anew."""


class Work(Protocol):
    """What a contender is, as it travels to its process."""

    def start(self, where: Where) -> Job:
        """Builds it there."""


@dataclass(frozen=True)
class Turn:
    """seconds: of each step. amount: what a step gets done. peak_memory: bytes, None where it cannot be measured."""

    seconds: tuple[float, ...]
    amount: float
    peak_memory: int | None


# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Ours:
    """A step of this package's training, as the training loop takes it, the masks drawn beforehand, as the processes
    that load images do it."""

    architecture: Architecture
    compiled: bool = False

    def start(self, where: Where) -> Job:
        """The model with fresh weights."""
        return _OurJob(self.architecture.build(), self.compiled, where)


class _OurJob:
    def __init__(self, model: MaskedAutoencoder, compiled: bool, where: Where) -> None:
        self.base = _before(model)
        self.model, self.where, self.device, self.amount = model, where, torch.device(where.device), 0.0
        self.optimizer = _optimizer(model, self.device)
        self.forward: Callable[..., Any] = torch.compile(model, dynamic=False) if compiled else model

    def resize(self, micro_batch: int) -> None:
        images = _images(micro_batch, self.model.architecture.in_chans, self.model.architecture.img_size)
        generator, grid = np.random.default_rng(0), self.model.encoder.grid
        batches = []
        for _ in range(_MASKS):
            drawn = [self.model.masking.draw(generator, grid) for _ in range(micro_batch)]
            visible, queries = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
            batch = Batch(images, visible, queries, torch.zeros(micro_batch, 0), torch.arange(micro_batch), 0, [])
            batches.append(batch.to(self.device))
        self.batches, self.amount = cycle(batches), float(micro_batch)

    def step(self) -> None:
        take_step(
            self.model,
            self._loss,
            self.batches,
            self.optimizer,
            batch_size=int(self.amount),
            clip_grad=None,
            device=self.device,
            precision=self.where.precision,
        )

    def rest(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _loss(self, _: MaskedAutoencoder, batch: Batch) -> Tensor:
        loss: Tensor = self.forward(batch.images, batch.visible, batch.queries).loss
        return loss


class PlainJob:
    """A plain step of any model that takes images (B, C, H, W), float32 of mean 0 and deviation 1, to their loss."""

    def __init__(
        self, model: nn.Module, compiled: bool, where: Where, in_chans: int, img_size: tuple[int, ...]
    ) -> None:
        self.base = _before(model)
        self.where, self.device, self.amount = where, torch.device(where.device), 0.0
        self.in_chans, self.img_size = in_chans, img_size
        self.optimizer = _optimizer(model, self.device)
        self.forward: Callable[..., Any] = torch.compile(model, dynamic=False) if compiled else model

    def resize(self, micro_batch: int) -> None:
        """Random images, the same ones at every step."""
        self.images = _images(micro_batch, self.in_chans, self.img_size).to(self.device)
        self.amount = float(micro_batch)

    def step(self) -> None:
        """Forward, backward, update. Raises TypeError where the model gives no loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.where.precision):
            loss = _loss_in(self.forward(self.images))
        loss.backward()
        self.optimizer.step()

    def rest(self) -> None:
        """Drops the gradients."""
        self.optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Product:
    """A product of two square matrices, of the size at which the machine multiplies fastest."""

    def start(self, where: Where) -> Job:
        """Tries the sizes."""
        return _ProductJob(where)


class _ProductJob:
    base = None

    def __init__(self, where: Where) -> None:
        self.where, self.amount = where, 0.0
        self.matrices: list[Tensor] = []
        best, rate = 0, 0.0
        for size in _SIZES["cpu" if where.device == "cpu" else "gpu"]:
            try:
                self._use(size)
                found = self.amount / min(timed(self.step, 2, where.device))
            except RuntimeError as error:
                if not best or not is_out_of_memory(error):
                    raise
                break
            if found < 1.02 * rate:  # larger ones only take longer
                break
            best, rate = size, found
        self._use(best)

    def _use(self, size: int) -> None:
        self.rest()
        self.size, self.amount = size, 2.0 * size**3

    def resize(self, micro_batch: int) -> None:
        pass

    def step(self) -> None:
        if not self.matrices:
            kind = torch.bfloat16 if self.where.precision == "bf16" else torch.float32
            self.matrices = [torch.randn(self.size, self.size, device=self.where.device).to(kind) for _ in range(3)]
        torch.matmul(self.matrices[0], self.matrices[1], out=self.matrices[2])

    def rest(self) -> None:
        self.matrices = []


def _images(count: int, in_chans: int, img_size: tuple[int, ...]) -> Tensor:
    return torch.randn(count, in_chans, *img_size, generator=torch.Generator().manual_seed(0))


def _optimizer(model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """The paper's, for a model that is put in its place; its averages are there from now on, so that what fits in
    memory once fits later too, whoever else has come meanwhile."""
    model.to(device).train()
    optimizer = adamw(model, (0.9, 0.95), 0.05)
    for group in optimizer.param_groups:
        group["lr"] = LR
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def _loss_in(output: Any) -> Tensor:
    """The loss in what a model's forward pass gives: that itself, its .loss, or its first item."""
    if hasattr(output, "loss"):
        output = output.loss
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.numel() != 1:
        raise TypeError("its forward pass gives no loss: return it, something with .loss, or a tuple that begins so")
    return output


# ---------------------------------------------------------------- how it is measured


def timed(step: Callable[[], None], times: int, device: str) -> tuple[float, ...]:
    """Seconds that each of `times` steps takes. On a GPU by its own clock, without a wait between steps."""
    if device == "cuda":
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
        marks[0].record()
        for mark in marks[1:]:
            step()
            mark.record()
        torch.cuda.synchronize()
        return tuple(before.elapsed_time(after) / 1000 for before, after in pairwise(marks))
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        step()
        if device == "mps":
            torch.mps.synchronize()
        seconds.append(time.perf_counter() - began)
    return tuple(seconds)


class _Runner:
    """Answers what it is asked; see bench_rounds.py for the order."""

    def __init__(self, job: Job, where: Where) -> None:
        self.job, self.device, self.steps = job, where.device, 1
        self.can_reset_peak = False

    def fit(self, micro_batch: int) -> float:
        """Seconds of one step with so many images; infinity where memory does not hold it."""
        try:
            self.job.resize(micro_batch)
            return timed(self.job.step, 1, self.device)[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return math.inf
        finally:
            self._make_room()

    def warm_up(self, micro_batch: int) -> None:
        """Two steps (a compiler works in the first one), whose second says how many make a turn."""
        self.job.resize(micro_batch)
        _, seconds = (timed(self.job.step, 1, self.device)[0] for _ in range(2))
        self.steps = max(1, math.ceil(TURN_SECONDS / seconds))
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError):  # not Linux, or not allowed
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: man 5 proc
            self.can_reset_peak = True
        self._make_room()

    def turn(self) -> Turn:
        """A turn's steps. On a GPU one more comes before them, since memory has to be fetched anew."""
        if self.device != "cpu":
            timed(self.job.step, 1, self.device)
        seconds = timed(self.job.step, self.steps, self.device)
        peak = self._peak()
        self._make_room()
        return Turn(seconds, self.job.amount, peak)

    def _peak(self) -> int | None:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        peak = _memory("VmHWM") if self.device == "cpu" and self.can_reset_peak else None
        return None if peak is None or self.job.base is None else peak - self.job.base

    def _make_room(self) -> None:
        """For the next contender."""
        if self.device == "cpu":
            return
        self.job.rest()
        gc.collect()  # what a step that failed has left
        if self.device == "cuda":
            torch.cuda.empty_cache()


def _before(model: nn.Module) -> int | None:
    """Bytes resident without the model, which is on the CPU: then libraries that came with it do not count."""
    resident = _memory("VmRSS")
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    return None if resident is None else resident - held


def _memory(name: str) -> int | None:
    """A line of Linux's /proc/self/status in bytes; None elsewhere."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


# ---------------------------------------------------------------- the process


@dataclass(frozen=True)
class Answer:
    """value: what was asked for; failed: why there is none, in a few words."""

    value: Any = None
    failed: str | None = None


def serve(work: Work, where: Where, pipe: Connection, parent: int) -> None:
    """The process's life: says that it has built its contender, then answers until the pipe is closed or the parent
    has died."""
    quiet = os.open(os.devnull, os.O_WRONLY)  # what libraries print would tear the parent's progress
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()  # a step may be long
    runner: list[_Runner] = []

    def build() -> None:
        torch.manual_seed(0)
        runner.append(_Runner(work.start(where), where))

    with suppress(EOFError, OSError):  # the parent has left
        pipe.send(_answer(build))
        while True:
            what, *given = pipe.recv()
            pipe.send(_answer(getattr(runner[0], what), *given))


def _answer(function: Callable[..., Any], *given: Any) -> Answer:
    try:
        return Answer(function(*given))
    except BaseException as error:  # SystemExit of a peer's code too
        return Answer(failed="out of memory" if is_out_of_memory(error) else _reason(error))


def _reason(error: BaseException) -> str:
    """ValueError: what is wrong, on one line that is not long."""
    said = " ".join(str(error).split())
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return text if len(text) <= _MOST_REASON else f"{text[: _MOST_REASON - 3]}..."


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


