"""An index of vectors, by which most of the nearest ones are found without comparing all with all.

It runs as a process of its own (`python -m openmae.evaluate.index FILE FOLDER K THREADS`): faiss and torch bring an
OpenMP each, and on some systems do not get along in one. FILE is a .npy of vectors (n, D) float32. FOLDER gets
number.npy (n, K) int64, of each vector the K nearest others that the index finds, nearest first, and similarity.npy
(n, K) float32, their exact cosines; -1 and -inf where it finds fewer. Lines of JSON say how far it is.

The index is faiss's IVF (Douze et al., arXiv 2401.08281): k-means divides the vectors into cells, and each is compared
with those of the cells that are nearest to it. How many cells that takes is measured: enough for RECALL of the nearest
of some vectors, whose nearest are found exactly. What is said is the recall of others.
"""

import json
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

RECALL = 0.99  # of the nearest, that cells are looked through for
ASKED = 512  # vectors whose nearest are found exactly, to choose, and as many to say what was reached
LEARNT = 64  # vectors a cell that k-means sees; faiss asks for 39 and takes 256 at most
AT_ONCE = 1024
_TIE = 1e-6  # of a similarity, by which equals may differ

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


def unit(vectors: Floats) -> Floats:
    """Of length 1, but those of length 0."""
    vectors = np.array(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=vectors, where=length > 0)


def cells_for(count: int) -> int:
    """Cells that so many vectors are divided into: a power of two near 4 times their square root, as faiss advises."""
    return max(1, min(2 ** round(np.log2(4 * np.sqrt(count))), count // 39))


def build(vectors: Floats, draws: np.random.Generator) -> Any:
    """The index of vectors (n, D), kept in it as float16."""
    count, width = vectors.shape
    cells = cells_for(count)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.spherical = True
    learnt = np.sort(draws.choice(count, min(count, LEARNT * cells), replace=False))
    index.train(unit(vectors[learnt]))
    for start in range(0, count, 16 * AT_ONCE):
        index.add(unit(vectors[start : start + 16 * AT_ONCE]))
        say("indexing", min(start + 16 * AT_ONCE, count))
    return index


def exactly(vectors: Floats, asked: Numbers, k: int) -> Floats:
    """(m, k) the similarities of those asked for to the k nearest others, nearest first."""
    queries, best = unit(vectors[asked]), np.full((len(asked), k), -np.inf, np.float32)
    for start in range(0, len(vectors), 16 * AT_ONCE):
        similar = queries @ unit(vectors[start : start + 16 * AT_ONCE]).T
        here = (start <= asked) & (asked < start + similar.shape[1])
        similar[here, asked[here] - start] = -np.inf  # none is near to itself
        together = np.concatenate([best, similar], axis=1)
        best = -np.sort(np.partition(-together, k - 1, axis=1)[:, :k], axis=1)
        say("measuring recall", min(start + 16 * AT_ONCE, len(vectors)))
    return best


def look(index: Any, vectors: Floats, rows: Numbers, k: int) -> tuple[Floats, Numbers]:
    """(similarity, number) (m, k) of the nearest others that the index finds for these rows, by their exact cosine."""
    queries = unit(vectors[rows])
    _, number = index.search(queries, min(k + 1, len(vectors)))
    missing = (number < 0) | (number == rows[:, None])
    different, place = np.unique(number, return_inverse=True)  # each is read once, in the order that they lie in
    found = unit(vectors[np.maximum(different, 0)])[place.reshape(number.shape)]
    similarity = np.einsum("md,mkd->mk", queries, found)
    similarity[missing] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    similarity, number = (np.take_along_axis(one, order, 1) for one in (similarity, number))
    return similarity, np.where(similarity == -np.inf, -1, number)


def recall(found: Floats, exact: Floats) -> float:
    """The share of the nearest that are found: as near as the farthest of them."""
    return float((found >= exact[:, -1:] - _TIE).mean())


def say(doing: str, done: int) -> None:
    """A line for who waits."""
    print(json.dumps({"doing": doing, "done": done}), flush=True)


def main(file: str, folder: str, k: int, threads: int) -> None:
    """Finds the neighbours of all."""
    faiss.omp_set_num_threads(threads)
    vectors, draws = np.load(file, mmap_mode="r"), np.random.default_rng(0)
    index = build(vectors, draws)
    asked = draws.choice(len(vectors), min(2 * ASKED, len(vectors)), replace=False)
    exact = exactly(vectors, asked, k)
    half = -(-len(asked) // 2)
    index.nprobe = 1
    while index.nprobe < index.nlist and recall(look(index, vectors, asked[:half], k)[0], exact[:half]) < RECALL:
        index.nprobe = min(2 * index.nprobe, index.nlist)
    others = slice(half, None) if half < len(asked) else slice(None)
    reached = recall(look(index, vectors, asked[others], k)[0], exact[others])
    shape = (len(vectors), k)
    similarity = np.lib.format.open_memmap(f"{folder}/similarity.npy", "w+", np.float32, shape)
    number = np.lib.format.open_memmap(f"{folder}/number.npy", "w+", np.int64, shape)
    for start in range(0, len(vectors), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(vectors)))
        similarity[rows[0] : rows[-1] + 1], number[rows[0] : rows[-1] + 1] = look(index, vectors, rows, k)
        say("comparing", int(rows[-1]) + 1)
    similarity.flush()
    number.flush()
    found = {"recall": reached, "asked": len(asked[others]), "cells": index.nlist, "looked_through": index.nprobe}
    Path(folder, "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
