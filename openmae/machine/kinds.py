"""Devices and precisions by name. Without torch, so that --help has them at once."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["bf16", "fp32"]
