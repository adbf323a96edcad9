"""One optimizer step: micro-batches forward and backward, the gradient's norm, the update."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from openmae.distributed.sharding import gathered
from openmae.machine.device import autocast, fetching
from openmae.machine.kinds import Precision
from openmae.machine.lanes import ONE, Lanes
from openmae.train.learner import B, Learner, M


@dataclass(frozen=True)
class Taken:
    """What came of a step. indices: of this rank's samples; waited: seconds until its batches came. The other numbers
    are the same on all ranks; the first one asked for waits until the device has computed the step, and no later one.
    """

    fetched: Callable[[], Tensor]
    indices: list[int]
    waited: float

    @cached_property
    def numbers(self) -> list[float]:
        """Loss, norm, whether it is dropped, votes."""
        return list(self.fetched().tolist())

    @property
    def loss(self) -> float:
        """Of the batch."""
        return self.numbers[0]

    @property
    def norm(self) -> float:
        """Of the whole gradient, before clipping."""
        return self.numbers[1]

    @property
    def is_dropped(self) -> bool:
        """Whether loss or gradient was not finite, so that nothing moved."""
        return self.numbers[2] > 0

    @property
    def votes(self) -> list[float]:
        """The ranks', added up."""
        return self.numbers[3:]


def take_step(
    learner: "Learner[M, B]",
    batches: Iterator[B],
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int,
    share: int | None = None,
    device: torch.device,
    precision: Precision,
    clip_grad: float = inf,
    lanes: Lanes = ONE,
    votes: Callable[[], tuple[float, ...]] = tuple,
) -> Taken:
    """One optimizer step over `batch_size` samples, in the micro-batches that come; nothing in it waits for a GPU.

    share: how many of the samples are this rank's; default all. clip_grad: largest norm of the whole gradient. lanes:
    in which micro-batches are computed at once, where one process trains alone by a loss that changes nothing. votes:
    gives numbers, when the gradient is there, that are added up over the ranks in the exchange that the loss needs
    anyway.
    Where loss or gradient is not finite on any rank, neither the weights nor the optimizer's averages move, on all of
    them. The optimizer has to heed `found_inf`, as torch's fused ones and ours do.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=device)
    indices: list[int] = []
    waited, share = 0.0, batch_size if share is None else share
    ranks = learner.ranks

    def part_of(batch: B) -> Tensor:
        with record_function("forward"), autocast(device, precision):
            return learner.loss(batch.to(device)) * (len(batch) / batch_size)

    learning = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    while len(indices) < share:
        began, parts = perf_counter(), list[B]()
        with record_function("wait for images"):
            while len(parts) < lanes.count and len(indices) < share:
                parts.append(next(batches))
                indices += parts[-1].indices.tolist()
        waited += perf_counter() - began
        if lanes.count > 1:
            for part in lanes.backward([partial(part_of, batch) for batch in parts], learning):
                loss += part
            continue
        is_last = len(indices) >= share
        with learner.accumulating(is_last), ranks.waiting() if is_last else nullcontext():
            part = part_of(parts[0])
            with record_function("backward"):  # gradients are averaged over the ranks, and the batch is all of theirs
                (part * ranks.size).backward()
        loss += part.detach()
    told = ranks.sum(torch.cat([loss[None], torch.tensor(votes()).to(device, non_blocking=True)]))
    norm = gathered(nn.utils.get_total_norm(p.grad for p in learner.model.parameters() if p.grad is not None))
    if clip_grad < inf:
        nn.utils.clip_grads_with_norm_(learner.model.parameters(), clip_grad, norm)
    found_inf = (~torch.isfinite(told[0] + norm)).float()
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # as GradScaler does
    optimizer.step()
    learner.level()
    return Taken(fetching(torch.cat([told[:1], norm[None], found_inf[None], told[1:]])), indices, waited)
