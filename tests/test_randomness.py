"""Who draws what: no two purposes share numbers unaware, and the numbers of a seed stay what they were."""

from itertools import combinations, product
from typing import Any, get_args

import pytest

from openmae.randomness import PURPOSES, Draws, Purpose, epoch_order, generator, some

COORDINATES = ("epoch", "index", "view")

# Drawn when the purposes were told apart by bare numbers: generator(seed, "split", view=6) was the watch's.
DRAWN: list[tuple[Purpose, int, dict[str, int], list[int]]] = [
    ("sample", 7, {"epoch": 3, "index": 11, "view": 2}, [236593, 992350, 534230]),
    ("visit", 7, {"epoch": 3, "index": 11}, [86096, 530046, 488836]),
    ("order", 7, {"epoch": 3}, [326627, 53132, 975359]),
    ("step", 7, {"index": 11}, [855681, 781146, 615995]),
    ("mix", 7, {"epoch": 3, "index": 11}, [796612, 598793, 797165]),
    ("panel", 7, {"index": 11}, [108281, 790247, 199470]),
    ("watch", 7, {"index": 0}, [435423, 279741, 824922]),
    ("watch", 7, {"index": 1}, [742312, 778759, 623382]),
    ("held out", 7, {}, [524120, 482128, 293938]),
    ("proposals", 7, {"index": 11}, [91194, 373646, 875487]),
    ("held out", 7, {"index": 11}, [402235, 668919, 711120]),
    ("fewer labels", 7, {}, [876474, 539968, 169171]),
    ("fewer labels", 7, {"index": 11}, [388329, 471141, 228475]),
    ("balance", 7, {"index": 11}, [578378, 912656, 28481]),
    ("probe folds", 7, {"index": 11}, [398063, 613844, 430676]),
    ("resample", 7, {}, [613321, 456627, 492767]),
    ("share", 7, {}, [983495, 213844, 974296]),
    ("few", 7, {}, [524120, 482128, 293938]),
    ("percentiles", 0, {"index": 11}, [488543, 174681, 3575]),
    ("corruption", 7, {"epoch": 18, "index": 11, "view": 5}, [391346, 984101, 936540]),
    ("packing", 7, {}, [748038, 882466, 401507]),
    ("bundled crops", 0, {"index": 11, "view": 1}, [729629, 772712, 324996]),
]


def test_every_purpose_has_a_row_and_numbers_that_stay() -> None:
    assert list(PURPOSES) == list(get_args(Purpose))
    assert {purpose for purpose, *_ in DRAWN} == set(PURPOSES)
    assert len({draws.what for draws in PURPOSES.values()}) == len(PURPOSES)


@pytest.mark.parametrize(("purpose", "seed", "place", "numbers"), DRAWN)
def test_the_numbers_of_a_seed_are_those_of_earlier_releases(
    purpose: Purpose, seed: int, place: dict[str, int], numbers: list[int]
) -> None:
    assert generator(seed, purpose, **place).integers(10**6, size=3).tolist() == numbers


def test_so_is_an_order() -> None:
    assert epoch_order(7, 3, 6).tolist() == [1, 3, 5, 2, 4, 0]


def test_some_of_so_many_things_are_the_first_of_their_order() -> None:
    """As drawn for as many as memory holds; of more, computed."""
    assert some(7, "few", 1000, 5).tolist() == generator(7, "few").permutation(1000)[:5].tolist()
    assert some(7, "watch", 3, 5, index=1).tolist() == generator(7, "watch", index=1).permutation(3).tolist()
    many = some(7, "few", 10**12, 2000)
    assert many.tolist() == some(7, "few", 10**12, 3000)[:2000].tolist()
    assert len({*many.tolist()}) == 2000
    assert 0.45e12 < many.mean() < 0.55e12
    assert many.tolist() != some(8, "few", 10**12, 2000).tolist()


def test_purposes_share_numbers_where_one_says_why_and_nowhere_else() -> None:
    """By the table: coordinates that two may both use."""
    sharing = {pair for pair in combinations(PURPOSES, 2) if _meet(*(PURPOSES[purpose] for purpose in pair))}
    said = {
        tuple(sorted((purpose, other), key=list(PURPOSES).index))
        for purpose, draws in PURPOSES.items()
        for other in draws.beside
    }
    assert sharing == said
    assert all(why for draws in PURPOSES.values() for why in draws.beside.values())


def test_different_coordinates_draw_different_numbers() -> None:
    """Of every purpose the ends of what it may use, and what lies within."""
    drawn: dict[tuple[int, ...], tuple[int, ...]] = {}
    for purpose, draws in PURPOSES.items():
        for epoch, index, view in product(*(_some(getattr(draws, name)) for name in COORDINATES)):
            numbers = tuple(generator(5, purpose, epoch=epoch, index=index, view=view).integers(2**63, size=2).tolist())
            place = (draws.key, epoch, index, view)
            assert drawn.setdefault(numbers, place) == place
    assert len(drawn) > 100


@pytest.mark.parametrize(
    ("purpose", "place", "said"),
    [
        ("order", {"index": 1}, "'order' has no index 1"),
        ("panel", {"epoch": 0}, "'panel' has no epoch 0"),
        ("fewer labels", {"view": 0}, "'fewer labels' has no view 0"),
        ("sample", {"epoch": 2**63}, f"'sample' has no epoch {2**63}"),
        ("sample", {"index": -1}, "'sample' has no index -1"),
    ],
)
def test_nobody_draws_at_a_place_that_is_anothers(purpose: Purpose, place: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        generator(0, purpose, **place)


def _meet(one: Draws, other: Draws) -> bool:
    ranges = [(getattr(one, name), getattr(other, name)) for name in COORDINATES]
    return one.key == other.key and all(max(a.start, b.start) < min(a.stop, b.stop) for a, b in ranges)


def _some(of: range) -> list[int]:
    return sorted({of.start, of.start + (of.stop - of.start) // 3, of.stop - 1, min(of.start + 1, of.stop - 1)})
