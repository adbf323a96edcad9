"""What needs no encoder, against scikit-image, scikit-learn and numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.feature import local_binary_pattern
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from openmae.data.formats.channels import PixelFormat
from openmae.data.tasks import Answers
from openmae.data.views.statistics import Statistics
from openmae.evaluate.baselines import histograms, patterns, raw_pixels, values, whitened
from openmae.evaluate.knn import knn_predict
from openmae.evaluate.metrics import accuracy


@given(st.integers(3, 8), st.integers(3, 8), st.integers(2, 200), st.integers(0, 10**6))
def test_patterns_are_those_of_the_eight_neighbours(height: int, width: int, levels: int, seed: int) -> None:
    """By their definition: scikit-image interpolates the oblique neighbours."""
    image = np.random.default_rng(seed).integers(0, levels, (height, width)).astype(np.uint8)
    found = patterns(torch.from_numpy(image.astype(np.float32))[None])[0].numpy()
    for row, column in np.ndindex(found.shape):
        around = image[row : row + 3, column : column + 3]
        ring = np.r_[around[0, :], around[1:, 2], around[2, 1::-1], around[1, 0]] >= around[1, 1]
        turns = int((ring != np.roll(ring, 1)).sum())
        assert found[row, column] == (ring.sum() if turns <= 2 else 9)


def test_what_is_known_of_patterns_is_scikit_images() -> None:
    """On edges and flat parts, where interpolation changes nothing."""
    image = np.zeros((12, 12), np.uint8)
    image[:, 6:] = 200
    expected = local_binary_pattern(image, 8, 1, "uniform")[1:-1, 1:-1]
    np.testing.assert_array_equal(patterns(torch.from_numpy(image.astype(np.float32))[None])[0].numpy(), expected)


@pytest.mark.parametrize(("side", "channels"), [(32, 3), (224, 3), (96, 1), (8, 2), (4, 1)])
def test_how_many_values_are_kept_is_known_before(side: int, channels: int) -> None:
    images = torch.zeros(2, channels, side, side, dtype=torch.uint8)
    statistics = Statistics((0.5,) * channels, (0.2,) * channels, PixelFormat(channels))
    kept = raw_pixels(images).shape[1], histograms(statistics)(images).shape[1]
    assert values((side, side), channels) == kept


def test_histograms_count_each_channels_levels() -> None:
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (4, 3, 20, 24)).astype(np.uint8)
    statistics = Statistics((0.4, 0.5, 0.6), (0.2, 0.3, 0.25), PixelFormat(3))
    found = histograms(statistics)(torch.from_numpy(images)).numpy() ** 2
    assert found.shape == (4, 3 * 16 + 3 * 10)
    np.testing.assert_allclose(found.reshape(4, -1)[:, :48].reshape(4, 3, 16).sum(2), 1, atol=1e-5)
    edges = torch.special.ndtri(torch.linspace(0, 1, 17, dtype=torch.float64)).numpy()
    for channel in range(3):
        values = (images[:, channel] / 255 - statistics.mean[channel]) / statistics.std[channel]
        for row, own in zip(found, values, strict=True):
            expected = np.histogram(own, edges)[0] / own.size
            np.testing.assert_allclose(row[16 * channel :][:16], expected, atol=0.003)
    dark = Statistics(
        tuple(m / 100 for m in statistics.mean), tuple(s / 100 for s in statistics.std), PixelFormat(3, None, "float32")
    )
    hundredth = torch.from_numpy((images / 25500).astype(np.float32))
    np.testing.assert_allclose(histograms(dark)(hundredth).numpy() ** 2, found, atol=0.003)
    assert histograms(statistics)(torch.zeros(1, 3, 2, 5, dtype=torch.uint8)).shape == (1, 48)


@given(st.integers(2, 30), st.integers(1, 12), st.integers(0, 99))
def test_whitening_is_scikit_learns_but_for_weak_directions(count: int, dim: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    train = draws.normal(3, 1, (count, dim)) * np.arange(1, dim + 1)
    other = draws.normal(3, 1, (5, dim)) * np.arange(1, dim + 1)
    scaler = StandardScaler().fit(train)
    pca = PCA().fit(scaler.transform(train))
    variance = (pca.singular_values_**2 / count)[: min(count, dim)]
    weights = 1 / np.sqrt(variance + variance.mean())
    expected = [pca.transform(scaler.transform(rows)) * weights for rows in (train, other)]
    found = whitened(torch.from_numpy(train), torch.from_numpy(other))
    for of, (one, two) in enumerate(zip(found, expected, strict=True)):  # directions have no sign and no order
        np.testing.assert_allclose((one @ found[0].T).numpy(), two @ expected[0].T, atol=1e-6 * count, err_msg=str(of))


def test_brightness_tells_images_apart() -> None:
    """A cosine of pixels as they are does not see it, and of dark images hardly anything else."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    images = torch.rand(200, 1, 8, 8, generator=draws) * 10 + 20
    images[labels == 1] *= 1.5
    pixels = raw_pixels(images)
    right = Answers("classification", ("a", "b"), labels[:150].numpy())
    train, others = whitened(pixels[:150], pixels[150:])
    assert accuracy(knn_predict(pixels[:150], right, pixels[150:]), labels[150:]) < 0.75
    assert accuracy(knn_predict(train, right, others), labels[150:]) > 0.9
