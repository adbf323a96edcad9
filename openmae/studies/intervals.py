"""How far two models are apart, and within what bounds: other test images and other seeds might have said otherwise.

The difference is the mean over the seeds. Both models are judged by the same images, so it is these that are drawn
again, with replacement, for both at once (the paired bootstrap); that no image differs among few is not taken for none
among all, for one more each way is allowed for (after Agresti and Min, Statistics in Medicine 24, 2005, pages 729-740).
How much the seeds differ is seen of few, and enters by Student's t. The two half-widths are put together as the sides
of a right angle. That is wider than need be where both matter, and never too narrow: of normal deviations, intervals at
95% cover the truth in 95% of cases or more with as few as two seeds, where adding the variances covers 87%
(docs/log.md). Where several models are compared with one, how much seeds differ is seen of all of them together
(`together`). All the same two seeds have no bounds here: where several hold together, Student's t with one degree of
freedom makes them wider than whatever was found (+-100 points), so what is told of two is what each of them gave.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from openmae.randomness import generator
from openmae.studies.outcomes import Outcome

RESAMPLES = 1000
NO_BOUNDS = 2
"""So many seeds have none."""
_AT_ONCE = 2**22  # draws


@dataclass(frozen=True)
class Interval:
    """A difference, and the bounds that hold at `level`: no numbers where there are none. by_images, by_seeds:
    half-widths that add up to it. seeds: how many. each: the difference of each seed, where two are all there are, and
    hence no bounds."""

    difference: float
    low: float
    high: float
    level: float
    by_images: float
    by_seeds: float
    seeds: int = 1
    each: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for results.json; None for what is no number."""
        found = {
            name: value if math.isfinite(value) else None for name, value in asdict(self).items() if name != "each"
        }
        return found | ({"each": list(self.each)} if self.each else {})


def level_of(questions: int) -> float:
    """Of each interval, so that all of them hold together in 95% of cases (Bonferroni)."""
    return 1 - 0.05 / questions


def between(pairs: Sequence[tuple[Outcome, Outcome]], level: float, seed: int) -> Interval:
    """How much better the first of each pair is, over the seeds that the pairs are of.

    Whatever pairs have the same units, `seed` draws the same images for.
    """
    units = np.unique(np.concatenate([one.units for pair in pairs for one in pair]))
    places = [[np.searchsorted(units, one.units) for one in pair] for pair in pairs]
    drawn: list[NDArray[np.float64]] = []
    for counts in _resampled(len(units), seed):
        figures = [
            [one.figures(counts[:, at]) for one, at in zip(pair, own, strict=True)]
            for pair, own in zip(pairs, places, strict=True)
        ]
        drawn.append(np.mean([better - other for better, other in figures], axis=0))
    by_seed = np.array([better.figure() - other.figure() for better, other in pairs])
    spread = math.hypot(float(np.nanstd(np.concatenate(drawn), ddof=1)), 1 / len(units))
    return _joined(by_seed, spread, level)


def _resampled(units: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """(r, units), RESAMPLES rows in all: how often each unit is drawn, of as many draws as there are units."""
    draws, rows = generator(seed, "resample"), max(1, _AT_ONCE // units)
    for start in range(0, RESAMPLES, rows):
        some = min(rows, RESAMPLES - start)
        places = draws.integers(units, size=(some, units)) + units * np.arange(some)[:, None]
        yield np.bincount(places.reshape(-1), minlength=some * units).reshape(some, units).astype(np.float64)


def between_parts(
    whole: Sequence[tuple[float, float]],
    without: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    level: float,
) -> Interval:
    """The same of a figure that no image has a share in, such as an effective rank, by the grouped jackknife.

    whole: the figures of each pair. without: (G,) the figures of each with one of G groups of images left out, the same
    groups for all. (Drawn images come several times, which lowers a rank: the bootstrap would say too little.)
    """
    left_out = np.mean([better - other for better, other in without], axis=0)
    groups = len(left_out)
    spread = math.sqrt((groups - 1) / groups * float(np.square(left_out - left_out.mean()).sum()))
    return _joined(np.array([better - other for better, other in whole]), spread, level)


def _joined(by_seed: NDArray[np.float64], spread: float, level: float) -> Interval:
    """by_seed: (S,) the differences. spread: standard deviation of their mean where other images are drawn."""
    mean, tail = float(by_seed.mean()), _tail(level)
    seeds, by_seeds = len(by_seed), 0.0
    by_images = float(stats.norm.ppf(tail)) * spread
    if seeds == NO_BOUNDS:
        each = tuple(by_seed[np.isfinite(by_seed)].tolist())
        return Interval(mean, math.nan, math.nan, level, by_images, math.nan, seeds, each)
    if seeds > 1:
        error = float(by_seed.std(ddof=1)) / math.sqrt(seeds)
        by_seeds = float(stats.t.ppf(tail, seeds - 1)) * error
    return _of_halves(mean, by_images, by_seeds, level, seeds)


def _of_halves(mean: float, by_images: float, by_seeds: float, level: float, seeds: int) -> Interval:
    half = math.hypot(by_images, by_seeds)
    return Interval(mean, mean - half, mean + half, level, by_images, by_seeds, seeds)


def together(found: Mapping[str, Interval]) -> dict[str, Interval]:
    """Those of several models that are compared with one by the same figure, with how much seeds differ taken from all
    of them that have as many: three seeds of one pair say little of it, and bounds from them alone are wider than most
    of what is to be found.

    A model's own spread counts where it is the larger one, so that one that is less steady than others is not taken for
    as steady. As all are compared with the same runs, k models with S seeds are worth fewer than k (S - 1) degrees of
    freedom: of equal deviations their differences agree by a half, which leaves (S - 1) 4k / (k + 3) (Box, Annals of
    Mathematical Statistics 25, 1954, pages 290-302: the trace squared over the trace of the square). Of normal
    deviations all bounds hold together in 95 of 100 cases also where one model's, or those of what they are compared
    with, are three times the others' (docs/log.md).
    """
    pooled = dict(found)
    known = {name: one for name, one in found.items() if one.seeds > NO_BOUNDS and math.isfinite(one.by_seeds)}
    for seeds in {one.seeds for one in known.values()}:
        alike = {name: one for name, one in known.items() if one.seeds == seeds}
        errors = {name: one.by_seeds / float(stats.t.ppf(_tail(one.level), seeds - 1)) for name, one in alike.items()}
        of_all = math.sqrt(sum(error**2 for error in errors.values()) / len(alike))
        freedom = (seeds - 1) * 4 * len(alike) / (len(alike) + 3)
        for name, one in alike.items():
            by_seeds = float(stats.t.ppf(_tail(one.level), freedom)) * max(of_all, errors[name])
            pooled[name] = _of_halves(one.difference, one.by_images, by_seeds, one.level, seeds)
    return pooled


def _tail(level: float) -> float:
    return 1 - (1 - level) / 2
