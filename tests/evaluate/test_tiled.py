"""Tiles that are stitched, and what is counted of classes of pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from openmae.data.formats.channels import PixelFormat
from openmae.data.views.outlined import IGNORED
from openmae.data.views.statistics import Statistics
from openmae.evaluate.confusion import confusion, overlap_figures, overlaps
from openmae.evaluate.tiled import OVERLAP, starts, strips
from openmae.transfer.segmenter import Segmenter
from tests.models import randomize, vit


@given(st.integers(1, 3000), st.integers(1, 600))
def test_tiles_reach_everywhere_and_overlap(side: int, tile: int) -> None:
    found = starts(side, tile)
    assert found[0] == 0
    assert found[-1] == max(0, side - tile)
    steps = np.diff(found)
    assert (steps > 0).all()
    assert (steps <= max(1, tile * (1 - OVERLAP)) + 0.5).all()


def statistics() -> Statistics:
    return Statistics((0.4, 0.5, 0.6), (0.2, 0.3, 0.2), PixelFormat(3))


@pytest.mark.parametrize("size", [(32, 32), (20, 50), (75, 33), (90, 24)])
@torch.no_grad()
def test_strips_are_the_mean_of_all_tiles(size: tuple[int, int]) -> None:
    model = Segmenter(vit(img_size=(32, 32), patch_size=(8, 8), depth=1), 3).eval()
    randomize(model)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    height, width = (max(side, 32) for side in size)
    padded = torch.zeros(1, 3, height, width)  # the mean, normalised
    padded[..., : size[0], : size[1]] = statistics().normalize(torch.from_numpy(image).permute(2, 0, 1)[None])
    wanted, counts = torch.zeros(3, height, width), torch.zeros(height, width)
    for top in starts(size[0], 32):
        for left in starts(size[1], 32):
            wanted[:, top : top + 32, left : left + 32] += model(padded[..., top : top + 32, left : left + 32])[0]
            counts[top : top + 32, left : left + 32] += 1
    found = list(strips(model, statistics(), image, torch.device("cpu"), batch_size=2))
    assert [strip.top for strip in found] == starts(size[0], 32)
    assert all(strip.scores.shape[1] <= 32 for strip in found)
    scores = torch.cat([strip.scores for strip in found], dim=1)
    # beside the image a tile has 8-bit pixels, not quite the mean
    torch.testing.assert_close(scores, (wanted / counts)[:, : size[0], : size[1]], atol=0.05, rtol=0.05)
    if min(size) >= 32:
        torch.testing.assert_close(scores, wanted / counts, atol=1e-5, rtol=1e-4)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_figures_are_those_of_scikit_learn(seed: int, classes: int) -> None:
    draws = np.random.default_rng(seed)
    right = draws.integers(0, classes, (9, 7)).astype(np.uint8)
    found = draws.integers(0, classes, (9, 7))
    right[draws.random(right.shape) < 0.2] = IGNORED
    counts = confusion(right, found, classes)
    asked = right != IGNORED
    true, said = right[asked], found[asked]
    assert np.array_equal(counts, confusion_matrix(true, said, labels=range(classes)))
    seen = np.union1d(true, said)
    figures = overlap_figures(counts)
    assert figures["miou"] == pytest.approx(jaccard_score(true, said, labels=seen, average="macro"))
    assert figures["dice"] == pytest.approx(f1_score(true, said, labels=seen, average="macro"))
    assert figures["pixel_accuracy"] == pytest.approx((true == said).mean())
    names = tuple("abcde"[:classes])
    each = jaccard_score(true, said, labels=range(classes), average=None, zero_division=0)
    for one, iou in zip(overlaps(counts, names), each, strict=True):
        assert (one.iou or 0) == pytest.approx(iou)
        assert one.taken_for != one.name
