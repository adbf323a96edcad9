"""Features of images: one vector each, from the encoder or the raw pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from openmae.data.decode import PixelFormat, decode, open_image, patch_complaint
from openmae.data.pool import AHEAD, Hand, SharedArray, ordered
from openmae.data.source import Source
from openmae.data.statistics import Statistics, to_float
from openmae.data.views import centred_view, reduction
from openmae.errors import BrokenImage, UserError
from openmae.model import MaskedAutoencoder

Pool = Literal["mean", "class"]
IMAGES_A_PIECE = 32  # made by one worker


@dataclass(frozen=True)
class CentredImages:
    """Every image of a source in order, as its centred view."""

    source: Source
    pixels: PixelFormat
    img_size: tuple[int, int]
    patch_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, batch_size: int, workers: int) -> Iterator[tuple[Tensor, list[int]]]:
        """(images (B, C, H, W), their indices) over the whole source, broken ones left out; B is about batch_size, in
        whole pieces.

        workers: processes that load; 0 loads in this one.
        """
        slots = max(1, min(workers * AHEAD, -(-len(self) // IMAGES_A_PIECE)))
        shape = (slots, IMAGES_A_PIECE, *self.img_size, self.pixels.in_chans)
        ring = SharedArray(shape, self.pixels.depth)
        pieces = (
            (slot % slots, range(start, min(start + IMAGES_A_PIECE, len(self))))
            for slot, start in enumerate(range(0, len(self), IMAGES_A_PIECE))
        )
        parts: list[NDArray[Any]] = []
        indices: list[int] = []
        for slot, good in ordered(partial(_put, self, ring), pieces, workers):
            parts.append(ring.array[slot, : len(good)].copy())
            indices += good
            if len(indices) > batch_size - IMAGES_A_PIECE:
                yield _batch(parts), indices
                parts, indices = [], []
        if indices:
            yield _batch(parts), indices


def _put(images: CentredImages, ring: SharedArray, piece: tuple[int, range], hand: Hand) -> tuple[int, list[int]]:
    """Writes the views of a piece into its slot -> the slot, and the indices of the images that were good."""
    slot, numbers = piece
    good: list[int] = []
    for index, data in zip(numbers, images.source.read_each(numbers), strict=True):
        try:
            hand.take(index)
            opened = open_image(data)
            header = opened.header
            size = (header.height, header.width)
            if not patch_complaint(size, images.patch_size):
                image = decode(opened, images.pixels, reduce=reduction(size, images.img_size))
                ring.array[slot, len(good)] = centred_view(image, images.img_size)
                good.append(index)
        except (OSError, BrokenImage):
            continue
    return slot, good


def _batch(parts: list[NDArray[Any]]) -> Tensor:
    """(n, H, W, C) each -> (B, C, H, W)."""
    return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2)


def centred_images(model: MaskedAutoencoder, statistics: Statistics, source: Source) -> CentredImages:
    """The source's images as this model takes them. Raises UserError unless the model is for 2-D images."""
    encoder = model.encoder
    if len(encoder.img_size) != 2 or len(encoder.patch_size) != 2:
        raise UserError(f"this model is for images of {len(encoder.img_size)} axes, and files hold 2")
    height, width = encoder.img_size
    patch_height, patch_width = encoder.patch_size
    return CentredImages(source, statistics.pixels, (height, width), (patch_height, patch_width))


def pooled(
    model: MaskedAutoencoder, statistics: Statistics, pool: Pool, layer: int | None = None
) -> Callable[[Tensor], Tensor]:
    """A function from images (B, C, H, W) to features (B, D): the mean of the patch tokens, or the mean
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
    """(B, C, H, W) -> (B, C * h * w), 8- and 16-bit ones scaled to 0..1: the baseline that any feature has to beat.

    Images are averaged down to at most RAW_SIDE pixels a side: more make nearest neighbours no better, and a
    linear classifier on 150,528 values an image takes hours.
    """
    height, width = (min(side, RAW_SIDE) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(to_float(images), (height, width)).flatten(1)


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
        raise UserError(f"none of the {len(images)} images in {images.source.location} can be read: check the files")
    return torch.cat(rows), torch.tensor(indices)
