"""BEiT: which visual word a hidden patch is (arXiv 2106.08254).

The paper's words are those of a discrete VAE that was trained on 250 million images, which nobody else has. Here they
are the means of a k-means over the patch pixels of a sample of DATA: its results are for this comparison alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openmae.baselines.method import Method, Size
from openmae.data.loading.stream import Batch
from openmae.masking import Masking
from openmae.model import ViT, patchify, take

WORDS = 512
VIEWS, PATCHES_A_VIEW = 512, 40  # of the sample that they are fitted to


class BEiT(Method):
    """Mask tokens stand in for hidden patches before the encoder, which so sees all places."""

    masking = Masking(mask_ratio=0.4, mask="block")
    words: Tensor

    def __init__(self, encoder: ViT, size: Size) -> None:
        super().__init__(encoder, size)
        self.mask_token = nn.Parameter(torch.zeros(encoder.embed_dim))
        self.head = nn.Linear(encoder.embed_dim, WORDS)
        self.register_buffer("words", torch.zeros(WORDS, encoder.patch_embed.in_features))

    def fit_words(self, patches: Tensor) -> None:
        """To (n, P) patches of normalised images; by the seed."""
        from sklearn.cluster import MiniBatchKMeans  # takes a while to import

        kmeans = MiniBatchKMeans(WORDS, batch_size=4096, n_init=1, random_state=self.size.seed % 2**32)
        # Every word is one patch at first: fewer patches than words leave some of them unused.
        rows = patches.float().cpu().repeat(-(-WORDS // len(patches)), 1).numpy()
        self.words.copy_(torch.from_numpy(kmeans.fit(rows).cluster_centers_))

    def words_of(self, patches: Tensor) -> Tensor:
        """(..., P) -> (...) the nearest word of each."""
        return (self.words.square().sum(1) - 2 * patches @ self.words.T).argmin(dim=-1)

    def loss(self, views: Sequence[Tensor], batch: Batch) -> Tensor:
        """Cross entropy over the hidden patches."""
        encoder, hidden = self.encoder, batch.queries
        patches = patchify(views[0], encoder.patch_size)
        with torch.no_grad(), torch.autocast(patches.device.type, enabled=False):
            wanted = self.words_of(take(patches, hidden).float())  # (B, Q)
        tokens = encoder.patch_embed(patches)
        covered = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device).scatter(1, hidden, True)
        tokens = torch.where(covered[..., None], self.mask_token.to(tokens), tokens) + encoder.positions
        *_, last = encoder.states(tokens)
        told = take(encoder.norm(last)[:, encoder.class_tokens :], hidden)
        return F.cross_entropy(self.head(told).float().flatten(0, 1), wanted.flatten())


def sampled(views: Sequence[tuple[Tensor, Tensor]], patch_size: tuple[int, ...]) -> Tensor:
    """Views (1, C, H, W), normalised, each with its hidden patches (1, Q) -> (n, P), some of these patches."""
    return torch.cat([take(patchify(image, patch_size), hidden[:, :PATCHES_A_VIEW])[0] for image, hidden in views])
