"""How well a segmenter tells the classes of pixels of whole images."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openmae.data.annotations.annotations import Annotated, ignored_of
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, least_reduction, open_image
from openmae.data.loading.pool import Hand, ordered
from openmae.data.sources.source import Source
from openmae.data.tiles.large import SAVE_TILED, AnyImage, LargeImage, large_image
from openmae.data.views.outlined import IGNORED
from openmae.data.views.statistics import Statistics
from openmae.distributed.ranks import ALONE, Ranks
from openmae.errors import BrokenImage, TooLarge, UserError
from openmae.evaluate.confusion import confusion, overlap_figures
from openmae.evaluate.tiled import TILES, strips
from openmae.machine.kinds import Precision
from openmae.transfer.segmenter import Segmenter

HEADLINE = "miou"


@dataclass(frozen=True)
class Read:
    """An image (H, W, C) as decoded and its mask (H, W) of class indices; why it is of no use, where it is not."""

    index: int
    image: AnyImage | None
    mask: NDArray[np.uint8] | None
    why_none: str = ""


def read_each(annotated: Annotated, pixels: PixelFormat, indices: list[int], workers: int, side: int) -> Iterator[Read]:
    """Images with their masks, in order. side: of the tiles that they are cut into."""
    yield from ordered(partial(_read, annotated, pixels, side), indices, workers, ahead=1)


def image_of(source: Source, pixels: PixelFormat, index: int, hand: Hand, side: int | None) -> AnyImage:
    """(H, W, C) as decoded, at its own size; a large TIFF to be read in parts of about `side` pixels a side, where
    parts are enough. Raises OSError and BrokenImage."""
    if (large := large_of(source, pixels, index, hand, side)) is not None:
        return large
    (data,) = hand.read_each(source, [index])
    hand.take(index)
    return decoded_whole(data, pixels, is_cut=side is not None)


def large_of(source: Source, pixels: PixelFormat, index: int, hand: Hand, side: int | None) -> LargeImage | None:
    """One that is read in parts; None of others. Raises OSError and BrokenImage."""
    if side is None or (large := large_image(source, index, pixels, side)) is None:
        return None
    hand.take(index)
    large[:side, :side]  # of other channels, or another depth, it is broken
    return large


def decoded_whole(data: bytes | OSError | BrokenImage, pixels: PixelFormat, *, is_cut: bool) -> NDArray[Any]:
    """(H, W, C) of what a source gave. is_cut: whether a larger one could be read in parts. Raises OSError and
    BrokenImage."""
    advice = SAVE_TILED if is_cut else "give it smaller"
    try:
        opened = open_image(data, pixels.reading)
        image = decode(opened, pixels, reduce=least_reduction(opened, pixels))
    except TooLarge as error:
        raise TooLarge(error.what, advice) from error
    if image.shape[:2] != (opened.header.height, opened.header.width):
        raise TooLarge("it is too large to be seen at its own size", advice)
    return image


def _read(annotated: Annotated, pixels: PixelFormat, side: int, index: int, hand: Hand) -> Read:
    try:
        image = image_of(annotated.images, pixels, index, hand, side)
        return Read(index, image, as_indices(annotated.right.mask(index, (image.shape[0], image.shape[1]))))
    except (OSError, BrokenImage) as error:
        return Read(index, None, None, str(error))


def as_indices(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W) uint8 class indices, IGNORED where nobody judges."""
    if mask.dtype == np.uint8:
        return mask
    return np.where(mask == ignored_of(mask), IGNORED, mask).astype(np.uint8)


def segmented(
    model: Segmenter,
    statistics: Statistics,
    image: AnyImage,
    device: torch.device,
    batch_size: int = TILES,
    precision: Precision = "fp32",
) -> NDArray[np.uint8]:
    """(H, W, C) as decoded -> (H, W) the class of each pixel. batch_size: tiles that go through the model at once."""
    return np.concatenate([part.classes for part in strips(model, statistics, image, device, batch_size, precision)])


@dataclass(frozen=True)
class Judged:
    """counts (n, K, K): of each image that could be read, `indices` (n,) among all. small: of those that were read in
    parts, by their index, each so manieth pixel of what was found, where that was asked for."""

    counts: NDArray[np.int64]
    indices: NDArray[np.int64]
    unreadable: list[tuple[int, str]]
    small: dict[int, NDArray[np.uint8]]

    def figures(self) -> dict[str, float]:
        """miou, dice, pixel_accuracy and mean_accuracy of all pixels together."""
        return overlap_figures(self.counts.sum(0))

    def error(self) -> float | None:
        """Standard error of the miou, by leaving out each image in turn (jackknife); None of one image."""
        total, count = self.counts.sum(0), len(self.counts)
        if count < 2:
            return None
        without = np.array([overlap_figures(total - own)[HEADLINE] for own in self.counts])
        return float(math.sqrt((count - 1) / count * np.square(without - without.mean()).sum()))


def judge(
    model: Segmenter,
    statistics: Statistics,
    annotated: Annotated,
    device: torch.device,
    workers: int,
    *,
    batch_size: int = TILES,
    precision: Precision = "fp32",
    ranks: Ranks = ALONE,
    step_of: Callable[[tuple[int, int]], int] | None = None,
    say: Callable[[float], None] = lambda done: None,
) -> Judged:
    """Of all images, shared among the ranks; all get the whole. The model is in evaluation. step_of: of an image (H, W)
    that is read in parts each so manieth pixel of what is found is kept, so that nobody has to look for it again.

    Raises UserError where none can be read.
    """
    mine = list(range(ranks.rank, len(annotated), ranks.size))
    counts, indices, unreadable, small = [], [], [], dict[int, NDArray[np.uint8]]()
    side = max(model.encoder.img_size)
    for done, read in enumerate(read_each(annotated, statistics.pixels, mine, workers, side), 1):
        if read.image is None or read.mask is None:
            unreadable.append((read.index, read.why_none))
        else:
            try:
                own, kept = np.zeros((model.classes, model.classes), np.int64), list[NDArray[np.uint8]]()
                step = step_of(read.mask.shape) if step_of and isinstance(read.image, LargeImage) else 0
                for part in strips(model, statistics, read.image, device, batch_size, precision):
                    found = part.classes
                    own += confusion(read.mask[part.top : part.bottom], found, model.classes)
                    if step:
                        kept.append(found[-part.top % step :: step, ::step].copy())
                    if part.bottom < len(read.mask):
                        say(done - 1 + part.bottom / len(read.mask))
                counts.append(own)
                indices.append(read.index)
                if kept:
                    small[read.index] = np.concatenate(kept)
            except BrokenImage as error:  # a part of a large one
                unreadable.append((read.index, str(error)))
        say(done)
    parts = ranks.gather((indices, counts, unreadable, small))
    order = sorted((index, place, part) for part, one in enumerate(parts) for place, index in enumerate(one[0]))
    if not order:
        why = next(one[2][0][1] for one in parts if one[2])
        raise UserError(f"none of the {len(annotated)} images can be read with its mask ({why})", "see openmae check")
    return Judged(
        np.stack([parts[part][1][place] for _, place, part in order]),
        np.array([index for index, _, _ in order]),
        sorted(entry for one in parts for entry in one[2]),
        {index: kept for one in parts for index, kept in one[3].items()},
    )
