"""Linear probe on frozen features: a linear classifier, its regularisation chosen without looking at the val set."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.tasks import Answers
from openmae.evaluate.linear import Directions, Linear, fit, steps_of_ten
from openmae.evaluate.predict import HEADLINE, measure
from openmae.randomness import generator

STRENGTHS = steps_of_ten(-6, 2, 2)  # inverse regularisation, on standardised features, from strong to weak
USUAL = 0.1  # where there are too few images to choose: of 4 to 200 nearly as good as the best (docs/log.md)
FOLDS = 5
MOST_FOR_ALL_FOLDS = 1000  # images; of more than that, one fold tells enough
PATIENCE = 3  # weaker strengths with a worse figure since the best one, and no more are tried,
_TRIED = 0.1  # but for those up to this: below, where classes differ little along strong directions, all may be chance
_LEAST_FOR_CHOICE = 5  # images
CPU = torch.device("cpu")
_ROUGH = 1e-4  # tolerance while choosing, scikit-learn's own


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of features, as it was fitted. strength: of its regularisation. known: of the outputs, those
    that have training images, None where that is no question."""

    directions: Directions
    linear: Linear
    strength: float
    outputs: int
    known: NDArray[np.int64] | None

    def __call__(self, features: Tensor) -> Tensor:
        """(n, D) -> scores (n, K) float32 on the CPU: logarithms of probabilities of classes (-inf for a class without
        training images), logits of labels, or numbers."""
        found = self.linear(self.directions(features.to(self.directions.mean))).float().cpu()
        if self.known is None:
            return found
        scores = torch.full((len(features), self.outputs), -torch.inf)
        scores[:, torch.from_numpy(self.known)] = found.log_softmax(1)
        return scores

    def layer(self) -> tuple[Tensor, Tensor]:
        """Weights (K, D) and biases (K,), float32 on the CPU, of one linear layer on the features that says the same. A
        class without training images is told to be as unlikely as e^-10 beside the least likely one."""
        directions = self.directions
        slopes = (directions.basis.double() @ self.linear.weight.double()) / directions.std.double()[:, None]  # (D, k)
        shift = self.linear.bias.double() - directions.mean.double() @ slopes
        if self.known is None:
            return slopes.T.float().cpu(), shift.float().cpu()
        weight = slopes.mean(1).repeat(self.outputs, 1)
        bias = (shift.min() - 10).repeat(self.outputs)
        at = torch.from_numpy(self.known).to(weight.device)
        weight[at], bias[at] = slopes.T, shift
        return weight.float().cpu(), bias.float().cpu()


