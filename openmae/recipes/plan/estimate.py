"""The arithmetic of a plan: from operations and a speed to hours, on one device and on many, as it is and changed."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from rich.console import Console

from openmae.errors import UserError
from openmae.machine.kinds import Precision
from openmae.machine.lanes import Lanes
from openmae.model import SIZES, Architecture
from openmae.recipes.plan.speed import Speed
from openmae.recipes.pretrain.build import Pretraining
from openmae.recipes.pretrain.choose import FAST_DEPTH, FAST_FRACTION, settle
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.memory import usable_memory
from openmae.train.cost import Flops, Memory, flops, largest_micro_batch, mean_work, memory, parameters

COUNTS = (1, 8, 16, 32, 64)  # of GPUs that are simulated
BACKWARD = 2 / 3  # of a step: two of every three products


@dataclass(frozen=True)
class Scaled:
    """A run on several devices. step: seconds. efficiency: above 0 and up to 1, of what as many would do that exchange
    nothing. hours: of the run."""

    count: int
    step: float
    efficiency: float
    hours: float

    @property
    def device_hours(self) -> float:
        """Of all of them together."""
        return self.hours * self.count


@dataclass(frozen=True)
class Estimate:
    """What a run costs.

    settings: everything chosen; planned: what follows from it. speed, other: in its precision and in the other one,
    None where that was not measured. room: bytes that a device has. link: bytes a second.
    """

    settings: Pretrain
    images: int
    planned: Pretraining
    speed: Speed
    other: Speed | None
    device_type: str
    room: int
    gpus: int
    link: float

    @property
    def flops(self) -> Flops:
        """Of an image."""
        return flops(self.architecture)

    @property
    def architecture(self) -> Architecture:
        """Of the model."""
        return self.planned.architecture

    @property
    def steps(self) -> int:
        """Of the optimizer."""
        return self.planned.course.schedule.steps

    @property
    def batch_size(self) -> int:
        """Images of a step."""
        return self.planned.course.schedule.batch_size

    @property
    def micro_batch(self) -> int:
        """Images that a device takes at once: no more than its share."""
        return min(self.planned.course.schedule.micro_batch, -(-self.batch_size // self.gpus))

    @property
    def views(self) -> int:
        """Images of all steps together."""
        return self.steps * self.batch_size

    @property
    def recomputes(self) -> bool:
        """Whether blocks are computed again in the backward pass."""
        return self.planned.grad_checkpointing

    @property
    def precision(self) -> Precision:
        """Of the products."""
        return self.planned.course.schedule.precision

    @property
    def work(self) -> float:
        """Operations of all steps together."""
        return self.views * mean_work(self.architecture, self.recomputes)

    @property
    def images_per_second(self) -> float:
        """Of one device."""
        return self.speed.rate / mean_work(self.architecture, self.recomputes)

    @property
    def memory(self) -> Memory:
        """Of one device."""
        return memory(
            self.architecture, self.precision, self.micro_batch, self.recomputes, self.device_type, self.lanes
        )

    @property
    def largest(self) -> int:
        """Images that fit at once; 0 where not even one does."""
        share = -(-self.batch_size // self.gpus)
        return largest_micro_batch(
            self.architecture, self.precision, share, self.usable, share, self.recomputes, self.device_type, self.lanes
        )

    @property
    def lanes(self) -> Lanes:
        """Of one device, as here."""
        return Lanes.here(torch.device(self.device_type))

    @property
    def usable(self) -> int:
        """Bytes of `room` that a step may take."""
        return usable_memory(self.room, self.device_type, self.settings.workers)

    def scaled(self, count: int) -> Scaled:
        """The same run, the batch shared by `count` devices.

        Gradients, float32, go around a ring, 2 (n - 1) / n of them over each link, while the backward pass of the last
        micro-batch is computed; what takes longer than that is waited for.
        """
        alone = self.batch_size / self.images_per_second
        computing = alone / count
        exchange = 2 * (count - 1) / count * 4 * sum(parameters(self.architecture)) / self.link
        last = min(1.0, self.micro_batch * count / self.batch_size)
        step = computing + max(0.0, exchange - BACKWARD * last * computing)
        return Scaled(count, step, computing / step, self.steps * step / 3600)

    def scaling(self) -> list[Scaled]:
        """On more and more devices, as long as each has an image of every step."""
        counts = sorted({*COUNTS, self.gpus})
        return [self.scaled(count) for count in counts if count <= self.batch_size]

    def changes(self, of_model: Callable[[str], Pretrain]) -> Iterator[tuple[str, "Estimate"]]:
        """The flags that change one thing, with what the run costs then. of_model: the settings for another encoder."""
        settings = self.settings
        depth = min(settings.decoder_depth or FAST_DEPTH, FAST_DEPTH)
        light = replace(settings, decoder="cross", decoder_depth=depth, predict_fraction=FAST_FRACTION)
        wanted = {
            f"--decoder cross --decoder-depth {depth} --predict-fraction {FAST_FRACTION:g}": light,
            "--decoder-depth 1": replace(settings, decoder_depth=1),
            "--mask-ratio 0.5": replace(settings, mask_ratio=0.5),
            "--mask-ratio 0.9": replace(settings, mask_ratio=0.9),
            f"--grad-checkpointing {'off' if self.recomputes else 'on'}": replace(
                settings, grad_checkpointing="off" if self.recomputes else "on"
            ),
        }
        if self.other is not None:
            precision: Precision = "fp32" if self.precision == "bf16" else "bf16"
            wanted[f"--precision {precision}"] = replace(settings, precision=precision)
        for name in _neighbours(settings):
            wanted[f"--model {name}"] = of_model(name)
        for what, changed in wanted.items():
            if changed == settings:
                continue
            with suppress(UserError, ValueError):  # this grid cannot hide so many
                planned = settle(changed, self.images, Console(quiet=True))
                yield what, replace(self, settings=changed, planned=planned, speed=self._speed_of(changed))

    def _speed_of(self, changed: Pretrain) -> Speed:
        return self.other if self.other is not None and changed.precision != self.settings.precision else self.speed


def _neighbours(settings: Pretrain) -> list[str]:
    """The next smaller and the next larger model; none of a model of one's own sizes."""
    if settings.model is None or (settings.embed_dim, settings.depth, settings.num_heads) != (None, None, None):
        return []
    names = list(SIZES)
    at = names.index(settings.model)
    return [*names[max(0, at - 1) : at], *names[at + 1 : at + 2]]
