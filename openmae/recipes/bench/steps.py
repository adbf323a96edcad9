"""What a benchmark does again and again: training steps of our model, of others, and a matrix product."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, cycle, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from openmae.data.loading.stream import Batch
from openmae.machine.device import autocast, is_out_of_memory
from openmae.machine.kinds import Precision
from openmae.machine.lanes import ONE, Lanes
from openmae.model import Architecture, MaskedAutoencoder
from openmae.train.learner import Learner
from openmae.train.optimizers import adamw
from openmae.train.step import take_step

LR = 1e-4
_MASKS = 4  # batches of masks that are drawn beforehand
_SIZES = {"cpu": (1024, 2048, 4096), "gpu": (4096, 8192, 16384)}  # of the matrices that are multiplied
_GAIN = 1.02  # that makes larger ones worth their time
_LONG = 0.15  # seconds; what is twice as large takes eight times as long


@dataclass(frozen=True)
class Where:
    """device: a torch device's type. precision: what products are computed in; weights are float32 either way."""

    device: str
    precision: Precision


class Stepper(Protocol):
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

    def start(self, where: Where) -> Stepper:
        """Builds it there."""


@dataclass(frozen=True)
class Ours:
    """A step of this package's training, as the training loop takes it, the masks drawn beforehand, as the processes
    that load images do it."""

    architecture: Architecture
    compiled: bool = False

    def start(self, where: Where) -> Stepper:
        """The model with fresh weights."""
        rehearsed(OurStepper(small(self.architecture).build(), False, where))
        return OurStepper(self.architecture.build(), self.compiled, where)


class OurStepper:
    """Steps of our model as the training loop takes them, on batches that lie on the device."""

    def __init__(self, model: MaskedAutoencoder, compiled: bool, where: Where) -> None:
        self.base = _before(model)
        self.model, self.where, self.device, self.amount = model, where, torch.device(where.device), 0.0
        self.optimizer = _optimizer(model, self.device)
        self.forward: Callable[..., Any] = torch.compile(model, dynamic=False) if compiled else model
        self.learner = Learner(model, self._loss)
        self.most = ONE if compiled else Lanes.here(self.device)

    def resize(self, micro_batch: int) -> None:
        """Random images, the same ones at every step, with other masks."""
        self.lanes = self.most.of(micro_batch)
        self.batches: Iterator[Batch] = cycle(random_parts(self.model, micro_batch, self.lanes, _MASKS))
        self.amount = float(micro_batch)

    def step(self) -> None:
        """The training's."""
        take_step(
            self.learner,
            self.batches,
            self.optimizer,
            batch_size=int(self.amount),
            device=self.device,
            precision=self.where.precision,
            lanes=self.lanes,
        )

    def rest(self) -> None:
        """Drops the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def _loss(self, _: MaskedAutoencoder, batch: Batch) -> Tensor:
        loss: Tensor = self.forward(batch.images, batch.visible, batch.queries).loss
        return loss


class PlainStepper:
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
            loss = loss_in(self.forward(self.images))
        loss.backward()
        self.optimizer.step()

    def rest(self) -> None:
        """Drops the gradients."""
        self.optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Product:
    """A product of two square matrices, of the size at which the machine multiplies fastest."""

    def start(self, where: Where) -> Stepper:
        """Tries the sizes."""
        return _ProductJob(where)


class _ProductJob:
    def __init__(self, where: Where) -> None:
        self.where, self.amount = where, 0.0
        self.base: int | None = None
        self.matrices: list[Tensor] = []
        best, rate = 0, 0.0
        kind, tries = ("cpu", 2) if where.device == "cpu" else ("gpu", 20)  # a GPU's clock takes a moment to rise
        for size in _SIZES[kind]:
            try:
                self._use(size)
                seconds = min(timed(self.step, tries, where.device))
            except RuntimeError as error:
                if not best or not is_out_of_memory(error):
                    raise
                break
            if self.amount / seconds < _GAIN * rate:  # larger ones only take longer
                break
            best, rate = size, self.amount / seconds
            if seconds > _LONG:
                break
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


def rehearsed(stepper: Stepper) -> None:
    """A step of next to nothing: what libraries load at the first one is not to count as a contender's memory."""
    stepper.resize(1)
    stepper.step()


def small(architecture: Architecture) -> Architecture:
    """Of the same kind, and next to nothing."""
    sides = tuple(2 * side for side in architecture.patch_size)
    masking = replace(architecture.masking, mask_ratio=0.5)
    narrow = replace(architecture, embed_dim=32, num_heads=1, decoder_embed_dim=32, decoder_num_heads=1)
    return replace(narrow, img_size=sides, depth=1, decoder_depth=1, masking=masking)


def random_batches(model: MaskedAutoencoder, size: int, masks: int) -> list[Batch]:
    """Batches of the same random images, of mean 0 and deviation 1, each with other masks, where the model lies."""
    device = model.encoder.class_token.device
    images = _images(size, model.encoder.in_chans, model.encoder.img_size).to(device)
    draws = np.random.default_rng(0)
    batches = []
    for _ in range(masks):
        drawn = [model.masking.draw(draws, model.encoder.grid) for _ in range(size)]
        visible, queries = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        batch = Batch(images, visible, queries, torch.zeros(size, 0), torch.arange(size), 0, [])
        batches.append(batch.to(device))
    return batches


def random_parts(model: MaskedAutoencoder, size: int, lanes: Lanes, masks: int) -> list[Batch]:
    """As `random_batches`, each of them in the parts that lanes compute at once."""
    part = lanes.part(size, size)
    sizes = [min(part, size - begun) for begun in range(0, size, part)]
    return [*chain.from_iterable(zip(*(random_batches(model, one, masks) for one in sizes), strict=True))]


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


def loss_in(output: Any) -> Tensor:
    """The loss in what a model's forward pass gives: that itself, its .loss, or its first item."""
    if hasattr(output, "loss"):
        output = output.loss
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.numel() != 1:
        raise TypeError("its forward pass gives no loss: return it, something with .loss, or a tuple that begins so")
    return output


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


def _before(model: nn.Module) -> int | None:
    """Bytes resident without the model, which is on the CPU: then libraries that came with it do not count."""
    now = resident("VmRSS")
    held = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    return None if now is None else now - held


def resident(name: str) -> int | None:
    """A line of Linux's /proc/self/status in bytes; None elsewhere."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
