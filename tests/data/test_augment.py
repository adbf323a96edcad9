"""Augmentation of labelled views: timm's, the same in any process, nothing global touched."""

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import auto_augment as timm_augment
from timm.data.random_erasing import RandomErasing

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.stream import Batch, Stream
from openmae.data.opening import open_data
from openmae.data.views.augment import Finish
from openmae.data.views.crop import Augmentation, View
from openmae.data.views.mixing import Mixing, seeded
from openmae.data.views.rand_augment import OPERATIONS, rand_augment
from openmae.data.views.statistics import Statistics
from openmae.randomness import generator
from tests.images import picture, write_images

STATISTICS = Statistics((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), PixelFormat())


def view(seed: int, size: int = 24) -> np.ndarray:
    return np.asarray(picture(seed, (size, size))).copy()


def finished(finish: Finish, image: np.ndarray, index: int) -> np.ndarray:
    image = image.copy()
    finish(image, generator(0, "sample", index=index))
    return image


def test_off_changes_nothing() -> None:
    image = view(0)
    for index in range(20):
        assert np.array_equal(finished(Finish(STATISTICS), image, index), image)


def test_how_often_it_acts() -> None:
    """RandAugment's two operations each have a chance of a half."""
    image, count = view(1), 400
    changed = sum(not np.array_equal(finished(Finish(STATISTICS, 9.0), image, i), image) for i in range(count))
    assert 0.62 < changed / count < 0.80  # 1 - (1 / 2)^2 = 0.75, less what leaves this picture alone
    erased = sum(not np.array_equal(finished(Finish(STATISTICS, 0.0, 0.25), image, i), image) for i in range(count))
    assert 0.20 < erased / count < 0.30


HPARAMS = {"img_mean": (128, 102, 76), "interpolation": Image.Resampling.BICUBIC, "magnitude_std": 0.5}


@pytest.mark.parametrize("number", range(15))
@pytest.mark.parametrize("magnitude", [0.0, 0.4, 4.0, 9.0, 9.37, 10.0])
def test_an_operation_is_timms(number: int, magnitude: float) -> None:
    image, seen = Image.fromarray(view(2, 40)), set()
    theirs = timm_augment.AugmentOp(
        timm_augment._RAND_INCREASING_TRANSFORMS[number],
        prob=1.0,
        magnitude=magnitude,
        hparams={**HPARAMS, "magnitude_std": 0},
    )
    for seed in range(6):
        negative = random.Random(seed).random() > 0.5  # by which timm chooses the sign, where it has one
        random.seed(seed)
        is_black = (number, magnitude) == (4, 10.0)  # of which no bit is kept; Pillow 13 refuses that
        expected = np.zeros((40, 40, 3), np.uint8) if is_black else np.asarray(theirs(image))
        strength = -magnitude / 10 if negative else magnitude / 10
        np.testing.assert_array_equal(np.asarray(OPERATIONS[number](image, strength, (128, 102, 76))), expected)
        seen.add(negative)
    assert seen == {True, False}


def test_together_they_are_as_strong_as_timms() -> None:
    """Operations, chances, spread and signs: the mean change of photographs is that of rand-m9-mstd0.5-inc1."""
    most = {"magnitude_max": 9.999}  # at 10 Pillow refuses what its posterizing is asked for
    transform = timm_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", HPARAMS | most)
    count = 1500
    images = [np.asarray(picture(seed, (32, 32))) for seed in range(20)]
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 (timm draws from it)
    ours, theirs = np.zeros(count), np.zeros(count)
    for i in range(count):
        image = images[i % len(images)]
        changed = image.copy()
        rand_augment(changed, 9.0, (128, 102, 76), generator(0, "sample", index=i))
        ours[i] = np.abs(changed.astype(int) - image).mean()
        theirs[i] = np.abs(np.asarray(transform(Image.fromarray(image))).astype(int) - image).mean()
    error = np.sqrt((ours.var() + theirs.var()) / count)
    assert abs(ours.mean() - theirs.mean()) < 3 * error
    assert error < 0.05 * theirs.mean()
    parts = [0.5, 0.75, 0.95]
    np.testing.assert_allclose(np.quantile(ours, parts), np.quantile(theirs, parts), rtol=0.2)


def test_grey_views_are_changed_as_grey_pictures() -> None:
    grey = view(3)[..., :1].copy()
    for index in range(60):
        changed = finished(Finish(Statistics((0.5,), (0.2,), PixelFormat(1)), 9.0), grey, index)
        assert changed.shape == grey.shape
    for operation in OPERATIONS:
        coloured = np.asarray(operation(Image.fromarray(grey.repeat(3, 2)), 0.7, (9, 9, 9)))[..., 0]
        np.testing.assert_allclose(np.asarray(operation(Image.fromarray(grey[..., 0]), 0.7, 9)), coloured, atol=1)


@given(st.sampled_from([(40, 30), (64, 64), (17, 90)]), st.integers(0, 2**32))
def test_what_is_erased_is_a_rectangle_as_timms(size: tuple[int, int], seed: int) -> None:
    image = np.zeros((*size, 3), np.float32)
    statistics = Statistics((5.0,) * 3, (0.1,) * 3, PixelFormat(depth="float32"))
    Finish(statistics, 0.0, 1.0)(image, generator(seed, "sample"))
    rows, columns = (np.flatnonzero(image.any(axis=(2, axis))) for axis in (1, 0))
    if len(rows):
        h, w = len(rows), len(columns)
        assert (image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 0).all()
        assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (h, w)
        assert h < size[0]
        assert w < size[1]
        assert 0.3 - 1 / w <= h / w <= 1 / 0.3 + h / w / w + 1 / w


