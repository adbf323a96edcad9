"""What there is to train on: GPUs, their driver, and how fast products are in bfloat16."""

import os
import re
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from openmae.console.words import si, size_of
from openmae.machine.device import choose_device, has_fast_bf16
from openmae.recipes.doctor.diagnosis import Diagnosis

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
AMD_DRIVER = Path("/dev/kfd")
_FREE_ENOUGH = 0.8  # of a GPU's memory
_SIDES = {"cpu": 1024, "mps": 2048, "cuda": 8192}  # of the matrices that are multiplied
_TRIES = 5
_SLOWER = 0.8  # of float32's speed, where bfloat16 does not pay
_INSTALL = "install torch as https://pytorch.org/get-started says for this machine"


def devices() -> list[Diagnosis]:
    """A line a GPU, or why there is none."""
    with warnings.catch_warnings(record=True) as said_aside:  # why CUDA is not available, torch warns
        warnings.simplefilter("always")
        has_cuda = torch.cuda.is_available()
    if has_cuda:
        return [_gpu(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        return [_tried("device", torch.device("mps"), f"Apple's GPU, torch {torch.__version__}")]
    return [_no_gpu([str(one.message) for one in said_aside])]


def _gpu(index: int) -> Diagnosis:
    properties, device = torch.cuda.get_device_properties(index), torch.device("cuda", index)
    build = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    driver = f", driver {version}" if (version := nvidia_driver()) else ""
    about = f"GPU {index}: {properties.name}, {build}{driver}"
    finding = _tried("device", device, about)
    if finding.verdict != "ok":
        return finding
    free, total = torch.cuda.mem_get_info(index)
    said = f"{about}, {size_of(free)} of {size_of(total)} free"
    if free < _FREE_ENOUGH * total:
        remedy = "see who holds the rest (nvidia-smi), end that, or leave this GPU out by CUDA_VISIBLE_DEVICES"
        return Diagnosis("device", "warn", said, remedy)
    return Diagnosis("device", "ok", said)


def _tried(name: str, device: torch.device, about: str) -> Diagnosis:
    """A product on the device, which fails where torch was not built for it."""
    try:
        ones = torch.ones(64, 64, device=device)
        right = bool((ones @ ones == 64).all())
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        return Diagnosis(name, "bad", f"{about}: a product of matrices fails ({first})", _INSTALL)
    if not right:
        remedy = "update its driver; if that changes nothing, have the card tested"
        return Diagnosis(name, "bad", f"{about}: a product of matrices is wrong", remedy)
    return Diagnosis(name, "ok", about)


def _no_gpu(said_aside: list[str]) -> Diagnosis:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    driver = nvidia_driver()
    if driver is None and not AMD_DRIVER.exists():
        return Diagnosis("device", "ok", f"no GPU: the CPU trains, with torch {torch.__version__}")
    there = f"NVIDIA's driver{f' {driver}' if driver else ''}" if driver is not None else "AMD's driver"
    if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        said = f"{there} is there, but CUDA_VISIBLE_DEVICES is '{hidden}', which hides the GPUs"
        return Diagnosis("device", "warn", said, "unset CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None and torch.version.hip is None:
        said = f"{there} is there, but torch {torch.__version__} is a build for CPUs: training would not use the GPU"
        return Diagnosis("device", "bad", said, _INSTALL)
    try:
        torch.cuda.init()
        why = "torch finds no device"
    except (RuntimeError, AssertionError) as error:
        why = (str(error).strip().splitlines() or said_aside or ["torch finds no device"])[0]
    build = torch.version.cuda or torch.version.hip
    remedy = "update the driver, or install a torch built for an older CUDA; in a container, start it with the GPUs"
    return Diagnosis("device", "bad", f"{there} is there, but torch (for {build}) cannot use it: {why}", remedy)


def nvidia_driver() -> str | None:
    """The driver's version, empty where it does not say; None where there is no driver."""
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", NVIDIA_DRIVER.read_text())
    except OSError:
        return "" if shutil.which("nvidia-smi") else None
    return found[1] if found else ""


def bfloat16() -> list[Diagnosis]:
    """Whether bfloat16 pays: both precisions, measured."""
    device = choose_device("auto")
    plain = _speed(device, torch.float32)
    if not has_fast_bf16(device):
        said = f"not in this {'CPU' if device.type == 'cpu' else 'GPU'}'s hardware: {si(plain)}FLOP/s in float32"
        if device.type == "cuda":
            remedy = "nothing here; a GPU of 2020 (NVIDIA Ampere) or later trains two to four times as fast"
            return [Diagnosis("bf16", "warn", f"{said}, which training takes", remedy)]
        return [Diagnosis("bf16", "ok", f"{said}, which training takes")]
    half = _speed(device, torch.bfloat16)
    said = f"{si(half)}FLOP/s in bfloat16, {si(plain)}FLOP/s in float32"
    if half < _SLOWER * plain:
        remedy = "give --precision fp32; if nothing else runs here, update torch"
        return [Diagnosis("bf16", "warn", f"{said}, though the processor has it in hardware", remedy)]
    return [Diagnosis("bf16", "ok", said)]


def product_speed(device: torch.device) -> float:
    """Operations a second in the precision that training takes."""
    return _speed(device, torch.bfloat16 if has_fast_bf16(device) else torch.float32)


def _speed(device: torch.device, kind: torch.dtype) -> float:
    """Operations a second, of the best of a few products."""
    side = _SIDES[device.type]
    one, two = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    return 2 * side**3 / min(_timed(lambda: one @ two, device) for _ in range(_TRIES))


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - began
