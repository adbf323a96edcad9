"""The training stream of several views an image, of sizes of their own: as `Stream`, but a visit gives all of them.

An image is decoded once. View v of a visit is drawn from (seed, epoch, image, v) alone, as all views are.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.formats.decode import decode, open_image, patch_complaint
from openmae.data.loading.blocks import in_blocks
from openmae.data.loading.order import Order
from openmae.data.loading.pool import Hand
from openmae.data.loading.stream import MOST_REPLACEMENTS, Batch, first_good, micro_batches
from openmae.data.sources.source import Source
from openmae.data.views.crop import View, cut, draw_crop, reduction
from openmae.errors import BrokenImage, UserError
from openmae.randomness import generator

MOST_IMAGES_A_PIECE = 16  # made by one worker


@dataclass(frozen=True)
class SeveralViews:
    """Makes the batches of any steps: their `images` are (B, L), all views of an image after each other, for `split`;
    nothing is masked.

    views: of one pixel format. batch_size counts images. shuffle_block: as an `Order` has it.
    """

    source: Source
    views: tuple[View, ...]
    batch_size: int
    steps: int
    seed: int
    shuffle_block: int | None = 1

    @cached_property
    def order(self) -> Order:
        """Of the visits."""
        return Order(self.seed, len(self.source), self.shuffle_block, self.batch_size)

    def batches(
        self, first_step: int, micro_batch: int, workers: int, *, pin: bool = False, part: range | None = None
    ) -> Iterator[Batch]:
        """As `Stream.batches`."""
        steps = range(first_step, self.steps)
        share = self.batch_size if part is None else len(part)
        make = partial(_make, replace(self, source=in_blocks(self.source, self.order, share, workers)))
        for made in micro_batches(make, self.order, steps, MOST_IMAGES_A_PIECE, micro_batch, workers, part):
            yield _batch(made, pin)

    def split(self, images: Tensor) -> list[Tensor]:
        """(B, L) -> each view (B, C, H, W)."""
        channels = self.views[0].pixels.in_chans
        sizes = [math.prod(view.img_size) * channels for view in self.views]
        return [
            part.unflatten(1, (*view.img_size, channels)).permute(0, 3, 1, 2)
            for part, view in zip(images.split(sizes, dim=1), self.views, strict=True)
        ]


@dataclass(frozen=True)
class _Made:
    """start: which image of the stream the first one is. rows: (L,) of each, None where none could be found, and why
    not the last one that was tried."""

    start: int
    rows: list[NDArray[Any] | None]
    indices: list[int]
    broken: list[tuple[int, str]]
    why_none: str


def _make(stream: SeveralViews, visits: range, hand: Hand) -> _Made:
    made = _Made(visits.start, [], [], [], "")
    indices = stream.order.of(visits)
    for visit, index, data in zip(visits, indices, hand.read_each(stream.source, indices), strict=True):

        def make(
            shown: int,
            data: bytes | OSError | BrokenImage,
            other: Callable[[], np.random.Generator],
            visit: int = visit,
            index: int = index,
        ) -> tuple[int, NDArray[Any]]:
            epoch = visit // len(stream.source)
            draws = [
                generator(stream.seed, "sample", epoch=epoch, index=index, view=n) for n in range(len(stream.views))
            ]
            return shown, _row(stream.views, data, draws, other)

        found, why = first_good(stream.source, stream.seed, visit, (index, data), make, hand, made.broken)
        shown, row = (index, None) if found is None else found
        made.rows.append(row)
        made.indices.append(shown)
        made = made if row is not None else _Made(made.start, made.rows, made.indices, made.broken, why)
    return made


def _row(
    views: tuple[View, ...],
    data: bytes | OSError | BrokenImage,
    draws: list[np.random.Generator],
    other: Callable[[], np.random.Generator],
) -> NDArray[Any]:
    """(L,) all views of an image. Raises OSError and BrokenImage for one of no use."""
    pixels = views[0].pixels
    opened = open_image(data, pixels.reading)
    header = opened.header
    size = (header.height, header.width)
    if complaint := patch_complaint(size, views[0].patch_size):
        raise complaint
    crops = [draw_crop(size, view.img_size, view.augmentation, own) for view, own in zip(views, draws, strict=True)]
    reduce = min(reduction((crop.height, crop.width), view.finest) for crop, view in zip(crops, views, strict=True))
    rows = max(crop.top + crop.height for crop in crops)
    frame = int(other().integers(header.frames)) if header.frames > 1 else None
    image = decode(opened, pixels, reduce=reduce, rows=rows, frame=frame)
    reduce = reduce if opened.reduces else 1
    made = []
    for view, crop, own in zip(views, crops, draws, strict=True):
        out = np.empty((*view.img_size, pixels.in_chans), pixels.depth)
        cut(image, size, crop, view.img_size, reduce, out)
        if view.finish is not None:
            view.finish(out, own)
        made.append(out.reshape(-1))
    return np.concatenate(made)


def _batch(made: list[_Made], pin: bool) -> Batch:
    rows = [row for part in made for row in part.rows]
    good = [row for row in rows if row is not None]
    failure = None
    if len(good) < len(rows):
        why = next(part.why_none for part in made if part.why_none)
        what = f"{MOST_REPLACEMENTS} images in a row cannot be used (the last: {why})"
        failure = UserError(what, "check that the files are there")
    images = torch.from_numpy(np.stack(good)) if good else torch.zeros(0, 0)
    count = len(rows)
    return Batch(
        images.pin_memory() if pin else images,
        torch.zeros(count, 0, dtype=torch.int64),
        torch.zeros(count, 0, dtype=torch.int64),
        torch.zeros(count, 0),
        torch.tensor([index for part in made for index in part.indices]),
        made[0].start,
        [entry for part in made for entry in part.broken],
        failure,
    )
