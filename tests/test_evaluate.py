"""Nearest neighbours and the linear probe against scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from openmae.evaluate.knn import accuracy, knn_predict
from openmae.evaluate.probe import STRENGTHS, linear_predict


def clusters(count: int, dim: int, classes: int, seed: int, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    return centres[labels] + noise * torch.randn(count, dim, generator=draws), labels


@given(st.integers(2, 60), st.integers(1, 30), st.integers(1, 8), st.sampled_from([0.07, 1.0]), st.integers(1, 7))
def test_knn_is_scikit_learns(count: int, k: int, dim: int, temperature: float, chunk: int) -> None:
    train, labels = clusters(count, dim + 1, 3, seed=1)
    test, _ = clusters(13, dim + 1, 3, seed=2)

    def weights(distances: np.ndarray) -> np.ndarray:  # of unit vectors: cosine = 1 - d^2 / 2
        return np.exp((1 - distances**2 / 2) / temperature)

    unit = [torch.nn.functional.normalize(x.double(), dim=1).numpy() for x in (train, test)]
    oracle = KNeighborsClassifier(min(k, count), weights=weights, algorithm="brute").fit(unit[0], labels.numpy())
    scores = knn_predict(train.double(), labels, test.double(), 3, k, temperature, chunk)
    shares = (scores / scores.sum(1, keepdim=True))[:, : len(oracle.classes_)]
    np.testing.assert_allclose(shares.numpy(), oracle.predict_proba(unit[1]), atol=1e-6)


def test_accuracy() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])
    labels = torch.tensor([2, 0, 0])
    assert accuracy(scores, labels) == pytest.approx(1 / 3)
    assert accuracy(scores, labels, 2) == pytest.approx(2 / 3)
    assert accuracy(scores, labels, 5) == 1.0


@pytest.mark.parametrize("dim", [6, 300])  # fewer and more features than images
def test_probe_is_scikit_learns_on_standardised_features(dim: int) -> None:
    train, labels = clusters(90, dim, 3, seed=3, noise=4)
    test, _ = clusters(40, dim, 3, seed=4, noise=4)
    scores, strength = linear_predict(train, labels, test, 3)
    assert strength in STRENGTHS
    x, z = (((a - train.mean(0)) / train.std(0)).double().numpy() for a in (train, test))
    oracle = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(x, labels.numpy())
    np.testing.assert_allclose(scores.exp().numpy(), oracle.predict_proba(z), atol=5e-3)


def test_probe_finds_what_is_linear_and_not_what_is_noise() -> None:
    train, labels = clusters(300, 20, 4, seed=5, noise=0.5)
    test, expected = clusters(100, 20, 4, seed=6, noise=0.5)
    assert accuracy(linear_predict(train, labels, test, 4)[0], expected) > 0.95
    noise = linear_predict(torch.randn(300, 20), labels, torch.randn(100, 20), 4)[0]
    assert 0.05 < accuracy(noise, expected) < 0.5


def test_probe_gives_a_class_without_training_images_no_chance() -> None:
    train, labels = clusters(40, 5, 2, seed=7)
    scores, _ = linear_predict(train, labels, train, 3)
    assert (scores[:, 2] == -torch.inf).all()
