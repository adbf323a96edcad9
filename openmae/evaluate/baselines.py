"""What needs no encoder: the pixels themselves, and histograms of their colours and of their texture. Features that are
worth anything do better.

Shapes: B images, C channels, H x W pixels, D features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.data.views.statistics import Statistics, to_float
from openmae.evaluate.features import Function
from openmae.evaluate.linear import Directions

RAW_SIDE = 32
_LEVELS = 16  # of a channel's histogram
_SCALES = (1, 2, 4)  # by which images are made smaller for their texture
_PATTERNS = 10  # of 8 neighbours: 0 to 8 that are not darker, in one piece; and all others
_AROUND = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))  # the neighbours, in a circle


def raw_pixels(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C * h * w), 8- and 16-bit ones scaled to 0..1: the baseline that any feature has to beat.

    Images are averaged down to at most RAW_SIDE pixels a side: more make nearest neighbours no better, and a
    linear classifier on 150,528 values an image takes hours.
    """
    height, width = (min(side, RAW_SIDE) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(to_float(images), (height, width)).flatten(1)


def histograms(statistics: Statistics) -> Function:
    """A function from images (B, C, H, W) to (B, D): of each channel how often its values lie in each of 16 ranges, and
    of their mean how often a pixel's neighbours are which pattern, at three sizes. Roots of shares, whose products are
    Bhattacharyya coefficients.

    The ranges are those that values of the data's mean and deviation would fill evenly were they normally distributed:
    so a set of dark images has as many as another. Patterns: local binary patterns, uniform and whatever their turn
    (Ojala, Pietikäinen and Mäenpää, IEEE TPAMI 24, 2002), here of the 8 pixels around.
    """

    def features(images: Tensor) -> Tensor:
        normal = statistics.normalize(images)
        levels = (torch.special.ndtr(normal) * _LEVELS).long().clamp_(0, _LEVELS - 1)
        found = [_shares(levels.flatten(2).flatten(0, 1), _LEVELS).view(len(images), -1)]
        grey = normal.mean(1, keepdim=True)
        for scale in _SCALES:
            if min(images.shape[2:]) // scale >= 3:
                smaller = F.avg_pool2d(grey, scale)[:, 0]
                found.append(_shares(patterns(smaller).flatten(1), _PATTERNS))
        return torch.cat(found, 1).sqrt()

    return features


def patterns(grey: Tensor) -> Tensor:
    """(B, H, W) -> (B, H - 2, W - 2) int64, 0 to 9: how many of the 8 pixels around one are not darker, where these are
    side by side; else 9."""
    height, width = (side - 2 for side in grey.shape[1:])
    middle = grey[:, 1:-1, 1:-1]
    above = [grey[:, top : top + height, left : left + width] >= middle for top, left in _AROUND]
    changes = torch.stack([one != other for one, other in zip(above, above[-1:] + above, strict=False)]).sum(0)
    return torch.stack(above).sum(0).where(changes <= 2, _PATTERNS - 1)


def _shares(values: Tensor, levels: int) -> Tensor:
    """(n, m) int64 below `levels` -> (n, levels): how often each occurs in a row, of 1."""
    rows = torch.arange(len(values), device=values.device)[:, None] * levels
    counts = torch.bincount((values + rows).flatten(), minlength=len(values) * levels)
    return counts.view(len(values), levels) / values.shape[1]


def values(img_size: tuple[int, ...], in_chans: int) -> tuple[int, int]:
    """How many are kept of an image of two sides: (raw pixels, histograms)."""
    height, width = (min(side, RAW_SIDE) for side in img_size)
    textures = [scale for scale in _SCALES if min(img_size) // scale >= 3]
    return in_chans * height * width, _LEVELS * in_chans + _PATTERNS * len(textures)


def whitened(train: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Both (n, D) and (m, D), centred and of about equal variance along each direction of the training set, for a
    cosine to compare what images differ in and not what they share: of dark images all point the same way.

    Directions of less than the mean variance are left weak, since they are mostly noise; docs/log.md has what others
    would give.
    """
    directions = Directions.of(train)
    weights = (directions.variance + directions.variance.mean()).clamp_min(1e-12).rsqrt()
    return directions(train) * weights, directions(others) * weights
