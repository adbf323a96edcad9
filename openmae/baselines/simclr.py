"""SimCLR: two views of an image are to be alike, and unlike all other images of the batch (arXiv 2002.05709)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.baselines.method import Method, Seen, Size, features, in_full, mlp, scaled
from openmae.data.loading.stream import Batch
from openmae.model import ViT

TEMPERATURE = 0.1  # of the paper's best at large batches (Table 5)


class SimCLR(Method):
    """A projection head of two layers; the loss is over all 2B views."""

    views = (Seen(jitter=(0.8, 0.8, 0.8, 0.2)),) * 2
    whole_batch = True

    def __init__(self, encoder: ViT, size: Size) -> None:
        super().__init__(encoder, size)
        self.projector = mlp(encoder.embed_dim, scaled(4096, encoder), 128)

    def loss(self, views: Sequence[Tensor], batch: Batch) -> Tensor:
        """NT-Xent."""
        first, second = self.projector(features(self.encoder, torch.cat(list(views)))).float().chunk(2)
        return nt_xent(first, second, TEMPERATURE)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """(B, E) twice -> the normalised, temperature-scaled cross entropy: which of the 2B - 1 other views is of the same
    image (equation 1)."""
    both = F.normalize(torch.cat([first, second]), dim=1)
    with in_full(both):
        likeness = both @ both.T / temperature  # (2B, 2B)
    likeness = likeness.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), float("-inf"))
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(likeness, partner)
