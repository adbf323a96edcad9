"""What is said of a table of rows: by the first figure, and by which others it is otherwise."""

from typing import Any

from openmae.studies.figures import RANKME, Figure
from openmae.studies.rows import Rows, few_seeds

KNN, LINEAR, TUNED = (Figure(name, f"{name} top-1") for name in ("knn", "linear", "tuned"))
BETTER, WORSE, OPEN = (0.01, 0.03), (-0.04, -0.02), (-0.01, 0.02)
NAMES = ("mae", "simclr", "dino")
TWO = {"difference": 0.01, "low": None, "high": None, "each": [0.0, 0.02]}


def said(seeds: int = 3, **against: dict[str, Any]) -> str:
    """against: of each row but the usual one, its bounds by each figure."""
    rows = [{"name": name, "against": {figure: told(one) for figure, one in against.get(name, {}).items()}} for name in
            NAMES]  # fmt: skip
    parts = {(name, seed): [] for name in NAMES for seed in range(seeds)}
    return Rows(dict.fromkeys(NAMES, ""), "mae", [KNN, LINEAR, TUNED, RANKME], range(seeds), 0, parts).sentence(rows)


def told(one: Any) -> dict[str, Any]:
    return one if isinstance(one, dict) else {"difference": sum(one) / 2, "low": one[0], "high": one[1]}


def test_figures_that_agree_are_named_once() -> None:
    same = {"knn": BETTER, "linear": BETTER, "tuned": BETTER}
    assert said(simclr=same, dino={"knn": OPEN, "linear": OPEN, "tuned": OPEN}) == (
        "By knn top-1: simclr (+1.0 to +3.0) is better than mae; dino is not shown to differ from mae. By linear top-1 "
        "and by tuned top-1 it is the same."
    )


def test_where_others_disagree_is_said() -> None:
    simclr = {"knn": BETTER, "linear": WORSE, "tuned": OPEN}
    dino = {"knn": OPEN, "linear": OPEN, "tuned": BETTER, "rankme": (1.0, 2.0)}
    assert said(simclr=simclr, dino=dino) == (
        "By knn top-1: simclr (+1.0 to +3.0) is better than mae; dino is not shown to differ from mae. Otherwise by "
        "linear top-1: simclr (-4.0 to -2.0) is worse than mae. Otherwise by tuned top-1: dino (+1.0 to +3.0) is "
        "better than mae; simclr is not shown to differ from mae."
    )


def test_of_two_seeds_nothing_is_shown() -> None:
    both = {"knn": TWO, "linear": TWO}
    assert said(2, simclr=both, dino=both) == (
        "By knn top-1: simclr, dino are not shown to differ from mae, for two seeds give no bounds."
    )
    assert "--seeds 3 adds one" in few_seeds(2)[0]
    assert few_seeds(3) == []
    assert said() == "Nothing can be compared with mae yet."
