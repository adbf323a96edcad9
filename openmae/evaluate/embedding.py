"""Embeddings: a vector for each image of a source, batch by batch, so that memory does not grow with their number.

Shapes: B images of a batch, C channels, H x W pixels, T class tokens, N patches, D width of the encoder.
"""

from bisect import bisect_left
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from openmae.data.formats.reading import UNSAID
from openmae.data.loading.in_order import CentredImages
from openmae.data.loading.pool import Hand, ordered
from openmae.data.opening import Split, open_data
from openmae.data.sources.selection import WHOLE, Selection
from openmae.data.survey.levels import unlike
from openmae.data.survey.sample import sample_levels
from openmae.data.views.statistics import Statistics
from openmae.errors import BrokenImage, UserError
from openmae.evaluate.features import centred_images, pooled
from openmae.evaluate.suited import suited
from openmae.heads import Pool
from openmae.machine.kinds import Precision
from openmae.model import ViT
from openmae.weights import Loaded, load_model


@dataclass(frozen=True)
class Embedder:
    """Makes vectors of images: the mean of the patch tokens, or of the class tokens, after a block and the final norm.

    layer: 1 to the encoder's depth. Raises UserError for a layer or a token that the encoder does not have.
    """

    encoder: ViT
    statistics: Statistics
    layer: int
    pool: Pool
    precision: Precision
    device: torch.device

    def __post_init__(self) -> None:
        if self.pool == "class" and self.encoder.class_tokens == 0:
            raise UserError("this model has no class token", "use `pool='mean'`")
        if not 1 <= self.layer <= self.encoder.depth:
            raise UserError(f"`layer` is {self.layer}", f"this model has layers 1 to {self.encoder.depth}")
        self.encoder.eval().to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) of the model's size, as decoded, on any device -> (B, D) float32 on the embedder's."""
        features = pooled(self.encoder, self.statistics, self.pool, self.layer, self.precision)
        return features(images.to(self.device))


@dataclass(frozen=True)
class Embedded:
    """What became of images `start` to `stop` of a source: the indices (b,) of those that could be read, ascending,
    and their vectors (b, D) float32."""

    start: int
    stop: int
    indices: NDArray[np.int64]
    vectors: NDArray[np.float32]

    @property
    def missing(self) -> list[int]:
        """The indices of those that could not be read."""
        return np.setdiff1d(np.arange(self.start, self.stop), self.indices).tolist()


def embed(
    model: str | Path,
    data: str,
    *,
    layer: int | None = None,
    pool: Pool = "mean",
    split: Split | None = None,
    device: str = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    selection: Selection = WHOLE,
) -> tuple[NDArray[np.float32], list[str]]:
    """Vectors (n, D) of the images of DATA, and their names; images that cannot be read are left out.

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
    for batch in embed_each(images, embedder, batch_size, workers):
        vectors.append(batch.vectors)
        names += [images.source.name(index) for index in batch.indices.tolist()]
    if not names:
        raise images.why_none()
    return np.concatenate(vectors), names


def embedder_of(loaded: Loaded, layer: int | None, pool: Pool, precision: Precision, device: torch.device) -> Embedder:
    """Of a model's encoder, pre-trained or fine-tuned. layer: default the last. Raises UserError as Embedder does."""
    encoder = loaded.encoder
    return Embedder(encoder, loaded.statistics, encoder.depth if layer is None else layer, pool, precision, device)


def embed_each(
    images: CentredImages, embedder: Embedder, batch_size: int, workers: int, start: int = 0
) -> Generator[Embedded, None, None]:
    """Every image from `start` on. A batch is of the same `batch_size` images whatever `start` and `workers` are, and
    so are its vectors to the last bit, on the same hardware, where `start` is a multiple of `batch_size`."""
    waiting: tuple[range, list[int], Tensor] | None = None
    for numbers, pixels, indices in _batches(images, batch_size, workers, start):
        vectors = embedder(pixels) if indices else torch.empty(0, embedder.encoder.embed_dim)
        if waiting is not None:  # while a GPU works on the next one
            yield _on_cpu(*waiting)
        waiting = numbers, indices, vectors
    if waiting is not None:
        yield _on_cpu(*waiting)


def reasons(images: CentredImages, indices: Sequence[int], workers: int) -> list[tuple[int, str]]:
    """(index, why it cannot be read) of images that could not; read again, in another process where workers are
    above 0, since such a file may end it."""
    return list(zip(indices, ordered(partial(_reason, images), indices, min(1, workers)), strict=True))


def _reason(images: CentredImages, index: int, hand: Hand) -> str:
    (data,) = images.source.read_many([index])
    try:
        hand.take(index)
        images.view(data)
    except (OSError, BrokenImage) as error:
        return str(error)
    return "it could not be read at first, and then it could"


def _on_cpu(numbers: range, indices: list[int], vectors: Tensor) -> Embedded:
    return Embedded(numbers.start, numbers.stop, np.array(indices, np.int64), vectors.cpu().numpy())


def _batches(
    images: CentredImages, batch_size: int, workers: int, start: int
) -> Generator[tuple[range, Tensor, list[int]], None, None]:
    """(which images, (B, C, H, W) those that can be read, their indices), cut at the multiples of `batch_size`."""
    total = len(images)
    rest = images.source if start == 0 else images.source.take(np.arange(start, total))
    loaded = CentredImages(rest, images.pixels, images.img_size, images.patch_size).batches(batch_size, workers)
    first = start
    parts: list[Tensor] = []
    kept: list[int] = []
    for pixels, places in loaded:
        at = 0
        while at < len(places):
            stop = min((start // batch_size + 1) * batch_size, total)
            upto = bisect_left(places, stop - first)
            parts.append(pixels[at:upto])
            kept += [first + place for place in places[at:upto]]
            at = upto
            if at < len(places):  # the rest belongs to other batches
                yield range(start, stop), torch.cat(parts), kept
                parts, kept, start = [], [], stop
    while start < total:
        stop = min((start // batch_size + 1) * batch_size, total)
        yield range(start, stop), torch.cat(parts) if parts else torch.empty(0), kept
        parts, kept, start = [], [], stop
