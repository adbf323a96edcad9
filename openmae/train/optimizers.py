"""AdamW with decay only on matrices, and the learning rate's course."""

import math

import torch
from torch import nn

_TOKENS = ("class_token", "mask_token", "mix")  # learned, but neither matrices nor to be pulled to zero


def adamw(model: nn.Module, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW; biases, norms and tokens are not decayed (paper, Table 8). The loop sets the rate."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not name.endswith(_TOKENS)
            (decayed if is_matrix else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def warmup_cosine(step: int, steps: int, warmup_steps: float, lr: float, min_lr: float = 0.0) -> float:
    """The rate of step 0..steps-1: linear from 0 over the warm-up, then half a cosine down to min_lr
    (paper, Table 8; per iteration, as the released code does)."""
    if step < warmup_steps:
        return lr * step / warmup_steps
    progress = (step - warmup_steps) / max(1.0, steps - warmup_steps)
    return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
