"""BYOL: one view predicts what a moving average of the network makes of another (arXiv 2006.07733)."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.baselines.method import (
    Average,
    Collapsed,
    Method,
    Seen,
    Size,
    features,
    first_momentum,
    mlp,
    momentum_at,
    scaled,
)
from openmae.data.loading.stream import Batch
from openmae.model import ViT

LEAST_SPREAD = 1e-3
_KEPT = 0.9  # of what is watched, from step to step


class BYOL(Method):
    """No negatives: a predictor on one side and the average on the other keep it from collapsing, which is watched."""

    views = (Seen(blur=1.0), Seen(blur=0.1, solarize=0.2))
    whole_batch = True  # for the batch norms
    spread: Tensor

    def __init__(self, encoder: ViT, size: Size) -> None:
        super().__init__(encoder, size)
        hidden = scaled(4096, encoder)
        self.projector = mlp(encoder.embed_dim, hidden, 256)
        self.predictor = mlp(256, hidden, 256)
        self.target = Average(deepcopy(encoder), deepcopy(self.projector))
        self.register_buffer("spread", torch.ones(()))
        self.step, self.seen_spread = 0, torch.ones(())

    def start(self) -> None:
        """The average begins as the network."""
        self.target.follow([self.encoder, self.projector], 0.0, torch.ones(()))

    def loss(self, views: Sequence[Tensor], batch: Batch) -> Tensor:
        """Symmetric: each view predicts the other."""
        self.step = self.step_of(batch)
        images = torch.cat(list(views))
        told = self.predictor(self.projector(features(self.encoder, images))).float()
        with torch.no_grad():
            encoder, projector = self.target.parts
            wanted = projector(features(encoder, images)).float()  # type: ignore[arg-type]
            self.seen_spread = spread_of(wanted)
        return 2 * unlikeness(told, wanted.roll(len(views[0]), 0))

    def moved(self, taken: Tensor) -> None:
        """The average follows."""
        momentum = momentum_at(first_momentum(self.size.batch_size), self.step, self.size.steps)
        self.target.follow([self.encoder, self.projector], momentum, taken)
        now = self.spread.lerp(self.seen_spread.to(self.spread), 1 - _KEPT)
        self.spread.copy_(torch.where(taken.to(self.spread) > 0, now, self.spread))

    def check(self) -> dict[str, float]:
        """spread: 0 where the projections of all images point the same way, near 1 where they point everywhere."""
        spread = float(self.spread)
        if spread < LEAST_SPREAD:
            raise Collapsed(
                f"BYOL has collapsed: the projections of all images point the same way (spread {spread:.1e} of 1)",
                "a smaller rate or larger batches may help",
            )
        return {"spread": round(spread, 4)}


def unlikeness(told: Tensor, wanted: Tensor) -> Tensor:
    """(B, E) twice -> the mean of 2 - 2 cos (equation 2)."""
    return (2 - 2 * F.cosine_similarity(told, wanted, dim=1)).mean()


def spread_of(vectors: Tensor) -> Tensor:
    """(B, E) -> 1 - |mean of the vectors, each of length 1|^2: 0 where all point the same way."""
    return 1 - F.normalize(vectors, dim=1).mean(dim=0).square().sum()
