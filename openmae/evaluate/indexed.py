"""Neighbours by an index (evaluate/index.py), where comparing all with all would take too long. Shapes as in
evaluate/neighbours.py."""

import importlib.util
import json
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from openmae.errors import UserError
from openmae.evaluate.neighbours import Pairs
from openmae.machine.cores import cores

ROWS = 4096  # that are gone through at once

Hear = Callable[[str, int], None]


@dataclass(frozen=True)
class Near:
    """Of each of n vectors the k nearest others that were found, nearest first, in files.

    similarity: (n, k), exact, -inf where fewer were found. number: (n, k), -1 likewise. recall: the share of the k
    nearest that is found, 0 to 1, of `asked` vectors. looked_through: cells of all `cells` that each vector was
    compared with.
    """

    similarity: NDArray[np.float32]
    number: NDArray[np.int64]
    recall: float
    asked: int
    cells: int
    looked_through: int

    def pairs(self, threshold: float, most: int) -> Pairs:
        """Those that were found of at least this similarity, all counted, the `most` closest given."""
        found = Pairs.none()
        for rows, similarity, number in self._parts():
            here, column = np.nonzero(similarity >= threshold)
            one, other, values = rows[here], number[here, column], similarity[here, column]
            # Of two that found each other, the first tells of it.
            is_new = (one < other) | ~(self.number[other] == one[:, None]).any(axis=1)
            one, other, values = one[is_new], other[is_new], values[is_new].clip(-1, 1)
            found = found.more(values, np.minimum(one, other), np.maximum(one, other), most)
        return found.closest(most)

    def mean_similarity(self, k: int) -> NDArray[np.float32]:
        """(n,) to the k nearest that were found, at most all of them; -1 of what is near nothing."""
        means = np.full(len(self.similarity), -1, np.float32)
        for rows, similarity, _ in self._parts():
            nearest = similarity[:, :k]
            count = np.isfinite(nearest).sum(axis=1)
            total = np.where(np.isfinite(nearest), nearest.clip(-1, 1), 0).sum(axis=1)
            np.divide(total, count, out=means[rows[0] : rows[-1] + 1], where=count > 0)
        return means

    def _parts(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]]:
        for start in range(0, len(self.similarity), ROWS):
            part = slice(start, start + ROWS)
            similarity = np.array(self.similarity[part])
            yield np.arange(start, start + len(similarity)), similarity, np.array(self.number[part])


def require_index() -> None:
    """Raises UserError where there is none."""
    if importlib.util.find_spec("faiss") is None:
        raise UserError("`index='faiss'` needs faiss", "pip install 'openmae[faiss]'")


def near(vectors: Path, k: int, folder: Path, hear: Hear) -> Near:
    """The k nearest others of each vector of a .npy (n, D), n above 1; k is cut to n - 1.

    folder: for its files, which are read as long as the result is used. hear: is told what is done, for how many of n.
    Raises UserError where the index cannot be made.
    """
    count = len(np.load(vectors, mmap_mode="r"))
    k = min(k, count - 1)
    words = [sys.executable, "-P", "-m", "openmae.evaluate.index", vectors, folder, k, cores()]
    with subprocess.Popen(
        [*map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        complaints: deque[str] = deque(maxlen=1)
        listener = Thread(target=complaints.extend, args=(process.stderr,), daemon=True)  # a full pipe would stop it
        listener.start()
        try:
            for line in process.stdout:
                told = json.loads(line)
                hear(told["doing"], told["done"])
        except BaseException:
            process.kill()
            raise
    listener.join()
    if process.returncode:
        ended = "".join(complaints).strip() if process.returncode > 0 else "it was killed (out of memory?)"
        raise UserError(f"the index could not be made: {ended}", "leave out `index`: every vector is compared then")
    found = json.loads((folder / "found.json").read_text())
    arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("similarity", "number"))
    return Near(*arrays, **found)
