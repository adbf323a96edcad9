"""What is predicted for patches, against slow or independent definitions."""

import math

import numpy as np
import pytest
import torch
from skimage.feature import hog
from sklearn.decomposition import PCA as SklearnPCA
from torch import Tensor

from openmae.model import patchify
from openmae.targets import HOG, PCA, TARGETS, NormPix, NormPixByChannel, Pixel, patch_statistics


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# ---------------------------------------------------------------- pixels


def test_pixel_is_the_patch_itself() -> None:
    target = Pixel((4, 2), 3)
    patches = torch.randn(2, 5, 24)
    assert target.values == 24
    assert torch.equal(target(torch.empty(0), patches), patches)
    assert torch.equal(target.to_pixels(patches, *patch_statistics(patches)), patches)


def test_norm_pix_is_the_papers_formula_and_goes_back() -> None:
    target = NormPix((4, 2), 3)
    patches = torch.rand(2, 5, 24) * 3 - 1
    patches[0, 0] = 0.25  # a flat patch has no variance to divide by
    patches[0, 1] *= 1e-3  # here the 1e-6 decides
    x = patches.double().numpy()
    variance = ((x - x.mean(-1, keepdims=True)) ** 2).sum(-1, keepdims=True) / (24 - 1)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)

    values = target(torch.empty(0), patches)
    assert target.values == 24
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert (values[0, 0] == 0).all()
    torch.testing.assert_close(target.to_pixels(values, *patch_statistics(patches)), patches)


