"""The masked autoencoder, whole: patches, positions, blocks, the ViT, two decoders, the autoencoder.

Shapes: B images, C channels, S sides in pixels (H, W for images; any number of axes), N patches,
V visible, Q queried (hidden patches to predict), T class tokens, D encoder width, E decoder width,
P values in a patch, K values in a target (P for pixels), L layers read.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from openmae.errors import BadValue
from openmae.masking import Masking
from openmae.own import Own, is_own
from openmae.targets import TARGETS, Target, make_target, values_of

# ---------------------------------------------------------------- patches and positions


def patchify(images: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """(B, C, *S) -> (B, N, P): patches row by row, values in the order (row in patch, column in patch, channel).

    Raises ValueError where a side is no multiple of the patch's.
    """
    batch, channels, *size = images.shape
    grid = grid_of(tuple(size), patch_size)
    axes = len(grid)
    split = images.reshape(batch, channels, *(n for pair in zip(grid, patch_size, strict=True) for n in pair))
    order = [0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1]
    return split.permute(order).reshape(batch, math.prod(grid), -1)


def unpatchify(patches: Tensor, grid: tuple[int, ...], patch_size: tuple[int, ...]) -> Tensor:
    """(B, N, P) -> (B, C, *S): the inverse of `patchify`."""
    axes = len(grid)
    split = patches.reshape(len(patches), *grid, *patch_size, -1)
    pairs = [axis for a in range(axes) for axis in (1 + a, 1 + axes + a)]
    sides = [g * p for g, p in zip(grid, patch_size, strict=True)]
    return split.permute(0, 1 + 2 * axes, *pairs).reshape(len(patches), -1, *sides)


def grid_of(img_size: tuple[int, ...], patch_size: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each axis. Raises ValueError where a side is no multiple of the patch's."""
    if len(img_size) != len(patch_size) or any(
        p < 1 or s % p or s < p for s, p in zip(img_size, patch_size, strict=False)
    ):
        raise BadValue(
            f"img_size {_by(img_size)} cannot be cut into whole patches of {_by(patch_size)}",
            "choose an img_size that is a multiple of the patch_size",
        )
    return tuple(s // p for s, p in zip(img_size, patch_size, strict=True))


def sincos_positions(grid: tuple[int, ...], dim: int, counted_in: tuple[int, ...] | None = None) -> Tensor:
    """(N, dim) fixed sine-cosine positions, computed in float64, stored in float32.

    Each axis fills an equal part of the width, the last axis (columns) first; a part is [sin | cos] over
    frequencies 1 / 10000^(k / n), k = 0..n-1. What the axes cannot share equally stays zero.
    counted_in: the grid that is laid over the same image and whose patches are 0, 1, 2 ... apart; default: this one.
        A finer grid's patches then lie between its patches, which is the interpolation of its positions, exactly.
    """
    if torch.get_default_device().type == "meta":
        # A model without weights needs the shape alone, and torch takes half a second to get ready to compute none.
        return torch.empty(math.prod(grid), dim)
    n = dim // (2 * len(grid))
    frequencies = 1 / 10000 ** (torch.arange(n, dtype=torch.float64) / n)
    axes = (
        (torch.arange(side, dtype=torch.float64) + 0.5) * (counted / side) - 0.5
        for side, counted in zip(grid, counted_in or grid, strict=True)
    )
    places = torch.meshgrid(*axes, indexing="ij")
    positions = torch.zeros(math.prod(grid), dim, dtype=torch.float64)
    for part, place in enumerate(reversed(places)):
        angles = place.reshape(-1, 1) * frequencies  # (N, n)
        positions[:, 2 * n * part : 2 * n * (part + 1)] = torch.cat([angles.sin(), angles.cos()], dim=1)
    return positions.float()


def interpolated(positions: Tensor, grid: tuple[int, ...], to: tuple[int, ...]) -> Tensor:
    """(N, D) learned positions of a grid -> those of another, bicubically. Raises ValueError but for two axes."""
    if len(grid) != 2:
        raise ValueError("learned positions can be interpolated for images only, which have two axes")
    planes = positions.unflatten(0, grid).permute(2, 0, 1)[None]  # (1, D, rows, columns)
    return F.interpolate(planes, to, mode="bicubic", align_corners=False)[0].flatten(1).T.contiguous()


def rotations(grid: tuple[int, ...], dim: int, base: float) -> Tensor:
    """(N, dim / 2) angles by which pairs of a head's numbers are turned at each place (RoPE, as DINOv3 has it: arXiv
    2508.10104): along each axis, rows first, 2 pi place / period, with places from -1 to 1 across the image, whatever
    its grid, and periods base^(k / n), k = 0..n-1. Raises ValueError where the axes cannot share dim / 2."""
    n = dim // (2 * len(grid))
    if n * 2 * len(grid) != dim:
        raise ValueError(
            f"heads {dim} wide cannot hold rotations of {len(grid)} axes: use a multiple of {2 * len(grid)}"
        )
    periods = base ** (torch.arange(n, dtype=torch.float64) / n)
    axes = ((torch.arange(side, dtype=torch.float64) + 0.5) * (2 / side) - 1 for side in grid)
    places = torch.meshgrid(*axes, indexing="ij")
    angles = [2 * math.pi * place.reshape(-1, 1) / periods for place in places]  # (N, n) each
    return torch.cat(angles, dim=1).float()


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """(B, N, D) tokens at (B, V) indices -> (B, V, D)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


# ---------------------------------------------------------------- blocks

NORM_EPS = 1e-6  # of every LayerNorm, as the paper's weights were trained


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(d)) v over (B, heads, tokens, d)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # torch's fused kernel is 2 to 9 times slower than plain products here, backward above all (docs/log.md).
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """(B, heads, N, d), each pair (x[i], x[i + d / 2]) turned. turns: (2, B, 1, N, d / 2) cosines and sines."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = turns
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


QkvBias = Literal["all", "no keys", "none"]


class NoKeyBias(nn.Linear):
    """Queries, keys and values of which the keys have no bias: its third is held at zero and never learns."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, 3 D)."""
        query, key, value = self.bias.chunk(3)
        return F.linear(x, self.weight, torch.cat([query, torch.zeros_like(key), value]))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: QkvBias = "all") -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = (NoKeyBias if qkv_bias == "no keys" else nn.Linear)(dim, 3 * dim, bias=qkv_bias != "none")
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, last: int | None = None, turns: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or of the `last` tokens alone (B, last, D). turns: see `turned`."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # 3 x (B, heads, N, D / heads)
        if turns is not None:
            q, k = turned(q, turns), turned(k, turns)
        if last is not None:
            q, tokens = q[:, :, -last:], last
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(batch, tokens, dim))


