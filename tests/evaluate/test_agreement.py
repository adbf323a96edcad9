"""Neighbour agreement: beside what a reader of its definition would write, and where its value is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from openmae.data.formats.channels import PixelFormat
from openmae.data.opening import open_data
from openmae.data.views.statistics import Statistics
from openmae.evaluate.agreement import TwoViews, agreement, two_views
from openmae.evaluate.features import pooled
from openmae.model import create_model
from tests.images import write_images


def views(first: np.ndarray, second: np.ndarray) -> TwoViews:
    return TwoViews(torch.from_numpy(first), torch.from_numpy(second), np.arange(len(first)))


@given(st.integers(0, 1000), st.integers(1, 12))
def test_it_is_the_share_of_common_neighbours(seed: int, k: int) -> None:
    draws = np.random.default_rng(seed)
    first = draws.normal(size=(30, 5)).astype(np.float32)
    second = first + draws.normal(size=first.shape).astype(np.float32)
    near = [
        NearestNeighbors(n_neighbors=k, metric="cosine")
        .fit(vectors.astype(np.float64))
        .kneighbors(return_distance=False)
        for vectors in (first, second)
    ]
    expected = [len({*one} & {*other}) / k for one, other in zip(*near, strict=True)]
    assert agreement(views(first, second), k).tolist() == pytest.approx(expected)


def test_where_it_is_known() -> None:
    draws = np.random.default_rng(0)
    vectors = draws.normal(size=(400, 8)).astype(np.float32)
    assert agreement(views(vectors, 3 * vectors)).tolist() == [1.0] * 400  # the cosine knows no length
    unlike = agreement(views(vectors, draws.normal(size=(400, 8)).astype(np.float32)))
    assert unlike.mean() == pytest.approx(10 / 399, abs=0.01)  # by chance
    assert agreement(views(vectors[:3], vectors[:3])).tolist() == [1.0] * 3  # two others
    copies = np.repeat(vectors[:2], 15, axis=0)  # more than are looked for
    assert agreement(views(copies, copies)).tolist() == [1.0] * 30


def test_two_crops_of_each_image(tmp_path: Path) -> None:
    """The same for any encoder and any number of workers; a broken file is no image."""
    source = open_data(str(write_images(tmp_path / "x", 70))).all
    (tmp_path / "x/class0/000.jpg").write_bytes(b"no image")
    encoder = create_model("vit_tiny", img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2).encoder
    statistics = Statistics((0.5,) * 3, (0.25,) * 3, PixelFormat(3))
    function = pooled(encoder, statistics, "mean")
    cpu = torch.device("cpu")
    one, other = (two_views(encoder, statistics, source, function, cpu, workers, seed=3) for workers in (0, 1))
    assert len(one.indices) == 69
    assert sorted({*range(70)} - {*one.indices.tolist()}) == [0]
    assert torch.equal(one.first, other.first)
    assert torch.equal(one.second, other.second)
    assert not torch.equal(one.first, one.second)
    shown: list[torch.Tensor] = []

    def mean(images: torch.Tensor) -> torch.Tensor:
        shown.append(images)
        return images.float().mean((2, 3))

    again = two_views(encoder, statistics, source, mean, cpu, 0, seed=3)
    assert again.indices.tolist() == one.indices.tolist()
    assert sum(map(len, shown)) >= 140
