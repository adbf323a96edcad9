"""Figures and the matching of labels against scikit-learn and the definitions written out."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from openmae.data.opening import open_data
from openmae.data.tasks import Answers
from openmae.errors import UserError
from openmae.evaluate.metrics import (
    are_unequal,
    balanced_accuracy,
    balanced_error,
    calibration,
    calibration_error,
    class_figures,
    confused_pairs,
    confusion_matrix,
    label_figures,
)
from openmae.evaluate.predict import mean_auroc, measure, standard_error
from openmae.evaluate.subsets import question
from tests.images import write_images


@st.composite
def classified(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """(labels, predicted, number of classes)."""
    classes = draw(st.integers(2, 9))
    count = draw(st.integers(1, 60))
    numbers = st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)
    return np.array(draw(numbers), np.int64), np.array(draw(numbers), np.int64), classes


# ---------------------------------------------------------------- classes


@given(classified())
def test_confusion_and_balanced_accuracy_are_scikit_learns(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, predicted, classes = case
    matrix = sk.confusion_matrix(labels, predicted, labels=range(classes))
    np.testing.assert_array_equal(confusion_matrix(labels, predicted, classes), matrix)
    pairs = confused_pairs(labels, predicted)
    assert {(p.label, p.predicted): p.times for p in pairs} == {
        (i, j): matrix[i, j] for i, j in np.argwhere(matrix).tolist() if i != j
    }
    assert [p.times for p in pairs] == sorted((p.times for p in pairs), reverse=True)
    recalls = sk.recall_score(labels, predicted, labels=np.unique(labels), average=None, zero_division=0)
    assert balanced_accuracy(labels, predicted) == pytest.approx(recalls.mean())
    if set(predicted) <= set(labels) and len(set(labels)) > 1:  # scikit-learn warns otherwise
        assert balanced_accuracy(labels, predicted) == pytest.approx(sk.balanced_accuracy_score(labels, predicted))


@given(classified())
def test_class_figures_are_scikit_learns_report(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, predicted, classes = case
    names = tuple(f"class {number}" for number in range(classes))
    found = class_figures(labels, predicted, names)
    report = sk.classification_report(
        labels, predicted, labels=range(classes), target_names=names, output_dict=True, zero_division=np.nan
    )
    matrix = sk.confusion_matrix(labels, predicted, labels=range(classes))
    np.fill_diagonal(matrix, 0)
    assert {one.name for one in found} == {names[number] for number in labels}
    assert [one.accuracy for one in found] == sorted((one.accuracy for one in found), reverse=True)
    for one in found:
        expected, mistakes = report[one.name], matrix[names.index(one.name)]
        assert (one.images, one.accuracy) == (expected["support"], pytest.approx(expected["recall"]))
        if one.precision is None:
            assert names.index(one.name) not in predicted
        else:
            assert one.precision == pytest.approx(expected["precision"])
        assert one.times == mistakes.max()
        assert (one.taken_for is None) == (mistakes.max() == 0)
        assert one.taken_for is None or mistakes[names.index(one.taken_for)] == one.times


@given(st.integers(1, 80), st.integers(2, 9), st.integers(0, 10**6))
def test_top_k_and_loss_are_scikit_learns(count: int, classes: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, classes, generator=draws)
    labels = torch.randint(classes, (count,), generator=draws).numpy()
    found = measure(scores, Answers("classification", tuple(map(str, range(classes))), labels))
    for k in (1, 5):
        if k == 1 or classes > 5:
            expected = sk.top_k_accuracy_score(labels, scores.numpy(), k=k, labels=range(classes)) if classes > 2 else (
                (scores.argmax(1).numpy() == labels).mean()
            )  # fmt: skip
            assert found[f"top{k}"] == pytest.approx(expected)
    shares = scores.double().softmax(1).numpy()
    assert found["loss"] == pytest.approx(sk.log_loss(labels, shares, labels=range(classes)), rel=1e-5)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=80), st.integers(1, 20))
def test_calibration_is_its_definition(pairs: list[tuple[float, bool]], bins: int) -> None:
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for low, high in pairwise(edges):
        inside = [pair for pair in pairs if low < pair[0] <= high or (low == 0 and pair[0] == 0)]
        if inside:
            confidence, accuracy = (sum(pair[i] for pair in inside) / len(inside) for i in (0, 1))
            total += len(inside) / len(pairs) * abs(confidence - accuracy)
    found = calibration(np.array([c for c, _ in pairs]), np.array([r for _, r in pairs]), bins)
    assert calibration_error(found) == pytest.approx(total, abs=1e-9)
    assert sum(one.images for one in found) == len(pairs)


def test_calibration_knows_who_is_too_sure() -> None:
    sure = np.full(1000, 0.95)
    right = np.arange(1000) % 2 == 0
    (only,) = calibration(sure, right)
    assert (only.accuracy, only.confidence) == (0.5, pytest.approx(0.95))
    assert calibration_error([only]) == pytest.approx(0.45)


def test_a_bin_holds_its_upper_edge_and_not_its_lower() -> None:
    bins = calibration(np.array([0.0, 0.5, 0.75]), np.array([True, True, False]), 2)
    assert [(one.low, one.high, one.images) for one in bins] == [(0.0, 0.5, 2), (0.5, 1.0, 1)]


# ---------------------------------------------------------------- labels and numbers


@given(st.integers(2, 50), st.integers(1, 6), st.integers(0, 10**6))
def test_label_figures_are_scikit_learns(count: int, labels: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    scores = draws.normal(size=(count, labels)).astype(np.float32)
    values = (draws.random((count, labels)) < 0.4).astype(np.float32)
    names = tuple(f"label {number}" for number in range(labels))
    found = {one.name: one for one in label_figures(scores, values, names)}
    for number, name in enumerate(names):
        has = values[:, number] > 0
        assert found[name].images == has.sum()
        assert found[name].f1 == pytest.approx(sk.f1_score(has, scores[:, number] > 0, zero_division=0))
        if has.any() and not has.all():
            expected = sk.average_precision_score(has, scores[:, number])
            assert found[name].average_precision == pytest.approx(expected)
            assert found[name].auroc == pytest.approx(sk.roc_auc_score(has, scores[:, number]))
        else:
            assert found[name].average_precision is found[name].auroc is None
    known = [one.average_precision for one in found.values() if one.average_precision is not None]
    assert known == sorted(known, reverse=True)
    if known:
        figures = measure(torch.from_numpy(scores), Answers("multi-label", names, values))
        assert figures["mean_ap"] == pytest.approx(np.mean(known))


@given(st.integers(2, 10), st.integers(1, 2), st.sampled_from([0, 2]), st.integers(0, 10**6))
@settings(max_examples=8)
def test_areas_and_their_errors_are_scikit_learns(count: int, labels: int, digits: int, seed: int) -> None:
    """Errors by the infinitesimal jackknife as it is defined: what a little more weight of each image changes. Scores
    without digits are often equal."""
    draws = np.random.default_rng(seed)
    scores = draws.normal(0, 2, (count, labels)).round(digits).astype(np.float32)
    values = (draws.random((count, labels)) < 0.5).astype(np.float32)
    values[0], values[-1] = 0, 1
    right = Answers("multi-label", tuple("abc"[:labels]), values)
    for name, oracle in (("mean_ap", sk.average_precision_score), ("auroc", sk.roc_auc_score)):
        weights = np.ones(count) + 1e-4 * np.concatenate([np.eye(count), -np.eye(count)])
        found = [
            np.mean([oracle(values[:, k], scores[:, k], sample_weight=one) for k in range(labels)]) for one in weights
        ]
        slopes = (np.array(found[:count]) - np.array(found[count:])) / 2e-4
        expected = np.sqrt((slopes**2).sum() * count / (count - 1))
        assert standard_error(name, torch.from_numpy(scores), right) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    area = np.mean([sk.roc_auc_score(values[:, k], scores[:, k]) for k in range(labels)])
    assert mean_auroc(torch.from_numpy(scores), right) == pytest.approx(area)
    two = Answers("classification", ("a", "b"), values[:, 0].astype(np.int64))
    both = torch.from_numpy(np.stack([-scores[:, 0], scores[:, 0]], 1))
    assert mean_auroc(both, two) == pytest.approx(sk.roc_auc_score(values[:, 0], scores[:, 0]))


def test_areas_that_mean_nothing() -> None:
    scores = torch.zeros(3, 2)
    assert mean_auroc(scores, Answers("classification", ("a", "b"), np.zeros(3, np.int64))) is None
    assert mean_auroc(scores, Answers("classification", ("a", "b", "c"), np.arange(3))) is None
    assert standard_error("auroc", scores, Answers("multi-label", ("a", "b"), np.zeros((3, 2), np.float32))) is None


@given(classified(), st.integers(0, 10**6))
@settings(max_examples=10)
def test_the_error_of_balanced_accuracy_is_that_of_draws_within_classes(
    case: tuple[np.ndarray, np.ndarray, int], seed: int
) -> None:
    labels, predicted, _ = case
    draws, again = np.random.default_rng(seed), []
    for _ in range(300):
        rows = np.concatenate([draws.choice(own, len(own)) for own in (np.flatnonzero(labels == k) for k in {*labels})])
        again.append(balanced_accuracy(labels[rows], predicted[rows]))
    assert balanced_error(labels, predicted) == pytest.approx(np.std(again), rel=0.25, abs=1e-9)


def test_classes_are_unequal_from_twice_as_many_images_on() -> None:
    assert [are_unequal(np.repeat([0, 2], counts)) for counts in ((5, 5), (3, 5), (3, 6))] == [False, False, True]


def test_numbers_are_measured_as_scikit_learn_does() -> None:
    draws = np.random.default_rng(0)
    values = draws.normal(size=(40, 1)).astype(np.float32)
    scores = values + draws.normal(size=(40, 1)).astype(np.float32)
    found = measure(torch.from_numpy(scores), Answers("regression", ("value",), values))
    assert found == {
        "r2": pytest.approx(sk.r2_score(values, scores), abs=1e-6),
        "mae": pytest.approx(sk.mean_absolute_error(values, scores), rel=1e-5),
        "rmse": pytest.approx(sk.root_mean_squared_error(values, scores), rel=1e-5),
    }


# ---------------------------------------------------------------- which outputs are asked


def test_labels_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    source = open_data(str(write_images(tmp_path, 6, classes=3))).all  # class0, class1, class2
    names = ("class2", "other", "class0", "class1")
    everything = question(source, "classification", names, "all")
    assert [names[label] for label in everything.right.values] == [source.class_names[i] for i in source.labels]
    assert everything.absent == ("other",)
    for asked in (question(source, "classification", names), question(source, "classification", names, "present")):
        assert asked.outputs.tolist() == [0, 2, 3]
        assert asked.right.names == ("class2", "class0", "class1")
        assert [asked.right.names[label] for label in asked.right.values] == [
            source.class_names[i] for i in source.labels
        ]


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    source = open_data(str(write_images(tmp_path / "two", 4))).all
    with pytest.raises(UserError, match=r"not among the 2 known ones \(class1; known are class0, x\)"):
        question(source, "classification", ("class0", "x"))
    with pytest.raises(UserError, match="`classes` is for classification"):
        question(source, "multi-label", ("class0", "class1"), "all")
    one = open_data(str(write_images(tmp_path / "one", 4, classes=1))).all
    with pytest.raises(UserError, match=r"one folder, 'class0', so that 100% would mean nothing"):
        question(one, "classification", ("class0", "class1"))
    of_one = source.take(np.flatnonzero(source.labels == 1))
    with pytest.raises(UserError, match="the same label, so that 100% would mean nothing"):
        question(of_one, "classification", ("class0", "class1"))
