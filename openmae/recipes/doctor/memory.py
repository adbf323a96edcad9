"""Cores and memory: what the machine has, and what this process may use of it."""

import os

import torch

from openmae.console.words import size_of
from openmae.machine.cores import all_cores, allowed_cores
from openmae.machine.limits import cpu_quota, memory_limit
from openmae.machine.memory import free_ram, ram
from openmae.model import create_model
from openmae.recipes.doctor.diagnosis import Diagnosis
from openmae.train.cost import parameters

_LEAST = 10**9  # bytes that the smallest training takes: program, model, a few images
_BYTES_A_PARAMETER = 16  # it, its gradient, two averages
_ACTIVATIONS = 2 * 10**9  # of a few images of vit_base at once, and the program


def cores() -> list[Diagnosis]:
    """How many, how many of them torch uses, whether others use them."""
    count, quota = allowed_cores(), cpu_quota()
    threads = torch.get_num_threads()
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    load = os.getloadavg()[0]
    said = f"{count} of {all_cores()} cores, torch takes {threads}, load {load:.1f}"
    if quota is not None and quota < count:
        remedy = f"give OMP_NUM_THREADS of at most {max(1, int(quota))}, or raise the container's limit"
        return [Diagnosis("cores", "warn", f"{said}, but a quota allows {quota:g}", remedy)]
    if threads > count:
        return [Diagnosis("cores", "warn", said, f"set OMP_NUM_THREADS={count}: more threads than cores wait in turns")]
    started_alone = os.environ.get("WORLD_SIZE", "1") == "1"  # torchrun gives each of its processes one
    if not has_gpu and started_alone and 2 * threads <= count:
        return [Diagnosis("cores", "warn", said, "unset OMP_NUM_THREADS, or the CPU trains with a part of its cores")]
    if load > 1.5 * all_cores():  # the load is the whole machine's
        return [
            Diagnosis("cores", "warn", said, "end what else runs here (top), or take the figures below for too low")
        ]
    return [Diagnosis("cores", "ok", said)]


def memory() -> list[Diagnosis]:
    """What is free, and whether that holds a model."""
    total, available = ram(), free_ram()
    limit, _ = memory_limit()
    said = f"{size_of(available)} of {size_of(total)} free"
    if limit is not None and limit <= total:
        said = f"{size_of(available)} free of {size_of(limit)} that this container or job may use"
    with torch.device("meta"):
        base = create_model("vit_base").architecture
    wanted = _BYTES_A_PARAMETER * sum(parameters(base)) + _ACTIVATIONS
    if available < _LEAST:
        return [
            Diagnosis("memory", "bad", said, f"end what else runs here: a training takes {size_of(_LEAST)} at least")
        ]
    if available < wanted and not torch.cuda.is_available():
        remedy = f"choose vit_tiny or vit_small: on a CPU vit_base takes {size_of(wanted)}"
        return [Diagnosis("memory", "warn", said, remedy)]
    return [Diagnosis("memory", "ok", said)]
