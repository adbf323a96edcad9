"""A plain ViT as a backbone for maps, and the pyramid that is made of its last one (ViTDet, arXiv 2203.16527).

The weights are those of the encoder: nothing of it is copied or renamed. On large images most blocks attend within
windows, so that their cost grows with the area and not with its square; four of them, evenly spaced, attend to all.

Shapes: B images, C channels, H and W pixels, N = h x w patches, T class tokens, D width, L blocks, E channels of a
level, G windows of an image, S = window x window places in one, d = D / heads.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d

from openmae.errors import BadValue
from openmae.heads import branches_kept
from openmae.model import NORM_EPS, Attention, ViT, attend, patchify, run_block, turned

WINDOW = 14  # patches a side, as ViTDet
_GLOBAL = 4  # blocks that attend to the whole image
STRIDES = (4, 8, 16, 32)  # pixels between neighbours of the pyramid's levels, for patches of 4, 8, 16 or 32


def in_windows(x: Tensor, window: int) -> Tensor:
    """(B, h, w, D) -> (B G, window, window, D), zeros where the windows reach beyond the map."""
    batch, height, width, dim = x.shape
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    down, across = x.shape[1] // window, x.shape[2] // window
    return x.view(batch, down, window, across, window, dim).transpose(2, 3).reshape(-1, window, window, dim)


def out_of_windows(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `in_windows` for a map of that grid."""
    window, (height, width) = x.shape[1], grid
    down, across = -(-height // window), -(-width // window)
    x = x.view(-1, down, across, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, down * window, across * window, x.shape[-1])[:, :height, :width]


class RelativePositions(nn.Module):
    """How much a query cares for a key so many places below and beside it; nothing until it has learnt."""

    def __init__(self, grid: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.grid = grid
        self.down, self.across = (nn.Parameter(torch.zeros(2 * side - 1, dim)) for side in grid)

    def forward(self, q: Tensor) -> Tensor:
        """Queries (B, heads, h w, d) -> (B, heads, h w, h w), to be added to the scores."""
        height, width = self.grid
        q = q.unflatten(2, self.grid)
        down = torch.einsum("bnhwd,hkd->bnhwk", q, self.down[_apart(height)])
        across = torch.einsum("bnhwd,wkd->bnhwk", q, self.across[_apart(width)])
        return (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)


def _apart(side: int) -> Tensor:
    """(side, side): which row of a table is for query i and key j."""
    places = torch.arange(side)
    return places[:, None] - places[None] + side - 1


class Backbone(nn.Module):
    """A ViT that gives maps of its patches, after any of its blocks, before the final norm.

    encoder: of the size that the images have (`ViT.resized`). Raises ValueError for a size of other than two axes.
    window: patches a side; in a grid that is larger, all blocks but four attend within windows, and class tokens, which
        belong to no window, are left out; in one that is not, this is the plain encoder. None: never any windows.
    relative: learn relative positions too, which begin as zeros.
    drop_path: chance, 0 to below 1, to leave out a branch of the last block in training; it rises evenly from 0.
    """

    def __init__(self, encoder: ViT, window: int | None = None, relative: bool = False, drop_path: float = 0.0) -> None:
        super().__init__()
        if len(encoder.grid) != 2:
            raise BadValue(f"this encoder is for images of {len(encoder.grid)} axes", "give one for images of two")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is {drop_path}; give a number from 0 and below 1")
        if window is not None and window < 1:
            raise ValueError(f"window is {window}; give 1 or more")
        self.encoder, self.drop_path = encoder, drop_path
        self.grid: tuple[int, int] = (encoder.grid[0], encoder.grid[1])
        self.window = window if window is not None and max(self.grid) > window else None
        depth, every = encoder.depth, max(1, encoder.depth // _GLOBAL)
        self.windowed = [self.window is not None and (number + 1) % every != 0 for number in range(depth)]
        self.relative: nn.ModuleList | None = None
        if relative:
            dim = encoder.embed_dim // encoder.num_heads
            sides = [(self.window, self.window) if windowed else self.grid for windowed in self.windowed]
            self.relative = nn.ModuleList(RelativePositions(side, dim) for side in sides)  # type: ignore[arg-type]

    @property
    def is_plain(self) -> bool:
        """Whether it attends as the encoder does, class tokens and all."""
        return self.window is None and self.relative is None

    def forward(self, images: Tensor, layers: Sequence[int], noise: Tensor | None = None) -> list[Tensor]:
        """(B, C, H, W), normalised, -> (B, D, h, w) after each of the blocks `layers`, ascending, 1..L.

        noise: (B, 2 L) uniform numbers from 0 to below 1, from which the drop path of training is decided.
        """
        encoder = self.encoder
        encoder.check(images)
        if list(layers) != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= encoder.depth:
            raise ValueError(f"layers are {list(layers)}; give ascending numbers from 1 to {encoder.depth}")
        keep = (
            None
            if noise is None or not self.training or not self.drop_path
            else branches_kept(encoder, self.drop_path, noise)
        )
        tokens = encoder.embed(patchify(images, encoder.patch_size))  # (B, N, D)
        states = encoder.states(tokens, keep) if self.is_plain else self._states(tokens, keep)
        found = []
        for number, state in enumerate(states):
            if number in layers:
                patches = state[:, -tokens.shape[1] :]
                found.append(patches.transpose(1, 2).unflatten(2, self.grid))
            if number == layers[-1]:
                break
        return found

    def _states(self, x: Tensor, keep: Tensor | None) -> Iterator[Tensor]:
        """The patches (B, N, D) before the first block and after each."""
        turns = None if self.encoder.rope is None else self._turns()
        yield x
        for number, block in enumerate(self.encoder.blocks):
            kept, attending = None if keep is None else keep[:, number], partial(self._attended, number, turns)
            x = run_block(block, x, kept, None, None, attending, recompute=self.encoder.grad_checkpointing)
            yield x

    def _attended(self, number: int, turns: Tensor | None, attn: Attention, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D) by the attention of a block, in windows where this one has them, and with relative
        positions."""
        x = x.unflatten(1, self.grid)  # (B, h, w, D)
        images, window = len(x), self.window if self.windowed[number] else None
        if window is not None:
            x = in_windows(x, window)
            if turns is not None:  # of the windows of each image
                turns = torch.stack([in_windows(part.unflatten(1, self.grid), window) for part in turns]).flatten(2, 3)
                turns = turns.repeat(1, images, 1, 1)
        relative = None if self.relative is None else self.relative[number]
        x = _attention(attn, x.flatten(1, 2), turns, relative).unflatten(1, x.shape[1:3])
        return (x if window is None else out_of_windows(x, self.grid)).flatten(1, 2)

    def _turns(self) -> Tensor:
        """(2, 1, N, d / 2) of the patches alone."""
        return self.encoder.turns(None)[:, :, 0, self.encoder.class_tokens :]


def _attention(attn: Attention, x: Tensor, turns: Tensor | None, relative: nn.Module | None) -> Tensor:
    """(B, N, D) -> (B, N, D), as `Attention`. turns: (2, B or 1, N, d / 2)."""
    batch, tokens, dim = x.shape
    q, k, v = attn.qkv(x).view(batch, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    bias = None if relative is None else relative(q).to(q.dtype)
    if turns is not None:
        q, k = turned(q, turns[:, :, None]), turned(k, turns[:, :, None])
    found = attend(q, k, v) if bias is None else F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return attn.proj(found.transpose(1, 2).reshape(batch, tokens, dim))


def scales_of(patch_size: int) -> list[float]:
    """How much finer than the patches each level of the pyramid is: 4, 2, 1, 1/2 for patches of 16; each level is half
    as fine as the one before."""
    finest = min(4, max(1, 2 ** round(math.log2(patch_size / STRIDES[0]))))
    return [finest / 2**level for level in range(len(STRIDES))]


class Rescaled(nn.Sequential):
    """A map of D channels made 4, 2 or 1 times as fine by transposed convolutions, or coarser by taking maxima; as
    wide as D, D / 2 and D / 4 channels for 1 and less, 2, 4. norm: of what lies between two convolutions."""

    def __init__(self, dim: int, scale: float, narrows: bool = True, norm: type[nn.Module] = LayerNorm2d) -> None:
        steps = round(math.log2(scale))
        self.channels = dim
        parts: list[nn.Module] = []
        if steps > 0:
            widths = [dim // 2**step if narrows else dim for step in range(steps + 1)]
            for step, (before, after) in enumerate(pairwise(widths)):
                if step:
                    parts += [norm(before), nn.GELU()]
                parts.append(nn.ConvTranspose2d(before, after, kernel_size=2, stride=2))
            self.channels = widths[-1]
        elif steps < 0:
            parts.append(nn.MaxPool2d(2**-steps))
        super().__init__(*parts)


class SimplePyramid(nn.Module):
    """Maps of several strides from the backbone's last one alone (ViTDet, section 3): each rescaled, then a 1 x 1 and a
    3 x 3 convolution with a LayerNorm after each."""

    def __init__(self, dim: int, patch_size: int, channels: int = 256) -> None:
        super().__init__()
        self.scales = scales_of(patch_size)
        self.levels = nn.ModuleList(self._level(dim, scale, channels) for scale in self.scales)

    @staticmethod
    def _level(dim: int, scale: float, channels: int) -> nn.Sequential:
        rescaled = Rescaled(dim, scale)
        return nn.Sequential(
            rescaled,
            nn.Conv2d(rescaled.channels, channels, 1, bias=False),
            LayerNorm2d(channels, NORM_EPS),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            LayerNorm2d(channels, NORM_EPS),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, D, h, w) -> (B, E, s h, s w) for each scale s, the finest first."""
        return [level(x) for level in self.levels]
