"""The loss of a fine-tuning, and what balances classes of unequal size."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.tasks import Answers
from openmae.randomness import generator


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
