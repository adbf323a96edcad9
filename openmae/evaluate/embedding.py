"""Embeddings: a vector for each image of a source.

Shapes: B images of a batch, C channels, H x W pixels, D width of the encoder.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from openmae.data.formats.reading import UNSAID
from openmae.data.opening import Split, open_data
from openmae.data.sources.selection import WHOLE, Selection
from openmae.data.survey.levels import unlike
from openmae.data.survey.sample import sample_levels
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.evaluate.features import centred_images, patch_grids, pooled
from openmae.evaluate.in_batches import rows_of_each
from openmae.evaluate.suited import suited
from openmae.heads import Tokens
from openmae.machine.kinds import Precision
from openmae.model import ViT
from openmae.weights import Loaded, load_model


@dataclass(frozen=True)
class Embedder:
    """Makes vectors of images: the mean of the patch tokens, or of the class tokens, after a block and the final norm;
    or, of pool "patches", the grid of the patch tokens.

    layer: 1 to the encoder's depth. Raises UserError for a layer or a token that the encoder does not have.
    """

    encoder: ViT
    statistics: Statistics
    layer: int
    pool: Tokens
    precision: Precision
    device: torch.device

    def __post_init__(self) -> None:
        if self.pool == "class" and self.encoder.read_classes == 0:
            raise UserError("this model has no class token", "use `pool='mean'`")
        if not 1 <= self.layer <= self.encoder.depth:
            raise UserError(f"`layer` is {self.layer}", f"this model has layers 1 to {self.encoder.depth}")
        self.encoder.eval().to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) of the model's size, as decoded, on any device -> (B, *shape) float32 on the embedder's."""
        if self.pool == "patches":
            features = patch_grids(self.encoder, self.statistics, self.layer, self.precision)
        else:
            features = pooled(self.encoder, self.statistics, self.pool, self.layer, self.precision)
        return features(images.to(self.device))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is made of an image: (D,), or (h, w, D) of its patches."""
        width = self.encoder.embed_dim
        return (*self.encoder.grid, width) if self.pool == "patches" else (width,)


def embed(
    model: str | Path,
    data: str,
    *,
    layer: int | None = None,
    pool: Tokens = "mean",
    split: Split | None = None,
    device: str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    selection: Selection = WHOLE,
) -> tuple[NDArray[np.float32], list[str]]:
    """Vectors (n, D) of the images of DATA, of pool "patches" grids (n, h, w, D), and their names; images that cannot
    be read are left out.

    layer: 1 to the encoder's depth, default the last. split: default all of DATA. selection: of its files. In float32.
    Raises UserError as `openmae embed` does.
    """
    loaded = load_model(Path(model))
    opened = open_data(data, selection)
    source = opened.all if split is None else opened.split(split)
    loaded = suited(loaded, source, UNSAID, workers, Console(quiet=True))
    embedder = embedder_of(loaded, layer, pool, "fp32", torch.device(device))
    images = centred_images(embedder.encoder, embedder.statistics, source)
    odd = unlike(sample_levels(source, embedder.statistics.pixels, workers), embedder.statistics)
    if odd is not None and odd.impossible:
        what = f"{data}: not what {model} learnt from: {odd.what}"
        raise UserError(what, "give it images of the depth and unit that it learnt from")
    vectors: list[NDArray[np.float32]] = []
    names: list[str] = []
    for batch in rows_of_each(images, embedder, batch_size, workers):
        if len(batch.indices):
            vectors.append(batch.rows)
        names += [images.source.name(index) for index in batch.indices.tolist()]
    if not names:
        raise images.why_none()
    return np.concatenate(vectors), names


def embedder_of(
    loaded: Loaded, layer: int | None, pool: Tokens, precision: Precision, device: torch.device
) -> Embedder:
    """Of a model's encoder, pre-trained or fine-tuned. layer: default the last. Raises UserError as Embedder does."""
    encoder = loaded.encoder
    return Embedder(encoder, loaded.statistics, encoder.depth if layer is None else layer, pool, precision, device)
