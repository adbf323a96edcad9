"""Linear models on fixed features, on any device: the minima that scikit-learn finds, and sooner.

Shapes: n images, D features, R directions, K outputs. Products are made in the features' own precision.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.data.tasks import Task

MOST_SCORES = 2**24  # at once: rows times outputs
_MEMORY = 20  # steps that L-BFGS remembers
_MOST_STEPS = 1000
_MOST_SAMPLED = 4096  # rows that the curvature is guessed from


@dataclass(frozen=True)
class Directions:
    """Features standardised by those of the training set and turned into its principal directions.

    A penalty on the weights' length does not feel a rotation, so the models are the same. But in these directions the
    curvature is known beforehand, and where there are fewer images than features, fewer directions do.
    """

    mean: Tensor  # (D,)
    std: Tensor  # (D,)
    basis: Tensor  # (D, R), orthonormal
    variance: Tensor  # (R,) along each direction

    @classmethod
    def of(cls, features: Tensor) -> "Directions":
        """Those of a training set (n, D). A feature that is the same in all images counts for nothing."""
        mean, std = features.mean(0), features.std(0, correction=0)
        std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)
        standard = (features - mean) / std
        basis = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        if features.shape[1] > len(features):
            basis = torch.linalg.qr(standard.T).Q  # (D, n): what the training set spans
            standard = standard @ basis
        variance, rotation = torch.linalg.eigh(standard.T @ standard / len(features))
        return cls(mean, std, basis @ rotation, variance.clamp_min(0))

    def __call__(self, features: Tensor) -> Tensor:
        """(n, D) -> (n, R)."""
        return (features - self.mean) / self.std @ self.basis


@dataclass(frozen=True)
class Linear:
    """A linear map of features (n, R) to scores (n, K)."""

    weight: Tensor  # (R, K)
    bias: Tensor  # (K,)

    def __call__(self, features: Tensor) -> Tensor:
        """(n, R) -> (n, K)."""
        return features @ self.weight + self.bias


def fit(
    features: Tensor,
    targets: Tensor,
    task: Task,
    strength: float,
    variance: Tensor,
    start: Linear | None = None,
    tolerance: float = 1e-5,
) -> Linear:
    """The linear model of features (n, R) that fits the targets best.

    targets: classification: (n,) int64 class, each of 0..K - 1 occurring; multi-label: (n, K) of 0 and 1;
        regression: (n, K) numbers.
    strength: inverse regularisation as scikit-learn counts it: C of LogisticRegression (of each label, one against the
        rest), 1 / alpha of Ridge. The bias is not regularised.
    variance: (R,) of the features, roughly: a guess at the curvature, which decides the way and not the end.
    start: where to begin. tolerance: entry of the gradient to stop below, in coordinates of equal curvature; in single
        precision a smaller one gains nothing.
    """
    if task == "regression":
        return _ridge(features, targets, strength)
    return _logistic(features, targets, task, strength, variance, start, tolerance)


def _ridge(features: Tensor, targets: Tensor, strength: float) -> Linear:
    mean, middle = features.mean(0), targets.mean(0)
    centred = features - mean
    penalty = torch.eye(centred.shape[1], dtype=centred.dtype, device=centred.device) / strength
    weight = torch.linalg.solve(centred.T @ centred + penalty, centred.T @ (targets - middle))
    return Linear(weight, middle - mean @ weight)


def _logistic(
    features: Tensor,
    targets: Tensor,
    task: Task,
    strength: float,
    variance: Tensor,
    start: Linear | None,
    tolerance: float,
) -> Linear:
    """By L-BFGS, in coordinates in which the curvature is about the same along every direction."""
    count, outputs = len(features), int(targets.max()) + 1 if targets.ndim == 1 else targets.shape[1]
    # scikit-learn gives two classes one weight vector, which has twice the square of our two.
    penalty = (2.0 if targets.ndim == 1 and outputs == 2 else 1.0) / (strength * count)
    if start is None:
        start = Linear(features.new_zeros(features.shape[1], outputs), features.new_zeros(outputs))
    sample = start(features[:: max(1, count // _MOST_SAMPLED)])
    shares = sample.softmax(1) if task == "classification" else sample.sigmoid()
    curvature = (shares * (1 - shares)).mean().clamp_min(1e-4)
    scale = (curvature * variance + penalty).rsqrt()[:, None]  # (R, 1)
    sought = torch.cat([start.weight / scale, start.bias[None]])  # (R + 1, K)
    optimizer = torch.optim.LBFGS(
        [sought],
        max_iter=_MOST_STEPS,
        max_eval=2 * _MOST_STEPS,
        tolerance_grad=tolerance,
        tolerance_change=tolerance**1.5,
        history_size=_MEMORY,
        line_search_fn="strong_wolfe",
    )

    def objective() -> float:
        """Mean loss and penalty; leaves the gradient where the optimizer looks for it."""
        model = Linear(sought[:-1] * scale, sought[-1])
        loss = (penalty / 2 * model.weight.square().sum()).double()
        slope = penalty * model.weight
        slope_of_bias = torch.zeros_like(model.bias)
        rows = max(1, MOST_SCORES // outputs)
        for part, wanted in zip(torch.split(features, rows), torch.split(targets, rows), strict=True):
            sum_of_losses, error = _losses(model(part), wanted, task)
            loss += sum_of_losses / count
            slope += (error.T @ part).T / count  # six times as fast as part.T @ error on a CPU
            slope_of_bias += error.sum(0) / count
        sought.grad = torch.cat([slope * scale, slope_of_bias[None]])
        return loss.item()

    with torch.no_grad():
        optimizer.step(objective)
    return Linear(sought[:-1] * scale, sought[-1].clone())


def _losses(scores: Tensor, wanted: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """The sum of the losses of scores (n, K), float64, and its derivative by the scores (n, K)."""
    if task == "multi-label":
        loss = F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
        return loss.sum(dtype=torch.float64), scores.sigmoid() - wanted
    log_shares = scores.log_softmax(1)
    own = log_shares.gather(1, wanted[:, None])
    error = log_shares.exp_()
    error.scatter_add_(1, wanted[:, None], torch.full_like(own, -1.0))
    return -own.sum(dtype=torch.float64), error


def steps_of_ten(first: int, last: int, each: int) -> tuple[float, ...]:
    """Powers of ten from 10^first to 10^last, `each` a decade."""
    return tuple(float(f"{math.pow(10, first + i / each):.3g}") for i in range((last - first) * each + 1))
