"""Whether directions mean anything in a set of images: can one tell them from themselves mirrored, upside down, or with
rows for columns?

A linear classifier learns to tell an image from the other, given what differs between the two: where it is bright, and
where it has edges of which direction. It is asked about images that it has not seen. Where the set is as likely either
way, no classifier is right more often than every second time, so more than that shows that directions mean something.
That nothing is found shows the contrary only as far as such a classifier sees: photographs of one kind of animal, the
hardest set that was tried, are told from themselves turned in 65% of cases, micrographs in 52 to 58% (docs/log.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from openmae.data.formats.missing import Missing
from openmae.data.views.crop import resize

MOST = 1024
"""Images that are asked about."""
_LEAST, _LEAST_ALIKE = 50, 200  # of fewer nothing is said, or not that they are alike
_SIDE = 48  # pixels of the small grey pictures that are compared
_FINEST = 4 * _SIDE  # pixels a side of which they are made
_FOLDS = 5
_RIDGE = 1.0  # over the mean of the Gram matrix's diagonal
_ALIKE, _NEARLY = 0.6, 0.62  # what the share may be at most, within two standard errors
_TOLD = 0.7  # what it is at least, likewise, where it is worth a word
_AROUND = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))

Thumbnail = NDArray[np.uint8]


@dataclass(frozen=True)
class Directions:
    """Shares of the images that were told from what they become, about 0.5 to 1. images: how many were asked about."""

    mirrored: float
    upside_down: float
    transposed: float
    images: int

    @property
    def _error(self) -> float:
        return 2 * float(np.sqrt(0.25 / self.images))

    @property
    def _most(self) -> float:
        return max(self.mirrored, self.upside_down, self.transposed)

    @property
    def mean_nothing(self) -> bool:
        """Whether that is all but certain."""
        return self.images >= _LEAST_ALIKE and self._most + self._error < _ALIKE

    @property
    def may_mean_nothing(self) -> bool:
        """Whether little speaks against it."""
        return self.images >= _LEAST_ALIKE and self._most + self._error < _NEARLY

    @property
    def mirror_matters(self) -> bool:
        """Whether left and right differ for certain, and not by little."""
        return self.mirrored - self._error > _TOLD

    def __str__(self) -> str:
        return (
            f"of {self.images:,} images {self._most:.0%} at most are told from themselves mirrored, upside down or "
            "turned, and 50% by chance"
        )

    def said_of_mirror(self) -> str:
        """What speaks for `mirror_matters`."""
        return f"{self.mirrored:.0%} of {self.images:,} images are told from their mirror images, and 50% by chance"


def thumbnail(image: NDArray[np.generic], missing: Missing | None, height: int) -> Thumbnail | None:
    """A small grey picture (48, 48) of the middle of an image (H, W, C) or of its first frame, of `height` rows, with a
    contrast of its own; what is missing is its mean. None where it is blank, or nothing is there."""
    frame, gaps = image[:height], None if missing is None else missing[:height]
    side = min(frame.shape[:2])
    top, left = ((have - side) // 2 for have in frame.shape[:2])
    step = max(1, side // _FINEST)
    rows, columns = slice(top, top + side, step), slice(left, left + side, step)
    with np.errstate(over="ignore", invalid="ignore"):  # of no-data that nothing names, such as -3.4e38
        return _small(frame[rows, columns], None if gaps is None else gaps[rows, columns])


def _small(pixels: NDArray[np.generic], gaps: Missing | None) -> Thumbnail | None:
    """Of a square (side, side, C)."""
    grey = pixels.mean(-1, dtype=np.float32)
    there = np.isfinite(grey) if gaps is None else ~gaps.any(-1)
    if not there.any():
        return None
    grey -= grey[there].mean()
    grey[~there] = 0
    grey = resize(grey[..., None], (_SIDE, _SIDE))[..., 0]
    spread = float(grey.std())
    if not spread > 1e-6 or not np.isfinite(spread):
        return None
    return (grey * (32 / spread) + 128).round().clip(0, 255).astype(np.uint8)


def directions(thumbnails: Sequence[Thumbnail]) -> Directions | None:
    """Of up to MOST of them, spread over all; None of fewer than 50. Copies are asked about once."""
    count = len(thumbnails)
    asked = range(count) if count <= MOST else np.linspace(0, count - 1, MOST).astype(int).tolist()
    different = {thumbnails[index].tobytes(): thumbnails[index] for index in asked}
    if len(different) < _LEAST:
        return None
    pictures = torch.from_numpy(np.stack([*different.values()])).float()
    as_they_are = _features(pictures)
    mirrored, upside_down, transposed = (
        _told(as_they_are - _features(other))
        for other in (pictures.flip(2), pictures.flip(1), pictures.transpose(1, 2))
    )
    # The finest patterns tell letters, and lenses and scanners too: they count for what needs much to be said.
    finely = _told(_patterns(pictures) - _patterns(pictures.flip(2)))
    return Directions(max(mirrored, finely), upside_down, transposed, len(pictures))


def _features(pictures: Tensor) -> Tensor:
    """(n, S, S) -> (n, D): brightness, and how much of an edge there is in each of four directions, by place."""
    x = (pictures - pictures.mean((1, 2), keepdim=True)) / pictures.std((1, 2), keepdim=True).clamp_min(1)
    down, across = x[:, 2:, 1:-1] - x[:, :-2, 1:-1], x[:, 1:-1, 2:] - x[:, 1:-1, :-2]
    edges = torch.stack([across, down, across + down, across - down], 1).abs().sqrt()
    parts = (F.adaptive_avg_pool2d(x[:, None], 8), F.adaptive_avg_pool2d(edges, 4))
    return torch.cat([part.flatten(1) for part in parts], 1)


def _patterns(pictures: Tensor) -> Tensor:
    """(n, S, S) -> (n, 512): how often the pixels around one are brighter in which places (local binary patterns), at
    two scales, as roots of shares."""
    found = []
    for scale in (1, 2):
        x = F.avg_pool2d(pictures[:, None], scale)[:, 0]
        side = x.shape[1] - 2
        middle = x[:, 1:-1, 1:-1]
        codes = torch.zeros(middle.shape, dtype=torch.int64)
        for bit, (top, left) in enumerate(_AROUND):
            codes |= (x[:, top : top + side, left : left + side] > middle).long() << bit
        rows = torch.arange(len(x))[:, None] * 256
        counts = torch.bincount((codes.flatten(1) + rows).flatten(), minlength=256 * len(x))
        found.append((counts.view(len(x), 256) / side**2).sqrt())
    return torch.cat(found, 1)


def _told(differences: Tensor) -> float:
    """Share of the images that a linear classifier tells from what they become, by the differences (n, D) of their
    features, each image judged by a classifier that has seen others."""
    scale = differences.square().mean(0).sqrt()
    x = (differences / (scale + 1e-3 * scale.mean()).clamp_min(1e-12)).double()
    gram = x @ x.T
    order = np.random.default_rng(0).permutation(len(x))
    right = 0.0
    for fold in range(_FOLDS):
        asked = torch.from_numpy(order[fold::_FOLDS])
        seen = torch.from_numpy(np.setdiff1d(order, asked))
        own = gram[seen][:, seen]
        ridge = _RIDGE * own.diagonal().mean().clamp_min(1e-12)
        weights = torch.linalg.solve(own + ridge * torch.eye(len(seen), dtype=own.dtype), torch.ones_like(own[0]))
        answers = gram[asked][:, seen] @ weights
        right += float((answers > 0).sum() + 0.5 * (answers == 0).sum())
    return right / len(x)
