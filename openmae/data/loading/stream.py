"""The training stream: one endless sequence of views, a function of (data, seed) and of nothing else.

A visit is one decoding of an image, in an order that order.py tells of. It gives `repeats` views; view p of the stream
is view p % repeats of visit p // repeats. Step s takes views s * batch_size to (s + 1) * batch_size, of which each rank
takes a run. Batches go on across the ends of epochs, so no image is left out, a batch may be larger than the data, and
there is no pause.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import chain, repeat
from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.formats.decode import decode_masked, open_image, patch_complaint
from openmae.data.loading.blocks import in_blocks
from openmae.data.loading.order import LANE, Order
from openmae.data.loading.pool import AHEAD, Hand, SharedArray, ordered
from openmae.data.sources.source import Source
from openmae.data.views.crop import Crop, View, cut, draw_crop, reduction
from openmae.data.views.missing import MAX_NODATA, MissingOf, NoCrop, usable
from openmae.errors import BrokenImage, UserError
from openmae.machine.memory import ram
from openmae.masking import Masking
from openmae.randomness import generator

_NONE: NDArray[np.int64] = np.zeros(0, np.int64)
MOST_REPLACEMENTS = 100  # tries to replace a broken image before the batch is given up
MOST_VIEWS_A_PIECE = 32  # of a batch, made by one worker: enough that handing it over costs nothing
MOST_RING_BYTES = 2**30  # of the memory through which the workers of one process hand views over


@dataclass
class Batch:
    """images (B, C, H, W) uint8, uint16 or float32, in channels-last memory; visible (B, V) and queries (B, Q)
    patches, V and Q 0 where nothing is masked; noise (B, R) uniform numbers, for what the model leaves to chance;
    indices (B,) of the images in the source, of those shown where one stood in for another; start: which view of the
    stream the first one is; broken: (index, reason) of files that another image stood in for; failure: why the batch
    is of no use, where it is not."""

    images: Tensor
    visible: Tensor
    queries: Tensor
    noise: Tensor
    indices: Tensor
    start: int
    broken: list[tuple[int, str]]
    failure: UserError | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with what the model needs on `device`."""
        images, visible, queries, noise = (
            tensor.to(device, non_blocking=True) for tensor in (self.images, self.visible, self.queries, self.noise)
        )
        return replace(self, images=images, visible=visible, queries=queries, noise=noise)


@dataclass(frozen=True)
class _Piece:
    """Views `start` to `stop`, all of one step; the images of their visits; the slot of the ring they go to."""

    start: int
    stop: int
    images: list[int]
    slot: int


@dataclass(frozen=True)
class _Made:
    """A piece's views. images (n, H, W, C), or None where they are in the ring."""

    slot: int
    images: NDArray[Any] | None
    visible: NDArray[np.int64]
    queries: NDArray[np.int64]
    noise: NDArray[np.float32]
    start: int
    indices: list[int]
    broken: list[tuple[int, str]]
    failure: UserError | None


@dataclass(frozen=True)
class _Loaded:
    """What a visit's views are made of: their generators, from which their crops were drawn; which patches of each are
    unfit (N,), None for none; the image, decoded at 1/reduce of its size (height, width), or None where none could be
    found, and why not the last one that was tried; its index."""

    draws: list[np.random.Generator]
    index: int
    why_none: str
    crops: list[Crop] = field(default_factory=list)
    unfit: list[NDArray[np.bool_] | None] = field(default_factory=list)
    image: NDArray[Any] | None = None
    size: tuple[int, int] = (0, 0)
    reduce: int = 1


