"""What a model says of an image of which patches are covered.

Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", arXiv 1311.2901, section 4.2.
Shapes: n covers, C channels, S sides in pixels, N patches, K outputs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from openmae.data.tasks import Task
from openmae.heads import Answering
from openmae.model import patchify, unpatchify

AT_ONCE = 8  # images that go through the model together


@torch.no_grad()
def scores_occluded(model: Answering, image: Tensor, covers: Sequence[Sequence[int]]) -> Tensor:
    """An image (C, *S), normalised, and the patches that are covered each time -> scores (n, K) float32 on the CPU.

    Covered patches become the mean of the data, 0 once normalised. An empty cover leaves the image as it is.
    """
    encoder = model.encoder
    patches = patchify(image[None], encoder.patch_size)  # (1, N, P)
    found = []
    for start in range(0, len(covers), AT_ONCE):
        some = covers[start : start + AT_ONCE]
        shown = patches.repeat(len(some), 1, 1)
        for row, cover in enumerate(some):
            shown[row, list(cover)] = 0
        found.append(model(unpatchify(shown, encoder.grid, encoder.patch_size)).float().cpu())
    return torch.cat(found)


def said_of(scores: Tensor, task: Task) -> Tensor:
    """Scores (n, K) -> (n, K): the probability of each class, or of each label, 0..1; values as they are."""
    if task == "classification":
        return scores.double().softmax(dim=1)
    return scores.double().sigmoid() if task == "multi-label" else scores.double()


def windows(grid: tuple[int, ...], most: int) -> list[list[int]]:
    """The patches of squares that tile a grid of (rows, columns), as small as `most` of them allow, row by row."""
    rows, columns = grid
    side = 1
    while math.ceil(rows / side) * math.ceil(columns / side) > most:
        side += 1
    return [
        [row * columns + column for row in range(top, min(top + side, rows)) for column in _span(left, side, columns)]
        for top in range(0, rows, side)
        for left in range(0, columns, side)
    ]


def _span(start: int, length: int, end: int) -> range:
    return range(start, min(start + length, end))