def linear_probe(
    train_features: Tensor,
    right: Answers,
    seed: int = 0,
    device: torch.device = CPU,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> LinearProbe:
    """The linear classifier of features (m, D) with the right answers to the m images.

    Features are standardised by their mean and deviation. For numbers the strength is that of STRENGTHS which predicts
    each image best from the others. Of classes and labels, up to MOST_FOR_ALL_FOLDS images, each of 5 folds chooses it
    by the task's headline figure, of equals the one nearest to USUAL, of more the first fold alone; then all images are
    used. Where no class has 5 images it is USUAL: a fold would be told without most of what it asks for.
    """
    known = _Known.of(train_features, right, device)
    strength, start = _chosen(known, seed, progress)
    return known.probe(strength, start)


def probe_of_strength(features: Tensor, right: Answers, strength: float, device: torch.device = CPU) -> LinearProbe:
    """The linear classifier of features (m, D) whose strength of regularisation is known."""
    return _Known.of(features, right, device).probe(strength)


@dataclass(frozen=True)
class _Known:
    """What a linear classifier learns from: features (m, R) along their directions; the right answers, of classes those
    that occur, numbered by `classes`; the same as a tensor."""

    features: Tensor
    directions: Directions
    right: Answers
    targets: Tensor
    outputs: int
    classes: NDArray[np.int64] | None

    @classmethod
    def of(cls, features: Tensor, right: Answers, device: torch.device) -> "_Known":
        directions = Directions.of(features := features.to(device))
        features, outputs, classes = directions(features), len(right.names), None
        if right.task == "classification":
            present, numbers = np.unique(right.values, return_inverse=True)
            right = Answers(right.task, tuple(right.names[label] for label in present), numbers.astype(np.int64))
            classes = present.astype(np.int64)
        targets = torch.from_numpy(right.values).to(device)
        targets = targets if right.task == "classification" else targets.to(features.dtype)
        return cls(features, directions, right, targets, outputs, classes)

    def probe(self, strength: float, start: Linear | None = None) -> LinearProbe:
        model = fit(self.features, self.targets, self.right.task, strength, self.directions.variance, start)
        return LinearProbe(self.directions, model, strength, self.outputs, self.classes)


def linear_predict(
    train_features: Tensor,
    right: Answers,
    features: Tensor,
    seed: int = 0,
    device: torch.device = CPU,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Tensor, float]:
    """Scores (n, K) float32 of features (n, D) by `linear_probe` of others, and the strength used."""
    probe = linear_probe(train_features, right, seed, device, progress)
    return probe(features), probe.strength


def _chosen(known: _Known, seed: int, progress: Callable[[int, int], None]) -> tuple[float, Linear | None]:
    """The strength with the best figure on held-out folds, of equals the nearest to USUAL, and where to begin."""
    train, targets, right, variance = known.features, known.targets, known.right, known.directions.variance
    if right.task == "regression":
        return _chosen_for_numbers(train, targets, variance), None
    folds = folds_of(right, seed)
    if not folds or (right.groups is None and len(folds) < FOLDS and len(train) <= MOST_FOR_ALL_FOLDS):
        return USUAL, None
    models: list[Linear | None] = [None] * len(folds)
    best, chosen, start, worse = -math.inf, USUAL, None, 0
    for number, strength in enumerate(STRENGTHS):
        progress(number, len(STRENGTHS))
        figures = []
        for fold, (rest, held_out) in enumerate(folds):
            at = torch.from_numpy(rest).to(train.device)
            model = fit(train[at], targets[at], right.task, strength, variance, models[fold], _ROUGH)
            models[fold] = model
            scores = model(train[torch.from_numpy(held_out).to(train.device)]).float().cpu()
            asked = replace(right, values=right.values[held_out])
            figures.append(measure(scores, asked)[HEADLINE[right.task]])
        figure = float(np.nanmean(figures)) if not np.isnan(figures).all() else -math.inf
        worse += figure < best  # equal ones are a plateau, such as that of always saying the largest class
        if figure > best or (figure == best and _from_usual(strength) < _from_usual(chosen)):
            best, chosen, start, worse = figure, strength, models[0], 0
        if worse >= PATIENCE and strength >= _TRIED:
            break
        if best == 1.0 and strength >= USUAL and _from_usual(strength) >= _from_usual(chosen):
            break  # no figure is better, and none to come is nearer
    return chosen, start


def _from_usual(strength: float) -> float:
    """How many times it is stronger or weaker, as a logarithm."""
    return abs(math.log(strength / USUAL))


def _chosen_for_numbers(train: Tensor, targets: Tensor, variance: Tensor) -> float:
    """The strength whose ridge regression predicts each image best from all others; no folds, so no luck in drawing
    them (as scikit-learn's RidgeCV). In principal directions the influence of an image on its own prediction is a sum.
    """
    if len(train) < _LEAST_FOR_CHOICE:
        return USUAL
    rows, wanted = train.double(), targets.double()
    rows, wanted = rows - rows.mean(0), wanted - wanted.mean(0)
    along = rows.T @ wanted  # (R, 1)
    best, chosen = math.inf, USUAL
    for strength in STRENGTHS:
        shrunk = 1 / (len(rows) * variance.double() + 1 / strength)  # (R,)
        error = wanted - rows @ (shrunk[:, None] * along)
        influence = 1 / len(rows) + rows.square() @ shrunk  # (n,)
        figure = (error[:, 0] / (1 - influence).clamp_min(1e-9)).square().mean().item()
        if figure < best:
            best, chosen = figure, strength
    return chosen


def folds_of(
    right: Answers, seed: int, folds: int = FOLDS, most_for_all: int = MOST_FOR_ALL_FOLDS
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(rest, held out) of each fold; of classes, a share of each, and never the only image of one; of groups, whole
    ones. most_for_all: images up to which all folds are given, of more the first one alone."""
    count = len(right.values)
    number = np.full(count, -1)
    classes = [np.arange(count)]
    if right.task == "classification":
        classes = [np.flatnonzero(right.values == label) for label in np.unique(right.values)]
    if right.groups is not None:
        groups, own = np.unique(right.groups, return_inverse=True)
        number = (generator(seed, "probe folds").permutation(len(groups)) % folds)[own]
    for which, members in enumerate(classes):
        if right.groups is not None:
            if len(np.unique(number[members])) == 1:  # the fold would have to be told without one of it
                number[members] = -1
        elif len(members) > 1:
            order = generator(seed, "probe folds", index=which).permutation(members)
            number[order] = np.arange(len(order)) % folds
    used = range(folds) if count <= most_for_all else range(1)
    return [(np.flatnonzero(number != n), np.flatnonzero(number == n)) for n in used if (number == n).any()]
