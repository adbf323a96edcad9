"""The methods by their names, and what an image costs each of them."""

from dataclasses import replace
from math import prod

from openmae.baselines.beit import BEiT
from openmae.baselines.byol import BYOL
from openmae.baselines.dae import DAE
from openmae.baselines.dino import DINO
from openmae.baselines.method import Method
from openmae.baselines.mocov3 import MoCoV3
from openmae.baselines.simclr import SimCLR
from openmae.baselines.supervised import Supervised
from openmae.model import Architecture
from openmae.train.cost import flops

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "dae": DAE,
    "beit": BEiT,
    "simclr": SimCLR,
    "byol": BYOL,
    "mocov3": MoCoV3,
    "dino": DINO,
}
"""What `openmae.recipes.baseline.job.train` takes; the paper's own and none at all are no baselines."""

_AVERAGED = ("byol", "mocov3", "dino")  # which let a moving average see the first two views, without gradients


def local_size(architecture: Architecture, side: float) -> tuple[int, ...]:
    """Of a view whose side is a share of the image's: whole patches, two or more where there are as many."""
    pairs = zip(architecture.img_size, architecture.patch_size, strict=True)
    return tuple(min(size, max(2, round(size * side / patch)) * patch) for size, patch in pairs)


def forward_passes(method: str, architecture: Architecture) -> float:
    """What an image costs in training, in forward passes of the encoder over a whole image; the backward pass of a
    forward pass counts twice. Encoder and MAE's decoder; projection heads, which do not grow with the patches, not.

    For ViT-B at 224 pixels: "mae" 1.6 (8 blocks of decoder 512 wide), "random" 0, "supervised", "dae" and "beit" 3,
    "simclr" 6, "byol" and "mocov3" 8, "dino" 12.
    """
    whole = _encoder(architecture, architecture.img_size)
    if method == "random":
        return 0.0
    if method == "mae":
        return flops(architecture).step / whole
    views = METHODS[method].views
    sizes = [local_size(architecture, view.side) for view in views] or [architecture.img_size]
    learnt = 3 * sum(_encoder(architecture, size) for size in sizes)
    return (learnt + 2 * whole * (method in _AVERAGED)) / whole


def _encoder(architecture: Architecture, size: tuple[int, ...]) -> int:
    """FLOPs of the forward pass over all patches of an image of this size."""
    grid = [side // patch for side, patch in zip(size, architecture.patch_size, strict=True)]
    return flops(replace(architecture, img_size=size), prod(grid), 0).encoder
