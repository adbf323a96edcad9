"""What a study says, of every way that figures may lie."""

import math

import pytest

from openmae.studies.adapt.verdict import Findings, Verdict
from openmae.studies.figures import Figure
from openmae.studies.intervals import Interval

KNN, LINEAR, RANK = (
    Figure("knn", "kNN top-1"),
    Figure("linear", "linear top-1"),
    Figure("rankme", "RankMe", False, False),
)
Bounds = tuple[float, float]


def interval(bounds: Bounds) -> Interval:
    return Interval(sum(bounds) / 2, *bounds, 0.95, 0, 0)


def said(
    knn: Bounds,
    linear: Bounds = (-0.004, 0.004),
    *,
    scratch: Bounds | None = None,
    gone_on: Bounds = (0.05, 0.07),
    worth: float = 0.01,
) -> Verdict:
    """scratch: how far the released encoder is ahead of that from scratch, by kNN."""
    figures = [KNN, LINEAR]
    gain = {"knn": interval(knn), "linear": interval(linear)}
    over = None if scratch is None else {"knn": interval(scratch), "linear": interval((0, 0))}
    ahead = None if scratch is None else {"knn": interval(gone_on), "linear": interval((0, 0))}
    return Findings(figures, gain, over, ahead, worth, 3, "vit.pth", "study/gone-on/seed-0").verdict()


NO_FALL = "kNN top-1 rises by 3.3 points (+1.9 to +4.7) over 3 seeds, and linear top-1 is not shown to fall; use study/"
BOTH = "rises by 3.3 points (+1.9 to +4.7) and linear top-1 by 1.5 points (+1.0 to +2.0) over 3 seeds; use study/"
NO_GAIN = (
    "No gain: over 3 seeds, going on changes kNN top-1 by -0.8 to +0.4 and linear top-1 by -0.4 to +0.6, and 1 point "
    "would be worth it; use the released weights as they are (vit.pth)."
)
LOSS = (
    "No gain, but a loss: kNN top-1 falls by 3.5 points (-5.0 to -2.0) over 3 seeds; use the released weights as they"
)
MIXED = (
    "kNN top-1 rises by 3.0 points (+2.0 to +4.0), but linear top-1 falls by 2.0 points (-3.0 to -1.0) over 3 seeds; "
)
OPEN = (
    "one of up to 3.0 points is not ruled out (kNN top-1, -2.0 to +3.0, over 3 seeds); use the released weights as "
    "they are (vit.pth) until more judging images tell."
)
NAN = (math.nan, math.nan)


@pytest.mark.parametrize(
    ("knn", "linear", "kind", "words"),
    [
        ((0.019, 0.047), (-0.003, 0.02), "gain", NO_FALL),
        ((0.019, 0.047), (0.01, 0.02), "gain", BOTH),
        ((-0.008, 0.004), (-0.004, 0.006), "no gain", NO_GAIN),
        ((0.001, 0.006), (0.001, 0.004), "no gain", "+0.1 to +0.6"),  # a rise, and not worth having
        ((-0.05, -0.02), (-0.03, 0.05), "worse", LOSS),
        ((0.02, 0.04), (-0.03, -0.01), "mixed", MIXED),
        ((-0.02, 0.03), (-0.03, 0.02), "undecided", OPEN),
        ((0.0, 0.03), (0.0, 0.002), "undecided", "up to 3.0 points"),  # 0 is not below it
        (NAN, (-0.002, 0.001), "no gain", "changes linear top-1 by -0.2 to +0.1"),
        (NAN, NAN, "undecided", "the judging images do not tell"),
    ],
)
def test_every_kind(knn: Bounds, linear: Bounds, kind: str, words: str) -> None:
    found = said(knn, linear)
    assert found.kind == kind
    assert words in found.sentence
    assert found.sentence.endswith(".")
    assert found.sentence.count(". ") == 0  # one sentence
    assert found.beside == ""


@pytest.mark.parametrize(
    ("by_images", "by_seeds", "wanted"), [(0.02, 0.01, "more judging images tell."), (0.01, 0.02, "more seeds tell.")]
)
def test_what_would_decide(by_images: float, by_seeds: float, wanted: str) -> None:
    gain = {"knn": Interval(0, -0.03, 0.03, 0.95, by_images, by_seeds)}
    assert Findings([KNN], gain, None, None, 0.01, 2, "m", "r").verdict().sentence.endswith(f"until {wanted}")


def test_two_seeds_decide_nothing() -> None:
    two = {one: Interval(0.03, math.nan, math.nan, 0.95, 0, math.nan, 2, (0.02, 0.04)) for one in ("knn", "linear")}
    found = Findings([KNN, LINEAR], two, two, two, 0.01, 2, "vit.pth", "r").verdict()
    assert found.kind == "undecided"
    assert found.sentence == (
        "Undecided: two seeds give no bounds (kNN top-1 seeds: +2.0, +4.0 and linear top-1 seeds: +2.0, +4.0); use the "
        "released weights as they are (vit.pth) until more seeds tell."
    )
    assert "is 3.0 points (seeds: -2.0, -4.0) below that of the released" in found.beside


def test_what_is_worth_having_is_asked_for() -> None:
    assert said((0.001, 0.006), worth=0.002).kind == "gain"
    assert said((-0.02, 0.03), worth=0.05).kind == "no gain"
    assert "5 points would be worth it" in said((-0.02, 0.03), worth=0.05).sentence


def test_from_scratch() -> None:
    found = said((0.02, 0.04), scratch=(0.06, 0.1))
    assert found.beside == (
        "From scratch, with as many steps, kNN top-1 is 8.0 points (-10.0 to -6.0) below that of the released weights, "
        "and 6.0 points (-7.0 to -5.0) below that of going on."
    )
    assert "not to be told apart (-2.0 to +1.0) from that of the released" in said((0, 0), scratch=(-0.01, 0.02)).beside
    best = said((0.02, 0.04), scratch=(-0.1, -0.06), gone_on=(-0.05, -0.01))
    assert best.kind == "gain"
    assert best.sentence.endswith("; but from scratch is better than both: pre-train without these weights.")
    assert "8.0 points (+6.0 to +10.0) above" in best.beside


@pytest.mark.parametrize(
    ("agreement", "rank", "kind"),
    [
        ((0.02, 0.05), (1.0, 9.0), "gain"),
        ((0.02, 0.05), (-9.0, -1.0), "mixed"),
        ((-0.002, 0.003), (5.0, 9.0), "no gain"),  # noise raises it too
        ((-0.002, 0.003), (-9.0, -1.0), "worse"),
        ((-0.01, 0.03), (5.0, 9.0), "undecided"),
    ],
)
def test_rankme_alone_is_no_gain(agreement: Bounds, rank: Bounds, kind: str) -> None:
    figures = [Figure("agreement", "neighbour agreement"), RANK]
    gain = {"agreement": interval(agreement), "rankme": interval(rank)}
    found = Findings(figures, gain, None, None, 0.01, 2, "m", "r").verdict()
    assert found.kind == kind
    if kind == "worse":
        assert "RankMe falls by 5 (-9 to -1)" in found.sentence
