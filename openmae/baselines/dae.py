"""A denoising autoencoder: clean pixels from spoilt ones (Vincent et al., 2008, with which MAE's section 2 begins).

The noise and the mask are in pixel space: half of the patches are blanked, and what is left gets Gaussian noise. The
encoder sees all patches, and a linear layer predicts all of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openmae.baselines.method import Method, Size
from openmae.data.loading.stream import Batch
from openmae.masking import Masking
from openmae.model import ViT, patchify, unpatchify

STD = 0.5  # of the noise, in standard deviations of the data
_NEVER = 1e-6  # uniform numbers nearer to 0 or 1 than that are taken for that


class DAE(Method):
    """The encoder and a linear layer on each of its patch tokens."""

    masking = Masking(mask_ratio=0.5)
    noise = 1
    betas = (0.9, 0.95)

    def __init__(self, encoder: ViT, size: Size) -> None:
        super().__init__(encoder, size)
        self.decoder = nn.Linear(encoder.embed_dim, encoder.patch_embed.in_features)

    def loss(self, views: Sequence[Tensor], batch: Batch) -> Tensor:
        """Squared error of all pixels."""
        clean = patchify(views[0], self.encoder.patch_size)
        tokens = self.encoder(self.spoilt(views[0], batch.queries, batch.noise))[:, self.encoder.class_tokens :]
        return (self.decoder(tokens).float() - clean).square().mean()

    def spoilt(self, images: Tensor, hidden: Tensor, uniform: Tensor) -> Tensor:
        """images (B, C, H, W), normalised; hidden (B, Q) patches; uniform (B, C H W) -> (B, C, H, W): 0, which is the
        mean of the data, where patches are hidden."""
        noise = torch.special.ndtri(uniform.clamp(_NEVER, 1 - _NEVER)).reshape(images.shape) * STD
        patches = patchify(images + noise, self.encoder.patch_size)
        patches = patches.scatter(1, hidden[..., None].expand(-1, -1, patches.shape[2]), 0.0)
        return unpatchify(patches, self.encoder.grid, self.encoder.patch_size)
