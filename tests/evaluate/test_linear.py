"""The exact linear probe against scikit-learn, and the choice of its strength."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from openmae.data.tasks import Answers
from openmae.evaluate import linear, probe
from openmae.evaluate.linear import Directions, fit
from openmae.evaluate.metrics import accuracy
from openmae.evaluate.probe import STRENGTHS, linear_predict, linear_probe


def clusters(count: int, dim: int, classes: int, seed: int, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Features of very unequal spread, and their classes."""
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    found = centres[labels] + noise * torch.randn(count, dim, generator=draws, dtype=torch.float64)
    return found * torch.logspace(1, -2, dim, dtype=torch.float64) + 5, labels


def right(labels: Tensor, classes: int) -> Answers:
    return Answers("classification", tuple(f"c{i}" for i in range(classes)), labels.numpy())


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("dim", [6, 120])  # fewer and more features than images
@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_weights_are_scikit_learns(classes: int, dim: int, strength: float) -> None:
    train, labels = clusters(90, dim, classes, seed=3, noise=3)
    test, _ = clusters(40, dim, classes, seed=4, noise=3)
    scaler = StandardScaler().fit(train.numpy())
    oracle = LogisticRegression(C=strength, max_iter=10_000, tol=1e-10).fit(
        scaler.transform(train.numpy()), labels.numpy()
    )
    directions = Directions.of(train)
    model = fit(directions(train), labels, "classification", strength, directions.variance, tolerance=1e-11)
    weight = (directions.basis @ model.weight).T.numpy()
    if classes == 2:  # it keeps the difference
        weight = weight[1:] - weight[:1]
    np.testing.assert_allclose(weight, oracle.coef_, atol=1e-6)
    log_shares = model(directions(test)).log_softmax(1)
    np.testing.assert_allclose(log_shares.numpy(), oracle.predict_log_proba(scaler.transform(test.numpy())), rtol=1e-5)


@hypothesis_settings(max_examples=15)
@given(st.integers(12, 60), st.integers(1, 80), st.integers(2, 5), st.sampled_from([1e-5, 1e-3, 0.1]))
def test_single_precision_and_a_start_elsewhere_end_there_too(
    count: int, dim: int, classes: int, strength: float
) -> None:
    train, labels = clusters(count, dim, classes, seed=1, noise=3)
    scaler = StandardScaler().fit(train.numpy())
    oracle = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8)
    oracle.fit(scaler.transform(train.numpy()), labels.numpy())
    directions = Directions.of(train.float())
    x = directions(train.float())
    strong = fit(x, labels, "classification", 1e-6, directions.variance)
    model = fit(x, labels, "classification", strength, directions.variance, start=strong)
    found = model(x).log_softmax(1)
    np.testing.assert_allclose(found.numpy(), oracle.predict_log_proba(scaler.transform(train.numpy())), atol=1e-3)


def test_several_labels_are_one_against_the_rest_and_numbers_are_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = clusters(90, 12, 3, seed=5, noise=2)
    hot = (train[:, :3] + torch.randn(90, 3, generator=torch.Generator().manual_seed(1)) > 5).double()
    directions = Directions.of(train)
    standard = StandardScaler().fit_transform(train.numpy())
    model = fit(directions(train), hot, "multi-label", 0.01, directions.variance, tolerance=1e-11)
    oracle = OneVsRestClassifier(LogisticRegression(C=0.01, tol=1e-10, max_iter=1000)).fit(standard, hot.numpy())
    np.testing.assert_allclose(model(directions(train)).sigmoid(), oracle.predict_proba(standard), atol=1e-6)
    model = fit(directions(train), hot * 100, "regression", 0.02, directions.variance)
    ridge = Ridge(alpha=50).fit(standard, hot.numpy() * 100)
    np.testing.assert_allclose(model(directions(train)), ridge.predict(standard), atol=1e-8)
    monkeypatch.setattr(linear, "MOST_SCORES", 16)  # rows in several pieces make no difference
    again = fit(directions(train), hot, "multi-label", 0.01, directions.variance, tolerance=1e-11)
    np.testing.assert_allclose(again(directions(train)).sigmoid(), oracle.predict_proba(standard), atol=1e-6)


