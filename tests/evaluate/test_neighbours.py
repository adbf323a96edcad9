"""What lies near what: scikit-learn's answers."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from openmae.evaluate import neighbours
from openmae.evaluate.neighbours import mean_similarity, near_duplicates, nearest
from tests.evaluate.outliers import sorted_means

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", 7)
        yield


vectors_of = st.tuples(st.integers(2, 40), st.integers(1, 6), st.integers(0, 9)).map(
    lambda drawn: np.random.default_rng(drawn[2]).normal(size=drawn[:2]).astype(np.float32)
)


@given(vectors_of, st.integers(1, 12), st.integers(1, 9))
def test_search_is_scikit_learns(vectors: NDArray[np.float32], k: int, chunk: int) -> None:
    queries = np.random.default_rng(5).normal(size=(3, vectors.shape[1])).astype(np.float32)
    found = nearest(torch.from_numpy(queries), torch.from_numpy(vectors).split(chunk), k)
    similarity, rows = (part.numpy() for part in found)
    oracle = NearestNeighbors(n_neighbors=min(k, len(vectors)), metric="cosine", algorithm="brute").fit(vectors)
    distances = oracle.kneighbors(queries)[0]
    np.testing.assert_allclose(similarity, 1 - distances, atol=1e-5)
    exact = cosine_similarity(queries, vectors)
    np.testing.assert_allclose(np.take_along_axis(exact, rows, 1), similarity, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


@given(vectors_of, st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.integers(1, 30))
def test_duplicates_are_scikit_learns(vectors: NDArray[np.float32], threshold: float, most: int) -> None:
    vectors = np.concatenate([vectors, vectors[:3] * 2])  # of the same direction
    similar = cosine_similarity(vectors.astype(np.float64))
    above = [
        (i, j) for i, j in zip(*np.triu_indices(len(vectors), 1), strict=True) if similar[i, j] >= threshold - 1e-6
    ]
    told: list[int] = []
    pairs = near_duplicates(vectors, threshold, most, CPU, told.append)
    assert abs(pairs.total - len(above)) <= sum(abs(similar[i, j] - threshold + 1e-6) < 1e-6 for i, j in above) + 1
    assert pairs.total >= min(3, len(vectors) - 3)
    assert len(pairs.similarity) == min(most, pairs.total)
    closest = sorted((similar[pair] for pair in above), reverse=True)[: len(pairs.similarity)]
    np.testing.assert_allclose(pairs.similarity, closest, atol=1e-5)
    np.testing.assert_allclose(similar[pairs.first, pairs.second], pairs.similarity, atol=1e-5)
    assert (pairs.first < pairs.second).all()
    assert len(set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))) == len(pairs.first)
    assert told[-1] == len(vectors)


@given(vectors_of, st.integers(1, 12))
def test_outliers_are_scikit_learns(vectors: NDArray[np.float32], k: int) -> None:
    np.testing.assert_allclose(mean_similarity(vectors, k, CPU), sorted_means(vectors, k), atol=1e-5)
