"""Tensors of which each rank may hold a part only: the whole of one, and its part of a whole."""

import sys

import torch
from torch import Tensor

from openmae.distributed.ranks import Ranks


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor, which the ranks have to ask for together where it is sharded."""
    if _nothing_is_sharded():
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(value: Tensor | None, like: Tensor, ranks: Ranks) -> Tensor:
    """The lead's value on `like`'s device, sharded as that is. All ranks together; the others' values are None."""
    value = torch.empty(like.shape, dtype=like.dtype) if value is None else value
    value = value.to(like.device)
    if _nothing_is_sharded():
        return ranks.spread(value)
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return ranks.spread(value)


def parted(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of what all ranks have, sharded as `like` is."""
    if _nothing_is_sharded():
        return whole
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(like, DTensor):
        return whole
    everywhere = DTensor.from_local(whole, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=like.placements)


def _nothing_is_sharded() -> bool:
    """Whether what shards has not even been imported, which takes the better part of a second."""
    return "torch.distributed.tensor" not in sys.modules