class CrossAttention(nn.Module):
    """Queries of width E read a memory of width D."""

    def __init__(self, dim: int, memory_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(memory_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(B, Q, E), (B, T + V, D) -> (B, Q, E)."""
        batch, queries, dim = x.shape
        q = self.q(x).view(batch, queries, self.num_heads, -1).transpose(1, 2)
        k, v = self.kv(memory).view(batch, -1, 2, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(batch, queries, dim))


class SwiGLU(nn.Module):
    """A gate, SiLU of the first half, times the second (arXiv 2002.05202)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, 2 H) -> (B, N, H)."""
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value


class MLP(nn.Sequential):
    """Linear, GELU, Linear; or with a gate instead, of which the first layer makes twice as much."""

    def __init__(self, dim: int, ratio: float, swiglu: bool = False) -> None:
        hidden = int(dim * ratio)
        first = nn.Linear(dim, 2 * hidden if swiglu else hidden)
        super().__init__(first, SwiGLU() if swiglu else nn.GELU(), nn.Linear(hidden, dim))


class LayerScale(nn.Module):
    """What a branch adds, each of its D numbers times a learned one (arXiv 2103.17239)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return x * self.scale


class Block(nn.Module):
    """Pre-norm: attention, then MLP, each added to what came in. What follows norm_eps: see `ViT`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        norm_eps: float = NORM_EPS,
        layer_scale: bool = False,
        swiglu: bool = False,
        qkv_bias: QkvBias = "all",
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, norm_eps)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.scale1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, norm_eps)
        self.mlp = MLP(dim, mlp_ratio, swiglu)
        self.scale2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(
        self,
        x: Tensor,
        keep: Tensor | None = None,
        last: int | None = None,
        turns: Tensor | None = None,
        attending: Callable[[Attention, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D). keep: (B, 2) what the two are multiplied by, 0 to leave one out (drop path).
        last: only so many tokens, from the end, are asked for; they attend to all. turns: see `turned`. attending: what
        is done with the attention and the tokens in the place of all that, (B, N, D) -> (B, N, D)."""
        normed = self.norm1(x)
        attention = self.attn(normed, last, turns) if attending is None else attending(self.attn, normed)
        attention = self.scale1(attention)
        x = x if last is None else x[:, -last:]
        x = x + (attention if keep is None else attention * keep[:, 0, None, None].to(attention.dtype))
        mlp = self.scale2(self.mlp(self.norm2(x)))
        return x + (mlp if keep is None else mlp * keep[:, 1, None, None].to(mlp.dtype))


class CrossBlock(nn.Module):
    """Pre-norm: queries read the memory, then an MLP; the queries do not see each other."""

    def __init__(self, dim: int, memory_dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, NORM_EPS)
        self.norm_memory = nn.LayerNorm(memory_dim, NORM_EPS)
        self.attn = CrossAttention(dim, memory_dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, NORM_EPS)
        self.mlp = MLP(dim, mlp_ratio)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(B, Q, E), (B, T + V, D) -> (B, Q, E)."""
        x = x + self.attn(self.norm1(x), self.norm_memory(memory))
        return x + self.mlp(self.norm2(x))


def run_block(block: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """The block's output. recompute: keep nothing of its inside for the backward pass, which then computes it again:
    about a quarter more work for a fraction of the memory (activation checkpointing, arXiv 1604.06174), the same
    numbers."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)  # nothing random in a block
    return block(*inputs)


@torch.no_grad()
def initialize(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Xavier-uniform matrices (the patch projection as a (D, P) matrix), zero biases, tokens of std 0.02.

    On the meta device there are no weights, and nothing is done: torch would load its compiler to draw none, which
    takes longer than all else that `embed` does of a few images.
    """
    if all(parameter.is_meta for parameter in module.parameters()):
        return
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for name, parameter in module.named_parameters():
        if name.endswith(("class_token", "mask_token")):
            nn.init.normal_(parameter, std=0.02, generator=generator)


DESCRIBED = "openmae"  # of what torch keeps of a module beside its weights


def describe(module: nn.Module, state_dict: dict[str, Any], prefix: str, kept: dict[str, Any]) -> None:
    """A hook by which a state dict says what it is of: its weights do not tell it, and torch.save keeps it."""
    said: Any = module
    is_whole = isinstance(module, MaskedAutoencoder)
    kind = "autoencoder" if is_whole else "encoder" if isinstance(module, ViT) else type(module).__name__.lower()
    shape = said.architecture.to_dict() if is_whole else said.arguments()
    kept[DESCRIBED] = json.dumps(
        {"kind": kind, "architecture": {"encoder": shape} if isinstance(module, ViT) else shape}
    )


# ---------------------------------------------------------------- the encoder


# What few encoders have, and what of it the others have, of which no description says it.
_RARE: dict[str, Any] = {"registers": 0, "layer_scale": False, "swiglu": False, "qkv_bias": "all", "rope": None}


class ViT(nn.Module):
    """A plain Vision Transformer that reads the patches it is given, all of them or only some.

    Others' encoders, DINOv2's and DINOv3's above all, have more:
    registers: how many of the class tokens, the last of them, are no features (arXiv 2309.16588).
    layer_scale, swiglu: see the classes. qkv_bias: which of queries, keys and values have one.
    rope: the base of the periods of `rotations`, which stand for positions then; None: there are none.
    """

    positions: Tensor
    angles: Tensor

    def __init__(
        self,
        img_size: tuple[int, ...],
        patch_size: tuple[int, ...],
        in_chans: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        class_tokens: int = 1,
        position_grid: tuple[int, ...] | None = None,
        norm_eps: float = NORM_EPS,
        learned_positions: bool = False,
        registers: int = 0,
        layer_scale: bool = False,
        swiglu: bool = False,
        qkv_bias: QkvBias = "all",
        rope: float | None = None,
    ) -> None:
        super().__init__()
        _check_width("embed_dim", embed_dim, num_heads, len(img_size))
        if not 0 <= registers <= class_tokens:
            raise ValueError(f"registers is {registers}; give 0 to class_tokens = {class_tokens}")
        self.img_size, self.patch_size, self.in_chans = img_size, patch_size, in_chans
        self.grid = grid_of(img_size, patch_size)
        self.embed_dim, self.depth, self.class_tokens = embed_dim, depth, class_tokens
        self.num_heads, self.mlp_ratio, self.position_grid = num_heads, mlp_ratio, position_grid
        self.norm_eps, self.learned_positions = norm_eps, learned_positions
        self.registers, self.layer_scale, self.swiglu = registers, layer_scale, swiglu
        self.qkv_bias, self.rope = qkv_bias, rope
        self.grad_checkpointing = False
        self.patch_embed = nn.Linear(math.prod(patch_size) * in_chans, embed_dim)
        self.class_token = nn.Parameter(torch.zeros(class_tokens, embed_dim))  # its position is zero
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, norm_eps, layer_scale, swiglu, qkv_bias) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, norm_eps)
        positions = sincos_positions(self.grid, embed_dim, position_grid)
        _set_positions(self, positions if rope is None else torch.zeros_like(positions), learned_positions)
        if rope is not None:  # class tokens are not turned
            angles = F.pad(rotations(self.grid, embed_dim // num_heads, rope), (0, 0, class_tokens, 0))
            self.register_buffer("angles", angles, persistent=False)  # (T + N, D / heads / 2)
        self.register_state_dict_post_hook(describe)

    def rare_parts(self) -> list[str]:
        """What this encoder has that few have, in words; empty for one of the paper's."""
        found = [f"{self.registers} register tokens"] if self.registers else []
        found += ["LayerScale"] if self.layer_scale else []
        found += ["SwiGLU"] if self.swiglu else []
        bias = {"no keys": "no biases of keys", "none": "no biases of queries, keys and values"}.get(self.qkv_bias)
        return [*found, *([bias] if bias else []), *(["rotations (RoPE)"] if self.rope is not None else [])]

    @property
    def read_classes(self) -> int:
        """How many of the class tokens, the first of them, are features: all but the registers."""
        return self.class_tokens - self.registers

    def arguments(self) -> dict[str, Any]:
        """Plain values from which `ViT(**arguments)` makes one of the same shape."""
        names = ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "class_tokens")
        said = {name: getattr(self, name) for name in (*names, "position_grid", "norm_eps", "learned_positions")}
        return said | {name: getattr(self, name) for name, usual in _RARE.items() if getattr(self, name) != usual}

    def resized(self, img_size: tuple[int, ...]) -> "ViT":
        """A copy for images of another size, its positions interpolated between those that this one was trained with:
        sine-cosine ones exactly, learned ones by bicubic interpolation, as MAE's code does it for fine-tuning.
        Rotations follow from the place in the image.

        Raises ValueError where the patches do not cut that size.
        """
        is_counted = not self.learned_positions and self.rope is None
        counted_in = self.position_grid or self.grid if is_counted else None
        copy = ViT(**{**self.arguments(), "img_size": img_size, "position_grid": counted_in})
        weights = self.state_dict()
        if self.learned_positions:
            weights["positions"] = interpolated(weights["positions"], self.grid, copy.grid)
        copy.load_state_dict(weights)
        copy.grad_checkpointing = self.grad_checkpointing
        return copy.to(self.class_token.device)

    def with_learned_positions(self) -> "ViT":
        """A copy whose positions are parameters that begin as they are here; itself where they are that already."""
        if self.learned_positions:
            return self
        copy = ViT(**{**self.arguments(), "position_grid": None, "learned_positions": True})
        copy.load_state_dict({**self.state_dict(), "positions": self.positions})
        copy.grad_checkpointing = self.grad_checkpointing
        return copy.to(self.class_token.device)

    def embed(self, patches: Tensor, places: Tensor | None = None) -> Tensor:
        """(B, V, P) patches lying at (B, V) places (default: all N in order) -> (B, V, D)."""
        return self.patch_embed(patches) + (self.positions if places is None else self.positions[places])

    def states(self, tokens: Tensor, keep: Tensor | None = None, places: Tensor | None = None) -> Iterator[Tensor]:
        """(B, V, D) embedded patches -> (B, T + V, D) with class tokens in front: before the first block,
        then after each block. Without the final norm. keep: (B, depth, 2) for the blocks, see Block. places: (B, V)
        where the patches lie, which rotations ask again; default: all N in order."""
        turns = None if self.rope is None else self.turns(places)
        x = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1).to(tokens.dtype), tokens], dim=1)
        yield x
        for number, block in enumerate(self.blocks):
            kept = None if keep is None else keep[:, number]
            x = run_block(block, x, kept, None, turns, recompute=self.grad_checkpointing)
            yield x

    def turns(self, places: Tensor | None) -> Tensor:
        """(2, B or 1, 1, T + V, d / 2) for class tokens, which stay as they are, and patches at (B, V) places."""
        angles = self.angles[None]
        if places is not None:
            classes = torch.arange(self.class_tokens, device=places.device).expand(len(places), -1)
            angles = self.angles[torch.cat([classes, places + self.class_tokens], dim=1)]
        return torch.stack([angles.cos(), angles.sin()])[:, :, None]

    def forward(self, images: Tensor, layer: int | None = None) -> Tensor:
        """(B, C, *S) -> (B, T + N, D) after block `layer` (1..depth, default the last) and the final norm."""
        self.check(images)
        last = self.depth if layer is None else layer
        if not 1 <= last <= self.depth:
            raise BadValue(f"layer {layer} is not one of this encoder's", f"give 1 to {self.depth}")
        tokens = self.embed(patchify(images, self.patch_size))
        return self.norm(next(islice(self.states(tokens), last, None)))

    def check(self, images: Tensor) -> None:
        """Raises ValueError unless images are (B, C, *S) of this model's channels and size."""
        expected = (self.in_chans, *self.img_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"this model takes images of shape (B, {', '.join(map(str, expected))}), not {tuple(images.shape)}"
            )


