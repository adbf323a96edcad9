"""Images read once, in order, as they are evaluated."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.pool import AHEAD, Hand, SharedArray, ordered
from openmae.data.sources.source import Source
from openmae.data.views.centred import centred
from openmae.errors import BrokenImage, UserError

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

    def part(self, indices: range) -> "CentredImages":
        """Some of them, which are numbered from 0 then."""
        return replace(self, source=self.source.take(np.arange(indices.start, indices.stop)))

    def view(self, data: bytes | OSError | BrokenImage) -> NDArray[Any]:
        """What a model sees of a file, (H, W, C) as decoded. Raises OSError and BrokenImage, as a source does."""
        return centred(data, self.pixels, self.img_size, self.patch_size)

    def why_none(self) -> UserError:
        """What to say where no image can be read: the first one's reason."""
        reason = "it is broken"
        try:
            self.view(self.source.read_many([0])[0])
        except (OSError, BrokenImage) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return UserError(
            f"none of the {len(self)} images in {self.source.location} can be read (the first is "
            f"{self.source.shown(0)}: {reason})",
            "give images such as the model was trained on",
        )


@dataclass(frozen=True)
class KeptImages(CentredImages):
    """Centred views that stay in memory once they are read, for those who look at them again and again."""

    kept: list[tuple[Tensor, list[int]]] = field(default_factory=list, compare=False)

    def batches(self, batch_size: int, workers: int) -> Iterator[tuple[Tensor, list[int]]]:
        """As the first call made them, whatever the size asked for later."""
        if not self.kept:
            self.kept.extend(list(super().batches(batch_size, workers)))
        yield from self.kept

    @property
    def nbytes(self) -> int:
        """What keeping them takes, in bytes."""
        return len(self) * math.prod(self.img_size) * self.pixels.in_chans * np.dtype(self.pixels.depth).itemsize


def _put(images: CentredImages, ring: SharedArray, piece: tuple[int, range], hand: Hand) -> tuple[int, list[int]]:
    """Writes the views of a piece into its slot -> the slot, and the indices of the images that were good."""
    slot, numbers = piece
    good: list[int] = []
    for index, data in zip(numbers, hand.read_each(images.source, numbers), strict=True):
        try:
            hand.take(index)
            ring.array[slot, len(good)] = images.view(data)
            good.append(index)
        except (OSError, BrokenImage):
            continue
    return slot, good


def _batch(parts: list[NDArray[Any]]) -> Tensor:
    """(n, H, W, C) each -> (B, C, H, W)."""
    return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2)
