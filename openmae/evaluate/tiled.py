"""A class for every pixel of images of any size: tiles of the model's size that overlap, stitched.

Nothing is made smaller: what an image has is what is judged. Shapes: K classes, H and W pixels of an image, h and w of
a tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.tiles.large import AnyImage
from openmae.data.views.statistics import WHITE, Statistics
from openmae.machine.device import autocast
from openmae.machine.kinds import Precision
from openmae.transfer.segmenter import Segmenter

OVERLAP = 1 / 3  # of a tile's side, at least: 341 pixels from tile to tile of 512 (paper's code)

TILES = 16  # that go through the model at once


def starts(side: int, tile: int) -> list[int]:
    """Where tiles begin along a side, evenly, so that they reach its end and overlap by OVERLAP or more."""
    if side <= tile:
        return [0]
    count = 1 + -(-(side - tile) // max(1, int(tile * (1 - OVERLAP))))
    return [round(number * (side - tile) / (count - 1)) for number in range(count)]


@dataclass(frozen=True)
class Strip:
    """Scores (K, rows, W) of the rows of an image from `top` on."""

    top: int
    scores: Tensor

    @property
    def bottom(self) -> int:
        """The row after the last."""
        return self.top + int(self.scores.shape[1])

    @property
    def classes(self) -> NDArray[np.uint8]:
        """(rows, W) that of each pixel."""
        return self.scores.argmax(0).to(torch.uint8).numpy()


@torch.no_grad()
def strips(
    model: Segmenter,
    statistics: Statistics,
    image: AnyImage,
    device: torch.device,
    batch_size: int = TILES,
    precision: Precision = "fp32",
) -> Iterator[Strip]:
    """Scores of an image (H, W, C) as decoded, from top to bottom, float32 on the CPU; where tiles overlap, their mean.
    No more rows are held than a tile has. The model is in evaluation."""
    (down, across), (height, width) = model.encoder.img_size, image.shape[:2]
    rows, columns = starts(height, down), starts(width, across)
    held = torch.zeros(model.classes, min(down, height), width)
    counts = torch.zeros(min(down, height), width)
    for number, top in enumerate(rows):
        tiles = np.stack([_tile(image, top, left, (down, across), statistics) for left in columns])
        for begin in range(0, len(columns), batch_size):
            some = torch.from_numpy(tiles[begin : begin + batch_size]).permute(0, 3, 1, 2).to(device)
            with autocast(device, precision):
                found = model(statistics.normalize(some)).float().cpu()
            for scores, left in zip(found, columns[begin : begin + batch_size], strict=True):
                part = scores[:, : held.shape[1], : width - left]
                held[:, :, left : left + across] += part
                counts[:, left : left + across] += 1
        done = held.shape[1] if number == len(rows) - 1 else rows[number + 1] - top
        yield Strip(top, held[:, :done] / counts[:done])
        held = torch.cat([held[:, done:], torch.zeros(model.classes, done, width)], dim=1)
        counts = torch.cat([counts[done:], torch.zeros(done, width)])


def _tile(image: AnyImage, top: int, left: int, size: tuple[int, int], statistics: Statistics) -> NDArray[Any]:
    """(*size, C): a part of the image, the mean of the images beside it."""
    part = image[top : top + size[0], left : left + size[1]]
    if part.shape[:2] == size:
        return part
    fill = np.asarray(statistics.mean) * WHITE[statistics.pixels.depth]
    tile = np.empty((*size, image.shape[2]), image.dtype)
    tile[:] = fill.astype(image.dtype)
    tile[: part.shape[0], : part.shape[1]] = part
    return tile
