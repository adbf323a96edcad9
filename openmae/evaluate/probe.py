"""Linear probe on frozen features: logistic regression, its strength chosen without looking at the val set."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from openmae.data.order import generator

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse regularisation, on standardised features


def linear_predict(
    train_features: Tensor, train_labels: Tensor, features: Tensor, classes: int, seed: int = 0
) -> tuple[Tensor, float]:
    """Scores (n, classes) of features (n, D), and the strength used.

    Features are standardised by the training set's mean and deviation. A fifth of the training set, drawn by
    the seed, chooses the strength out of STRENGTHS; then all of it is used.
    """
    mean, std = train_features.mean(0), train_features.std(0).clamp_min(1e-6)
    train, test = (train_features - mean) / std, (features - mean) / std
    if train.shape[1] > len(train):
        # The penalty does not feel rotations, so the few directions that the training set spans are enough.
        basis = torch.linalg.qr(train.T).Q  # (D, m)
        train, test = train @ basis, test @ basis
    x, y = train.numpy(), train_labels.numpy()
    order = generator(seed, "split").permutation(len(x))
    held_out, rest = order[: len(x) // 5], order[len(x) // 5 :]
    strength = STRENGTHS[1]
    if len(held_out) and len(np.unique(y[rest])) > 1:
        scores = [_fit(x[rest], y[rest], c).score(x[held_out], y[held_out]) for c in STRENGTHS]
        strength = STRENGTHS[int(np.argmax(scores))]
    model = _fit(x, y, strength)
    result = torch.full((len(features), classes), -torch.inf)
    result[:, torch.from_numpy(model.classes_)] = torch.from_numpy(model.predict_log_proba(test.numpy())).float()
    return result, strength


def _fit(x: NDArray[np.float32], y: NDArray[np.int64], strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # Weak regularisation converges slowly, and its accuracy hardly changes after the first iterations.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=100).fit(x, y)
