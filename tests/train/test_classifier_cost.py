"""What a step of fine-tuning is said to take of memory."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openmae.machine.kinds import Precision
from openmae.model import ViT
from openmae.train import classifier_cost
from openmae.train.classifier_cost import largest_tensor, rough_step_bytes, step_bytes


def encoder(depth: int = 4, width: int = 64, side: int = 64) -> ViT:
    with torch.device("meta"):
        return ViT((side, side), (8, 8), 3, width, depth, 4)


@pytest.mark.parametrize("again", [False, True])
def test_deep_models_are_read_off_shallow_ones(again: bool) -> None:
    model = encoder()
    arguments = model.arguments()

    def found(again: bool) -> list[tuple[int, int]]:
        return classifier_cost.traced(
            lambda: classifier_cost.built(arguments, model.depth, again),
            lambda made, batch: classifier_cost.loss(made, batch, "bf16"),
            "cpu",
            backward=again,
        )

    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    for batch, parts, plain in zip((2, 64), found(again), found(again=False), strict=True):
        whole = 4 * weights + max(parts) + classifier_cost.ALLOCATOR_SHARE * plain[0]
        assert step_bytes(model, "bf16", batch, 2, again) == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("size", [(2, 64, 64), (6, 192, 128), (3, 32, 256)])
def test_the_rough_figure_is_never_less(size: tuple[int, int, int]) -> None:
    for batch in (1, 64):
        assert rough_step_bytes(encoder(*size), batch, 2) >= step_bytes(encoder(*size), "fp32", batch, 2, False)


def test_less_is_kept_where_blocks_are_computed_again() -> None:
    model = encoder(depth=12)
    assert step_bytes(model, "bf16", 64, 2, True) < 0.6 * step_bytes(model, "bf16", 64, 2, False)


class Made(TorchDispatchMode):
    """The bytes of the largest tensor that is made within."""

    most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        self.most = max([self.most, *(one.nbytes for one in tree_leaves(found) if isinstance(one, torch.Tensor))])
        return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("side", [32, 160])
def test_the_largest_tensor_is_known(precision: Precision, side: int) -> None:
    """Of 16 patches a linear layer's, of 400 in bfloat16 the products of attention."""
    model = classifier_cost.built(encoder(depth=1, side=side).arguments(), 1, again=False)
    with Made() as made:
        classifier_cost.loss(model, 16, precision).backward()
    assert made.most == largest_tensor(model.encoder, precision, 16)
