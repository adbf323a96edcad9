"""What a GPU may want of our training step, each alone, as contenders of `benchmarks/gpu.py`; compiled block by block,
which takes seconds where the whole takes minutes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from openmae.data.loading.stream import Batch
from openmae.machine.device import repeatable
from openmae.model import Architecture, MaskedAutoencoder
from openmae.recipes.bench.steps import OurStepper, Stepper, Where, rehearsed, small

BLOCKS = "compiled block by block"
REPEATABLE = "adding up in the same order each time"
FROM_HOST = "images copied from page-locked memory within the step"
AHEAD = "the next images copied by a stream of their own"
FOREACH = "AdamW not fused"
HALF = "the encoder's residuals in bfloat16"
AUTOTUNED = "compiled whole, max-autotune-no-cudagraphs"
GRAPHS = "compiled whole, CUDA graphs"


@dataclass(frozen=True)
class Switched:
    """A step of ours with one thing otherwise. what: one of the names above."""

    architecture: Architecture
    what: str

    def start(self, where: Where) -> Stepper:
        """The model with fresh weights."""
        rehearsed(OurStepper(small(self.architecture).build(), False, where))
        return STEPPERS.get(self.what, OneOf)(self.architecture.build(), self.what, where)


class OneOf(OurStepper):
    """Compiled as `what` says, else block by block."""

    def __init__(self, model: MaskedAutoencoder, what: str, where: Where) -> None:
        super().__init__(model, False, where)
        mode = {AUTOTUNED: "max-autotune-no-cudagraphs", GRAPHS: "reduce-overhead"}.get(what)
        if mode is not None:
            self.forward: Callable[..., Any] = torch.compile(model, dynamic=False, mode=mode)
            return
        for part in model.modules():
            if isinstance(part, nn.ModuleList):
                for block in part:
                    block.compile(dynamic=False)


class Repeatable(OneOf):
    """As the training loop takes its steps on a GPU."""

    def step(self) -> None:
        """The training's."""
        with repeatable(self.device):
            super().step()


class FromHost(OneOf):
    """Batches of uint8 images as the loader's processes leave them, normalised on the device."""

    def resize(self, micro_batch: int) -> None:
        """The batches on the CPU, in memory from which a GPU copies while it works."""
        super().resize(micro_batch)
        self.batches = cycle([on_host(next(self.batches)) for _ in range(2)])

    def _loss(self, model: MaskedAutoencoder, batch: Batch) -> Tensor:
        return super()._loss(model, replace(batch, images=(batch.images.float() - MIDDLE) / SPREAD))


class Ahead(FromHost):
    """The next batch is on its way while the step computes."""

    def resize(self, micro_batch: int) -> None:
        """As FromHost."""
        super().resize(micro_batch)
        if self.device.type == "cuda":
            self.batches = copied_ahead(self.batches, self.device)


class Foreach(OneOf):
    """AdamW as torch has it by default; it heeds no `found_inf`."""

    def __init__(self, model: MaskedAutoencoder, what: str, where: Where) -> None:
        super().__init__(model, what, where)
        plain = PlainAdamW(self.optimizer.param_groups, betas=(0.9, 0.95), fused=False, foreach=True)
        for group in plain.param_groups:
            group.update(fused=False, foreach=True)
        self.optimizer = plain


class PlainAdamW(torch.optim.AdamW):
    """Deaf to what the step says of its gradient."""

    found_inf = property(lambda self: None, lambda self, value: None)


class HalfResiduals(OneOf):
    """What the encoder's blocks add to is rounded to bfloat16, as the decoder's is."""

    def __init__(self, model: MaskedAutoencoder, what: str, where: Where) -> None:
        super().__init__(model, what, where)
        embed, kind = model.encoder.embed, torch.bfloat16 if where.precision == "bf16" else torch.float32

        def rounded(patches: Tensor, places: Tensor | None = None) -> Tensor:
            return embed(patches, places).to(kind)

        model.encoder.embed = rounded  # type: ignore[method-assign]


STEPPERS: dict[str, type[OneOf]] = {
    REPEATABLE: Repeatable,
    FROM_HOST: FromHost,
    AHEAD: Ahead,
    FOREACH: Foreach,
    HALF: HalfResiduals,
}


MIDDLE, SPREAD = 128, 40  # of images of mean 0 and deviation 1, as uint8


def on_host(batch: Batch) -> Batch:
    batch = batch.to(torch.device("cpu"))
    images = (batch.images * SPREAD + MIDDLE).clamp(0, 255).to(torch.uint8)
    parts = (images, batch.visible, batch.queries, batch.noise)
    images, visible, queries, noise = (part.pin_memory() if torch.cuda.is_available() else part for part in parts)
    return replace(batch, images=images, visible=visible, queries=queries, noise=noise)


def copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on the device, the next one of each on its way by a stream of its own."""
    copying = torch.cuda.Stream(device)

    def begun() -> Batch:
        with torch.cuda.stream(copying):
            return next(batches).to(device)

    coming = begun()
    while True:
        here, computing = coming, torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for tensor in (here.images, here.visible, here.queries, here.noise):
            tensor.record_stream(computing)  # its memory is the other stream's
        coming = begun()
        yield here
