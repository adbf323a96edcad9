"""Neighbours by an index: scikit-learn's answers, by real processes."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from openmae.errors import UserError
from openmae.evaluate.indexed import Near, near
from tests.evaluate.outliers import sorted_means

COUNT, WIDTH, K = 6000, 12, 5


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    """Of any length, in clusters; the last 20 are near-copies of the first, and three of one direction."""
    draws = np.random.default_rng(3)
    centres = draws.normal(size=(60, WIDTH))
    found = centres[draws.integers(60, size=COUNT)] + draws.normal(0, 0.4, (COUNT, WIDTH))
    found[-20:] = found[:20] + draws.normal(0, 1e-3, (20, WIDTH))
    found[30:32] = found[29] * [[2], [0.1]]
    return (found * draws.uniform(0.1, 9, (COUNT, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def found(vectors: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Near:
    folder = tmp_path_factory.mktemp("index")
    np.save(folder / "vectors.npy", vectors)
    told: list[tuple[str, int]] = []
    result = near(folder / "vectors.npy", K, folder, lambda doing, done: told.append((doing, done)))
    assert dict(told) == dict.fromkeys(("indexing", "measuring recall", "comparing"), COUNT)
    return result


def test_recall_is_what_it_says(vectors: NDArray[np.float32], found: Near) -> None:
    assert found.looked_through < found.cells / 2  # so that something is missed
    oracle = NearestNeighbors(n_neighbors=K + 1, metric="cosine", algorithm="brute").fit(vectors)
    distance = oracle.kneighbors(vectors)[0][:, -1]
    share = (found.similarity >= 1 - distance[:, None] - 1e-5).mean()
    assert 0.98 <= share < 1
    assert found.recall == pytest.approx(share, abs=0.01)  # measured on 512


def test_similarities_are_exact(vectors: NDArray[np.float32], found: Near) -> None:
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    is_there = found.number >= 0
    assert is_there.mean() > 0.999
    rows = np.nonzero(is_there)[0]
    exact = (unit[rows] * unit[found.number[is_there]]).sum(axis=1)
    np.testing.assert_allclose(found.similarity[is_there], exact, atol=1e-5)
    assert (found.number != np.arange(COUNT)[:, None]).all()
    assert (np.diff(found.similarity[is_there.all(axis=1)], axis=1) <= 0).all()


def test_close_pairs_and_lonely_vectors(vectors: NDArray[np.float32], found: Near) -> None:
    pairs = found.pairs(0.9999, 100)
    both = [*zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)]
    copies = [(i, COUNT - 20 + i) for i in range(20)]
    assert sorted(both) == sorted([*copies, (29, 30), (29, 31), (30, 31)])
    assert pairs.total == 23
    assert (np.diff(pairs.similarity) <= 0).all()
    few = found.pairs(0.9999, 4)
    assert (few.total, [*few.similarity]) == (23, [*pairs.similarity[:4]])
    exact = sorted_means(vectors, K)
    assert np.abs(found.mean_similarity(K) - exact).mean() < 1e-3
    assert np.argmin(found.mean_similarity(K)) == np.argmin(exact)


def test_two_vectors_are_compared_too(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[3, 4], [4, 3]], np.float32))
    found = near(tmp_path / "v.npy", 7, tmp_path, lambda doing, done: None)
    np.testing.assert_allclose(found.similarity, [[0.96], [0.96]], rtol=1e-6)
    assert found.number.tolist() == [[1], [0]]
    assert found.recall == 1


def test_an_index_that_dies_is_one_sentence(vectors: NDArray[np.float32], tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", vectors)

    def kill(doing: str, done: int) -> None:
        for pid in [
            pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
        ]:
            if b"openmae.evaluate.index" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(int(pid), signal.SIGKILL)

    with pytest.raises(UserError, match=r"the index could not be made: it was killed \(out of memory\?\)"):
        near(tmp_path / "v.npy", K, tmp_path, kill)
    with pytest.raises(UserError, match=r"the index could not be made: .*No such file"):
        near(tmp_path / "v.npy", K, tmp_path / "missing", lambda doing, done: None)