def test_what_the_whole_probe_says_is_scikit_learns_at_the_strength_it_chose() -> None:
    train, labels = clusters(120, 10, 4, seed=6, noise=4)
    test, _ = clusters(50, 10, 4, seed=7, noise=4)
    scores, strength = linear_predict(train.float(), right(labels, 5), test.float())
    scaler = StandardScaler().fit(train.numpy())
    oracle = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(
        scaler.transform(train.numpy()), labels.numpy()
    )
    expected = oracle.predict_log_proba(scaler.transform(test.numpy()))
    np.testing.assert_allclose(scores[:, :4].numpy(), expected, atol=1e-3)
    assert (scores[:, 4] == -torch.inf).all()  # no training image


def test_it_finds_what_is_linear_and_not_what_is_noise() -> None:
    train, labels = clusters(300, 20, 4, seed=5, noise=0.5)
    test, expected = clusters(100, 20, 4, seed=6, noise=0.5)
    assert accuracy(linear_predict(train, right(labels, 4), test)[0], expected) > 0.95
    draws = torch.Generator().manual_seed(0)
    noises = [torch.randn(count, 20, generator=draws) for count in (300, 100)]
    noise, strength = linear_predict(noises[0], right(labels, 4), noises[1])
    assert 0.05 < accuracy(noise, expected) < 0.5
    assert strength < 1


@pytest.mark.parametrize("share", [0.05, 0.2, 0.3])
def test_a_rare_class_is_found_too(share: float) -> None:
    """Strong regularisation always says the larger class, all alike: a plateau that the search has to leave."""
    draws = torch.Generator().manual_seed(0)
    labels = (torch.rand(400, generator=draws) < share).long()
    features = torch.randn(400, 16, generator=draws) + 1.2 * labels[:, None]
    scores, _ = linear_predict(features[:300], right(labels[:300], 2), features[300:])
    expected = LogisticRegression(C=0.1).fit(features[:300], labels[:300]).score(features[300:], labels[300:])
    assert accuracy(scores, labels[300:]) >= expected - 0.02 > 1 - share


@pytest.mark.parametrize("count", [12, 15])
def test_few_labels_of_many_classes_are_used(count: int) -> None:
    """One class or some have a second image: by those alone any strength may look best, and the strongest says one
    class of everything."""
    digits = load_digits()
    ours, best = [], []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(digits.target))
        two = np.array([np.flatnonzero(digits.target[order] == label)[:2] for label in range(10)])
        train = order[two.T.ravel()[:count]]
        test = np.setdiff1d(order, train)
        labels = torch.from_numpy(digits.target[train])
        features = torch.from_numpy(digits.data.astype(np.float32))
        scores, _ = linear_predict(features[train], right(labels, 10), features[test])
        ours.append(accuracy(scores, torch.from_numpy(digits.target[test])))
        standard = StandardScaler().fit(digits.data[train])
        known, asked = standard.transform(digits.data[train]), standard.transform(digits.data[test])
        fitted = (LogisticRegression(C=c, max_iter=500).fit(known, digits.target[train]) for c in (0.01, 0.1, 1.0))
        best.append(max(one.score(asked, digits.target[test]) for one in fitted))
    assert np.mean(ours) > np.mean(best) - 0.03 > 0.4


