"""The optimizers, with decay only on matrices; layer-wise rates; the weights' average; the learning rate's course."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

_TOKENS = ("class_token", "mask_token")
_NO_MATRICES = (*_TOKENS, "mix", "positions")  # learned, but not to be pulled to zero


def adamw(
    model: nn.Module,
    betas: tuple[float, float],
    weight_decay: float,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
    decay_tokens: bool = False,
) -> torch.optim.AdamW:
    """Fused AdamW over what learns; biases and norms are not decayed (paper, Table 8). The loop sets the rate.

    lr_scale: of a parameter's name; what its rate is multiplied by. decay_tokens: class and mask tokens too, as the
    released pre-training does (not its fine-tuning).
    """
    groups = grouped(model, weight_decay, lr_scale, decay_tokens)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def lars(model: nn.Module) -> "LARS":
    """LARS over what learns, without decay; the loop sets the rate (paper, Table 10: the linear probe)."""
    return LARS(grouped(model, 0.0, lambda name: 1.0))


def grouped(
    model: nn.Module, weight_decay: float, lr_scale: Callable[[str], float], decay_tokens: bool = False
) -> list[dict[str, Any]]:
    """One group for each scale and decay that occur, in the order of the parameters."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and not name.endswith(_NO_MATRICES)
            decays = is_matrix or (decay_tokens and name.endswith(_TOKENS))
            groups.setdefault((lr_scale(name), decays), []).append(parameter)
    return [
        {"params": members, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        for (scale, decays), members in groups.items()
    ]


def layer_scale(layer_decay: float, depth: int) -> Callable[[str], float]:
    """What layer-wise decay multiplies the rate of a parameter of a classifier, a segmenter or a detector by:
    layer_decay^(depth + 1 - k), with k = 0 for the embedding, the class token and learned positions, 1..depth for the
    blocks; the head and the norms behind the last block keep the whole rate (paper, Table 9, after BEiT)."""

    def scale(name: str) -> float:
        parts = name.removeprefix("backbone.").removeprefix("encoder.").split(".")
        if parts[0] == "blocks":
            return layer_decay ** (depth - int(parts[1]))
        is_first = parts[0] in ("patch_embed", "class_token", "positions")
        return layer_decay ** (depth + 1) if is_first else 1.0

    return scale


class LARS(Optimizer):
    """Momentum SGD whose rate on each matrix is scaled by trust * |weights| / |gradient| (You et al., arXiv
    1708.03888), without scaling of vectors and without decay, as MAE's linear probe uses it.

    momentum: 0 to below 1; trust: the trust coefficient.
    """

    def __init__(self, params: ParamsT, momentum: float = 0.9, trust: float = 0.001) -> None:
        super().__init__(params, {"lr": 0.0, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients; none where `found_inf` (as torch's fused optimizers know it) is set."""
        found_inf = getattr(self, "found_inf", torch.zeros(()))
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = parameter.grad
                if parameter.ndim > 1:
                    weights, gradient = parameter.norm(), update.norm()
                    scale = group["trust"] * weights / gradient
                    update = update * torch.where((weights > 0) & (gradient > 0), scale, 1.0)
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                heeded = found_inf.to(momentum.device) == 0
                momentum.copy_(torch.where(heeded, momentum * group["momentum"] + update, momentum))
                parameter.sub_(torch.where(heeded, momentum * group["lr"], 0.0))


def keep_average(optimizer: Optimizer, decay: float) -> None:
    """From now on each step of the optimizer also moves an average of the weights: average = decay * average +
    (1 - decay) * weights. It begins as the weights after the first step, and lies in the optimizer's state, so it is
    saved and restored with that.

    decay: above 0 and below 1; early on it is (1 + steps) / (10 + steps) where that is less, or the average would
    consist of the first weights for long.
    """

    @torch.no_grad()
    def move(_: Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", torch.zeros(()))
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                if not state:  # it has had no gradient
                    continue
                if "average" not in state:
                    state["average"] = parameter.detach().clone()
                    state["averaged"] = torch.zeros((), device=parameter.device)
                taken = 1 - found_inf.to(parameter.device)  # 0 where the step was not
                state["averaged"] += taken
                now = torch.clamp((1 + state["averaged"]) / (10 + state["averaged"]), max=decay)
                now = now * (state["averaged"] > 1)  # the first step taken is where the average begins
                state["average"].lerp_(parameter.detach(), (1 - now) * taken)

    optimizer.register_step_post_hook(move)


@contextmanager
def averaged(optimizer: Optimizer) -> Iterator[None]:
    """Within, the weights are their averages, where `keep_average` has made some."""
    weights: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for parameter, state in optimizer.state.items():
            if "average" in state:
                weights.append((parameter, parameter.detach().clone()))
                parameter.copy_(state["average"])
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in weights:
                parameter.copy_(value)


@dataclass(frozen=True)
class WarmupCosine:
    """The learning rate of a step: linear from 0 over the warm-up, then half a cosine down (paper, Table 8; per
    iteration, as the released code does). lr: the highest, at the end of the warm-up. min_lr: what the cosine ends
    at, if that is lower."""

    steps: int
    warmup_steps: float
    lr: float
    min_lr: float = 0.0

    def __call__(self, step: int) -> float:
        """Of step 0..steps-1."""
        if step < self.warmup_steps:
            return self.lr * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1.0, self.steps - self.warmup_steps)
        least = min(self.min_lr, self.lr)
        return least + (self.lr - least) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class WarmupLinear:
    """The learning rate of a step: from lr at the first one down to min_lr behind the last in a straight line, times
    what rises from 0 to 1 over the warm-up (mmsegmentation's polynomial decay of power 1, as BEiT fine-tunes UPerNet;
    there the warm-up begins at a millionth)."""

    steps: int
    warmup_steps: float
    lr: float
    min_lr: float = 0.0

    def __call__(self, step: int) -> float:
        """Of step 0..steps-1."""
        least = min(self.min_lr, self.lr)
        falling = least + (self.lr - least) * (1 - step / self.steps)
        return falling * step / self.warmup_steps if step < self.warmup_steps else falling


@dataclass(frozen=True)
class WarmupSteps:
    """The learning rate of a step: linear from 0 over the warm-up, then lr, a tenth of it from 89% of the steps on, and
    a tenth of that from 96% on (detectron2's ViTDet)."""

    steps: int
    warmup_steps: float
    lr: float

    def __call__(self, step: int) -> float:
        """Of step 0..steps-1."""
        if step < self.warmup_steps:
            return self.lr * step / self.warmup_steps
        return self.lr * 0.1 ** sum(step >= round(share * self.steps) for share in (0.89, 0.96))


RateCourse = WarmupCosine | WarmupLinear | WarmupSteps
"""The learning rate's, from the first step to the last."""
