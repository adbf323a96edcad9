"""Which vectors lie close together: nearest ones, near-duplicates, outliers; exact, and never n x n at once.

Similarity is the cosine, -1 to 1. Shapes: n vectors, D their width, Q queries, k neighbours, p pairs.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

CPU = torch.device("cpu")
QUERIES = 1024  # that are compared with others at once
BLOCK = 2048  # rows and columns of the similarities that are computed at once
ROUNDING = 1e-6  # of a similarity in float32, so that copies count as 1


@dataclass(frozen=True)
class Pairs:
    """The closest pairs, closest first: similarity (p,), and the two vectors' numbers, first (p,) < second (p,).

    total: how many pairs there are, of which p may be fewer.
    """

    similarity: NDArray[np.float32]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    total: int

    @classmethod
    def none(cls) -> "Pairs":
        """To begin with."""
        return cls(np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64), 0)

    def more(
        self, similarity: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64], most: int
    ) -> "Pairs":
        """These and others, all counted; a few times the `most` closest of them are kept."""
        both = Pairs(
            np.concatenate([self.similarity, similarity]),
            np.concatenate([self.first, first]),
            np.concatenate([self.second, second]),
            self.total + len(similarity),
        )
        return both.closest(most) if len(both.similarity) > 2 * most else both

    def closest(self, most: int) -> "Pairs":
        """The `most` closest of these, ties in the order of their numbers."""
        order = np.lexsort((self.second, self.first, -self.similarity))[:most]
        return Pairs(self.similarity[order], self.first[order], self.second[order], self.total)


def nearest(
    queries: Tensor, chunks: Iterable[Tensor], k: int, device: torch.device = CPU, at_once: int = QUERIES
) -> tuple[Tensor, Tensor]:
    """(similarity, number) of the k vectors that are nearest to each query (Q, D), (Q, k) each, on the CPU, nearest
    first; of equals, the one that comes first.

    chunks: the vectors, some (m, D) at a time, numbered from 0 on. k is cut to their number.
    at_once: queries that are compared with a chunk at once.
    """
    similarity = torch.empty(len(queries), 0, dtype=queries.dtype, device=device)
    number = torch.empty(len(queries), 0, dtype=torch.long, device=device)
    seen = 0
    for chunk in chunks:
        block = F.normalize(chunk.to(device), dim=1).T
        found = [_largest(F.normalize(rows.to(device), dim=1) @ block, k) for rows in queries.split(at_once)]
        # Those of earlier chunks stand in front, so that a stable sort keeps them there among equals.
        similarity = torch.cat([similarity, torch.cat([values for values, _ in found])], dim=1)
        number = torch.cat([number, seen + torch.cat([places for _, places in found])], dim=1)
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        similarity, number = similarity[:, :k], number.gather(1, order)[:, :k]
        seen += len(chunk)
    return similarity.cpu(), number.cpu()


def near_duplicates(
    vectors: NDArray[np.float32],
    threshold: float,
    most: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> Pairs:
    """Pairs of vectors (n, D) of at least this similarity, all of them counted, the `most` closest given.

    progress: told how many of the vectors are compared with all that come after them.
    """
    found = Pairs.none()
    for rows, columns in _blocks(len(vectors), above=True):
        similar = _unit(vectors, rows, device) @ _unit(vectors, columns, device).T
        is_pair = similar >= threshold - ROUNDING
        if rows == columns:
            is_pair = is_pair.triu(1)
        if is_pair.any():
            first, second = (part.cpu().numpy() for part in is_pair.nonzero(as_tuple=True))
            values = similar[is_pair].clamp(-1, 1).cpu().numpy()
            found = found.more(values, first + rows.start, second + columns.start, most)
        if columns.stop == len(vectors):
            progress(rows.stop)
    return found.closest(most)


def mean_similarity(
    vectors: NDArray[np.float32],
    k: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float32]:
    """(n,): of each vector (n, D), the mean similarity to the k others that are nearest; k is cut to n - 1.

    Raises ValueError where there is no other.
    """
    if len(vectors) < 2:
        raise ValueError("one vector has no neighbours")
    k = min(k, len(vectors) - 1)
    means: list[Tensor] = []
    best = torch.empty(0)
    for rows, columns in _blocks(len(vectors), above=False):
        if columns.start == 0:
            best = torch.empty(len(rows), 0, device=device)
        similar = _unit(vectors, rows, device) @ _unit(vectors, columns, device).T
        if rows == columns:
            similar.fill_diagonal_(-torch.inf)  # no neighbour of itself
        together = torch.cat([best, similar], dim=1)
        best = together.topk(min(k, together.shape[1]), dim=1).values
        if columns.stop == len(vectors):
            means.append(best.clamp(-1, 1).mean(dim=1).cpu())
            progress(rows.stop)
    return torch.cat(means).numpy()


def _unit(vectors: NDArray[np.float32], rows: range, device: torch.device) -> Tensor:
    """These rows of vectors that may lie in a file, of length 1."""
    return F.normalize(torch.tensor(vectors[rows.start : rows.stop]).to(device), dim=1)


def _largest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, places) of the k largest of each row (n, m), or of all m, in their order; of equals, the first ones."""
    values, places = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    places = places[:, :k].sort(dim=1).values
    if values.shape[1] > k:
        # topk may take any of equals: where the last one in equals the first one out, the row is sorted in full.
        tied = values[:, k - 1] == values[:, k]
        if tied.any():
            in_full = similarity[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
            places[tied] = in_full.sort(dim=1).values
    return similarity.gather(1, places), places


def _blocks(count: int, above: bool) -> Iterator[tuple[range, range]]:
    """(rows, columns) that cover count x count, row by row; those on and above the diagonal alone."""
    spans = [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    for at, rows in enumerate(spans):
        for columns in spans[at if above else 0 :]:
            yield rows, columns
