"""Weighted nearest neighbours on frozen features: no training, hardly a setting, so hard to get wrong.

Source: Wu et al., arXiv 1805.01978, section 3.4; k = 20 and temperature 0.07 as DINO (arXiv 2104.14294) uses.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    features: Tensor,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Scores (n, classes): each of the k nearest by cosine votes for its label with exp(similarity / temperature).

    train_features (m, D), train_labels (m,), features (n, D). k is cut to m where there are fewer.
    Done `chunk` rows at a time, so memory stays at chunk x m similarities.
    """
    reference = F.normalize(train_features, dim=1)
    scores = []
    for rows in features.split(chunk):
        similarity, nearest = (F.normalize(rows, dim=1) @ reference.T).topk(min(k, len(reference)), dim=1)
        # Less the largest: exp stays in range, and the votes' proportions are the same.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        scores.append(torch.zeros(len(rows), classes).to(votes).scatter_add(1, train_labels[nearest], votes))
    return torch.cat(scores)


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """The share of rows of scores (n, classes) whose label (n,) is among the k highest."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1).float().mean().item()
