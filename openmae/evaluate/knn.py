"""Weighted nearest neighbours on frozen features: no training, hardly a setting, so hard to get wrong.

Source: Wu et al., arXiv 1805.01978, section 3.4; k = 20 and temperature 0.07 as DINO (arXiv 2104.14294) uses.
"""

import torch
from torch import Tensor

from openmae.data.tasks import Answers
from openmae.evaluate.neighbours import CPU, QUERIES, nearest
from openmae.heads import votes

REFERENCES = 16384  # compared at once: with so many queries, 64 MiB of similarities
K, TEMPERATURE = 20, 0.07


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
    similarity, index = nearest(features, train_features.split(chunks[1]), k, device, chunks[0])
    values, outputs = torch.from_numpy(right.values), len(right.names)
    parts = zip(similarity.split(chunks[0]), index.split(chunks[0]), strict=True)
    scores = torch.cat([votes(near, where, values, outputs, temperature) for near, where in parts])
    return scores if right.task == "regression" else scores.clamp(max=1)  # rounding may give a little more
