"""One optimizer step: micro-batches forward and backward, the gradient's norm, the update."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from math import inf
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from openmae.distributed.sharding import gathered
from openmae.machine.device import autocast
from openmae.machine.kinds import Precision
from openmae.train.learner import B, Learner, M


@dataclass(frozen=True)
class Taken:
    """What came of a step. loss, norm: scalars on the device, maybe not computed yet, the same on all ranks; norm: of
    the whole gradient, before clipping; votes: the ranks', added up; indices: of this rank's samples; waited: seconds
    until its batches came."""

    loss: Tensor
    norm: Tensor
    votes: Tensor
    indices: list[int]
    waited: float


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
    votes: Callable[[], tuple[float, ...]] = tuple,
) -> Taken:
    """One optimizer step over `batch_size` samples, in the micro-batches that come; nothing in it waits for a GPU.

    share: how many of the samples are this rank's; default all. clip_grad: largest norm of the whole gradient. votes:
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
    while len(indices) < share:
        began = perf_counter()
        with record_function("wait for images"):
            batch = next(batches)
        waited += perf_counter() - began
        is_last = len(indices) + len(batch) >= share
        with learner.accumulating(is_last), ranks.waiting() if is_last else nullcontext():
            with record_function("forward"), autocast(device, precision):
                part = learner.loss(batch.to(device)) * (len(batch) / batch_size)
            with record_function("backward"):  # gradients are averaged over the ranks, and the batch is all of theirs
                (part * ranks.size).backward()
        loss += part.detach()
        indices += batch.indices.tolist()
    told = ranks.sum(torch.cat([loss[None], torch.tensor(votes(), device=device)]))
    norm = gathered(nn.utils.get_total_norm(p.grad for p in learner.model.parameters() if p.grad is not None))
    if clip_grad < inf:
        nn.utils.clip_grads_with_norm_(learner.model.parameters(), clip_grad, norm)
    optimizer.found_inf = (~torch.isfinite(told[0] + norm)).float()  # type: ignore[attr-defined]  # as GradScaler does
    optimizer.step()
    learner.level()
    return Taken(told[0], norm, told[1:], indices, waited)
