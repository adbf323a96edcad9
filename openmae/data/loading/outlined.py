"""The training stream of images in which something is outlined: as `Stream`, but what is asked of a view goes with it.

A visit gives one view. Order, windows and what stands in for a broken image follow from (seed, epoch, image) alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.annotations.annotations import Annotations
from openmae.data.formats.decode import decode, open_image, patch_complaint
from openmae.data.loading.order import Order
from openmae.data.loading.pool import Hand
from openmae.data.loading.stream import MOST_REPLACEMENTS, first_good, micro_batches
from openmae.data.sources.source import Source
from openmae.data.views.jitter import place
from openmae.data.views.outlined import Found, OutlinedView, mask_in_window, objects_in_window, window_of
from openmae.errors import BrokenImage, UserError
from openmae.randomness import generator

MOST_VIEWS_A_PIECE = 4  # made by one worker: they are large


@dataclass
class OutlinedBatch:
    """images (B, C, H, W) uint8, uint16 or float32; found: what is asked of each; the rest as of `Batch`."""

    images: Tensor
    found: list[Found]
    noise: Tensor
    indices: Tensor
    start: int
    broken: list[tuple[int, str]]
    failure: UserError | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "OutlinedBatch":
        """The same batch with what the model needs on `device`."""
        images, noise = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.noise))
        return replace(self, images=images, noise=noise, found=[one.to(device) for one in self.found])


@dataclass(frozen=True)
class OutlinedStream:
    """Makes the batches of any steps. right: what is outlined in the images of the source, index by index; wanted: as
    classes of pixels, or as objects."""

    source: Source
    right: Annotations
    wanted: str
    view: OutlinedView
    batch_size: int
    steps: int
    seed: int

    @cached_property
    def order(self) -> Order:
        """Of the visits."""
        return Order(self.seed, len(self.source), None, self.batch_size)

    def batches(
        self, first_step: int, micro_batch: int, workers: int, *, pin: bool = False, part: range | None = None
    ) -> Iterator[OutlinedBatch]:
        """As `Stream.batches`."""
        steps = range(first_step, self.steps)
        make = partial(_make, self)
        for made in micro_batches(make, self.order, steps, MOST_VIEWS_A_PIECE, micro_batch, workers, part):
            yield _batch(made, pin)


@dataclass(frozen=True)
class _View:
    """image (H, W, C), or None where none could be found, and why not."""

    image: NDArray[Any] | None
    found: Found
    noise: NDArray[np.float32]
    index: int
    why_none: str = ""


@dataclass(frozen=True)
class _Made:
    start: int
    views: list[_View]
    broken: list[tuple[int, str]]


def _make(stream: OutlinedStream, visits: range, hand: Hand) -> _Made:
    indices, broken = stream.order.of(visits), list[tuple[int, str]]()
    fetched = hand.read_each(stream.source, indices)
    views = []
    for visit, index, data in zip(visits, indices, fetched, strict=True):

        def made(
            shown: int,
            data: bytes | OSError | BrokenImage,
            other: Callable[[], np.random.Generator],
            visit: int = visit,
            index: int = index,
        ) -> _View:
            draws = generator(stream.seed, "sample", epoch=visit // len(stream.source), index=index)
            return _view(stream, shown, data, draws)

        found, why = first_good(stream.source, stream.seed, visit, (index, data), made, hand, broken)
        views.append(found or _View(None, Found(), np.zeros(stream.view.noise, np.float32), index, why))
    return _Made(visits.start, views, broken)


def _view(stream: OutlinedStream, index: int, data: bytes | OSError | BrokenImage, draws: np.random.Generator) -> _View:
    """Raises OSError and BrokenImage for an image of no use."""
    view, right = stream.view, stream.right
    opened = open_image(data, view.pixels.reading)
    size = (opened.header.height, opened.header.width)
    if complaint := patch_complaint(size, view.patch_size):
        raise complaint
    placed = place(size, view.img_size, view.jitter, draws)
    noise = draws.random(view.noise, np.float32)
    image = window_of(decode(opened, view.pixels), placed, view)
    if stream.wanted == "classes":
        return _View(image, Found(mask=mask_in_window(right.mask(index, size), placed, view.img_size)), noise, index)
    objects = right.objects(index, size)
    found = objects_in_window(objects.take(~objects.crowd), placed)
    return _View(image, found, noise, index)


def _batch(made: list[_Made], pin: bool) -> OutlinedBatch:
    views = [view for part in made for view in part.views]
    lost = next((view for view in views if view.image is None), None)
    failure = None
    if lost is not None:
        what = f"{MOST_REPLACEMENTS} images in a row cannot be used (the last: {lost.why_none})"
        failure = UserError(what, "check that the files are there")
    good = [view.image for view in views if view.image is not None]
    images = torch.from_numpy(np.stack(good)).permute(0, 3, 1, 2) if good else torch.zeros(0)
    noise = torch.from_numpy(np.stack([view.noise for view in views]))
    return OutlinedBatch(
        images.pin_memory() if pin else images,
        [view.found for view in views],
        noise,
        torch.tensor([view.index for view in views]),
        made[0].start,
        [entry for part in made for entry in part.broken],
        failure,
    )
