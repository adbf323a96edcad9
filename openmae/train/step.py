"""One optimizer step: micro-batches forward and backward, the gradient's norm, the update."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from openmae.train.sharding import gathered

if TYPE_CHECKING:
    from openmae.train.learner import Learner

Precision = Literal["bf16", "fp32"]


class TrainingBatch(Protocol):
    """What a step asks of a batch."""

    def __len__(self) -> int: ...
    def to(self, device: torch.device) -> Self:
        """The batch with its tensors on the device."""
        ...

    @property
    def indices(self) -> Tensor:
        """(B,) which samples these are."""
        ...


B = TypeVar("B", bound=TrainingBatch)
M = TypeVar("M", bound=nn.Module)


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
    clip_grad: float | None,
    device: torch.device,
    precision: Precision,
    votes: Callable[[], tuple[float, ...]] = tuple,
) -> Taken:
    """One optimizer step over `batch_size` samples, in the micro-batches that come; nothing in it waits for a GPU.

    share: how many of the samples are this rank's; default all. votes: gives numbers, when
    the gradient is there, that are added up over the ranks in the exchange that the loss needs anyway.
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
    if clip_grad is not None:
        nn.utils.clip_grads_with_norm_(learner.model.parameters(), clip_grad, norm)
    optimizer.found_inf = (~torch.isfinite(told[0] + norm)).float()  # type: ignore[attr-defined]  # as GradScaler does
    optimizer.step()
    learner.level()
    return Taken(told[0], norm, told[1:], indices, waited)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device or of the machine could not hold what was asked for."""
    words = (  # of torch's allocator, of C++, and of oneDNN, which says no more than that
        "DefaultCPUAllocator",
        "bad_alloc",
        "could not create a primitive",
        "could not create a memory",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """bfloat16 for the products where asked; weights, sums and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
