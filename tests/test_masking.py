"""Which patches hide: what holds for every sampler, what each one is for, and the schedules."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from openmae.masking import MASKS, SCHEDULES, Masking

Place = tuple[int, ...]


@st.composite
def drawable(draw: st.DrawFn) -> tuple[Masking, Place, int]:
    """A masking, a grid that it can hide a part of, and how many patches should stay visible."""
    unit = draw(st.integers(1, 3))
    coarse = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3).filter(lambda sides: math.prod(sides) > 1))
    units = math.prod(coarse)
    if draw(st.booleans()):  # any percentage that leaves a unit visible
        percent = draw(st.integers(1, 100 - math.ceil(100 / units)))
        ratio, visible = percent / 100, units * (100 - percent) // 100
    else:  # any count
        visible = draw(st.integers(1, units - 1))
        ratio = 1 - visible / units
    masking = Masking(
        mask_ratio=ratio,
        mask=draw(st.sampled_from(sorted(MASKS))),
        mask_unit=unit,
        predict_fraction=draw(st.sampled_from([1.0, 1.0, 0.01, 0.25, 0.5, 0.9])),
    )
    return masking, tuple(side * unit for side in coarse), visible * unit ** len(coarse)


def shown(order: np.ndarray, grid: Place) -> np.ndarray:
    """The grid as a boolean map, True at the patches given."""
    visible = np.zeros(grid, dtype=bool)
    visible.flat[order] = True
    return visible


# ---------------------------------------------------------------- every sampler


@given(drawable(), st.integers(0, 2**32))
def test_a_mask_is_two_ascending_disjoint_sets_of_the_promised_sizes(
    drawn: tuple[Masking, Place, int], seed: int
) -> None:
    masking, grid, expected = drawn
    total = math.prod(grid)
    count, predicted = masking.counts(grid)
    assert count == expected
    assert 0 < predicted <= total - count
    assert predicted == max(1, round((total - count) * masking.predict_fraction))

    visible, queries = masking.draw(np.random.default_rng(seed), grid)
    assert visible.dtype == queries.dtype == np.int64
    assert len(visible) == count
    assert len(queries) == predicted
    for part in (visible, queries):
        assert (np.diff(part) > 0).all()
        assert part.min() >= 0
        assert part.max() < total
    assert not set(visible) & set(queries)
    if masking.predict_fraction == 1:
        assert set(visible) | set(queries) == set(range(total))


@given(drawable(), st.integers(0, 2**32))
def test_a_mask_is_a_function_of_the_seed(drawn: tuple[Masking, Place, int], seed: int) -> None:
    masking, grid, _ = drawn
    first, again = (masking.draw(np.random.default_rng(seed), grid) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one, other)


@given(drawable(), st.integers(0, 2**32))
def test_units_are_wholly_visible_or_wholly_hidden(drawn: tuple[Masking, Place, int], seed: int) -> None:
    masking, grid, _ = drawn
    visible, _ = masking.draw(np.random.default_rng(seed), grid)
    unit = masking.mask_unit
    split = shown(visible, grid).reshape([n for side in grid for n in (side // unit, unit)])
    share = split.mean(axis=tuple(range(1, 2 * len(grid), 2)))
    assert set(np.unique(share)) <= {0.0, 1.0}


@pytest.mark.parametrize("mask", [mask for mask in MASKS if mask != "grid"])
def test_masks_differ_from_draw_to_draw(mask: str) -> None:
    generator = np.random.default_rng(0)
    draws = {tuple(Masking(mask=mask).draw(generator, (8, 8))[0]) for _ in range(20)}
    assert len(draws) > 10


def test_the_ratio_of_a_call_goes_before_the_maskings() -> None:
    masking = Masking(mask_ratio=0.75)
    assert masking.counts((4, 4)) == (4, 12)
    assert masking.counts((4, 4), 0.5) == (8, 8)
    visible, queries = masking.draw(np.random.default_rng(0), (4, 4), 0.5)
    assert (len(visible), len(queries)) == (8, 8)


def test_queries_are_drawn_uniformly_from_the_hidden_patches() -> None:
    masking = Masking(mask="grid", predict_fraction=0.25)  # hides the same twelve patches each time
    generator = np.random.default_rng(0)
    counts: dict[Place, int] = {}
    draws = 20_000
    for _ in range(draws):
        queries = tuple(masking.draw(generator, (4, 4))[1])
        counts[queries] = counts.get(queries, 0) + 1
    assert_uniform(list(counts.values()), math.comb(12, 3), draws)


# ---------------------------------------------------------------- each sampler


def assert_uniform(counts: list[int], outcomes: int, draws: int) -> None:
    """Chi-square: outcomes as unequal as these happen once in a million fair draws."""
    assert len(counts) <= outcomes
    expected = draws / outcomes
    statistic = sum((count - expected) ** 2 for count in counts) / expected
    statistic += (outcomes - len(counts)) * expected  # those that never came
    assert statistic < chi2.isf(1e-6, outcomes - 1)


def test_random_shows_every_subset_equally_often() -> None:
    masking = Masking(mask_ratio=0.6)
    generator = np.random.default_rng(0)
    draws = 20_000
    counts = dict.fromkeys(itertools.combinations(range(10), 4), 0)
    for _ in range(draws):
        counts[tuple(masking.draw(generator, (2, 5))[0].tolist())] += 1
    assert_uniform(list(counts.values()), math.comb(10, 4), draws)


@pytest.mark.parametrize("grid", [(14, 14), (6, 10), (2, 16)])
def test_grid_shows_one_of_every_two_by_two(grid: Place) -> None:
    visible, _ = Masking(mask="grid").draw(np.random.default_rng(0), grid)
    cells = cell_counts(visible, grid)
    assert (cells == 1).all()
    # A lattice: the same place in every cell.
    assert len({(place // grid[1] % 2, place % grid[1] % 2) for place in visible.tolist()}) == 1


def cell_counts(visible: np.ndarray, grid: Place) -> np.ndarray:
    rows, columns = grid
    return shown(visible, grid).reshape(rows // 2, 2, columns // 2, 2).sum(axis=(1, 3))


def test_grid_is_a_lattice_at_half_and_in_three_axes() -> None:
    visible, _ = Masking(mask="grid", mask_ratio=0.5).draw(np.random.default_rng(0), (8, 8))
    assert (cell_counts(visible, (8, 8)) == 2).all()
    visible, _ = Masking(mask="grid", mask_ratio=0.875).draw(np.random.default_rng(0), (4, 6, 8))
    assert (shown(visible, (4, 6, 8)).reshape(2, 2, 3, 2, 4, 2).sum(axis=(1, 3, 5)) == 1).all()


@pytest.mark.parametrize("grid", [(14, 14), (6, 10), (2, 16)])
def test_uniform_shows_one_of_every_two_by_two_at_a_random_place(grid: Place) -> None:
    generator = np.random.default_rng(0)
    draws = 500
    total = np.zeros(grid)
    for _ in range(draws):
        visible, _ = Masking(mask="uniform").draw(generator, grid)
        assert (cell_counts(visible, grid) == 1).all()
        total += shown(visible, grid)
    # Each patch is the one shown in a quarter of the draws.
    deviation = np.abs(total - draws / 4) / math.sqrt(draws * 0.25 * 0.75)
    assert deviation.max() < 5


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_crop_shows_one_window_of_the_right_area(rows: int, columns: int, data: st.DataObject) -> None:
    if rows * columns < 2:
        rows += 1
    count = data.draw(st.integers(1, rows * columns - 1))
    masking = Masking(mask="crop", mask_ratio=1 - count / (rows * columns))
    seed = data.draw(st.integers(0, 2**32))
    visible, _ = masking.draw(np.random.default_rng(seed), (rows, columns))
    row, column = np.divmod(visible, columns)
    window = shown(visible, (rows, columns))[row.min() : row.max() + 1, column.min() : column.max() + 1]
    assert window.size - count < min(window.shape)  # the bounding box has no row or column to spare
    # What it has too many is missing from the end of its first or its last row.
    assert any(
        np.array_equal(window[::down, ::right].reshape(-1), np.arange(window.size) < count)
        for down in (1, -1)
        for right in (1, -1)
    )


@given(st.tuples(st.integers(2, 5), st.integers(1, 5), st.integers(1, 5)), st.data())
def test_crop_of_three_axes_is_a_box(grid: Place, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, math.prod(grid) - 1))
    order = MASKS["crop"](np.random.default_rng(data.draw(st.integers(0, 2**32))), grid, count)
    box = [np.ptp(axis) + 1 for axis in np.unravel_index(order[:count], grid)]
    assert math.prod(box) - count < math.prod(box) / max(box)


def test_crop_windows_are_near_square() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        visible, _ = Masking(mask="crop").draw(generator, (14, 14))
        height, width = (np.ptp(axis) + 1 for axis in np.divmod(visible, 14))
        assert 1 / 4 < height / width < 4


@pytest.mark.parametrize("mask", ["random", "block", "crop", "uniform"])
def test_no_side_of_the_image_is_hidden_more_than_the_opposite_one(mask: str) -> None:
    generator = np.random.default_rng(0)
    draws = 2000
    share = np.mean([shown(Masking(mask=mask).draw(generator, (14, 14))[0], (14, 14)) for _ in range(draws)], axis=0)
    for axis in (0, 1):
        side = share.mean(axis=axis)
        np.testing.assert_allclose(side, side[::-1], atol=0.03)
    assert share.min() > 0


def neighbours(hidden: np.ndarray) -> int:
    """Pairs of hidden patches that touch."""
    return int((hidden[1:] & hidden[:-1]).sum() + (hidden[:, 1:] & hidden[:, :-1]).sum())


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
def test_block_hides_clusters(ratio: float) -> None:
    generator = np.random.default_rng(0)
    pairs = {}
    for mask in ("random", "block"):
        masking = Masking(mask=mask, mask_ratio=ratio)
        drawn = [neighbours(~shown(masking.draw(generator, (14, 14))[0], (14, 14))) for _ in range(50)]
        pairs[mask] = np.array(drawn)
    assert pairs["block"].min() > pairs["random"].mean()
    # As far as there is room: of two neighbours of a hidden patch, more than two thirds of the visible are gone.
    possible = 2 * 13 * 14 * ratio
    assert possible - pairs["block"].mean() < (possible - pairs["random"].mean()) / 2


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [  # at progress 0, 1/4, 1/2, 3/4 and 1
        ("linear", [0.5, 0.6, 0.7, 0.8, 0.9]),
        ("cosine", [0.5, 0.7 - 0.2 * math.sqrt(0.5), 0.7, 0.7 + 0.2 * math.sqrt(0.5), 0.9]),
    ],
)
def test_schedules_over_training(schedule: Any, expected: list[float]) -> None:
    masking = Masking(mask_ratio=0.5, mask_schedule=schedule, mask_ratio_end=0.9)
    for progress, ratio in zip((0, 0.25, 0.5, 0.75, 1 - 1e-9), expected, strict=True):
        assert masking.ratio(progress, draw=0.123) == pytest.approx(ratio, abs=1e-6)


def test_random_schedule_follows_the_draw_and_not_progress() -> None:
    masking = Masking(mask_ratio=0.9, mask_schedule="random", mask_ratio_end=0.5)
    for progress in (0, 0.5, 0.99):
        assert masking.ratio(progress, draw=0.0) == pytest.approx(0.9)
        assert masking.ratio(progress, draw=0.25) == pytest.approx(0.8)
        assert masking.ratio(progress, draw=1 - 1e-9) == pytest.approx(0.5)


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_constant_is_constant_and_all_schedules_stay_between_their_ends(progress: float, draw: float) -> None:
    assert Masking(mask_ratio=0.6).ratio(progress, draw) == 0.6
    for schedule in SCHEDULES:
        if schedule != "constant":
            masking = Masking(mask_ratio=0.4, mask_schedule=schedule, mask_ratio_end=0.8)
            assert 0.4 <= masking.ratio(progress, draw) <= 0.8 + 1e-12


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        *[({"mask_ratio": ratio}, "^mask_ratio is") for ratio in (0, 1, -0.5, 1.5, math.nan, math.inf)],
        *[
            ({"mask_schedule": "linear", "mask_ratio_end": ratio}, "^mask_ratio_end is")
            for ratio in (0, 1, -0.5, 1.5, math.nan)
        ],
        *[({"predict_fraction": share}, "^predict_fraction") for share in (0, -0.5, 1.01, math.nan)],
        *[({"mask_unit": unit}, "^mask_unit") for unit in (0, -1)],
        ({"mask": "randm"}, "^mask is 'randm'.* random"),
        ({"mask_schedule": "cos", "mask_ratio_end": 0.9}, "^mask_schedule is 'cos'.* cosine"),
        ({"mask_ratio_end": 0.9}, "mask_ratio_end goes with a mask_schedule"),
        ({"mask_schedule": "cosine"}, "mask_ratio_end goes with a mask_schedule"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Masking(**settings)


@pytest.mark.parametrize(
    ("masking", "grid", "named"),
    [
        (Masking(mask_unit=2), (14, 7), "grid of 14 x 7 .* mask_unit"),
        (Masking(mask_unit=4), (14, 14), "mask_unit"),
        (Masking(mask_ratio=0.9), (3, 3), "mask_ratio of 0.9 on 9 mask units leaves 0 visible"),
        (Masking(mask_unit=2), (2, 4), "on 2 mask units leaves 0 visible"),
        (Masking(), (1,), "mask_ratio"),
    ],
)
def test_grids_that_cannot_be_hidden_are_refused(masking: Masking, grid: Place, named: str) -> None:
    for refused in (masking.counts, lambda grid: masking.draw(np.random.default_rng(0), grid)):
        with pytest.raises(ValueError, match=named):
            refused(grid)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -1.0, 2.0])
def test_ratios_of_a_call_are_checked_too(ratio: float) -> None:
    with pytest.raises(ValueError, match="mask_ratio"):
        Masking().counts((14, 14), ratio)
