"""Features of images: one vector each, from the encoder or from any other function."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from openmae.data.loading.in_order import CentredImages
from openmae.data.sources.source import Source
from openmae.data.views.statistics import Statistics
from openmae.distributed.ranks import ALONE, Ranks
from openmae.errors import UserError
from openmae.heads import Pool
from openmae.machine.device import autocast
from openmae.machine.kinds import Precision
from openmae.machine.lanes import Lanes
from openmae.model import ViT, patchify

Function = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> features (B, ...)


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
    if "class" in pools and encoder.read_classes == 0:
        raise UserError("this model has no class token", "use `pool='mean'`")
    for layer in layers or ():
        if not 1 <= layer <= encoder.depth:
            raise UserError(f"this model has no layer {layer}", f"give 1 to {encoder.depth}")
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
                    part = normed[:, : encoder.read_classes] if place.pool == "class" else normed[:, classes:]
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


def patch_grids(encoder: ViT, statistics: Statistics, layer: int, precision: Precision = "fp32") -> Function:
    """A function from images (B, C, H, W) to a vector for each patch where it lies, (B, h, w, D) float32: the patch
    tokens after block `layer` and the final norm.

    Raises UserError where the model has no such layer.
    """
    readouts(encoder, [layer], ["mean"])
    rows, columns = encoder.grid

    def features(images: Tensor) -> Tensor:
        with autocast(images.device, precision):
            normal = statistics.normalize(images)
            encoder.check(normal)
            tokens = encoder(normal, layer)[:, encoder.class_tokens :]  # (B, N, D)
        return tokens.float().unflatten(1, (rows, columns))

    return features


AT_ONCE = 32  # images that a CPU has in hand, of so many patches:
_PATCHES = 256


def _at_once(images: CentredImages, device: torch.device, batch_size: int) -> int:
    """Images that go through a model together. On a CPU few are as fast, and many are what a container's memory lacks;
    attention grows with the square of the patches."""
    if device.type != "cpu":
        return batch_size
    patches = math.prod(images.img_size) // math.prod(images.patch_size)
    return min(batch_size, max(1, round(AT_ONCE * min(1.0, (_PATCHES / patches) ** 2))))


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
    lanes, at_once = Lanes.here(device), _at_once(images, device, batch_size)

    def features_of(some: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            return [function(some).float().cpu() for function in functions]

    tables: list[Tensor] = []
    indices: list[int] = []
    for batch, batch_indices in images.part(part).batches(batch_size, workers) if len(part) else ():
        start, end = len(indices), len(indices) + len(batch_indices)
        here = lanes.of(min(at_once, len(batch)))
        by_part = here.each(features_of, batch.to(device).split(here.part(at_once, len(batch))))
        found = [torch.cat(rows) for rows in zip(*by_part, strict=True)]
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
