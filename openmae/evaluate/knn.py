"""Weighted nearest neighbours on frozen features: no training, hardly a setting, so hard to get wrong.

Source: Wu et al., arXiv 1805.01978, section 3.4; k = 20 and temperature 0.07 as DINO (arXiv 2104.14294) uses.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.data.tasks import Answers

QUERIES, REFERENCES = 1024, 16384  # compared at once: 64 MiB of similarities
K, TEMPERATURE = 20, 0.07
CPU = torch.device("cpu")


def knn_predict(
    train_features: Tensor,
    right: Answers,
    features: Tensor,
    k: int = K,
    temperature: float = TEMPERATURE,
    device: torch.device = CPU,
    chunks: tuple[int, int] = (QUERIES, REFERENCES),
) -> Tensor:
    """Scores (n, K) on the CPU: each of the k nearest by cosine votes with the weight exp(similarity / temperature).

    train_features (m, D) with the right answers to the m images, features (n, D). Scores are the share of the votes
    that a class or label gets, 0..1, or the votes' mean of the numbers. k is cut to m where there are fewer.
    device: where it is computed. chunks: queries and references compared at once,
    which bounds the memory.
    """
    similarity, nearest = neighbours(train_features, features, k, device, chunks)
    # Less the largest: exp stays in range, and the votes' proportions are the same.
    votes = ((similarity - similarity[:, :1]) / temperature).exp()
    votes /= votes.sum(dim=1, keepdim=True)
    values = torch.from_numpy(right.values)
    if right.task == "classification":
        return votes.new_zeros(len(votes), len(right.names)).scatter_add(1, values[nearest], votes)
    return torch.stack([(votes * column[nearest]).sum(dim=1) for column in values.to(votes).T], dim=1)


def neighbours(
    references: Tensor,
    queries: Tensor,
    k: int,
    device: torch.device = CPU,
    chunks: tuple[int, int] = (QUERIES, REFERENCES),
) -> tuple[Tensor, Tensor]:
    """(similarity, index) of the k nearest references (m, D) of each query (n, D) by cosine, (n, min(k, m)) each, on
    the CPU, nearest first; of equals, the one that comes first."""
    k = min(k, len(references))
    similarity = torch.empty(len(queries), 0, dtype=queries.dtype, device=device)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=device)
    for first in range(0, len(references), chunks[1]):
        block = F.normalize(references[first : first + chunks[1]].to(device), dim=1).T
        found = [_nearest(F.normalize(rows.to(device), dim=1) @ block, k) for rows in torch.split(queries, chunks[0])]
        # Those of earlier references stand in front, so that a stable sort keeps them there among equals.
        similarity = torch.cat([similarity, torch.cat([values for values, _ in found])], dim=1)
        index = torch.cat([index, first + torch.cat([places for _, places in found])], dim=1)
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        similarity, index = similarity[:, :k], index.gather(1, order)[:, :k]
    return similarity.cpu(), index.cpu()


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, places) of the k largest of each row (n, m), or of all m, in their order; of equals, the first ones."""
    k = min(k, similarity.shape[1])
    values, places = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    # topk may take any of equals: where the last one in equals the first one out, the row is sorted in full.
    places = places[:, :k].sort(dim=1).values
    tied = values[:, k - 1] == values[:, -1]
    if values.shape[1] > k and tied.any():
        in_full = similarity[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        places[tied] = in_full.sort(dim=1).values
    return similarity.gather(1, places), places


def accuracy(scores: Tensor, labels: Tensor, k: int = 1) -> float:
    """The share of rows of scores (n, classes) whose label (n,) is among the k highest; of equals the first come
    first."""
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    ahead = ~(scores <= own) | ((scores == own) & before)  # what is not a number is ahead of everything
    return (ahead.sum(dim=1) < k).double().mean().item()
