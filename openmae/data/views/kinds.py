"""How views are made, by name. Without torch, so that --help has them at once."""

from typing import Literal

CropFit = Literal["retry", "clamp"]
Kernel = Literal["bicubic", "bilinear"]
