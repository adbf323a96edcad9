"""MoCo v3: contrast with the batch as a moving average sees it; without a queue (arXiv 2104.02057)."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.baselines.method import Average, Method, Seen, Size, features, in_full, mlp, momentum_at, scaled
from openmae.data.loading.stream import Batch
from openmae.model import ViT

TEMPERATURE, MOMENTUM = 0.2, 0.99


class MoCoV3(Method):
    """The patch projection stays as it is drawn, without which training is unstable (section 4.2)."""

    views = (Seen(blur=1.0), Seen(blur=0.1, solarize=0.2))
    whole_batch = True

    def __init__(self, encoder: ViT, size: Size) -> None:
        super().__init__(encoder, size)
        encoder.patch_embed.requires_grad_(False)
        hidden = scaled(4096, encoder)
        self.projector = mlp(encoder.embed_dim, hidden, hidden, 256, normed=True)
        self.predictor = mlp(256, hidden, 256, normed=True)
        self.target = Average(deepcopy(encoder), deepcopy(self.projector))
        self.step = 0

    def start(self) -> None:
        """The average begins as the network."""
        self.target.follow([self.encoder, self.projector], 0.0, torch.ones(()))

    def loss(self, views: Sequence[Tensor], batch: Batch) -> Tensor:
        """Symmetric: each view's query with the other's keys."""
        self.step = self.step_of(batch)
        images = torch.cat(list(views))
        queries = self.predictor(self.projector(features(self.encoder, images))).float().chunk(2)
        with torch.no_grad():
            encoder, projector = self.target.parts
            keys = projector(features(encoder, images)).float().chunk(2)  # type: ignore[arg-type]
        return contrast(queries[0], keys[1], TEMPERATURE) + contrast(queries[1], keys[0], TEMPERATURE)

    def moved(self, taken: Tensor) -> None:
        """The average follows."""
        momentum = momentum_at(MOMENTUM, self.step, self.size.steps)
        self.target.follow([self.encoder, self.projector], momentum, taken)


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """(B, E) twice -> 2 t times the cross entropy of finding one's own key among those of the batch (Algorithm 1)."""
    with in_full(queries):
        likeness = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    return 2 * temperature * F.cross_entropy(likeness, torch.arange(len(queries), device=queries.device))
