"""Muon (Jordan et al. 2024): a matrix moves along its momentum made orthogonal, so that every direction moves alike.

AdamW's rates and decays hold for it, since its steps are scaled to the size of AdamW's (Liu et al., arXiv 2502.16982),
and AdamW moves what is no matrix of a block. In masked autoencoders see arXiv 2605.24770.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from openmae.distributed.sharding import gathered, parted
from openmae.train.optimizers import grouped

_MOMENTUM = 0.95
_ROUNDS, _FACTORS = 5, (3.4445, -4.7750, 2.0315)  # Jordan's: all singular values go to between 0.7 and 1.2
_OF_ADAMW = 0.2  # root mean square of AdamW's steps, by arXiv 2502.16982


class Muon(Optimizer):
    """Over what learns; the loop sets the rate. Embeddings, tokens, the decoder's last layer, biases and norms are
    AdamW's.

    betas: of AdamW. lr_scale, decay_tokens: as `optimizers.adamw` has them. products: in which type matrices are made
    orthogonal; bfloat16 is enough.
    """

    def __init__(
        self,
        model: nn.Module,
        betas: tuple[float, float],
        weight_decay: float,
        lr_scale: Callable[[str], float] = lambda name: 1.0,
        decay_tokens: bool = False,
        products: torch.dtype = torch.bfloat16,
    ) -> None:
        names = {parameter: name for name, parameter in model.named_parameters()}
        matrices, others = [], []
        for group in grouped(model, weight_decay, lr_scale, decay_tokens):
            parts = [one for one in group["params"] if moves(names[one], one)]
            rest = [one for one in group["params"] if not moves(names[one], one)]
            matrices += [{**group, "params": parts}] * bool(parts)
            others += [{**group, "params": rest}] * bool(rest)
        self._adamw = AdamW(others, lr=0.0, betas=betas, fused=True)
        super().__init__(matrices, {"lr": 0.0})
        self._matrices = self.param_groups
        self.param_groups = [*self._matrices, *self._adamw.param_groups]
        self._adamw.state = self.state  # one, which checkpoints keep
        self._products = products

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients; none where `found_inf` (as torch's fused optimizers know it) is set."""
        found_inf = getattr(self, "found_inf", torch.zeros(()))
        for group in self._matrices:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["weight_decay"], found_inf.to(parameter.device) == 0)
        self._adamw.found_inf = found_inf  # type: ignore[attr-defined]
        self._adamw.step()

    def _move(self, parameter: nn.Parameter, lr: float, weight_decay: float, heeded: Tensor) -> None:
        """A matrix. heeded: a truth value; where it is false nothing moves."""
        gradient = parameter.grad
        assert gradient is not None
        momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        moved = momentum.lerp(gradient, 1 - _MOMENTUM)
        update = parted(orthogonal(gathered(gradient.lerp(moved, _MOMENTUM)), self._products), parameter)
        size = _OF_ADAMW * math.sqrt(max(parameter.shape))
        momentum.copy_(torch.where(heeded, moved, momentum))
        parameter.copy_(torch.where(heeded, parameter * (1 - lr * weight_decay) - lr * size * update, parameter))


def moves(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon moves the parameter of that name: a matrix of a block of the encoder or the decoder."""
    return parameter.ndim == 2 and "blocks" in name.split(".")


def orthogonal(matrix: Tensor, products: torch.dtype) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, whichever are fewer, up to its rounding: five rounds of a
    Newton-Schulz iteration, whose singular values lie between about 0.7 and 1.2."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.mT if is_tall else matrix).to(products)
    x = x / x.norm().clamp(min=1e-7)
    linear, cubic, quintic = _FACTORS
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=cubic, alpha=quintic), x, beta=linear)
    return (x.mT if is_tall else x).to(matrix.dtype)