# ---------------------------------------------------------------- the decoders


class SelfDecoder(nn.Module):
    """The paper's decoder: encoded patches and mask tokens attend to each other (section 3).

    Attention knows no order but the positions, so the mask tokens stand behind the encoded patches, where
    the released code shuffles them back into place; the outputs are the same.
    """

    positions: Tensor

    def __init__(
        self,
        grid: tuple[int, ...],
        memory_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        values: int,
        masks_encoded: bool = False,
        norm_eps: float = NORM_EPS,
        learned_positions: bool = False,
        position_grid: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        _check_width("decoder_embed_dim", dim, num_heads, len(grid))
        self.grad_checkpointing = False
        self.embed = nn.Linear(memory_dim, dim)
        self.mask_token = None if masks_encoded else nn.Parameter(torch.zeros(dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio, norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.head = nn.Linear(dim, values)
        _set_positions(self, sincos_positions(grid, dim, position_grid), learned_positions)

    def forward(self, states: Sequence[Tensor], places: Tensor, queries: Tensor) -> Tensor:
        """Encoder output (B, T + V, D) of patches at (B, V) places, (B, Q) queries -> predictions (B, Q, K).

        Queries are hidden patches. Where the encoder has seen mask tokens for them (masks_encoded, Table 1c),
        they are the last of the places already.
        """
        x = self.embed(states[-1])  # (B, T + V, E)
        classes = x.shape[1] - places.shape[1]
        parts = [x[:, :classes], x[:, classes:] + self.positions[places]]
        if self.mask_token is not None:
            parts.append(self.mask_token + self.positions[queries])
        x = torch.cat([part.to(x.dtype) for part in parts], dim=1)
        for number, block in enumerate(self.blocks):
            # Nothing reads what the last block makes of the visible patches: it is not computed.
            last = queries.shape[1] if number == len(self.blocks) - 1 else None
            x = run_block(block, x, None, last, recompute=self.grad_checkpointing)
        return self.head(self.norm(x))


class CrossDecoder(nn.Module):
    """Hidden queries read encoder tokens and nothing else (CrossMAE, arXiv 2401.14391).

    With several layers read, each block reads its own learned mix of the encoder's states.
    """

    positions: Tensor

    def __init__(
        self,
        grid: tuple[int, ...],
        memory_dim: int,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        values: int,
        layers: int = 1,
        position_grid: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        _check_width("decoder_embed_dim", dim, num_heads, len(grid))
        self.grad_checkpointing = False
        self.mix = nn.Parameter(torch.full((depth, layers), 1 / layers)) if layers > 1 else None
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.blocks = nn.ModuleList(CrossBlock(dim, memory_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, NORM_EPS)
        self.head = nn.Linear(dim, values)
        _set_positions(self, sincos_positions(grid, dim, position_grid), learned=False)

    def forward(self, states: Sequence[Tensor], places: Tensor, queries: Tensor) -> Tensor:
        """L encoder states (B, T + V, D), (B, Q) queries -> predictions (B, Q, K)."""
        x = self.mask_token + self.positions[queries]  # (B, Q, E)
        stacked = torch.stack(list(states)) if self.mix is not None else None  # (L, B, T + V, D)
        for number, block in enumerate(self.blocks):
            memory = states[-1]
            if self.mix is not None and stacked is not None:
                memory = torch.einsum("l,lbvd->bvd", self.mix[number].to(stacked.dtype), stacked)
            x = run_block(block, x, memory, recompute=self.grad_checkpointing)
        return self.head(self.norm(x))


# ---------------------------------------------------------------- the autoencoder


@dataclass
class Output:
    """What a forward pass gives.

    loss: scalar, float32: squared error, averaged over the values of a patch, then over the predicted ones.
    predicted: (B, Q, K) the predictions; queries: (B, Q) the patches they are for; mask: (B, N) True = hidden.
    """

    loss: Tensor
    predicted: Tensor
    queries: Tensor
    mask: Tensor

    @property
    def prediction(self) -> Tensor:
        """(B, N, K) the predictions in their places; 0 where none was asked for (visible patches)."""
        full = self.predicted.new_zeros(*self.mask.shape, self.predicted.shape[-1])
        return full.scatter(1, self.queries[..., None].expand_as(self.predicted), self.predicted)


class MaskedAutoencoder(nn.Module):
    """Encodes the visible patches, predicts hidden ones. Made by `create_model`."""

    def __init__(
        self, architecture: "Architecture", encoder: ViT, decoder: SelfDecoder | CrossDecoder, target: Target
    ) -> None:
        super().__init__()
        architecture.masking.counts(encoder.grid)  # refuses what this grid cannot hide
        self.architecture, self.masking = architecture, architecture.masking
        self.encoder, self.decoder, self.target = encoder, decoder, target
        self.encoder_rests = False
        hidden_encoded = architecture.encoder_mask_token
        self.encoder_mask_token = nn.Parameter(torch.zeros(encoder.embed_dim)) if hidden_encoded else None
        # Evenly spaced states of the encoder, the last always among them (0 is the embedding).
        self.register_state_dict_post_hook(describe)
        self.layers_read = [round(n) for n in np.linspace(encoder.depth, 0, architecture.decoder_layers)][::-1]
        self.initialize()

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Fresh weights, see the function of this name."""
        initialize(self, generator)

    def checkpoint_blocks(self, on: bool = True) -> None:
        """Whether blocks are computed again in the backward pass, to save memory; see `run_block`."""
        self.encoder.grad_checkpointing = self.decoder.grad_checkpointing = on

    def rest_encoder(self, rests: bool = True) -> None:
        """Whether the decoder learns alone from now on: no gradient is computed of anything else."""
        self.encoder_rests = rests

    def forward(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        queries: Tensor | None = None,
        mask_ratio: float | None = None,
    ) -> Output:
        """Images (B, C, *S), normalised, -> Output.

        visible: (B, V) patches to show, each once in its row; drawn by this model's masking where None.
        queries: (B, Q) hidden patches to predict; where None, all hidden ones, or, if `visible` is None too,
        the share that the masking says.
        Raises ValueError where images have another shape than this model's, or queries come without visible.
        """
        self.encoder.check(images)
        if visible is None:
            if queries is not None:
                raise ValueError("queries without visible: the mask drawn could show what they ask for; give both")
            visible, queries = self.draw(len(images), mask_ratio)
        patches = patchify(images, self.encoder.patch_size)  # (B, N, P)
        if not 0 < visible.shape[1] < patches.shape[1]:
            raise ValueError(
                f"{visible.shape[1]} of {patches.shape[1]} patches are visible: some must be, and some must hide"
            )
        mask = torch.ones(patches.shape[:2], dtype=torch.bool, device=images.device).scatter(1, visible, False)
        if queries is None:
            queries = _true_indices(mask, patches.shape[1] - visible.shape[1])

        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_rests):
            states, places = self.encode_visible(patches, visible, queries, mask)
        predicted = self.decoder(states, places, queries)  # (B, Q, K)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            if self.target.per_patch:  # gather before computing: a quarter of the patches is never asked for
                target = self.target(images, take(patches, queries).float())
            else:
                target = take(self.target(images.float(), patches), queries)
        loss = (predicted.float() - target).square().mean(dim=-1).mean()
        return Output(loss, predicted, queries, mask)

    def encode_visible(
        self, patches: Tensor, visible: Tensor, queries: Tensor, mask: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """The encoder states that the decoder reads, and the places of the patches in them."""
        places = visible
        tokens = self.encoder.embed(take(patches, visible), visible)  # (B, V, D): only these are embedded
        if self.encoder_mask_token is not None:  # Table 1c: mask tokens in the encoder, queried ones last
            skipped = _true_indices(
                mask.scatter(1, queries, False), mask.shape[1] - visible.shape[1] - queries.shape[1]
            )
            hidden = torch.cat([skipped, queries], dim=1)
            masked = self.encoder_mask_token + self.encoder.positions[hidden]
            tokens, places = (
                torch.cat([tokens, masked.to(tokens.dtype)], dim=1),
                torch.cat([visible, hidden], dim=1),
            )
        all_states = enumerate(self.encoder.states(tokens, places=places))
        states = [s for number, s in all_states if number in self.layers_read]
        return [*states[:-1], self.encoder.norm(states[-1])], places

    def encode(self, images: Tensor, layer: int | None = None) -> Tensor:
        """Images (B, C, *S), normalised, -> features (B, T + N, D), nothing masked, class tokens first.

        layer: the block whose output is taken, 1..depth; default the last.
        """
        return self.encoder(images, layer)

    def draw(self, batch: int, mask_ratio: float | None = None) -> tuple[Tensor, Tensor]:
        """Masks for a batch, (B, V) visible and (B, Q) queries, from torch's global generator."""
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        drawn = [self.masking.draw(generator, self.encoder.grid, mask_ratio) for _ in range(batch)]
        device = self.encoder.class_token.device
        visible, queries = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*drawn, strict=True))
        return visible, queries


_MOST_BLOCKS, _MOST_PATCHES = 10_000, 2**22  # more is a slip, and would be built for hours

SIZES: dict[str, tuple[int, int, int]] = {  # embed_dim, depth, num_heads
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}


def nearest_size(embed_dim: int) -> str:
    """The name of the size that is nearest in width."""
    return min(SIZES, key=lambda name: abs(SIZES[name][0] - embed_dim))


PAPERS_DECODER = (512, 8, 16)  # the same of the decoder
DECODERS: dict[str, tuple[int, int, int]] = {
    **dict.fromkeys(SIZES, PAPERS_DECODER),
    **dict.fromkeys(("vit_tiny", "vit_small"), (128, 4, 4)),  # light beside the encoder
}


@dataclass(frozen=True)
class Architecture:
    """Everything that decides a model's weights' shapes and what they mean; see `create_model`."""

    img_size: tuple[int, ...]
    patch_size: tuple[int, ...]
    in_chans: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    class_tokens: int
    decoder: Literal["self", "cross"]
    decoder_embed_dim: int
    decoder_depth: int
    decoder_num_heads: int
    decoder_layers: int
    encoder_mask_token: bool
    target: str  # of TARGETS, or own:NAME
    masking: Masking
    # What others' weights may have been trained with; openmae's own have these.
    norm_eps: float = NORM_EPS
    learned_positions: bool = False
    decoder_learned_positions: bool = False
    position_grid: tuple[int, ...] | None = None  # in which fixed positions are counted, the decoder's too; see `ViT`
    target_values: int | None = None  # of a target of somebody's own
    registers: int = 0
    layer_scale: bool = False
    swiglu: bool = False
    qkv_bias: QkvBias = "all"
    rope: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for model.json, without what few models have."""
        rare = {"position_grid": None, "target_values": None, **_RARE}
        return {name: value for name, value in asdict(self).items() if name not in rare or value != rare[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Architecture":
        """The inverse of `to_dict`. Raises TypeError or ValueError for what is not an architecture."""
        sides = ("img_size", "patch_size", "position_grid")
        tuples = {key: tuple(values[key]) for key in sides if values.get(key) is not None}
        return cls(**{**values, **tuples, "masking": Masking(**values["masking"])})

    def build(self) -> MaskedAutoencoder:
        """The model with fresh weights."""
        for name in ("in_chans", "depth", "decoder_depth", "num_heads", "decoder_num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("depth", "decoder_depth"):
            if getattr(self, name) > _MOST_BLOCKS:
                raise ValueError(f"{name} is {getattr(self, name)}; give at most {_MOST_BLOCKS:,}")
        if math.prod(grid_of(self.img_size, self.patch_size)) > _MOST_PATCHES:
            raise BadValue(
                f"img_size {_by(self.img_size)} makes more than {_MOST_PATCHES:,} patches of {_by(self.patch_size)}",
                "choose a smaller img_size or a larger patch_size",
            )
        if is_own(self.target) != (self.target_values is not None) or (self.target_values or 1) < 1:
            raise ValueError(f"target is '{self.target}', of {self.target_values} values")
        if self.class_tokens < 0:
            raise ValueError(f"class_tokens is {self.class_tokens}; give 0 or more")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio:g}; give a number above 0, such as 4")
        for name, choices in (("decoder", ("self", "cross")), ("target", tuple(TARGETS))):
            if getattr(self, name) not in choices and self.target_values is None:
                raise BadValue(f"{name} is '{getattr(self, name)}'", f"choose one of {', '.join(choices)}")
        if self.encoder_mask_token and self.decoder == "cross":
            raise ValueError(
                "a cross-attention decoder reads visible patches only: encoder_mask_token needs decoder 'self'"
            )
        if self.decoder_layers > 1 and self.decoder == "self":
            raise BadValue("only the cross-attention decoder reads several encoder layers", "choose decoder 'cross'")
        if not 1 <= self.decoder_layers <= self.depth + 1:
            raise ValueError(f"decoder_layers is {self.decoder_layers}; give 1 to depth + 1 = {self.depth + 1}")
        encoder = ViT(
            self.img_size,
            self.patch_size,
            self.in_chans,
            self.embed_dim,
            self.depth,
            self.num_heads,
            self.mlp_ratio,
            self.class_tokens,
            self.position_grid,
            self.norm_eps,
            self.learned_positions,
            self.registers,
            self.layer_scale,
            self.swiglu,
            self.qkv_bias,
            self.rope,
        )
        target = make_target(self.target, self.patch_size, self.in_chans, self.target_values)
        shape = (
            encoder.grid,
            self.embed_dim,
            self.decoder_embed_dim,
            self.decoder_depth,
            self.decoder_num_heads,
            self.mlp_ratio,
            target.values,
        )
        decoder = (
            SelfDecoder(
                *shape, self.encoder_mask_token, self.norm_eps, self.decoder_learned_positions, self.position_grid
            )
            if self.decoder == "self"
            else CrossDecoder(*shape, self.decoder_layers, self.position_grid)
        )
        return MaskedAutoencoder(self, encoder, decoder, target)


def create_model(
    model: str = "vit_base",
    *,
    img_size: int | tuple[int, ...] = 224,
    patch_size: int | tuple[int, ...] | None = None,
    in_chans: int = 3,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    mlp_ratio: float = 4.0,
    class_tokens: int = 1,
    decoder: Literal["self", "cross"] = "self",
    decoder_embed_dim: int | None = None,
    decoder_depth: int | None = None,
    decoder_num_heads: int | None = None,
    decoder_layers: int = 1,
    encoder_mask_token: bool = False,
    target: str = "pixel",
    norm_pix_loss: bool = True,
    norm_pix_by: Literal["patch", "channel"] = "patch",
    masking: Masking | None = None,
) -> MaskedAutoencoder:
    """A MaskedAutoencoder with fresh weights.

    model: vit_tiny, vit_small, vit_base, vit_large or vit_huge; sets embed_dim, depth, num_heads, the decoder's three
        (each may be given instead; by default the decoder that `openmae pretrain` takes) and the patch_size (16; 14
        for vit_huge).
    img_size, patch_size: one number for square ones, or one an axis, (height, width) for images.
    in_chans: channels of an image, 1 or more.
    class_tokens: 0 or more (Pixio, CVPR 2026, uses several).
    decoder: self-attention as in the paper, or cross-attention (CrossMAE), which may read a learned mix of
        `decoder_layers` encoder layers.
    encoder_mask_token: mask tokens go through the encoder (Table 1c); for comparison, it is slow.
    norm_pix_by: whose mean a patch's pixels are normalised by, the patch's or that of each of its channels.
    target: pixels (each patch normalised where norm_pix_loss), its leading PCA coefficients, or its HOG: pixel, pca
        or hog; or one's own, an `Own` whose `made` is as `targets.OwnTarget` says.
    masking: what hides, default 75% at random.

    Raises ValueError for combinations that cannot be built.
    """
    if model not in SIZES:
        raise BadValue(f"no model is called '{model}'", f"choose one of {', '.join(SIZES)}")
    size, decoder_size = SIZES[model], DECODERS[model]
    normalised = "norm_pix" if norm_pix_by == "patch" else "norm_pix_by_channel"
    sides = img_size if isinstance(img_size, tuple) else (img_size, img_size)
    patch = (14 if model == "vit_huge" else 16) if patch_size is None else patch_size
    patches = patch if isinstance(patch, tuple) else (patch,) * len(sides)
    return Architecture(
        img_size=sides,
        patch_size=patches,
        in_chans=in_chans,
        embed_dim=size[0] if embed_dim is None else embed_dim,
        depth=size[1] if depth is None else depth,
        num_heads=size[2] if num_heads is None else num_heads,
        mlp_ratio=mlp_ratio,
        class_tokens=class_tokens,
        decoder=decoder,
        decoder_embed_dim=decoder_size[0] if decoder_embed_dim is None else decoder_embed_dim,
        decoder_depth=decoder_size[1] if decoder_depth is None else decoder_depth,
        decoder_num_heads=decoder_size[2] if decoder_num_heads is None else decoder_num_heads,
        decoder_layers=decoder_layers,
        encoder_mask_token=encoder_mask_token,
        target=normalised if target == "pixel" and norm_pix_loss else target,
        masking=Masking() if masking is None else masking,
        target_values=values_of(target, sides, patches, in_chans) if isinstance(target, Own) else None,
    ).build()


def _set_positions(module: nn.Module, positions: Tensor, learned: bool) -> None:
    """Fixed ones are computed anew wherever the weights are read, and not kept with them."""
    if learned:
        module.positions = nn.Parameter(positions)
    else:
        module.register_buffer("positions", positions, persistent=False)


def _true_indices(mask: Tensor, count: int) -> Tensor:
    """(B, N) with `count` True a row -> their (B, count) indices, ascending; no wait for the device."""
    return mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def _check_width(name: str, dim: int, num_heads: int, axes: int) -> None:
    if dim % num_heads:
        raise BadValue(f"{name} {dim} is no multiple of its {num_heads} heads", "choose a width that its heads divide")
    if dim < 2 * axes or (axes == 2 and dim % 4):
        raise BadValue(f"{name} {dim} cannot hold sine-cosine positions of {axes} axes", "use a multiple of 4")


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
