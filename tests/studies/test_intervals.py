"""Differences and their bounds: beside formulas, and by what they promise of draws whose truth is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from openmae.evaluate.rank import rankme
from openmae.report.plots.differences import shown_difference
from openmae.studies.intervals import Interval, between, between_parts, level_of, together
from openmae.studies.outcomes import Outcome


def shares(values: NDArray[np.float64], units: NDArray[np.int64] | None = None) -> Outcome:
    count = len(values)
    return Outcome(
        "share",
        values[:, None].astype(np.float32),
        np.zeros((count, 0), np.float32),
        np.arange(count) if units is None else units,
    )


def test_the_bootstrap_is_the_paired_standard_error() -> None:
    draws = np.random.default_rng(0)
    one = (draws.random(400) < 0.6).astype(np.float64)
    other = np.where(draws.random(400) < 0.8, one, 1 - one)  # mostly the same images are right
    found = between([(shares(one), shares(other))], 0.95, seed=0)
    paired = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert found.difference == pytest.approx(one.mean() - other.mean())
    assert (found.low, found.high) == (pytest.approx(paired.low, abs=0.006), pytest.approx(paired.high, abs=0.006))
    assert found.by_seeds == 0
    unpaired = stats.ttest_ind(one, other).confidence_interval(0.95)
    assert found.high - found.low < 0.8 * (unpaired.high - unpaired.low)


@given(st.lists(st.integers(0, 50), min_size=3, max_size=6))
@settings(max_examples=20)
def test_seeds_enter_as_students_t(rights: list[int]) -> None:
    """Of a model that another one's images are all wrong of."""
    pairs = [(shares(np.arange(100) < right), shares(np.zeros(100))) for right in rights]
    found = between(pairs, 0.95, seed=0)
    figures = np.array(rights) / 100
    error = stats.sem(figures)
    expected = (
        0.0 if error == 0 else figures.mean() - stats.t.interval(0.95, len(figures) - 1, figures.mean(), error)[0]
    )
    assert found.by_seeds == pytest.approx(expected, abs=1e-9)
    assert found.difference == pytest.approx(figures.mean(), abs=1e-6)
    assert found.high - found.low == pytest.approx(2 * math.hypot(found.by_seeds, found.by_images), abs=1e-9)


def test_two_seeds_have_no_bounds_but_what_each_of_them_gave() -> None:
    """Of six differences together Student's t would give +-100 points for two seeds that are 4 points apart."""
    pairs = [(shares(np.arange(100) < right), shares(np.zeros(100))) for right in (10, 14)]
    found = between(pairs, level_of(6), seed=0)
    assert found.difference == pytest.approx(0.12, abs=1e-6)
    assert found.each == pytest.approx((0.1, 0.14), abs=1e-6)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    told = found.to_dict()
    assert (told["low"], told["high"], told["by_seeds"]) == (None, None, None)
    assert told["each"] == pytest.approx([0.1, 0.14], abs=1e-6)
    assert shown_difference({"in_points": True}, told) == "+12.0 points (seeds: +10.0, +14.0)"
    assert "each" not in between([*pairs, pairs[0]], 0.95, seed=0).to_dict()
    assert "each" not in between(pairs[:1], 0.95, seed=0).to_dict()


def of_seeds(figures: NDArray[np.float64], level: float) -> Interval:
    """Of differences whose images say nothing."""
    none = (np.zeros(2), np.zeros(2))
    return between_parts([(one, 0.0) for one in figures.tolist()], [none] * len(figures), level)


def test_one_model_alone_is_compared_as_before() -> None:
    one = of_seeds(np.array([0.1, 0.2, 0.4]), 0.95)
    assert together({"it": one}) == {"it": one}
    assert together({}) == {}


def test_how_much_seeds_differ_is_of_all_that_have_as_many() -> None:
    three = {name: of_seeds(np.array(of), 0.95) for name, of in (("a", [1.0, 2, 3]), ("b", [5.0, 5, 5]))}
    more = {"four": of_seeds(np.array([1.0, 2, 3, 4]), 0.95), "two": of_seeds(np.array([1.0, 2]), 0.95)}
    found = together({**three, **more})
    freedom = 2 * 4 * 2 / 5
    own, of_both = 1 / math.sqrt(3), math.sqrt(1 / 6)
    assert found["a"].by_seeds == pytest.approx(stats.t.ppf(0.975, freedom) * own)  # its own is the larger
    assert found["b"].by_seeds == pytest.approx(stats.t.ppf(0.975, freedom) * of_both)
    assert (found["b"].low, found["b"].high) == pytest.approx((5 - found["b"].by_seeds, 5 + found["b"].by_seeds))
    assert found["four"] == more["four"]
    unknown = of_seeds(np.array([1.0, math.nan, 3]), 0.95)
    beside = together({**three, "unknown": unknown})
    assert (beside["a"], beside["b"]) == (found["a"], found["b"])  # one without a figure takes none from the others
    assert math.isnan(beside["unknown"].low)
    assert found["two"].each == (1, 2)
    assert math.isnan(found["two"].low)


