"""What timm and Meta's codes call the weights of a Vision Transformer, and how they lie.

Names: timm's models/vision_transformer.py and, for DINOv3 and its rotations, models/eva.py.
Shapes: T class tokens, R registers among them, N patches, D encoder width, H hidden width of an MLP.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from openmae.errors import UserError
from openmae.heads import Classifier, Encoder
from openmae.model import ViT
from openmae.weights.entries import Entry, Tensors, layer, made, patch_projection

# Parts that the ViT here has not; of others than these the names of the weights are listed.
_REFUSED = {
    r"\.attn\.[qk]_norm\.": "normalised queries and keys (QK-norm)",
    r"(^|\.)norm_pre\.": "a norm before its blocks, as CLIP has",
    r"(^|\.)attn_pool\.": "attention pooling, as SigLIP has",
    r"\.attn\.norm\.|\.mlp\.norm\.": "norms inside attention or MLP, as EVA-02 has",
    r"\.attn\.gate\.": "gated attention",
    r"rel_pos|relative_position": "relative positions",
    r"^rope\.freqs": "rotations whose periods are learned",
    r"^dist_token|^head_dist\.": "a token for distillation, as DeiT has",
    r"^blocks\.\d+\.(in_proj|in_norm|attns)\.": "attention and MLP in parallel",
    r"\.mlp\.(experts|gate)\.": "a mixture of experts",
}


def check_parts(weights: Mapping[str, Tensor], name: str) -> None:
    """Raises UserError that names the part where there is one that no ViT here has."""
    for pattern, what in _REFUSED.items():
        if any(re.search(pattern, key) for key in weights):
            advice = "give one of timm's whose name has gap in it, which is without" if "pooling" in what else ""
            raise UserError(f"{name} has {what}, which openmae's ViT has not: it cannot be loaded", advice)


def block_entries(ours: str, theirs: str, depth: int, model: ViT | None = None) -> list[Entry]:
    """Of a stack of blocks. model: the encoder whose they are, for what else it has; None: a decoder's, plain ones."""
    is_eva, swiglu = model is not None and model.rope is not None, model is not None and model.swiglu
    found = []
    for number in range(depth):
        our, their = f"{ours}.{number}", f"{theirs}.{number}"
        found += [*layer(f"{our}.norm1", f"{their}.norm1"), *layer(f"{our}.norm2", f"{their}.norm2")]
        found += [*_qkv(f"{our}.attn.qkv", f"{their}.attn", model), *layer(f"{our}.attn.proj", f"{their}.attn.proj")]
        if swiglu and is_eva:
            found += [_two(f"{our}.mlp.0.{part}", f"{their}.mlp.fc1_{{}}.{part}") for part in ("weight", "bias")]
        else:
            found += layer(f"{our}.mlp.0", f"{their}.mlp.fc1")
        found += layer(f"{our}.mlp.2", f"{their}.mlp.fc2")
        if model is not None and model.layer_scale:
            scale = "gamma_{}" if is_eva else "ls{}.gamma"
            found += [Entry((f"{our}.scale{n}.scale",), (f"{their}.{scale.format(n)}",)) for n in (1, 2)]
    return found


def _qkv(ours: str, attention: str, model: ViT | None) -> list[Entry]:
    """Of the layer that makes queries, keys and values; timm's for rotations has the biases apart, and none of keys."""
    weight, bias = layer(ours, f"{attention}.qkv")
    if model is None or (model.qkv_bias != "none" and model.rope is None):
        return [weight, bias]
    if model.qkv_bias == "none":
        return [weight]
    both = (f"{attention}.q_bias", f"{attention}.v_bias")
    return [weight, Entry((f"{ours}.bias",), both, with_no_keys, lambda whole: whole.chunk(3)[::2])]


def with_no_keys(query: Tensor, value: Tensor) -> Tensors:
    """The biases of queries and values, each (D,) -> those of queries, keys and values, (3 D,)."""
    return (torch.cat([query, torch.zeros_like(query), value]),)


def _two(ours: str, theirs: str) -> Entry:
    """A gate and what it lets through, ours in one, (2 H, ...)."""
    halves = (theirs.format("g"), theirs.format("x"))
    return Entry((ours,), halves, lambda gate, value: (torch.cat([gate, value]),), lambda whole: whole.chunk(2))


def token_entry(
    encoder: ViT, at: int | None = None, names: tuple[str, str, str] = ("cls_token", "reg_token", "pos_embed")
) -> Entry:
    """The class tokens (T, D) and the patches' positions (N, D).

    names: what theirs are called: class tokens (1, T - R, D), registers (1, R, D) and positions (1, at + N, D), with
    those of the first `at` tokens, which are part of the tokens here. Default: of all, where there are no registers,
    else of none.
    """
    positioned = (encoder.class_tokens if encoder.registers == 0 else 0) if at is None else at
    has_positions = encoder.rope is None or encoder.learned_positions
    sizes = [encoder.read_classes, encoder.registers]
    kinds = [name for name, size in zip(names, sizes, strict=False) if size]
    ours = ("encoder.class_token", *(["encoder.positions"] if has_positions else []))

    def read(*tensors: Tensor) -> Tensors:
        parts = [tensor[0] for tensor in tensors]
        if not has_positions:
            return (torch.cat(parts),)
        places = parts.pop()
        tokens = torch.cat(parts) if parts else places[:0]
        added = torch.cat([places[:positioned], torch.zeros_like(tokens[positioned:])])
        return tokens + added, places[positioned:]

    def write(tokens: Tensor, *places: Tensor) -> Tensors:
        split = [part[None] for part in tokens.split(sizes) if len(part)]
        zeros = torch.zeros_like(tokens[:positioned])
        return *split, *(torch.cat([zeros, positions])[None] for positions in places)

    return Entry(ours, (*kinds, *([names[2]] if has_positions else [])), read, write)


def encoder_entries(encoder: ViT, at: int | None = None) -> list[Entry]:
    """Of a ViT without its final norm, which not all models have. at: see `token_entry`."""
    return [
        *patch_projection("encoder.patch_embed", "patch_embed.proj", encoder.patch_size, encoder.in_chans),
        token_entry(encoder, at),
        *block_entries("encoder.blocks", "blocks", encoder.depth, encoder),
    ]


def entries(model: Encoder | Classifier, at: int | None = None) -> list[Entry]:
    """Of a model as timm has it: a norm before the pooling, or, where the patches' mean is pooled, behind it."""
    head = layer("head", "head") if isinstance(model, Classifier) else []
    norms = layer("encoder.norm", "norm")
    if isinstance(model, Classifier) and model.pool == "mean":  # which does not ask the encoder's own
        width = model.encoder.embed_dim
        unasked: dict[str, Callable[[int], Tensor]] = {"weight": torch.ones, "bias": torch.zeros}
        fresh = (made(f"encoder.norm.{part}", partial(make, width)) for part, make in unasked.items())
        norms = [*layer("norm", "fc_norm"), *fresh]
    return [*encoder_entries(model.encoder, at), *norms, *head]
