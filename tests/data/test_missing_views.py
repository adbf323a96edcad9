"""Patches that are mostly no-data: neither shown nor asked for, whatever the mask, and the same for any workers."""

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from torch.nn import functional as F

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode_masked
from openmae.data.formats.header import Depth
from openmae.data.formats.reading import Reading
from openmae.data.loading.memory import InMemory, in_memory
from openmae.data.loading.stream import Batch, Stream
from openmae.data.views.crop import Augmentation, View
from openmae.data.views.missing import MAX_NODATA, shares
from openmae.data.views.statistics import WHITE, Statistics
from openmae.errors import UserError
from openmae.masking import MASKS, Masking
from openmae.model import create_model, patchify, unpatchify
from tests.data.deep import Files
from tests.data.streams import rows
from tests.data.test_nodata import tagged

LEVEL = 1000


def scenes(dtype: Depth, count: int = 12, value: float = 0) -> list[NDArray[Any]]:
    """Images around LEVEL; of every second one a part of 10% to 45% on one side is `value`."""
    draws = np.random.default_rng(0)
    images = []
    for number in range(count):
        image = draws.normal(LEVEL, 100, (48, 48, 2)).astype(dtype)
        if number % 2:
            image[:, : draws.integers(5, 22)] = value
        images.append(image[:: draws.choice((-1, 1)), :: draws.choice((-1, 1))])
    return images


