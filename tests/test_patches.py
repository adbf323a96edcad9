"""Images cut into patches, in any number of dimensions, and put together again."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from openmae.model import (
    grid_of,
    patchify,
    unpatchify,
)

Sides = tuple[int, ...]


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Sides, Sides, int, int]:
    """Grid, patch_size, channels, batch."""
    axes = draw(st.integers(1, 3))
    grid = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    patch_size = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    return grid, patch_size, draw(st.integers(1, 5)), draw(st.integers(1, 3))


def numbered(grid: Sides, patch_size: Sides, channels: int, batch: int) -> Tensor:
    """Images in which every value is another."""
    sides = [g * p for g, p in zip(grid, patch_size, strict=True)]
    return torch.arange(batch * channels * math.prod(sides), dtype=torch.float32).view(batch, channels, *sides)


@given(cuts())
def test_unpatchify_undoes_patchify(cut: tuple[Sides, Sides, int, int]) -> None:
    grid, patch_size, channels, batch = cut
    images = numbered(*cut)
    patches = patchify(images, patch_size)
    assert patches.shape == (batch, math.prod(grid), math.prod(patch_size) * channels)
    assert torch.equal(unpatchify(patches, grid, patch_size), images)


@given(cuts())
def test_patches_run_row_by_row_and_their_values_by_row_column_and_channel(cut: tuple[Sides, Sides, int, int]) -> None:
    grid, patch_size, channels, _ = cut
    images = numbered(*cut)
    expected = [
        [
            [
                image[(channel, *(g * p + i for g, p, i in zip(place, patch_size, inside, strict=True)))].item()
                for inside in itertools.product(*map(range, patch_size))
                for channel in range(channels)
            ]
            for place in itertools.product(*map(range, grid))
        ]
        for image in images
    ]
    assert patchify(images, patch_size).tolist() == expected


@pytest.mark.parametrize(
    ("size", "patch_size"), [((8, 9), (4, 4)), ((2, 8), (4, 4)), ((8, 8), (4,)), ((8,), (4, 4)), ((8, 8), (0, 4))]
)
def test_images_without_whole_patches_are_refused(size: Sides, patch_size: Sides) -> None:
    with pytest.raises(ValueError, match=r"img_size .* patch_size"):
        grid_of(size, patch_size)
    with pytest.raises(ValueError, match=r"img_size .* patch_size"):
        patchify(torch.zeros(1, 3, *size), patch_size)
