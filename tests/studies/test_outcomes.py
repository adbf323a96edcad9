"""Figures of images that count any number of times: beside scikit-learn's, and of images that are there as often."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, r2_score

from openmae.data.tasks import Answers
from openmae.errors import UserError
from openmae.evaluate.predict import measure
from openmae.studies.outcomes import Outcome, outcome_of, read_outcomes, save_outcomes

SEEDS = st.integers(0, 2**32 - 1)


def an_outcome(task: str, seed: int, count: int = 30) -> tuple[Outcome, np.ndarray, Answers, np.ndarray]:
    """With the scores and answers that it is of, and how often its images count."""
    draws = np.random.default_rng(seed)
    if task == "classification":
        values = draws.integers(0, 4, count)
        scores = draws.normal(size=(count, 4)).astype(np.float32)
    elif task == "multi-label":
        values = (draws.random((count, 3)) < 0.4).astype(np.float32)
        values[:2] = [[1, 0, 1], [0, 1, 0]]  # each label is there, and lacks somewhere
        scores = draws.integers(-3, 4, (count, 3)).astype(np.float32)  # many are equal
    else:
        values = draws.normal(size=(count, 1)).astype(np.float32)
        scores = (values + draws.normal(size=(count, 1))).astype(np.float32)
    names = {"classification": tuple("abcd"), "multi-label": tuple("abc"), "regression": ("value",)}[task]
    right = Answers(task, names, values)  # type: ignore[arg-type]
    weights = draws.integers(0, 4, count).astype(np.float64)
    weights[:2] = 1
    return outcome_of(torch.from_numpy(scores), right, np.arange(count)), scores, right, weights


@given(SEEDS, st.sampled_from(["classification", "multi-label", "regression"]))
def test_a_figure_is_what_the_commands_say(seed: int, task: str) -> None:
    outcome, scores, right, _ = an_outcome(task, seed)
    name = {"classification": "top1", "multi-label": "mean_ap", "regression": "r2"}[task]
    assert outcome.figure() == pytest.approx(measure(torch.from_numpy(scores), right)[name], abs=1e-5)


@given(SEEDS, st.sampled_from(["classification", "multi-label", "regression"]))
def test_weighted_figures_are_scikit_learns(seed: int, task: str) -> None:
    outcome, scores, right, weights = an_outcome(task, seed)
    if task == "classification":
        expected = accuracy_score(right.values, scores.argmax(1), sample_weight=weights)
    elif task == "regression":
        expected = r2_score(right.values, scores, sample_weight=weights)
    else:
        counted = weights > 0
        told = right.values[counted].any(0) & ~right.values[counted].all(0)
        each = [
            average_precision_score(right.values[:, label], scores[:, label], sample_weight=weights)
            for label in np.flatnonzero(told)
        ]
        expected = np.mean(each)
    assert outcome.figures(weights[None])[0] == pytest.approx(expected, abs=1e-5)


@given(SEEDS, st.sampled_from(["classification", "multi-label", "regression"]))
def test_counting_twice_is_being_there_twice(seed: int, task: str) -> None:
    outcome, _, _, weights = an_outcome(task, seed)
    rows = np.repeat(np.arange(len(weights)), weights.astype(int))
    twice = Outcome(outcome.judge, outcome.said[rows], outcome.right[rows], outcome.units[rows])
    assert outcome.figures(weights[None])[0] == pytest.approx(twice.figure(), abs=1e-6)


def test_where_nothing_tells() -> None:
    same = Outcome("r2", np.ones((3, 1), np.float32), np.ones((3, 1), np.float32), np.arange(3))
    assert np.isnan(same.figure())
    unlabelled = Outcome("mean_ap", np.ones((3, 1), np.float32), np.zeros((3, 1), np.float32), np.arange(3))
    assert np.isnan(unlabelled.figure())


def test_what_is_kept_comes_back_and_damage_is_said(tmp_path: Path) -> None:
    file = tmp_path / "judged/one.npz"
    kept = {task: an_outcome(task, 3)[0] for task in ("classification", "multi-label", "regression")}
    save_outcomes(file, kept)
    found = read_outcomes(file)
    assert found.keys() == kept.keys()
    for name, one in kept.items():
        assert found[name].judge == one.judge
        assert all(
            np.array_equal(getattr(found[name], part), getattr(one, part)) for part in ("said", "right", "units")
        )
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged or gone"):
        read_outcomes(file)
    with pytest.raises(UserError, match="damaged or gone"):
        read_outcomes(tmp_path / "none.npz")
