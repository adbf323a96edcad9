"""Weighted nearest neighbours on frozen features: no training, hardly a setting, so hard to get wrong.

Source: Wu et al., arXiv 1805.01978, section 3.4; k = 20 and temperature 0.07 as DINO (arXiv 2104.14294) uses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openmae.data.tasks import Answers
from openmae.evaluate.features import Readout
from openmae.evaluate.neighbours import CPU, QUERIES, nearest
from openmae.heads import Neighbours, votes
from openmae.model import ViT
from openmae.weights.loaded import LINKS

REFERENCES = 16384  # compared at once: with so many queries, 64 MiB of similarities
K, TEMPERATURE = 20, 0.07
MOST_BYTES = 2**30  # of a bank that is kept: 349,525 images of a ViT-B


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


def bank_bytes(images: int, width: int) -> int:
    """What the features of so many images take."""
    return images * width * torch.float32.itemsize


@dataclass(frozen=True)
class Bank:
    """What is known of the labelled images: their features (M, D) at a place, and the answers."""

    place: Readout
    features: Tensor
    right: Answers


def neighbours_of(encoder: ViT, known: Bank, k: int, temperature: float) -> Neighbours:
    """The classifier: blocks behind the place are left out."""
    right, place = known.right, known.place
    shape = (len(known.features), len(right.names))
    model = Neighbours(_cut(encoder, place.layer), shape, place.pool, LINKS[right.task], k, temperature)
    return model.fill(known.features, torch.from_numpy(right.values)).eval()


def _cut(encoder: ViT, depth: int) -> ViT:
    """The encoder without the blocks behind the first `depth`."""
    if depth == encoder.depth:
        return encoder
    shorter = ViT(**{**encoder.arguments(), "depth": depth})
    wanted = shorter.state_dict()
    shorter.load_state_dict({name: value for name, value in encoder.state_dict().items() if name in wanted})
    return shorter