def test_rectangles_are_as_large_as_timms() -> None:
    count = 1500
    eraser = RandomErasing(1.0, mode="pixel", device="cpu")
    random.seed(2)
    statistics = Statistics((0.5,) * 3, (0.1,) * 3, PixelFormat(depth="float32"))
    ours, theirs = np.zeros((count, 2)), np.zeros((count, 2))
    for i in range(count):
        image = np.zeros((48, 40, 3), np.float32)
        Finish(statistics, 0.0, 1.0)(image, generator(0, "sample", index=i))
        other = eraser(torch.zeros(3, 48, 40)).permute(1, 2, 0).numpy()
        for found, erased in ((ours, image), (theirs, other)):
            found[i] = [erased.any(axis=(2, axis)).sum() for axis in (1, 0)]
    for side in (0, 1):
        error = np.sqrt((ours[:, side].var() + theirs[:, side].var()) / count)
        assert abs(ours[:, side].mean() - theirs[:, side].mean()) < 3 * error


@pytest.mark.parametrize(("depth", "channels"), [("uint8", 3), ("uint8", 4), ("uint16", 1), ("float32", 2)])
def test_what_is_erased_is_noise_of_the_images_own_kind(depth: str, channels: int) -> None:
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[depth]
    statistics = Statistics((0.5,) * channels, (0.1,) * channels, PixelFormat(channels, None, depth))  # type: ignore[arg-type]
    image = np.zeros((40, 30, channels), depth)
    found = [finished(Finish(statistics, 0.0, 1.0), image, index) for index in range(30)]
    boxes = []
    for result in found:
        assert result.dtype == image.dtype
        rows, columns = (np.flatnonzero(result.any(axis=(2, axis))) for axis in (1, 0))
        if len(rows) == 0:  # no rectangle fitted
            continue
        box = result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box.any(axis=2)).mean() > 0.99  # one rectangle, filled
        boxes.append(box.reshape(-1))
    noise = np.concatenate(boxes) / white
    assert noise.mean() == pytest.approx(0.5, abs=0.02)
    assert noise.std() == pytest.approx(0.1, abs=0.02)
    shares = [len(box) / image.size for box in boxes]
    assert min(shares) > 0.01
    assert max(shares) < 0.36


def test_what_randaugment_cannot_take() -> None:
    deep = Statistics((0.5,), (0.1,), PixelFormat(1, None, "uint16"))
    with pytest.raises(ValueError, match="8-bit images of 1 or 3 channels: set ra_magnitude to 0"):
        Finish(deep, 9.0)
    with pytest.raises(ValueError, match="from 0 to 10"):
        Finish(STATISTICS, 11.0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        Finish(STATISTICS, 0.0, 1.5)


def test_torchs_generator_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    finished(Finish(STATISTICS, 9.0, 1.0), view(3), 1)
    Mixing(0.8, 1.0)(torch.zeros(8, 3, 4, 4), torch.zeros(8, 2), 0, 0, 0)
    with suppress(KeyError), seeded(1):
        raise KeyError(torch.rand(100))
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------- in the stream


def stream(folder: Path, **changes: object) -> Stream:
    settings = {"finish": Finish(STATISTICS, 9.0, 0.25), "noise": 6, "batch_size": 10, **changes}
    batch_size = settings.pop("batch_size")
    view = View(PixelFormat(), (16, 12), (4, 4), Augmentation(), **settings)  # type: ignore[arg-type]
    return Stream(open_data(str(folder)).all, view, None, batch_size, steps=4, seed=3)  # type: ignore[arg-type]


def joined(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.noise for batch in batches]),
        torch.cat([batch.indices for batch in batches]).tolist(),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("augment") / "images", 13)


@pytest.fixture(scope="module")
def alone(folder: Path) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    return joined(list(stream(folder).batches(0, 10, 0)))


@pytest.mark.parametrize(("workers", "micro_batch"), [(0, 3), (1, 10), (3, 4)])
def test_views_and_noise_do_not_depend_on_who_makes_them(
    folder: Path, alone: tuple[torch.Tensor, torch.Tensor, list[int]], workers: int, micro_batch: int
) -> None:
    images, noise, indices = joined(list(stream(folder).batches(0, micro_batch, workers)))
    assert torch.equal(images, alone[0])
    assert torch.equal(noise, alone[1])
    assert indices == alone[2]
    later = list(stream(folder).batches(2, micro_batch, workers))
    assert torch.equal(joined(later)[0], alone[0][20:])
    assert later[0].start == 20


def test_noise_is_uniform_and_each_views_own(alone: tuple[torch.Tensor, torch.Tensor, list[int]]) -> None:
    noise = alone[1]
    assert noise.shape == (40, 6)
    assert noise.dtype == torch.float32
    assert noise.unique().numel() == noise.numel()
    assert 0 <= noise.min() < 0.05
    assert 0.95 < noise.max() < 1


def test_a_broken_file_is_answered_for_by_the_one_that_stands_in(tmp_path: Path) -> None:
    """Its label would be wrong: the index is the shown image's."""
    write_images(tmp_path, 6)
    broken = sorted(tmp_path.rglob("*.png"))[0]
    broken.write_bytes(b"no image")
    plain = stream(tmp_path, finish=None, batch_size=12)
    source = plain.source
    number = next(i for i in range(len(source)) if source.name(i).endswith(broken.name))
    batch = next(plain.batches(0, 12, 0))
    assert number in [index for index, _ in batch.broken]
    assert number not in batch.indices.tolist()
    assert len(set(batch.indices.tolist())) == 5