@dataclass(frozen=True)
class Stream:
    """Makes the batches of any steps.

    masking: how patches hide, None where nothing does; its ratio follows the step, so `batch_size` and `steps` are
        needed.
    repeats: views of each decoded image, one after the other; batch_size counts views.
    max_nodata: share of a patch that may be missing, above which it is neither shown nor asked for; of a view's patches
        that may be such, above which another crop is drawn, or another image stands in where none will do.
    shuffle_block: as an `Order` has it.
    """

    source: Source
    view: View
    masking: Masking | None
    batch_size: int
    steps: int
    seed: int
    repeats: int = 1
    max_nodata: float = MAX_NODATA
    shuffle_block: int | None = 1

    @cached_property
    def order(self) -> Order:
        """Of the visits."""
        return Order(self.seed, len(self.source), self.shuffle_block, -(-self.batch_size // self.repeats))

    def batches(
        self, first_step: int, micro_batch: int, workers: int, *, pin: bool = False, part: range | None = None
    ) -> Iterator[Batch]:
        """The stream from `first_step` on, each step in micro-batches of at most `micro_batch`.

        workers: processes that load; 0 loads in this one. The result is the same.
        pin: into page-locked memory, from where a GPU copies while it works.
        part: which views of each step this process takes, of 0..batch_size; default all of them.
        """
        part = range(self.batch_size) if part is None else part
        share = len(part)
        workers, ahead, most = self._sizes(min(micro_batch, share), workers)
        plan = [runs(start, min(start + micro_batch, share), most) for start in range(0, share, micro_batch)]
        slots = workers * ahead
        shape = (slots, most, *self.view.img_size, self.view.pixels.in_chans)
        ring = SharedArray(shape, self.view.pixels.depth) if workers else None

        def pieces() -> Iterator[_Piece]:
            slot = 0
            for step in range(first_step, self.steps):
                begin = step * self.batch_size + part.start
                for start, stop in (run for runs in plan for run in runs):
                    yield _Piece(begin + start, begin + stop, self._images(begin + start, begin + stop), slot)
                    slot = (slot + 1) % slots if slots else 0

        reading = replace(self, source=in_blocks(self.source, self.order, -(-share // self.repeats), workers))
        whose = whose_of(plan, part.start, self.batch_size)
        made = ordered(
            partial(_make, reading, ring),
            pieces(),
            workers,
            ahead,
            (lambda piece: whose(piece.start)) if self.order.in_blocks else None,
        )
        return _assembled(made, plan, self.steps - first_step, ring, pin)

    def views(self, start: int, stop: int) -> Batch:
        """The views `start` to `stop` of the stream, which belong to one step."""
        made = _make(self, None, _Piece(start, stop, self._images(start, stop), 0), Hand())
        return next(_assembled(iter([made]), [[(start, stop)]], 1, None, False))

    def _sizes(self, batch: int, workers: int) -> tuple[int, int, int]:
        """(workers, pieces each has ahead, views of a piece) for batches of `batch` views: less of each, in the
        opposite order, where the ring would grow too large."""
        view_bytes = prod(self.view.img_size) * self.view.pixels.in_chans * np.dtype(self.view.pixels.depth).itemsize
        room = max(1, min(MOST_RING_BYTES, ram() // 16) // view_bytes)
        workers = min(workers, room)
        room //= max(1, workers)
        most = min(MOST_VIEWS_A_PIECE, -(-batch // max(1, workers)))
        # A visit's views, and a lane's visits, in one piece, where batches and the ring allow it.
        together = self.repeats * LANE if self.order.in_blocks else self.repeats
        most = min(most + -most % together, batch)
        ahead = max(1, min(AHEAD, room // min(self.repeats, most)))
        room //= ahead
        return workers, ahead, min(most, room - room % self.repeats or room)

    def _images(self, start: int, stop: int) -> list[int]:
        """The index of the image of each visit that gives the views."""
        visits = range(start // self.repeats, (stop - 1) // self.repeats + 1)
        return self.order.of(visits)


def _make(stream: Stream, ring: SharedArray | None, piece: _Piece, hand: Hand) -> _Made:
    step, view = piece.start // stream.batch_size, stream.view
    ratio = None
    if stream.masking is not None:
        ratio = stream.masking.ratio(step / stream.steps, generator(stream.seed, "step", index=step).random())
    shape = (piece.stop - piece.start, *view.img_size, view.pixels.in_chans)
    images = np.zeros(shape, view.pixels.depth) if ring is None else ring.array[piece.slot]
    visible, queries, noise = [], [], []
    indices: list[int] = []
    broken: list[tuple[int, str]] = []
    failure: UserError | None = None
    fetched = hand.read_each(stream.source, piece.images)
    for visit, (index, data) in enumerate(zip(piece.images, fetched, strict=True), piece.start // stream.repeats):
        first = visit * stream.repeats
        loaded = _load(stream, visit, index, data, hand, broken)
        if loaded.image is None:
            what = f"{MOST_REPLACEMENTS} images in a row cannot be used (the last: {loaded.why_none})"
            failure = UserError(what, "check that the files are there")
        for number in range(max(piece.start, first) - first, min(piece.stop, first + stream.repeats) - first):
            draws = loaded.draws[number]
            if loaded.image is not None:
                crop, out = loaded.crops[number], images[len(indices)]
                cut(loaded.image, loaded.size, crop, view.img_size, loaded.reduce, out)
            shown = asked = _NONE
            if stream.masking is not None:
                unfit = None if loaded.image is None else loaded.unfit[number]
                shown, asked = stream.masking.draw(draws, view.grid, ratio, unfit)
            visible.append(shown)
            queries.append(asked)
            noise.append(draws.random(view.noise, np.float32))
            if view.finish is not None and loaded.image is not None:
                view.finish(out, draws)
            indices.append(loaded.index)
    return _Made(
        piece.slot,
        images if ring is None else None,
        np.stack(visible),
        np.stack(queries),
        np.stack(noise),
        piece.start,
        indices,
        broken,
        failure,
    )


def _load(
    stream: Stream,
    visit: int,
    index: int,
    data: bytes | OSError | BrokenImage,
    hand: Hand,
    broken: list[tuple[int, str]],
) -> _Loaded:
    """Decodes the image of a visit, or, where its file is broken, another one."""
    wanted, epoch, view = index, visit // len(stream.source), stream.view

    def fresh() -> list[np.random.Generator]:
        # Anew for each try: how far a broken file could be read must not show in what follows.
        return [
            generator(stream.seed, "sample", epoch=epoch, index=wanted, view=number) for number in range(stream.repeats)
        ]

    def made(index: int, data: bytes | OSError | BrokenImage, other: Callable[[], np.random.Generator]) -> _Loaded:
        draws = fresh()
        opened = open_image(data, view.pixels.reading)
        header = opened.header
        size = (header.height, header.width)
        if complaint := patch_complaint(size, view.patch_size):
            raise complaint
        crops = [draw_crop(size, view.img_size, view.augmentation, own) for own in draws]
        # By all views of the visit, also those of another piece: the pixels must not depend on the pieces.
        reduce = min(reduction((crop.height, crop.width), view.finest) for crop in crops)
        rows = max(crop.top + crop.height for crop in crops)
        frame = int(other().integers(header.frames)) if header.frames > 1 else None
        image, missing = decode_masked(opened, view.pixels, reduce=reduce, rows=rows, frame=frame)
        reduce = reduce if opened.reduces else 1
        unfit: list[NDArray[np.bool_] | None] = [None] * len(crops)
        if missing is not None and opened.reduces:  # other crops may lie below those that were drawn first
            image, missing = decode_masked(opened, view.pixels, reduce=reduce, frame=frame)
        if missing is not None and stream.masking is not None and stream.max_nodata < 1:
            lacking = MissingOf(missing, size, reduce)
            crops, unfit = usable(lacking, crops, draws, view, stream.masking, stream.max_nodata)
        return _Loaded(draws, index, "", crops, unfit, image, size, reduce)

    loaded, why = first_good(stream.source, stream.seed, visit, (index, data), made, hand, broken)
    return _Loaded(fresh(), wanted, why) if loaded is None else loaded


Made = TypeVar("Made")
Make = Callable[[int, bytes | OSError | BrokenImage, Callable[[], np.random.Generator]], Made]


def first_good(
    source: Source,
    seed: int,
    visit: int,
    wanted: tuple[int, bytes | OSError | BrokenImage],
    make: Make[Made],
    hand: Hand,
    broken: list[tuple[int, str]],
) -> tuple[Made | None, str]:
    """What `make` makes of the image of a visit, or, where that raises OSError or BrokenImage, of another one; None
    where none will do, and why not the last one that was tried.

    wanted: the image's index, and what the source gave of it. make: of these, and of the generator that replaces
    images. broken: gets the index of those that would not do, and why.
    """
    index, data = wanted

    @cache
    def other() -> np.random.Generator:  # seldom used
        return generator(seed, "visit", epoch=visit // len(source), index=wanted[0])

    why = ""
    for _ in range(MOST_REPLACEMENTS):
        try:
            hand.take(index)
            return make(index, data, other), ""
        except (OSError, BrokenImage) as error:
            if not isinstance(error, NoCrop):  # the file is whole, and its next crop may show more
                broken.append((index, str(error)))
            why = str(error)
            index = int(other().integers(len(source)))
            data = next(hand.read_each(source.singly, [index]))
    return None, why


def _assembled(
    made: Iterator[_Made], plan: list[list[tuple[int, int]]], steps: int, ring: SharedArray | None, pin: bool
) -> Iterator[Batch]:
    """The pieces put together to micro-batches, out of the ring, whose slots are used again."""
    for runs in chain.from_iterable(repeat(plan, steps)):
        parts: list[_Made] = []
        images: Tensor | None = None
        at = 0
        for start, stop in runs:
            part = next(made)
            pixels = part.images if ring is None else ring.array[part.slot, : stop - start]
            assert pixels is not None
            if images is None:
                shape = (runs[-1][1] - runs[0][0], *pixels.shape[1:])
                images = torch.empty(shape, dtype=torch.from_numpy(pixels[:0]).dtype, pin_memory=pin)
            images[at : at + len(pixels)] = torch.from_numpy(pixels)
            at += len(pixels)
            parts.append(part)
        assert images is not None
        visible, queries, noise = (
            torch.from_numpy(np.concatenate([getattr(part, name) for part in parts]))
            for name in ("visible", "queries", "noise")
        )
        yield Batch(
            images.permute(0, 3, 1, 2),
            visible.pin_memory() if pin else visible,
            queries.pin_memory() if pin else queries,
            noise.pin_memory() if pin else noise,
            torch.tensor([index for part in parts for index in part.indices]),
            parts[0].start,
            [entry for part in parts for entry in part.broken],
            next((part.failure for part in parts if part.failure), None),
        )


def runs(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """Parts of start to stop, of at most so many each."""
    return [(at, min(at + most, stop)) for at in range(start, stop, most)]


def whose_of(plan: list[list[tuple[int, int]]], first: int, batch_size: int) -> Callable[[int], int]:
    """The number of the piece of a batch, by where it starts in the stream: the same in every step, so that a loader
    goes on with the blocks that it has. first: of the batch, that this process takes."""
    numbers = {first + start: number for number, (start, _) in enumerate(chain.from_iterable(plan))}
    return lambda start: numbers[start % batch_size]


def micro_batches(
    make: Callable[[range, Hand], Made],
    order: Order,
    steps: range,
    most: int,
    micro_batch: int,
    workers: int,
    part: range | None,
) -> Iterator[list[Made]]:
    """What is made of the visits of each micro-batch, in order: of at most so many visits at once, by one of the
    workers. steps, micro_batch, workers, part: as of `Stream.batches`."""
    part = range(order.batch) if part is None else part
    share = len(part)
    most = min(most, -(-min(micro_batch, share) // max(1, workers)))
    most += -most % (LANE if order.in_blocks else 1)
    plan = [runs(start, min(start + micro_batch, share), most) for start in range(0, share, micro_batch)]

    def pieces() -> Iterator[range]:
        for step in steps:
            begin = step * order.batch + part.start
            for start, stop in (one for parts in plan for one in parts):
                yield range(begin + start, begin + stop)

    whose = whose_of(plan, part.start, order.batch)
    made = ordered(make, pieces(), workers, whose=(lambda visits: whose(visits.start)) if order.in_blocks else None)
    for _ in steps:
        for parts in plan:
            yield [next(made) for _ in parts]
