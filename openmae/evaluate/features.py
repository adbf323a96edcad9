"""Features of images: one vector each, from the encoder or the raw pixels."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from openmae.data.centred import centred
from openmae.data.decode import PixelFormat
from openmae.data.pool import AHEAD, Hand, SharedArray, ordered
from openmae.data.source import Source
from openmae.data.statistics import Statistics, to_float
from openmae.errors import BrokenImage, UserError
from openmae.heads import Pool
from openmae.model import ViT, patchify
from openmae.ranks import ALONE, Ranks

IMAGES_A_PIECE = 32  # made by one worker
Precision = Literal["bf16", "fp32"]
Function = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> features (B, ...)


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
            f"{self.source.name(0)}: {reason}): give images such as the model was trained on"
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


def centred_images(encoder: ViT, statistics: Statistics, source: Source) -> CentredImages:
    """The source's images as this encoder takes them. Raises UserError unless it is for 2-D images."""
    if len(encoder.img_size) != 2 or len(encoder.patch_size) != 2:
        raise UserError(f"this model is for images of {len(encoder.img_size)} axes, and files hold 2")
    height, width = encoder.img_size
    patch_height, patch_width = encoder.patch_size
    return CentredImages(source, statistics.pixels, (height, width), (patch_height, patch_width))


@dataclass(frozen=True)
class Readout:
    """Where features are taken: after which block, 1 to depth, and how the tokens become one vector."""

    layer: int
    pool: Pool


def readouts(encoder: ViT, layers: Sequence[int] | None, pools: Sequence[Pool]) -> list[Readout]:
    """Every one of these layers (None: the last) with every pool, layer by layer.

    Raises UserError where the model has no such layer or no class token.
    """
    if "class" in pools and encoder.class_tokens == 0:
        raise UserError("this model has no class token: use --pool mean")
    for layer in layers or ():
        if not 1 <= layer <= encoder.depth:
            raise UserError(f"this model has no layer {layer}: give 1 to {encoder.depth}")
    return [Readout(layer, pool) for layer in layers or [encoder.depth] for pool in pools]


def pooled_at(
    encoder: ViT, statistics: Statistics, places: Sequence[Readout], precision: Precision = "fp32"
) -> Function:
    """A function from images (B, C, H, W) to their features (B, R, D) float32 at R places: the mean of the patch
    tokens, or of the class tokens, after a block and the final norm. The blocks are passed once for all."""
    last = max(place.layer for place in places)
    classes = encoder.class_tokens

    def features(images: Tensor) -> Tensor:
        with autocast(images.device, precision):
            normal = statistics.normalize(images)
            encoder.check(normal)
            found: dict[Readout, Tensor] = {}
            tokens = encoder.embed(patchify(normal, encoder.patch_size))
            for number, state in enumerate(islice(encoder.states(tokens), last + 1)):
                here = [place for place in places if place.layer == number]
                normed = encoder.norm(state) if here else state  # (B, T + N, D)
                for place in here:
                    part = normed[:, :classes] if place.pool == "class" else normed[:, classes:]
                    found[place] = part.mean(dim=1, dtype=torch.float32)
        return torch.stack([found[place] for place in places], dim=1)

    return features


def pooled(
    encoder: ViT, statistics: Statistics, pool: Pool, layer: int | None = None, precision: Precision = "fp32"
) -> Function:
    """As `pooled_at`, at one place: (B, C, H, W) -> (B, D), after block `layer` (1..depth; default the last).

    Raises UserError where the model has no such layer or no class token.
    """
    features = pooled_at(encoder, statistics, readouts(encoder, None if layer is None else [layer], [pool]), precision)
    return lambda images: features(images)[:, 0]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Within it, products are of that precision."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


RAW_SIDE = 32


def raw_pixels(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C * h * w), 8- and 16-bit ones scaled to 0..1: the baseline that any feature has to beat.

    Images are averaged down to at most RAW_SIDE pixels a side: more make nearest neighbours no better, and a
    linear classifier on 150,528 values an image takes hours.
    """
    height, width = (min(side, RAW_SIDE) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(to_float(images), (height, width)).flatten(1)


def extract(
    images: CentredImages,
    features: Function,
    device: torch.device,
    workers: int,
    batch_size: int = 256,
    progress: Callable[[int], None] = lambda done: None,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor]:
    """Features (n, ...) float32 and the indices (n,) of the images they are of, both on the CPU.

    ranks: who share the work; all get the whole result. Broken images are left out. Raises UserError where nothing is
    left, or a feature is not finite.
    """
    (found,), indices = extract_each(images, [features], device, workers, batch_size, progress, ranks)
    return found, indices


def extract_each(
    images: CentredImages,
    functions: Sequence[Function],
    device: torch.device,
    workers: int,
    batch_size: int = 256,
    progress: Callable[[int], None] = lambda done: None,
    ranks: Ranks = ALONE,
) -> tuple[list[Tensor], Tensor]:
    """As `extract`, several features of each image, which is read once."""
    part = ranks.share(len(images), batch_size)  # in whole batches: rounding depends on what is computed together
    tables: list[Tensor] = []
    indices: list[int] = []
    for batch, batch_indices in images.part(part).batches(batch_size, workers) if len(part) else ():
        start, end = len(indices), len(indices) + len(batch_indices)
        on_device = batch.to(device)
        with torch.inference_mode():
            found = [function(on_device).float().cpu() for function in functions]
        if not tables:
            tables = [torch.empty(len(part), *rows.shape[1:]) for rows in found]
        for table, rows in zip(tables, found, strict=True):
            table[start:end] = rows
        indices += (part.start + index for index in batch_indices)
        ranks.at(f"image {part.start + end} of {images.source.location}")
        progress(end * ranks.size)
    mine = [table[: len(indices)] for table in tables] if tables else [None] * len(functions)
    whole = [table for table in map(ranks.rows, mine) if table is not None]
    if not whole:
        raise images.why_none()
    if not all(bool(table.isfinite().all()) for table in whole):
        raise UserError(
            f"features of {images.source.location} are not finite numbers: this model's weights are spoilt, or the "
            "images hold values far from those that it was trained on"
        )
    return whole, torch.tensor([index for found in ranks.gather(indices) for index in found])
