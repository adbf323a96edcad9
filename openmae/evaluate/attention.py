"""What a patch attends to in an encoder.

Shapes: B images, C channels, S sides in pixels, N patches, V of them that are read, T class tokens,
D / heads width of a head.
"""

from itertools import islice

import torch
from torch import Tensor, nn

from openmae.errors import BadValue
from openmae.model import Block, ViT, patchify, turned


@torch.no_grad()
def attention_of(encoder: ViT, images: Tensor, patch: int, layer: int | None = None) -> Tensor:
    """(B, C, *S) normalised, nothing masked -> (B, heads, T + N): the weights by which a patch reads all tokens, class
    tokens first, in block `layer` (1..depth; default the last). They are 0..1, and those of a head are 1 together.

    patch: 0 to N - 1. One patch's row is computed alone: all rows grow with the square of N. Raises ValueError for a
    patch or a layer that is none.
    """
    encoder.check(images)
    last = encoder.depth if layer is None else layer
    if not 1 <= last <= encoder.depth:
        raise BadValue(f"layer {layer} is not one of this encoder's", f"give 1 to {encoder.depth}")
    tokens = encoder.embed(patchify(images, encoder.patch_size))
    if not 0 <= patch < tokens.shape[1]:
        raise BadValue(f"patch {patch} is not one of this image's", f"give 0 to {tokens.shape[1] - 1}")
    state = next(islice(encoder.states(tokens), last - 1, None))  # (B, T + N, D)
    turns = None if encoder.rope is None else encoder.turns(None)
    return read_by(
        encoder.blocks[last - 1], state, torch.tensor([encoder.class_tokens + patch]).to(images.device), turns
    )


def read_by(block: nn.Module, state: Tensor, token: Tensor, turns: Tensor | None) -> Tensor:
    """The tokens (B, T + V, D) before a block -> (B, heads, T + V): the weights by which the token of this number, (1,)
    int64, reads them all. turns: see `turned`."""
    assert isinstance(block, Block)
    batch, count, _ = state.shape
    qkv = block.attn.qkv(block.norm1(state)).view(batch, count, 3, block.attn.num_heads, -1)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 x (B, heads, T + V, D / heads)
    if turns is not None:
        q, k = turned(q, turns), turned(k, turns)
    asking = q.index_select(2, token)  # (B, heads, 1, D / heads)
    return (asking * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]