def test_norm_pix_by_channel_leaves_no_offset_between_channels() -> None:
    """By numpy; a grey patch is its one channel three times, whatever is added to a channel."""
    target = NormPixByChannel((4, 2), 3)
    patches = torch.rand(2, 5, 24) * 3 - 1
    patches[0, 0] = torch.tensor([0.1, 0.5, 0.9]).repeat(8)  # a flat patch of one colour has nothing to predict
    x = patches.double().numpy().reshape(2, 5, 8, 3)
    left = x - x.mean(2, keepdims=True)
    expected = left / np.sqrt((left**2).sum((2, 3), keepdims=True) / (24 - 3) + 1e-6)

    values = target(torch.empty(0), patches)
    np.testing.assert_allclose(values.numpy(), expected.reshape(2, 5, 24), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(target.to_pixels(values, *target.statistics(patches)), patches)
    offset = patches + torch.tensor([0.3, -0.2, 2.0]).repeat(8)
    torch.testing.assert_close(target(torch.empty(0), offset), values, rtol=1e-3, atol=1e-4)
    grey = patches[..., :8]
    alone = NormPix((4, 2), 1)(torch.empty(0), grey)
    as_colour = target(torch.empty(0), grey.repeat_interleave(3, -1)).unflatten(-1, (8, 3))
    torch.testing.assert_close(as_colour[..., 0], alone, rtol=1e-3, atol=1e-4)
    assert torch.equal(as_colour[..., 0], as_colour[..., 2])
    torch.testing.assert_close(NormPixByChannel((4, 2), 1)(torch.empty(0), grey), alone)


def test_norm_pix_needs_two_values() -> None:
    with pytest.raises(ValueError, match="2 pixels"):
        NormPixByChannel((1, 1), 3)
    with pytest.raises(ValueError, match="norm_pix_loss"):
        NormPix((1, 1), 1)
    assert NormPix((1, 1), 2).values == 2


# ---------------------------------------------------------------- principal components


def correlated(n: int, size: int) -> Tensor:
    """Patches whose values hang together, about a mean that is not zero."""
    return torch.randn(n, size) @ torch.randn(size, size) * 0.5 + torch.linspace(-2, 2, size)


def test_pca_agrees_with_scikit_learn() -> None:
    target = PCA((4, 4), 3, coefficients=10)
    patches = correlated(500, 48)
    target.fit(patches)
    theirs = SklearnPCA(n_components=10, svd_solver="full").fit(patches.double().numpy())

    assert target.values == 10
    np.testing.assert_allclose(target.mean, theirs.mean_, rtol=1e-4, atol=1e-5)
    signs = np.sign((target.components.T.double().numpy() * theirs.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(target.components.T, theirs.components_ * signs, rtol=1e-4, atol=1e-5)

    values = target(torch.empty(0), patches[None])
    coefficients = theirs.transform(patches.double().numpy())
    np.testing.assert_allclose(values[0] * target.scale, coefficients * signs.T, rtol=1e-4, atol=1e-4)
    assert values.square().mean().item() == pytest.approx(1, rel=1e-4)
    ours = target.to_pixels(values, *patch_statistics(patches[None]))
    np.testing.assert_allclose(ours[0], theirs.inverse_transform(coefficients), rtol=1e-4, atol=1e-4)


def test_pca_with_all_coefficients_loses_nothing() -> None:
    target = PCA((2, 3), 2)  # 12 values, of which 96 coefficients are all
    patches = correlated(100, 12)
    target.fit(patches)
    assert target.values == 12
    values = target(torch.empty(0), patches[None])
    torch.testing.assert_close(target.to_pixels(values, *patch_statistics(patches[None]))[0], patches)


def test_pca_does_not_depend_on_the_order_of_its_samples_and_is_saved() -> None:
    first, second = PCA((4, 4), 1, coefficients=5), PCA((4, 4), 1, coefficients=5)
    patches = correlated(200, 16)
    first.fit(patches)
    second.fit(patches.flip(0))
    torch.testing.assert_close(first.components, second.components)
    loaded = PCA((4, 4), 1, coefficients=5)
    loaded.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(loaded(torch.empty(0), patches[None]), first(torch.empty(0), patches[None]))


def test_pca_of_flat_images_stays_finite() -> None:
    target = PCA((2, 2), 1)
    target.fit(torch.full((10, 4), 0.5))
    assert target(torch.empty(0), torch.full((1, 3, 4), 0.5)).isfinite().all()


def test_pca_needs_as_many_samples_as_coefficients() -> None:
    with pytest.raises(ValueError, match=r"PCA of 10 coefficients .* got 9"):
        PCA((4, 4), 1, coefficients=10).fit(torch.randn(9, 16))


# ---------------------------------------------------------------- histograms of oriented gradients


def skimage_hog(image: np.ndarray, patch_size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """(N, cells * 9) of one channel: blocks of one patch each, of unit length."""
    blocks = hog(
        image,
        orientations=9,
        pixels_per_cell=(patch_size[0] // cells[0], patch_size[1] // cells[1]),
        cells_per_block=cells,
        block_norm="L2",
        feature_vector=False,
    )  # (block rows, block columns, ch, cw, 9): a block begins at every cell, and those at a patch's are wanted
    return blocks[:: cells[0], :: cells[1]].reshape(-1, math.prod(cells) * 9)


HOG_SHAPES = [
    ((32, 48), (8, 8), (2, 2)),
    ((32, 48), (16, 12), (2, 2)),
    ((15, 28), (5, 7), (1, 1)),
    ((20, 24), (5, 8), (1, 2)),
]


@pytest.mark.parametrize(("size", "patch_size", "cells"), HOG_SHAPES)
def test_hog_agrees_with_scikit_image(
    size: tuple[int, int], patch_size: tuple[int, int], cells: tuple[int, int]
) -> None:
    target = HOG(patch_size, 1)
    images = torch.rand(2, 1, *size)
    values = target(images, patchify(images, patch_size))
    assert target.values == math.prod(cells) * 9
    for image, ours in zip(images, values, strict=True):
        expected = skimage_hog(image[0].double().numpy(), patch_size, cells)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_hog_of_channels_is_each_channels_own_in_one_unit_length() -> None:
    target = HOG((8, 8), 3)
    images = torch.rand(1, 3, 24, 32) * torch.tensor([1.0, 5.0, 0.2])[:, None, None]
    values = target(images, patchify(images, (8, 8)))
    assert values.shape == (1, 12, target.values) == (1, 12, 4 * 3 * 9)
    torch.testing.assert_close(values.square().sum(-1), torch.ones(1, 12))
    by_channel = values.view(12, 4, 3, 9)
    for channel in range(3):
        ours = by_channel[:, :, channel].reshape(12, 36)
        ours = ours / ours.norm(dim=1, keepdim=True)
        expected = skimage_hog(images[0, channel].double().numpy(), (8, 8), (2, 2))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    # Before that, the channels keep their contrasts: the second has the strongest gradients.
    assert (by_channel[:, :, 1].norm(dim=(1, 2)) > by_channel[:, :, 0].norm(dim=(1, 2))).all()


def test_hog_of_flat_images_is_zero_and_of_broken_ones_not_a_crash() -> None:
    target = HOG((8, 8), 1)
    flat = torch.full((1, 1, 16, 16), 3.0)
    assert target(flat, patchify(flat, (8, 8))).count_nonzero() == 0
    broken = torch.full((1, 1, 16, 16), torch.nan)
    assert target(broken, patchify(broken, (8, 8))).isnan().any()


def test_hog_is_for_images() -> None:
    with pytest.raises(ValueError, match="2 axes, not 3"):
        HOG((4, 4, 4), 1)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_keeps_its_promises(name: str) -> None:
    target = TARGETS[name]((8, 4), 2)
    images = torch.randn(3, 2, 16, 12)
    patches = patchify(images, (8, 4))
    values = target(images, patches)
    assert values.shape == (3, 6, target.values)
    assert values.dtype == torch.float32
    assert not list(target.parameters())  # a target is given, not learned
    if hasattr(target, "to_pixels"):
        mean, std = target.statistics(patches) if isinstance(target, NormPix) else patch_statistics(patches)
        pixels = target.to_pixels(values, mean, std)
        assert pixels.shape == patches.shape
        # needs_statistics says whether the statistics matter on the way back.
        changed = not torch.equal(target.to_pixels(values, mean + 1, std * 2), pixels)
        assert changed == target.needs_statistics
