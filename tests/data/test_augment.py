"""Augmentation of labelled views: torchvision's own operations, the same in any process, nothing global touched."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.stream import Batch, Stream
from openmae.data.opening import open_data
from openmae.data.views.augment import Finish, seeded
from openmae.data.views.crop import Augmentation, View
from openmae.data.views.mixing import Mixing
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
    """RandAugment's two operations each have a chance of a half, and one of its 14 is the identity."""
    image, count = view(1), 400
    changed = sum(not np.array_equal(finished(Finish(STATISTICS, 9.0), image, i), image) for i in range(count))
    assert 0.60 < changed / count < 0.78  # 1 - (1 - 13/14 / 2)^2 = 0.713, less what leaves this picture alone
    erased = sum(not np.array_equal(finished(Finish(STATISTICS, 0.0, 0.25), image, i), image) for i in range(count))
    assert 0.20 < erased / count < 0.30


def test_one_operation_is_torchvisions() -> None:
    """Of the draws that give one operation, the picture is RandAugment's with the same seed and magnitude."""
    image, compared = view(2), 0
    for index in range(40):
        draws = generator(0, "sample", index=index)
        chances = draws.random(3)
        magnitude = float(np.clip(draws.normal(9.0, 0.5), 0, 10))
        seed = int(draws.integers(2**63))
        ops = int((chances[1:] < 0.5).sum())
        if ops == 0:
            continue
        transform = v2.RandAugment(ops, round(magnitude * 10), 101, v2.InterpolationMode.BILINEAR, fill=[128, 102, 76])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            theirs = transform(torch.from_numpy(image).permute(2, 0, 1).contiguous())
        assert np.array_equal(finished(Finish(STATISTICS, 9.0), image, index), theirs.permute(1, 2, 0).numpy())
        compared += 1
    assert compared > 20


def test_the_strength_is_timms() -> None:
    """timm's level 9 of 10 turns by 27 degrees and changes brightness by 0.81; so does bin 90 of 100 of torchvision."""
    space = v2.RandAugment._AUGMENTATION_SPACE
    assert space["Rotate"][0](101, 24, 24)[90] == pytest.approx(27.0)
    assert space["Brightness"][0](101, 24, 24)[90] == pytest.approx(0.81)


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
