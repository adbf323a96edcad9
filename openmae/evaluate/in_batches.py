"""A row of numbers for each image of a source, batch by batch, so that memory does not grow with their number.

Shapes: B images of a batch, C channels, H x W pixels, b of them that could be read.
"""

from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.loading.in_order import CentredImages
from openmae.data.loading.pool import Hand, ordered
from openmae.errors import BrokenImage
from openmae.machine.device import fetching

RowsOf = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) as decoded, on the CPU -> a row (B, ...) of each, on any device."""


@dataclass(frozen=True)
class Rows:
    """What became of images `start` to `stop` of a source: the indices (b,) of those that could be read, ascending,
    and a row of each, (b, ...) float32; (0,) where none could."""

    start: int
    stop: int
    indices: NDArray[np.int64]
    rows: NDArray[np.float32]

    @property
    def missing(self) -> list[int]:
        """The indices of those that could not be read."""
        return np.setdiff1d(np.arange(self.start, self.stop), self.indices).tolist()


def rows_of_each(
    images: CentredImages, rows_of: RowsOf, batch_size: int, workers: int, start: int = 0, stop: int | None = None
) -> Generator[Rows, None, None]:
    """Every image from `start` on, and before `stop`. A batch is of the same `batch_size` images whatever `start`,
    `stop` and `workers` are, and so are its rows to the last bit, on the same hardware, where `start` and `stop` are
    multiples of `batch_size` or the last image."""
    waiting: tuple[range, list[int], Callable[[], Tensor]] | None = None
    for numbers, pixels, indices in _batches(images, batch_size, workers, start, len(images) if stop is None else stop):
        rows = rows_of(pixels) if indices else torch.empty(0)
        if waiting is not None:  # while a GPU works on the next one
            yield _on_cpu(*waiting)
        waiting = numbers, indices, fetching(rows)
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
        return str(error) or type(error).__name__
    return "it could not be read at first, and then it could"


def _on_cpu(numbers: range, indices: list[int], fetched: Callable[[], Tensor]) -> Rows:
    return Rows(numbers.start, numbers.stop, np.array(indices, np.int64), fetched().numpy())


def _batches(
    images: CentredImages, batch_size: int, workers: int, start: int, total: int
) -> Generator[tuple[range, Tensor, list[int]], None, None]:
    """(which images, (B, C, H, W) those that can be read, their indices), cut at the multiples of `batch_size`."""
    is_all = start == 0 and total == len(images)
    rest = images.source if is_all else images.source.take(np.arange(start, total))
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
