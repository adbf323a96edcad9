"""How near others are, by scikit-learn."""

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors


def sorted_means(vectors: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """By scikit-learn: the mean cosine similarity to the k nearest others."""
    k = min(k, len(vectors) - 1)
    found = NearestNeighbors(n_neighbors=k + 1, metric="cosine", algorithm="brute").fit(vectors)
    distances = found.kneighbors(n_neighbors=k)[0]  # without an argument a point is not its own neighbour
    return 1 - distances.mean(1)
