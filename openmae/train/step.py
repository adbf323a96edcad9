"""One optimizer step: micro-batches forward and backward, the gradient's norm, the update."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import record_function

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
    """What came of a step. loss, norm: scalars on the device, maybe not computed yet; norm: of the whole gradient,
    before clipping; indices: of the samples; waited: seconds until the batches came."""

    loss: Tensor
    norm: Tensor
    indices: list[int]
    waited: float


def take_step(
    model: M,
    loss_of: Callable[[M, B], Tensor],
    batches: Iterator[B],
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int,
    clip_grad: float | None,
    device: torch.device,
    precision: Precision,
) -> Taken:
    """One optimizer step over `batch_size` samples, in the micro-batches that come; nothing in it waits for the device.

    Where loss or gradient is not finite, neither the weights nor the optimizer's averages move. The optimizer has to
    heed `found_inf`, as torch's fused ones and ours do.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=device)
    indices: list[int] = []
    waited = 0.0
    while len(indices) < batch_size:
        began = perf_counter()
        with record_function("wait for images"):
            batch = next(batches)
        waited += perf_counter() - began
        with record_function("forward"), autocast(device, precision):
            part = loss_of(model, batch.to(device)) * (len(batch) / batch_size)
        with record_function("backward"):
            part.backward()
        loss += part.detach()
        indices += batch.indices.tolist()
    norm = nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)
    if clip_grad is not None:
        nn.utils.clip_grads_with_norm_(model.parameters(), clip_grad, norm)
    optimizer.found_inf = (~torch.isfinite(loss + norm)).float()  # type: ignore[attr-defined]  # as GradScaler does
    optimizer.step()
    return Taken(loss, norm, indices, waited)


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
