"""The loss of a fine-tuning, and what balances classes of unequal size."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from openmae.data.loading.stream import Batch
from openmae.data.tasks import Answers
from openmae.data.views.statistics import Statistics
from openmae.heads import Classifier
from openmae.randomness import generator
from openmae.recipes.finetune.build import Finetuning


class Unit:
    """The unit in which the model learns the numbers of a regression: their mean and standard deviation; of other
    tasks, none."""

    def __init__(self, right: Answers) -> None:
        self.mean, self.std = 0.0, 1.0
        if right.task == "regression":
            self.mean, self.std = float(right.values.mean()), float(right.values.std()) or 1.0

    def of_labels(self, scores: Tensor) -> Tensor:
        """The model's scores in the labels' own unit."""
        return scores * self.std + self.mean


def loss_of(
    run: Finetuning, statistics: Statistics, right: Answers, order: NDArray[np.int64] | None, device: torch.device
) -> Callable[[Classifier, Batch], Tensor]:
    """The mean loss of a batch.

    right: of the images; order: which of them the stream's are, None where they are the same.
    """
    task, smoothing = right.task, run.label_smoothing
    values = torch.from_numpy(right.values if order is None else right.values[order]).to(device)
    weights = _class_weights(right).to(device) if run.balance == "weights" else None
    unit = Unit(right)
    shift, scale = (torch.tensor(number, device=device) for number in (unit.mean, unit.std))
    classes, batch_size, seed = len(right.names), run.course.schedule.batch_size, run.course.seed

    def loss(model: Classifier, batch: Batch) -> Tensor:
        images = statistics.normalize(batch.images)
        wanted = values[batch.indices.to(device, non_blocking=True)]
        if task == "classification":
            wanted = F.one_hot(wanted, classes).float()
        step, place = divmod(batch.start, batch_size)
        images, wanted = run.mixing(images, wanted, seed, step, place)
        scores = model(images, batch.noise if run.head.drop_path else None).float()
        if task == "regression":
            return F.mse_loss(scores, (wanted - shift) / scale)
        if task == "multi-label":
            return F.binary_cross_entropy_with_logits(scores, wanted, pos_weight=weights)
        return F.cross_entropy(scores, wanted, weights, label_smoothing=smoothing)

    return loss


def balanced(right: Answers, seed: int) -> NDArray[np.int64]:
    """Indices of as many images of each class as the largest has, those of smaller ones several times."""
    classes, counts = np.unique(right.values, return_counts=True)
    most = int(counts.max())
    parts = []
    for label in classes.tolist():
        members = generator(seed, "balance", index=label).permutation(np.flatnonzero(right.values == label))
        parts.append(np.resize(members, most))
    return np.concatenate(parts).astype(np.int64)


def _class_weights(right: Answers) -> Tensor:
    """(K,) one over the size of the class, of mean 1 over the images; of labels, the images without over those with."""
    values = right.values
    if right.task == "multi-label":
        having = values.sum(axis=0)
        return torch.from_numpy((len(values) - having) / np.maximum(having, 1)).float()
    counts = np.bincount(values, minlength=len(right.names))
    present = counts > 0
    return torch.from_numpy(np.where(present, len(values) / (present.sum() * np.maximum(counts, 1)), 0.0)).float()
