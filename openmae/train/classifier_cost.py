"""What a step of fine-tuning holds in memory, before it is taken."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmae.heads import Classifier
from openmae.machine.kinds import Precision
from openmae.machine.lanes import ONE, Lanes
from openmae.model import ViT
from openmae.train.cost import ALLOCATOR_SHARE
from openmae.train.tracing import Line, autocast_like, line, traced

_VALUES, _MATRICES = 40, 6  # floats of a block that are kept of a token, an element of its width; of a pair of tokens
_OF_A_LANE = 1.5  # of the weights' bytes: gradients, and copies in bfloat16
_SHALLOW = 2  # blocks: one alone has its peak elsewhere


def step_bytes(
    encoder: ViT, precision: Precision, micro_batch: int, averages: int, again: bool, lanes: Lanes = ONE
) -> int:
    """At most, of a CPU's memory, where all of the encoder learns: weights, gradients, what the optimizer keeps
    (`averages` of a weight) and what is there for the backward pass. Outputs are few beside it.

    again: whether blocks are computed again in the backward pass. lanes: it is computed in.
    """
    arguments = tuple(encoder.arguments().items())
    kept, most = _lines(arguments, precision, again)
    everything = _lines(arguments, precision, False)[0](micro_batch)  # blocks computed again come from the same heap
    passing = max(kept(micro_batch), most(micro_batch)) + round(ALLOCATOR_SHARE * everything)
    return _beside(encoder, micro_batch, averages, lanes) + passing


def rough_step_bytes(encoder: ViT, micro_batch: int, averages: int, lanes: Lanes = ONE) -> int:
    """More than that, found at once: where it is there, nothing has to be found more exactly, which takes seconds."""
    tokens = encoder.class_tokens + math.prod(encoder.grid)
    a_block = 4 * tokens * (_VALUES * encoder.embed_dim + _MATRICES * encoder.num_heads * tokens)
    return _beside(encoder, micro_batch, averages, lanes) + micro_batch * (encoder.depth + 1) * a_block


def largest_tensor(encoder: ViT, precision: Precision, images: int) -> int:
    """Bytes, of so many images, that a step makes at once: of the pixels, of a linear layer, or of attention where that
    is computed by plain products."""
    tokens, itemsize = encoder.class_tokens + math.prod(encoder.grid), 2 if precision == "bf16" else 4
    widest = max(part.out_features for part in encoder.modules() if isinstance(part, nn.Linear))
    attention = encoder.num_heads * tokens if precision == "bf16" else 0
    pixels = images * math.prod(encoder.grid) * 4 * encoder.patch_embed.in_features
    return max(pixels, images * tokens * itemsize * max(widest, attention))


def _beside(encoder: ViT, micro_batch: int, averages: int, lanes: Lanes) -> int:
    """Bytes of weights, gradients and averages, and of what a lane has of its own."""
    weights = 4 * sum(parameter.numel() for parameter in encoder.parameters())
    return round((2 + averages + _OF_A_LANE * (lanes.of(micro_batch).count - 1)) * weights)


@lru_cache(maxsize=16)
def _lines(arguments: tuple[tuple[str, Any], ...], precision: Precision, again: bool) -> tuple[Line, Line]:
    """(what the forward pass keeps, the most there is at any time); found on shallow models, since blocks are alike."""
    depth = int(dict(arguments)["depth"])
    shallow, deeper = (
        traced(
            lambda blocks=blocks: built(dict(arguments), blocks, again),  # type: ignore[misc]
            lambda model, batch: loss(model, batch, precision),
            "cpu",
            backward=again,
        )
        for blocks in (_SHALLOW, _SHALLOW + 1)
    )
    kept, most = (
        line([a[i] + (depth - _SHALLOW) * (b[i] - a[i]) for a, b in zip(shallow, deeper, strict=True)]) for i in (0, 1)
    )
    return kept, most


def built(arguments: dict[str, Any], depth: int, again: bool) -> Classifier:
    """One of so many blocks."""
    encoder = ViT(**{**arguments, "depth": depth})
    encoder.grad_checkpointing = again
    return Classifier(encoder, 2)


def loss(model: Classifier, batch: int, precision: Precision) -> Tensor:
    """Of so many images, as the training computes it."""
    encoder = model.encoder
    images = torch.zeros(batch, encoder.in_chans, *encoder.img_size)
    with autocast_like("cpu", precision):
        return F.cross_entropy(model(images), torch.zeros(batch, dtype=torch.int64))
