"""Tensors of which each rank may hold a part only: the whole of one, and its part of a whole."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from openmae.distributed.ranks import Ranks


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor, which the ranks have to ask for together where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(value: Tensor | None, like: Tensor, ranks: Ranks) -> Tensor:
    """The lead's value on `like`'s device, sharded as that is. All ranks together; the others' values are None."""
    value = torch.empty(like.shape, dtype=like.dtype) if value is None else value
    value = value.to(like.device)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return ranks.spread(value)
