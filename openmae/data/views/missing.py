"""Where a view lacks pixels: what is missing of an image follows its crops."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from openmae.data.formats.missing import Missing


def shares(missing: Missing, size: tuple[int, int]) -> NDArray[Any]:
    """(h, w, C) -> (*size, C) float32, 0 to 1: how much is missing of each part of an image that is cut into so many,
    or resized to so many pixels."""
    planes = torch.from_numpy(missing).permute(2, 0, 1)[None].float()
    return np.ascontiguousarray(F.adaptive_avg_pool2d(planes, size)[0].permute(1, 2, 0).numpy())