def as_npy(image: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


def stream_of(images: list[NDArray[Any]], masking: Masking | None = None, repeats: int = 1, **options: Any) -> Stream:
    depth: Depth = images[0].dtype.name  # type: ignore[assignment]
    white = WHITE[depth]
    statistics = Statistics((LEVEL / white,) * 2, (100 / white,) * 2, PixelFormat(2, None, depth))
    view = View(statistics.pixels, (24, 24), (4, 4), Augmentation())
    source = Files([tagged(image, "0") for image in images])
    return Stream(source, view, masking or Masking(), 12, 6, 3, repeats, **options)


def patches_of(batch: Batch) -> NDArray[Any]:
    """(B, N, P)"""
    return patchify(batch.images.to(torch.float32), (4, 4)).numpy()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_what_is_mostly_missing_is_neither_shown_nor_asked_for(dtype: Depth) -> None:
    met = 0
    for batch in stream_of(scenes(dtype)).batches(0, 12, 0):
        assert not batch.broken
        filled = (abs(patches_of(batch) - LEVEL) < 1e-2).mean(-1)
        for row, shown, asked in zip(filled, batch.visible.numpy(), batch.queries.numpy(), strict=True):
            assert (len(shown), len(set(shown)), len(asked)) == (9, 9, 27)
            assert not set(shown) & set(asked)
            assert max(row[shown].max(), row[asked].max()) < 0.8  # the resized border is filled in part
            gone = row == 1
            met += gone.any()
            assert gone.mean() <= MAX_NODATA
            counts = np.bincount(asked)
            assert counts.max() - counts[counts > 0].min() <= 1  # each as often, or once more
    assert met > 10


def test_whole_images_show_which_patches_are_left_out() -> None:
    stream = stream_of([image[:24, :24] for image in scenes("uint16")])
    stream = replace(stream, view=replace(stream.view, augmentation=Augmentation((1.0, 1.0), hflip=False)))
    used = 0
    for batch in stream.batches(0, 12, 0):
        for filled, shown, asked in zip(patches_of(batch) == LEVEL, batch.visible, batch.queries, strict=True):
            assert {*shown.tolist(), *asked.tolist()} == set(np.flatnonzero(filled.mean(-1) <= MAX_NODATA))
            used += 1
    assert used == 72


def test_without_gaps_nothing_changes() -> None:
    images = [image for image in scenes("uint16") if (image > 0).all()]
    stream = stream_of(images)
    assert rows(stream.batches(0, 12, 0)) == rows(replace(stream, max_nodata=1.0).batches(0, 12, 0))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_stream_is_the_same_for_any_workers_pieces_and_starts(dtype: Depth, repeats: int) -> None:
    stream = stream_of(scenes(dtype), repeats=repeats)
    whole = rows(stream.batches(0, 12, 0))
    assert rows(stream.batches(0, 5, 2)) == whole
    assert rows(stream.batches(2, 12, 0)) == whole[24:]


def test_floats_in_memory_lack_what_they_lack_in_their_files() -> None:
    stream = stream_of(scenes("float32"))
    loaded, pixels = in_memory(stream.source, stream.view.pixels, (24, 24), 0, Console(quiet=True))
    assert isinstance(loaded, InMemory)
    kept = replace(stream, source=loaded, view=replace(stream.view, pixels=pixels))
    assert rows(kept.batches(0, 12, 0)) == rows(stream.batches(0, 12, 0))
    integers = stream_of(scenes("uint16"))
    assert in_memory(integers.source, integers.view.pixels, (24, 24), 0, Console(quiet=True))[0] is integers.source


def test_values_that_stand_for_no_data_in_files_are_levels_in_memory() -> None:
    """A dark red that is 0 in grey, and white, which is 1 as a float."""
    images = [np.random.default_rng(number).integers(1, 256, (40, 40, 3), np.uint8) for number in range(4)]
    for image in images:
        image[::2, ::2] = (1, 0, 0)
        image[1::2, 1::2] = 255
    floats = np.random.default_rng(0).random((40, 40, 3), np.float32)
    for value, files, pixels in (
        (0.0, images, PixelFormat(1, None, "uint8", Reading(nodata=(0.0,)))),
        (1.0, [*images, floats], PixelFormat(3, None, "float32", Reading(nodata=(1.0,)))),
    ):
        source = Files([as_npy(image) for image in files])
        loaded, kept = in_memory(source, pixels, (24, 24), 0, Console(quiet=True))
        assert isinstance(loaded, InMemory), value
        for index in range(len(files)):
            found, missing = decode_masked(loaded.read(index), kept)
            expected, expected_missing = decode_masked(source.read(index), pixels)
            assert missing is expected_missing is None
            np.testing.assert_array_equal(found, expected)


def test_of_an_image_of_which_most_is_missing_what_is_there_is_seen_or_another_one() -> None:
    images = [image.copy() for image in scenes("uint16")]
    images[4][:, 15:] = 0
    images[5][:, 3:] = 0
    stream = stream_of(images)
    batches = [*stream.batches(0, 12, 0)]
    assert not [entry for batch in batches for entry in batch.broken]
    seen = torch.cat([batch.indices for batch in batches]).tolist()
    assert 4 in seen
    assert 5 not in seen
    lenient = replace(stream, max_nodata=1.0)
    assert sorted(torch.cat([batch.indices for batch in lenient.batches(0, 12, 0)]).tolist()) == sorted(
        [*range(12)] * 6
    )
    none = replace(stream, source=Files([tagged(images[5], "0")] * 3))
    with pytest.raises(UserError, match=r"100 images in a row cannot be used .the last: 9.* is no-data"):
        raise next(none.batches(0, 1, 0)).failure or AssertionError


def test_no_gradient_comes_from_what_is_missing() -> None:
    stream = stream_of(scenes("float32"))
    statistics = Statistics((float(LEVEL),) * 2, (100.0,) * 2, PixelFormat(2, None, "float32"))
    model = create_model(
        "vit_tiny", img_size=24, patch_size=4, in_chans=2, embed_dim=16, depth=1, num_heads=2,
        decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2, norm_pix_loss=False,
    )  # fmt: skip
    batch = next(stream.batches(0, 12, 0))
    images = statistics.normalize(batch.images)
    patches = patchify(images, (4, 4))
    gone = (patches.abs() < 1e-4).all(-1, keepdim=True)
    assert gone.any()
    changed = unpatchify(patches.masked_fill(gone, 1e6), (6, 6), (4, 4))
    before, after = (model(pixels, batch.visible, batch.queries).loss for pixels in (images, changed))
    assert before == after


# ---------------------------------------------------------------- masks


@given(
    st.sampled_from(sorted(MASKS)), st.sampled_from([(1, (6, 8)), (2, (6, 8)), (1, (5, 7))]), st.floats(0.3, 0.9),
    st.sampled_from([1.0, 0.3]), st.floats(0, 1), st.integers(0, 2**32),
)  # fmt: skip
def test_masks_avoid_what_is_unfit(
    mask: Any, units: tuple[int, tuple[int, int]], ratio: float, share: float, gone: float, seed: int
) -> None:
    unit, grid = units
    masking = Masking(ratio, mask, unit, predict_fraction=share)
    draws = np.random.default_rng(seed)
    unfit = draws.random(math.prod(grid)) < gone
    visible, predicted = masking.counts(grid)
    if not masking.leaves_enough(unfit, grid):
        with pytest.raises(ValueError, match="too few for this mask"):
            masking.draw(draws, grid, unfit=unfit)
        return
    shown, asked = masking.draw(draws, grid, unfit=unfit)
    assert (len(shown), len(set(shown)), len(asked)) == (visible, visible, predicted)
    assert not unfit[shown].any()
    assert not unfit[asked].any()
    assert not set(shown) & set(asked)
    assert len(set(asked)) == min(predicted, (~unfit).sum() - visible)
    again = masking.draw(np.random.default_rng(seed), grid, unfit=np.zeros_like(unfit))
    for found, expected in zip(again, masking.draw(np.random.default_rng(seed), grid), strict=True):
        np.testing.assert_array_equal(found, expected)


@given(st.tuples(*[st.integers(1, 20)] * 2), st.tuples(*[st.integers(1, 9)] * 2), st.integers(0, 2**32))
def test_shares_are_the_means_of_the_parts(sides: tuple[int, int], size: tuple[int, int], seed: int) -> None:
    missing = np.random.default_rng(seed).random((*sides, 3)) < 0.5
    planes = torch.from_numpy(missing).permute(2, 0, 1).float()
    expected = F.adaptive_avg_pool2d(planes, size).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shares(missing, size), expected, rtol=1e-5)
