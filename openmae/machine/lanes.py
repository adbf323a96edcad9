"""Several parts of a batch at once on a CPU, each on cores of its own.

Where all cores share one operation, they wait for the slowest of them at the end of each, and small ones are over
before the others are awake. Lanes meet once a batch. Measured on two cores: docs/speed.md.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import record_function

Part = TypeVar("Part")
Found = TypeVar("Found")

MOST_LANES = 4
"""Python's own work is done for one lane at a time, and every lane has gradients of its own."""


@dataclass(frozen=True)
class Lanes:
    """count: parts at once. threads: that each of them computes with."""

    count: int = 1
    threads: int = 1

    @classmethod
    def among(cls, threads: int, most: int = MOST_LANES) -> "Lanes":
        """Up to `most` that share so many threads: two or more, as many as leave the fewest idle."""
        most = max(1, min(threads, most))
        count = max(range(min(2, most), most + 1), key=lambda count: (threads // count * count, count))
        return cls(count, threads // count)

    @classmethod
    def here(cls, device: torch.device) -> "Lanes":
        """As many as torch's threads make; one on a GPU."""
        return cls.among(torch.get_num_threads()) if device.type == "cpu" else ONE

    def of(self, micro_batch: int, least: int = 1) -> "Lanes":
        """No more of them than such a micro-batch can be parted into, in whole multiples of least."""
        return Lanes.among(self.count * self.threads, min(self.count, micro_batch // least))

    def part(self, micro_batch: int, share: int, least: int = 1) -> int:
        """How many samples a lane takes, so that no more than `micro_batch` go through the model at once, and a `share`
        that does so whole still does; a multiple of least."""
        if micro_batch >= share:
            return -(-share // (self.count * least)) * least
        return micro_batch // (self.count * least) * least

    def each(self, make: Callable[[Part], Found], parts: Sequence[Part]) -> list[Found]:
        """What `make` makes of the parts, in their order, computed at the same time: the same bits as one by one, with
        as many threads as a lane has. Modes of torch that hold for one thread alone are for `make` to set.

        Raises what the first part raises, once all that have begun have ended."""
        if self.count == 1:
            return [make(part) for part in parts]

        def made(part: Part) -> Found:
            torch.set_num_threads(self.threads)  # of this thread
            torch.set_autocast_cache_enabled(False)  # shared by all lanes; a weight is asked for once a part anyway
            return make(part)

        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.count) as pool:
                return list(pool.map(made, parts))
        finally:
            torch.set_num_threads(threads)  # what threads begin with that are made from here on

    def backward(self, losses: Sequence[Callable[[], Tensor]], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Computes the losses (scalars) by `each`, and adds their gradients to those of the parameters, one loss after
        the other."""

        def taken(loss_of: Callable[[], Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            loss = loss_of()
            with record_function("backward"):
                return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

        found = self.each(taken, losses)
        for _, gradients in found:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return [loss for loss, _ in found]


ONE = Lanes()
