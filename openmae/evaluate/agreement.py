"""Whether an encoder finds the same neighbours for an image however it is cut: a figure that needs no labels.

Each image is cropped at random twice. Its neighbours among all first crops and among all second crops should be the
same images if the encoder sees what is in them, and are not where it sees how they were cut, or nothing. The figure is
the share of the k nearest that both have, the mutual nearest neighbours of Huh et al. (arXiv 2405.07987, section 3.1)
with two crops in place of two models; by chance it is k / (n - 1).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.loading.stream import Stream
from openmae.data.sources.source import Source
from openmae.data.views.crop import Augmentation, View
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.evaluate.features import Function, centred_images
from openmae.evaluate.neighbours import nearest
from openmae.model import ViT

K = 10
_AT_ONCE = 32  # images, both crops of each
_VIEWS = 2


@dataclass(frozen=True)
class TwoViews:
    """Vectors of two random crops of each of n images: first, second (n, D), and which images these are, (n,)."""

    first: Tensor
    second: Tensor
    indices: NDArray[np.int64]


def two_views(
    encoder: ViT,
    statistics: Statistics,
    source: Source,
    features: Function,
    device: torch.device,
    workers: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> TwoViews:
    """Crops as pre-training draws them, the same for the same seed whatever the encoder. features: of a batch of images
    as decoded (B, C, H, W) -> (B, D). Broken images are left out. Raises UserError where nothing is left."""
    images = centred_images(encoder, statistics, source)
    view = View(statistics.pixels, images.img_size, images.patch_size, Augmentation())
    batch, steps = _VIEWS * _AT_ONCE, -(-len(source) // _AT_ONCE)
    stream = Stream(source, view, None, batch, steps, seed, repeats=_VIEWS)
    found: dict[int, Tensor] = {}  # (2, D) of an image
    broken: set[int] = set()
    for made in stream.batches(0, batch, workers):
        if made.failure is not None:
            raise made.failure
        broken |= {index for index, _ in made.broken}
        with torch.inference_mode():
            rows = features(made.images.to(device)).float().cpu()  # (2 x 32, D)
        for pair, index in zip(rows.unflatten(0, (-1, _VIEWS)), made.indices[::_VIEWS].tolist(), strict=True):
            found.setdefault(index, pair)  # one that stood in for a broken one, or begins the next pass, is there
        progress(len(found))
    found = {index: found[index] for index in sorted(found) if index not in broken}
    if len(found) < 2:
        raise UserError(f"{source.location} has no two images that can be read", "give more")
    vectors = torch.stack(list(found.values()))  # (n, 2, D)
    return TwoViews(vectors[:, 0], vectors[:, 1], np.array(list(found), np.int64))


def agreement(views: TwoViews, k: int = K) -> NDArray[np.float32]:
    """(n,) 0..1, of each image: the share of its k nearest others, by the cosine, that both crops have in common. k is
    cut to n - 1."""
    k = min(k, len(views.first) - 1)
    one, other = (_others(vectors.double(), k) for vectors in (views.first, views.second))
    both = (one[:, :, None] == other[:, None, :]).any(2).sum(1)
    return (both / k).numpy()


def _others(vectors: Tensor, k: int) -> Tensor:
    """(n, D) -> (n, k): which others are nearest to each; none is its own neighbour."""
    _, near = nearest(vectors, [vectors], k + 1)
    is_left = near != torch.arange(len(near))[:, None]
    is_left[is_left.all(1), -1] = False  # so many are equal to it that it is not among the first
    return near[is_left].unflatten(0, (-1, k))
