"""The device that computes, and in which precision."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from openmae.distributed.ranks import ALONE, Ranks
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
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, usable in there.items() if usable))
    if not there[wanted]:
        usable = ", ".join(name for name, is_there in there.items() if is_there)
        raise UserError(f"torch finds no {wanted} device on this machine", f"choose `device` {usable}")
    return torch.device(wanted)


def device_of(device: torch.device, ranks: Ranks) -> torch.device:
    """The one of that type that is this rank's."""
    return torch.device("cuda", ranks.local_rank) if device.type == "cuda" and ranks.size > 1 else device


def memory_of(device: torch.device, ranks: Ranks = ALONE) -> int:
    """Bytes of memory that the device has in all, or a rank's part of what the machine has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return ram() // ranks.local_size


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
