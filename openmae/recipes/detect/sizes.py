"""How large the objects are that are learnt from, and how many there are in an image."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from openmae.data.annotations.annotations import Annotated
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import open_image
from openmae.data.loading.pool import Hand, ordered
from openmae.errors import BrokenImage
from openmae.evaluate.tiled import starts

_MOST_IMAGES = 200  # that are looked at, evenly among all


@dataclass(frozen=True)
class Sizes:
    """boxes: (n, 2) height and width of each object in pixels; whose: (n,) its image; images: (m, 2) height and width
    of each image; counts: (m,) how many objects it has."""

    boxes: NDArray[np.float64]
    whose: NDArray[np.int64]
    images: NDArray[np.float64]
    counts: NDArray[np.int64]

    def scales(self, window: tuple[int, int]) -> NDArray[np.float64]:
        """(m,) how large each image is drawn to fit a window."""
        return np.asarray((np.array(window, np.float64) / self.images).min(1))

    def tiles(self, window: tuple[int, int]) -> float:
        """Into how many tiles an image is cut, on average."""
        counts = [
            math.prod(len(starts(int(n), tile)) for n, tile in zip(one, window, strict=True)) for one in self.images
        ]
        return float(np.mean(counts)) if counts else 1.0

    def most(self, window: tuple[int, int], fits: bool) -> int:
        """About how many objects a window has at most."""
        shares = 1.0 if fits else np.minimum(1.0, np.array(window, np.float64) / self.images).prod(1)
        return math.ceil((self.counts * shares).max(initial=0))

    def drawn(self, window: tuple[int, int], fits: bool) -> NDArray[np.float64]:
        """(n,) pixels a side of each object, the root of its area, as a window shows it."""
        sides = np.sqrt(self.boxes.prod(1))
        return np.asarray(sides * self.scales(window)[self.whose]) if fits else sides


def sizes_of(annotated: Annotated, pixels: PixelFormat, workers: int) -> Sizes:
    """Of some images, crowds left out. What cannot be read is left out, too."""
    chosen = np.unique(np.linspace(0, len(annotated) - 1, min(len(annotated), _MOST_IMAGES)).round().astype(int))
    boxes, images = list[NDArray[np.float64]](), list[tuple[int, int]]()
    for found in ordered(partial(_read, annotated, pixels), chosen.tolist(), workers):
        if found is not None:
            images.append(found[0])
            boxes.append(found[1])
    counts = np.array([len(own) for own in boxes], np.int64)
    return Sizes(
        np.concatenate([np.zeros((0, 2)), *boxes]),
        np.repeat(np.arange(len(counts)), counts),
        np.array(images, np.float64).reshape(-1, 2),
        counts,
    )


def _read(
    annotated: Annotated, pixels: PixelFormat, index: int, hand: Hand
) -> tuple[tuple[int, int], NDArray[np.float64]] | None:
    try:
        (data,) = hand.read_each(annotated.images, [index])
        hand.take(index)
        header = open_image(data, pixels.reading).header
        size = (header.height, header.width)
        objects = annotated.right.objects(index, size)
    except (OSError, BrokenImage):
        return None
    boxes = objects.boxes[~objects.crowd].astype(np.float64)
    return size, (boxes[:, 2:] - boxes[:, :2])[:, ::-1]
