"""Compiling the training step by torch.compile: whether it can be and pays, and where the result is kept."""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import torch

PAYS_FROM, PAYS_FROM_MINUTES = 3e17, 30
"""FLOPs, and minutes, of a run whose compilation, a minute or two, is won back on a GPU: at 170 TFLOP/s they are the
same."""
F = TypeVar("F", bound=Callable[..., object])


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile needs for this device and does not find; None where all is there."""
    if device.type == "cuda" and find_spec("triton") is None:
        return "triton"
    wanted = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ([wanted] if wanted else ["g++", "clang++", "c++"])):
        return "a C++ compiler, such as g++"
    return None


def compiled(function: F) -> F:
    """The function for inputs of fixed shapes, compiled when it is first called. What comes of it is kept in the
    user's cache folder (see cli.py), so that the next start with the same shapes takes seconds."""
    return torch.compile(function, dynamic=False)  # type: ignore[return-value]