@pytest.mark.parametrize("deviations", [[1.0] * 9, [1.0] * 8 + [3], [3.0] + [1] * 8, [1.0] * 3])
def test_all_bounds_together_hold_as_often_as_they_say(deviations: list[float]) -> None:
    """Of models that are all as good as the first, with three seeds; also where one is less steady than others."""
    draws, level = np.random.default_rng(7), level_of(len(deviations) - 1)
    held, tries, narrower = 0, 300, list[float]()
    for _ in range(tries):
        figures = draws.normal(size=(len(deviations), 3)) * np.array(deviations)[:, None] + 5 * draws.normal(size=3)
        alone = {str(at): of_seeds(one - figures[0], level) for at, one in enumerate(figures) if at}
        found = together(alone)
        held += all(one.low <= 0 <= one.high for one in found.values())
        narrower.append(sum(one.by_seeds for one in found.values()) / sum(one.by_seeds for one in alone.values()))
    assert held / tries >= 0.93
    assert np.median(narrower) < (0.5 if len(deviations) > 3 else 0.8)


def test_equal_images_are_no_proof_of_equality() -> None:
    """As McNemar's exact test would not reject some difference among so few."""
    same = shares(np.ones(50))
    found = between([(same, same)] * 3, 0.95, seed=0)
    assert found.low == pytest.approx(-1.96 / 50, rel=1e-3)
    assert found.high == -found.low


def test_images_that_belong_together_are_drawn_together() -> None:
    draws = np.random.default_rng(1)
    one, other = (np.repeat((draws.random(40) < share).astype(np.float64), 10) for share in (0.7, 0.5))
    alone = between([(shares(one), shares(other))], 0.95, seed=0)
    grouped = between(
        [(shares(one, np.repeat(np.arange(40), 10)), shares(other, np.repeat(np.arange(40), 10)))], 0.95, 0
    )
    assert grouped.difference == alone.difference
    assert grouped.by_images == pytest.approx(math.sqrt(10) * alone.by_images, rel=0.15)


def test_seeds_may_be_judged_by_other_images() -> None:
    """As fine-tuning is, where each seed holds out its own part: an image counts as often in each."""
    draws = np.random.default_rng(2)
    truth = draws.random((2, 300)) < [[0.8], [0.6]]
    parts = [np.sort(draws.permutation(300)[:200]) for _ in range(3)]
    pairs = [(shares(truth[0, part].astype(float), part), shares(truth[1, part].astype(float), part)) for part in parts]
    found = between(pairs, 0.95, seed=0)
    each = [truth[0, part].mean() - truth[1, part].mean() for part in parts]
    assert found.difference == pytest.approx(np.mean(each), abs=1e-6)
    # Two thirds of the images each: what they have in common does not average out over the seeds.
    assert found.by_images > 1.96 * np.std(truth[0].astype(float) - truth[1], ddof=1) / math.sqrt(300)


def test_the_bounds_hold_as_often_as_they_say() -> None:
    """Of models whose seeds differ as much as images do, and whose difference is 5 points."""
    draws, held, tries = np.random.default_rng(3), 0, 120
    for number in range(tries):
        easy = draws.random(150)
        pairs = []
        for _ in range(3):
            share = 0.05 + 0.03 * draws.normal()
            better, other = easy < 0.6 + share, easy < 0.6
            pairs.append((shares(better.astype(np.float64)), shares(other.astype(np.float64))))
        found = between(pairs, 0.95, seed=number)
        held += found.low <= 0.05 <= found.high
    assert held / tries >= 0.93


def test_a_rank_is_bounded_by_the_jackknife() -> None:
    """Of a mean, which is what the formula is known for, it is the standard error."""
    values = np.random.default_rng(4).normal(size=(50, 10))  # 10 groups of 50
    without = (values.sum() - values.sum(0)) / 450
    found = between_parts([(float(values.mean()), 0.0)], [(without, np.zeros(10))], 0.95)
    assert found.by_images == pytest.approx(1.96 * stats.sem(values.mean(0)), rel=1e-3)
    assert found.difference == pytest.approx(values.mean())


def test_figures_together() -> None:
    assert level_of(1) == 0.95
    assert level_of(4) == pytest.approx(0.9875)


def test_rankme_is_what_the_jackknife_is_for() -> None:
    """The bootstrap's images come several times, and their rank is lower: it is not about the same number."""
    vectors = torch.from_numpy(np.random.default_rng(5).normal(size=(80, 64)).astype(np.float32))
    drawn = vectors[torch.from_numpy(np.random.default_rng(6).integers(80, size=80))]
    assert rankme(drawn) < 0.85 * rankme(vectors)
