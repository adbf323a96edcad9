"""Features of images: one vector each, from the encoder or the raw pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from openmae.data.decode import BrokenImage, check_covers_patch, decode
from openmae.data.folder import ImageFolder
from openmae.data.statistics import Statistics
from openmae.data.views import centred_view
from openmae.errors import UserError
from openmae.model import MaskedAutoencoder

Pool = Literal["mean", "class"]


@dataclass(frozen=True)
class CentredImages(Dataset[Tensor | None]):
    """Every image of a source in order, as its centred view (C, H, W) uint8; None where it is broken."""

    source: ImageFolder
    in_chans: int
    img_size: tuple[int, int]
    patch_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor | None:
        try:
            pixels = decode(self.source.read(index), self.in_chans)
            check_covers_patch(pixels, self.patch_size)
        except (OSError, BrokenImage):
            return None
        return centred_view(pixels, self.img_size)

    def batches(self, batch_size: int, workers: int) -> Iterator[tuple[Tensor, list[int]]]:
        """(images (B, C, H, W) uint8, their indices) over the whole source, broken ones left out."""
        loader = DataLoader(self, batch_size, num_workers=workers, collate_fn=_as_it_is)
        start = 0
        for batch in loader:
            good = [(image, start + i) for i, image in enumerate(batch) if image is not None]
            start += len(batch)
            if good:
                yield torch.stack([image for image, _ in good]), [index for _, index in good]


def _as_it_is(batch: list[Tensor | None]) -> list[Tensor | None]:
    return batch


def centred_images(model: MaskedAutoencoder, source: ImageFolder) -> CentredImages:
    """The source's images as this model takes them. Raises UserError unless the model is for 2-D images."""
    encoder = model.encoder
    if len(encoder.img_size) != 2 or len(encoder.patch_size) != 2:
        raise UserError(f"this model is for images of {len(encoder.img_size)} axes, and files hold 2")
    height, width = encoder.img_size
    patch_height, patch_width = encoder.patch_size
    return CentredImages(source, encoder.in_chans, (height, width), (patch_height, patch_width))


def pooled(
    model: MaskedAutoencoder, statistics: Statistics, pool: Pool, layer: int | None = None
) -> Callable[[Tensor], Tensor]:
    """A function from images (B, C, H, W) uint8 to features (B, D): the mean of the patch tokens, or the mean
    of the class tokens, after block `layer` (1..depth; default the last).

    Raises UserError where the model has no such layer or no class token.
    """
    if pool == "class" and model.encoder.class_tokens == 0:
        raise UserError("this model has no class token: use --pool mean")
    if layer is not None and not 1 <= layer <= model.encoder.depth:
        raise UserError(f"this model has no layer {layer}: give 1 to {model.encoder.depth}")

    def features(images: Tensor) -> Tensor:
        tokens = model.encode(statistics.normalize(images), layer)
        classes = model.encoder.class_tokens
        return (tokens[:, :classes] if pool == "class" else tokens[:, classes:]).mean(dim=1)

    return features


RAW_SIDE = 32


def raw_pixels(images: Tensor) -> Tensor:
    """(B, C, H, W) uint8 -> (B, C * h * w): the baseline that any feature has to beat.

    Images are averaged down to at most RAW_SIDE pixels a side: more make nearest neighbours no better, and a
    linear classifier on 150,528 values an image takes hours.
    """
    height, width = (min(side, RAW_SIDE) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(images.float() / 255, (height, width)).flatten(1)


@torch.no_grad()
def extract(
    images: CentredImages,
    features: Callable[[Tensor], Tensor],
    device: torch.device,
    workers: int,
    batch_size: int = 256,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Tensor, Tensor]:
    """Features (n, D) float32 and the indices (n,) of the images they are of, both on the CPU.

    Broken images are left out. Raises UserError where nothing is left.
    """
    rows: list[Tensor] = []
    indices: list[int] = []
    for batch, batch_indices in images.batches(batch_size, workers):
        rows.append(features(batch.to(device)).float().cpu())
        indices += batch_indices
        progress(len(indices))
    if not rows:
        raise UserError(f"none of the {len(images)} images in {images.source.root} can be read: check the files")
    return torch.cat(rows), torch.tensor(indices)
