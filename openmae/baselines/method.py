"""What every method is: an encoder, what trains it, and the loss of a batch.

Shapes: B images, C channels, H and W sides, N patches, P values in a patch, D encoder width, K prototypes or classes,
E width of a projection.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, log2, pi
from typing import ClassVar

import torch
from torch import Tensor, nn

from openmae.data.loading.stream import Batch
from openmae.errors import UserError
from openmae.heads import Classifier, Encoder
from openmae.masking import Masking
from openmae.model import ViT, patchify


class Collapsed(UserError):
    """The features say the same of all images, and more training does not mend that. No fault of the user's settings: a
    study notes it and goes on."""


@dataclass(frozen=True)
class Seen:
    """How a view of an image is made. side: of the view, as a share of the run's img_size. scale: share of the image's
    area. jitter: brightness, contrast, saturation, hue; blur, solarize: chances; see `Photometric`."""

    scale: tuple[float, float] = (0.08, 1.0)
    side: float = 1.0
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    blur: float = 0.5
    solarize: float = 0.0


@dataclass(frozen=True)
class Size:
    """How large a training is. images: that are learnt from."""

    images: int
    batch_size: int
    steps: int
    seed: int


class Method(nn.Module, ABC):
    """A training's model; only `left` is kept of it.

    views: what is made of each image, () for the crops of a pre-training; masking: which of their patches hide then;
    noise: uniform numbers that a view's own generator draws for each of its values. betas: AdamW's.
    whole_batch: whether all images of a step go through together, for what is compared within them.
    least_micro_batch: how many images stay together elsewhere.
    """

    views: ClassVar[tuple[Seen, ...]] = ()
    masking: ClassVar[Masking | None] = None
    noise: ClassVar[int] = 0
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    whole_batch: ClassVar[bool] = False
    least_micro_batch: ClassVar[int] = 1
    encoder: ViT

    def __init__(self, encoder: ViT, size: Size) -> None:
        super().__init__()
        self.encoder, self.size = encoder, size

    def start(self) -> None:
        """What begins as a copy of something, once that has its fresh weights."""

    @abstractmethod
    def loss(self, views: Sequence[Tensor], batch: Batch) -> Tensor:
        """Of a batch, a scalar. views: (B, C, H, W) each, normalised."""

    def moved(self, taken: Tensor) -> None:
        """After each step of the optimizer; taken: 0 where it was none, else 1. Called without gradients."""

    def resting(self) -> tuple[Sequence[nn.Parameter], int]:
        """What does not learn in the first steps, and how many."""
        return (), 0

    def check(self) -> dict[str, float]:
        """Figures of how it goes. Raises Collapsed."""
        return {}

    def left(self) -> Classifier | Encoder:
        """What is kept of it."""
        return Encoder(self.encoder)

    def step_of(self, batch: Batch) -> int:
        """Which step of the optimizer a batch is of."""
        return batch.start // self.size.batch_size


# ---------------------------------------------------------------- what several of them are made of


def features(encoder: ViT, images: Tensor, positions: Tensor | None = None) -> Tensor:
    """(B, C, H, W) -> (B, D): the mean of the patch tokens after the final norm, as features are judged.

    positions: (N, D) of the patches of an image of another size than the encoder's.
    """
    tokens = encoder.patch_embed(patchify(images, encoder.patch_size))
    tokens = tokens + (encoder.positions if positions is None else positions)
    (last,) = deque(encoder.states(tokens), maxlen=1)
    return encoder.norm(last)[:, encoder.class_tokens :].mean(dim=1)


def in_full(tensor: Tensor) -> torch.autocast:
    """Within, products are not of bfloat16, whatever the training's precision: temperatures enlarge what is rounded."""
    return torch.autocast(tensor.device.type, enabled=False)


def scaled(width: int, encoder: ViT) -> int:
    """The width of a hidden layer that is `width` on ViT-B, in proportion to the encoder's."""
    return max(64, round(width * encoder.embed_dim / 768))


def mlp(*widths: int, normed: bool = False) -> nn.Sequential:
    """Linear layers with batch norms and ReLUs between them. normed: a batch norm without weights behind the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not normed))
    if normed:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


class Average(nn.Module):
    """A copy of modules that does not learn: it follows their weights as a moving average."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules).requires_grad_(False)

    @torch.no_grad()
    def follow(self, modules: Sequence[nn.Module], momentum: float, taken: Tensor) -> None:
        """average = momentum * average + (1 - momentum) * weights, where the step was taken."""
        for part, module in zip(self.parts, modules, strict=True):
            for mine, theirs in zip(part.parameters(), module.parameters(), strict=True):
                mine.lerp_(theirs.detach(), (1 - momentum) * taken.to(mine))


def momentum_at(first: float, step: int, steps: int) -> float:
    """Of a moving average: from `first` to 1 by half a cosine (BYOL, section 3.2)."""
    return 1 - (1 - first) * (cos(pi * step / max(1, steps)) + 1) / 2


def first_momentum(batch_size: int) -> float:
    """0.99 for batches up to 64, 0.996 (BYOL, DINO) from 1024 on: of few steps, an average has to forget sooner."""
    return 0.99 + 0.006 * min(1.0, max(0.0, log2(batch_size / 64) / 4))