@pytest.mark.parametrize("seed", [1, 2])
def test_classes_along_weak_directions_are_found_too(seed: int) -> None:
    """Strong regularisation knows the strong ones alone, which tell nothing: one strength is better there by chance."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 10, 1200)
    features = draws.normal(size=(10, 24))[labels] * 0.5 + draws.normal(size=(1200, 24)) * 0.5
    features += 8 * (draws.normal(size=(1200, 4)) @ draws.normal(size=(4, 24)))
    given_, asked = torch.from_numpy(features.astype(np.float32)).split([1100, 100])
    scores, strength = linear_predict(given_, right(torch.from_numpy(labels[:1100]), 10), asked)
    assert strength > 1
    assert accuracy(scores, torch.from_numpy(labels[1100:])) > 0.9


@pytest.mark.parametrize(("count", "dim"), [(40, 8), (30, 60), (200, 20)])
def test_the_strength_for_numbers_leaves_one_out(count: int, dim: int) -> None:
    """Equal to scikit-learn's RidgeCV, which does so by default, on standardised features."""
    draws = np.random.default_rng(count)
    features = draws.normal(size=(count, dim)).astype(np.float32)
    values = (features[:, :3].sum(1) + draws.normal(size=count)).astype(np.float32)
    scaled = StandardScaler().fit(features)
    theirs = RidgeCV([1 / strength for strength in STRENGTHS]).fit(scaled.transform(features), values)
    answered = Answers("regression", ("value",), values[:, None])
    scores, strength = linear_predict(torch.from_numpy(features), answered, torch.from_numpy(features))
    assert 1 / strength == pytest.approx(theirs.alpha_)
    np.testing.assert_allclose(scores[:, 0], theirs.predict(scaled.transform(features)), rtol=1e-3, atol=1e-3)


def test_the_strength_is_the_best_on_folds_of_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As cross-validation by scikit-learn over the same folds finds it."""
    monkeypatch.setattr(probe, "PATIENCE", 99)
    train, labels = clusters(100, 40, 3, seed=8, noise=6)
    _, strength = linear_predict(train, right(labels, 3), train[:5])
    standard = StandardScaler().fit_transform(train.numpy())
    figures = []
    for c in STRENGTHS:
        scores = [
            LogisticRegression(C=c, max_iter=5000).fit(standard[rest], labels[rest]).score(standard[out], labels[out])
            for rest, out in probe.folds_of(right(labels, 3), 0)
        ]
        figures.append(np.mean(scores))
    assert figures[STRENGTHS.index(strength)] >= max(figures) - 0.011  # one image of a hundred


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_folds_hold_out_a_share_of_each_class_and_never_all_of_it(labels: list[int]) -> None:
    values = np.array(labels)
    folds = probe.folds_of(Answers("classification", tuple("abcde"), values), 3)
    held_out = [index for _, part in folds for index in part.tolist()]
    assert len(set(held_out)) == len(held_out)
    for rest, part in folds:
        assert set(rest.tolist()) | set(part.tolist()) == set(range(len(values)))
        assert set(values[part]) <= set(values[rest])
    counts = np.bincount(values)
    assert len(held_out) == counts[counts > 1].sum()


@pytest.mark.parametrize("outputs", [3, 5])  # with outputs that no image has
@pytest.mark.parametrize("dim", [6, 120])
def test_as_one_layer_it_says_the_same(outputs: int, dim: int) -> None:
    train, labels = clusters(90, dim, 3, seed=3, noise=3)
    labels = labels * (outputs - 1) // 2  # 0, 1, 2 or 0, 2, 4
    found = linear_probe(train.float(), right(labels, outputs))
    weight, bias = found.layer()
    assert weight.shape == (outputs, dim)
    test = clusters(40, dim, 3, seed=4, noise=3)[0].float()
    known = labels.unique()
    scores = test @ weight.T + bias
    torch.testing.assert_close(scores[:, known].log_softmax(1), found(test)[:, known], rtol=1e-3, atol=1e-3)
    assert torch.isin(scores.argmax(1), known).all()


def test_as_one_layer_it_predicts_the_numbers() -> None:
    train = clusters(90, 7, 3, seed=3)[0].float()
    found = linear_probe(train, Answers("regression", ("size",), (50 + train[:, :1]).numpy()))
    weight, bias = found.layer()
    torch.testing.assert_close(train @ weight.T + bias, found(train), rtol=1e-4, atol=1e-3)
