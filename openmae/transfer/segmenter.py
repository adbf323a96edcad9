"""A class for every pixel: a ViT, and a head that reads its patches.

    linear      a LayerNorm and one linear layer on the last block's patches, upsampled (arXiv 2404.12172); of each
                patch it gives scores every STRIDE pixels, as UPerNet does, not one score alone
    upernet     UPerNet (arXiv 1807.10221) on four of the blocks, as the paper fine-tunes on ADE20K (A.4)

Shapes: B images, C channels, H and W pixels, h x w patches, D width, L blocks, K classes, E channels of a head.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmae.errors import BadValue
from openmae.heads import vit_of
from openmae.model import ViT, describe
from openmae.transfer.kinds import SegmentHead
from openmae.transfer.pyramid import Backbone, Rescaled

_MOST_AUXILIARY = 256  # channels of the second head, as BEiT's; no more than the encoder is wide
STRIDE = 4  # pixels from score to score: one for a patch of 8 pixels costs outlines of nuclei 2% of Dice
_POOLED = (1, 2, 3, 6)  # places a side
_SCALES = (4.0, 2.0, 1.0, 0.5)  # of UPerNet's four maps beside the patches


def read_blocks(depth: int) -> list[int]:
    """Which four blocks, 1..depth, UPerNet reads: 4, 6, 8, 12 of 12 (paper's code: 3, 5, 7, 11 from 0), and in
    proportion of others; fewer where there are fewer."""
    return sorted({max(1, round(depth * number / 12)) for number in (4, 6, 8, 12)})


class Linear(nn.Module):
    """One linear layer on each patch, which gives the scores of a x b places in it. The norm begins as the encoder's
    own."""

    def __init__(self, encoder: ViT, classes: int) -> None:
        super().__init__()
        self.layers, self.width = [encoder.depth], encoder.embed_dim
        self.norm = nn.LayerNorm(encoder.embed_dim, encoder.norm_eps)
        self.norm.load_state_dict(encoder.norm.state_dict())
        self.places = tuple(max(1, side // STRIDE) for side in encoder.patch_size)
        self.classifier = nn.Linear(encoder.embed_dim, classes * math.prod(self.places))

    def forward(self, maps: list[Tensor], kept: Tensor | None = None) -> Tensor:
        """[(B, D, h, w)] -> (B, K, h a, w b). kept: as `_some`."""
        x = self.norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        found: Tensor = self.classifier(_some(x, kept).permute(0, 2, 3, 1))
        by_place = found.unflatten(3, (-1, *self.places))
        return by_place.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


class Convolution(nn.Sequential):
    """A convolution, a batch norm, a ReLU."""

    def __init__(self, before: int, after: int, side: int) -> None:
        super().__init__(
            nn.Conv2d(before, after, side, padding=side // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()
        )


class Auxiliary(nn.Module):
    """A convolution and a linear layer on a block in the middle, the 8th of 12, whose loss helps that block to learn
    (FCN, arXiv 1411.4038; as mmsegmentation's FCNHead of one convolution, without its input beside it)."""

    def __init__(self, encoder: ViT, classes: int) -> None:
        super().__init__()
        self.width = min(_MOST_AUXILIARY, encoder.embed_dim)
        self.layer = read_blocks(encoder.depth)[-2:][0]
        self.convolution = Convolution(encoder.embed_dim, self.width, 3)
        self.classifier = nn.Conv2d(self.width, classes, 1)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, D, h, w) -> (B, K, h, w). kept: as `_some`."""
        return self.classifier(_some(self.convolution(x), kept))


class UperNet(nn.Module):
    """What is seen in parts of the image of several sizes is added from the coarsest map to the finest; all of them
    together tell the class. As wide as the encoder, as BEiT's and mmsegmentation's for MAE."""

    def __init__(self, encoder: ViT, classes: int) -> None:
        super().__init__()
        dim, self.layers = encoder.embed_dim, read_blocks(encoder.depth)
        self.width = channels = dim
        scales = _SCALES[-len(self.layers) :]
        self.rescale = nn.ModuleList(Rescaled(dim, scale, narrows=False, norm=nn.BatchNorm2d) for scale in scales)
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), Convolution(dim, channels, 1)) for side in _POOLED
        )
        self.pooled = Convolution(dim + len(_POOLED) * channels, channels, 3)
        self.lateral = nn.ModuleList(Convolution(dim, channels, 1) for _ in scales[:-1])
        self.smooth = nn.ModuleList(Convolution(channels, channels, 3) for _ in scales[:-1])
        self.fuse = Convolution(len(scales) * channels, channels, 3)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: list[Tensor], kept: Tensor | None = None) -> Tensor:
        """[(B, D, h, w)] of the blocks it reads -> (B, K, 4 h, 4 w), or what its finest map has. kept: as `_some`."""
        return self.classify([rescale(x) for rescale, x in zip(self.rescale, maps, strict=True)], kept)

    def classify(self, maps: list[Tensor], kept: Tensor | None = None) -> Tensor:
        """Of maps (B, D, ...), the finest first -> (B, K, ...) of the finest."""
        coarsest = maps[-1]
        pools = [_resized(pool(coarsest), coarsest.shape[2:]) for pool in self.pools]
        ways = [lateral(x) for lateral, x in zip(self.lateral, maps[:-1], strict=True)]
        ways.append(self.pooled(torch.cat([coarsest, *pools], dim=1)))
        for level in range(len(ways) - 1, 0, -1):
            ways[level - 1] = ways[level - 1] + _resized(ways[level], ways[level - 1].shape[2:])
        finest = ways[0].shape[2:]
        ways = [*(smooth(x) for smooth, x in zip(self.smooth, ways[:-1], strict=True)), ways[-1]]
        return self.classifier(_some(self.fuse(torch.cat([_resized(x, finest) for x in ways], dim=1)), kept))


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _some(x: Tensor, kept: Tensor | None) -> Tensor:
    """(B, E, h, w) without some of its channels. kept: (B, E), 0 for those, else what keeps the mean; None: all are."""
    return x if kept is None else x * kept[:, :, None, None].to(x.dtype)


HEADS: dict[str, type[Linear] | type[UperNet]] = {"linear": Linear, "upernet": UperNet}


class Segmenter(nn.Module):
    """A ViT and what tells the class of every pixel from its patches.

    drops: chances, 0 to below 1, in training: to leave out a branch of the last block, as `Backbone`'s drop path; and
        to leave out a channel below a head's last layer (mmsegmentation's dropout of a head).
    auxiliary: with a second head, which is asked in training alone.
    Raises ValueError for an encoder of other than two axes.
    """

    def __init__(
        self,
        encoder: ViT,
        classes: int,
        head: SegmentHead = "linear",
        drops: tuple[float, float] = (0.0, 0.0),
        *,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise BadValue(f"no head is called '{head}'", f"choose one of {', '.join(HEADS)}")
        self.kind, self.classes, self.dropout = head, classes, drops[1]
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; give a number from 0 and below 1")
        self.backbone = Backbone(encoder, drop_path=drops[0])
        self.head: Linear | UperNet = HEADS[head](encoder, classes)
        self.auxiliary = Auxiliary(encoder, classes) if auxiliary else None
        encoder.norm.requires_grad_(False)  # it is not asked
        self.register_state_dict_post_hook(describe)

    @property
    def encoder(self) -> ViT:
        """The backbone's."""
        return self.backbone.encoder

    def arguments(self) -> dict[str, Any]:
        """Plain values that describe it, for `from_arguments`; what is dropped is the training's."""
        return {
            "encoder": self.encoder.arguments(),
            "classes": self.classes,
            "head": self.kind,
            "auxiliary": self.auxiliary is not None,
        }

    @classmethod
    def from_arguments(cls, values: dict[str, Any]) -> "Segmenter":
        """One of that shape. Raises KeyError, TypeError or ValueError for values that describe none."""
        auxiliary = bool(values.get("auxiliary"))
        return cls(vit_of(values["encoder"]), values["classes"], values["head"], auxiliary=auxiliary)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Fresh heads: convolutions as He et al. (arXiv 1502.01852), the last layer next to zero, biases 0."""
        for head in self._heads:
            for part in head.modules():
                if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)
            nn.init.normal_(head.classifier.weight, std=0.01, generator=generator)
            if head.classifier.bias is not None:
                nn.init.zeros_(head.classifier.bias)

    @property
    def _heads(self) -> list[Linear | UperNet | Auxiliary]:
        return [self.head, *([] if self.auxiliary is None else [self.auxiliary])]

    @property
    def uniform(self) -> int:
        """U, how many uniform numbers training takes of each image: two of each block, one of each channel below a
        head's last layer."""
        return 2 * self.encoder.depth + sum(head.width for head in self._heads)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, C, H, W), normalised, -> (B, K, H, W) scores. noise: as of `told`."""
        kept = self._kept(noise)
        scores = self.head(self.backbone(images, self.head.layers, self._of_blocks(noise)), kept[0])
        return _resized(scores, images.shape[2:])

    def told(self, images: Tensor, noise: Tensor | None = None) -> list[Tensor]:
        """The same, and the scores of the auxiliary head behind it, where there is one.

        noise: (B, U) uniform numbers from 0 to below 1, from which it is decided what training leaves out; those of
            the blocks, (B, 2 L), are enough where no channel is dropped.
        """
        if self.auxiliary is None:
            return [self(images, noise)]
        layers = sorted({*self.head.layers, self.auxiliary.layer})
        maps = dict(zip(layers, self.backbone(images, layers, self._of_blocks(noise)), strict=True))
        kept = self._kept(noise)
        scores = self.head([maps[layer] for layer in self.head.layers], kept[0])
        others = self.auxiliary(maps[self.auxiliary.layer], kept[1])
        return [_resized(each, images.shape[2:]) for each in (scores, others)]

    def _of_blocks(self, noise: Tensor | None) -> Tensor | None:
        return None if noise is None else noise[:, : 2 * self.encoder.depth]

    def _kept(self, noise: Tensor | None) -> list[Tensor | None]:
        """Of each head: which channels below its last layer stay, as `_some`."""
        widths = [head.width for head in self._heads]
        if noise is None or not self.training or not self.dropout:
            return [None for _ in widths]
        chosen = (noise[:, 2 * self.encoder.depth :] >= self.dropout) / (1 - self.dropout)
        return [*chosen.split(widths, dim=1)]

    def encode(self, images: Tensor, layer: int | None = None) -> Tensor:
        """Images (B, C, H, W), normalised, -> features (B, T + N, D) of the encoder, class tokens first."""
        return self.encoder(images, layer)
