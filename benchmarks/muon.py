"""Muon (Jordan 2024; rates as AdamW's after Liu et al., arXiv 2502.16982), to be compared with AdamW; see
small_pretrain.py. `pretrain` does not have it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

_STEPS = 5  # of the Newton-Schulz iteration, as torch.optim.Muon has them


def _is_for_muon(name: str, parameter: nn.Parameter) -> bool:
    """Matrices within blocks; embeddings, heads and vectors stay with AdamW."""
    return parameter.ndim == 2 and ".blocks." in f".{name}" and min(parameter.shape) > 1


class MuonAndAdamW(Optimizer):
    """torch.optim.Muon's step for the matrices of blocks, torch.optim.AdamW for the rest, as one optimizer, whose rate
    the loop sets. It takes steps that are not finite; the benchmark says where one was."""

    def __init__(self, model: nn.Module, betas: tuple[float, float], weight_decay: float) -> None:
        named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
        matrices = [one for name, one in named if _is_for_muon(name, one)]
        others = [one for name, one in named if not _is_for_muon(name, one)]
        decayed, plain = [one for one in others if one.ndim > 1], [one for one in others if one.ndim < 2]
        self._muon = torch.optim.Muon(
            [{"params": matrices, "lr_scale": 1.0}],
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        groups: list[dict[str, Any]] = [
            {"params": decayed, "weight_decay": weight_decay, "lr_scale": 1.0},
            {"params": plain, "weight_decay": 0.0, "lr_scale": 1.0},
        ]
        self._adamw = AdamW(groups, betas=betas)
        super().__init__([{"params": matrices, "lr_scale": 1.0}, *groups], {"lr": 0.0})
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]
        self._muon.state = self._adamw.state = self.state  # which checkpoints keep

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self._muon.step()
        self._adamw.step()


def flops(model: nn.Module) -> float:
    """Of the matrix products that make a step's updates orthogonal."""
    total = 0.0
    for name, parameter in model.named_parameters():
        if _is_for_muon(name, parameter):
            short, long = sorted(parameter.shape)
            total += _STEPS * (2 * 2 * short * short * long + 2 * short**3)
    return total


@contextmanager
def in_place_of_adamw() -> Iterator[None]:
    """Within, `pretrain` trains with it."""
    made: Callable[..., Optimizer] = lambda model, betas, decay, *_: MuonAndAdamW(model, betas, decay)  # noqa: E731
    with patch("openmae.recipes.pretrain.job.adamw", made):
        yield
