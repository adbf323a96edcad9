"""The device that computes, and in which precision."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmae.distributed.ranks import ALONE, Ranks, require_gpu
from openmae.distributed.started import Started
from openmae.errors import UserError
from openmae.machine.kinds import Device, Precision
from openmae.machine.memory import ram


def choose_precision(device: torch.device) -> tuple[Precision, str]:
    """The precision that suits the device, and why."""
    bf16 = has_fast_bf16(device)
    why = f"the processor has {'fast' if bf16 else 'no fast'} bfloat16 products"
    return "bf16" if bf16 else "fp32", why


def choose_device(wanted: Device) -> torch.device:
    """The device asked for, or the best there is. Raises UserError where it is not there."""
    # Without it torch takes cuBLAS for unrepeatable (see `repeatable`); it is read when cuBLAS is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, usable in there.items() if usable))
    if not there[wanted]:
        usable = ", ".join(name for name, is_there in there.items() if is_there)
        raise UserError(f"torch finds no {wanted} device on this machine", f"choose `device` {usable}")
    return torch.device(wanted)


def device_of(device: torch.device, ranks: Ranks | Started) -> torch.device:
    """The one of that type that is this process's. Raises UserError where there are fewer than processes."""
    if device.type != "cuda" or ranks.size == 1:
        return device
    require_gpu(ranks.local_rank, ranks.local_size)
    return torch.device("cuda", ranks.local_rank)


def memory_of(device: torch.device, ranks: Ranks = ALONE) -> int:
    """Bytes of memory that the device has in all, or a rank's part of what the machine has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return ram() // ranks.local_size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device or of the machine could not hold what was asked for."""
    words = (  # of torch's allocator, of C++, of oneDNN, which says no more than that, and of CUDA's own libraries
        "DefaultCPUAllocator",
        "bad_alloc",
        "could not create a primitive",
        "could not create a memory",
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """bfloat16 for the products where asked; weights, sums and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def fetching(values: Tensor) -> Callable[[], Tensor]:
    """Begins to bring the values to the CPU; gives what waits for them there, and for nothing that a GPU is given
    meanwhile. It does in order what it is given, so `values.cpu()` would wait for all of it."""
    if values.device.type != "cuda":
        return values.cpu
    here = values.to("cpu", non_blocking=True)  # into page-locked memory, while it works
    come = torch.cuda.Event(blocking=True)  # who waits leaves the core to the loader's processes
    come.record(torch.cuda.current_stream(values.device))

    def wait() -> Tensor:
        come.synchronize()
        return here

    return wait


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within, a GPU adds up in the same order each time: flash attention's gradient and some others do not by
    themselves. What cannot raises RuntimeError, see `is_unrepeatable`. CPUs always do."""
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        yield
        return
    memory: Any = torch.utils.deterministic
    fills, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False  # it is for finding errors
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        memory.fill_uninitialized_memory = fills


def is_unrepeatable(error: BaseException) -> bool:
    """Whether it says that something cannot be computed in the same order each time."""
    return "deterministic" in str(error)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the processor multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
