"""Views, and the stream that a run is a function of."""

import io
import math
import os
import random
import resource
import signal
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from scipy.stats import ks_2samp
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms.v2 import functional as tv

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode
from openmae.data.formats.reading import Reading
from openmae.data.loading import pool
from openmae.data.loading.memory import InMemory, in_memory
from openmae.data.opening import open_data
from openmae.data.sources.folder import ImageFolder
from openmae.data.sources.source import Source
from openmae.data.views.centred import centred
from openmae.data.views.crop import Augmentation, Crop, centred_view, cropped, cut, draw_crop, reduction, resize
from openmae.distributed.ranks import Ranks
from openmae.randomness import epoch_order, generator
from tests.data.streams import in_use, rows, stream_of
from tests.images import encoded, picture, write_images
from tests.processes import run_openmae
from tests.servers import serve

# ---------------------------------------------------------------- views


@pytest.mark.parametrize("size", [(32, 48), (7, 90), (100, 13)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_resize_is_torchvisions(size: tuple[int, int], channels: int, kernel: Any) -> None:
    image = np.random.default_rng(7).integers(0, 256, (60, 50, channels), dtype=np.uint8)
    alone = torch.from_numpy(image).permute(2, 0, 1)[:, None]  # each channel by itself
    expected = tv.resize(alone, list(size), interpolation=tv.InterpolationMode(kernel), antialias=True)
    found = resize(image, size, kernel=kernel)
    # torchvision 0.21 takes 8 bits for floats to resize them bilinearly; torch, which it asks, does not.
    assert np.abs(found - expected[:, 0].permute(1, 2, 0).numpy().astype(int)).max() <= (kernel == "bilinear")
    expected = F.interpolate(alone, size, mode=kernel, antialias=True)
    assert np.array_equal(found, expected[:, 0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_pixels_are_resized_without_loss(dtype: str) -> None:
    image = (np.random.default_rng(7).random((40, 30, 2)) * 60000).astype(dtype)
    expected = F.interpolate(
        torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None], (16, 50), mode="bicubic", antialias=True
    )[0].permute(1, 2, 0)
    found = resize(image, (16, 50))
    assert found.dtype == dtype
    high = 65535 if dtype == "uint16" else np.inf
    low = 0 if dtype == "uint16" else -np.inf
    np.testing.assert_allclose(found, expected.numpy().clip(low, high), rtol=1e-4, atol=0.51)


def view_of(image: np.ndarray, size: tuple[int, int], augmentation: Augmentation, seed: int) -> np.ndarray:
    crop = draw_crop(image.shape[:2], size, augmentation, generator(seed, "sample"))
    return cut(image, image.shape[:2], crop, size)


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([(16, 16), (8, 24)]),
    st.sampled_from([(0.2, 1.0), (1.0, 1.0), (0.05, 0.1)]),
    st.integers(0, 2**32),
)
def test_training_view_has_its_size_whatever_the_image(
    height: int, width: int, size: tuple[int, int], scale: tuple[float, float], seed: int
) -> None:
    image = np.full((height, width, 3), 77, np.uint8)
    view = view_of(image, size, Augmentation(scale), seed)
    assert view.shape == (*size, 3)
    assert (view == 77).all()


def test_crops_cover_the_share_of_area_asked_for() -> None:
    # Each pixel names its own place, so a crop's extent can be read off its corners.
    image = np.zeros((100, 100, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(100)[:, None], np.arange(100)[None]
    areas, flips = [], 0
    for seed in range(300):
        view = view_of(image, (100, 100), Augmentation((0.2, 0.6)), seed).astype(int)
        rows, columns = np.ptp(view[..., 0]), np.ptp(view[..., 1])
        areas.append((rows + 1) * (columns + 1) / 1e4)
        flips += int(view[50, 0, 1] > view[50, -1, 1])
    assert 0.17 < min(areas) < 0.25
    assert 0.55 < max(areas) < 0.64
    assert 110 < flips < 190


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (60, 300), (300, 61), (9, 7), (64, 64)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0)])
def test_crops_are_drawn_as_torchvision_and_timm_draw_them(size: tuple[int, int], scale: tuple[float, float]) -> None:
    """Area, aspect and place have their distributions, the middle that is taken in the end among them."""
    count = 3000
    image = Image.fromarray(np.zeros((*size, 3), np.uint8))
    torch.manual_seed(0)
    random.seed(0)
    ranges = (list(scale), [3 / 4, 4 / 3])
    drawn = [draw_crop(size, (224, 224), Augmentation(scale), generator(0, "sample", index=i)) for i in range(count)]
    ours = np.array([(crop.top, crop.left, crop.height, crop.width) for crop in drawn])
    for theirs_of in (transforms.RandomResizedCrop.get_params, RandomResizedCropAndInterpolation.get_params):
        theirs = np.array([theirs_of(image, *ranges) for _ in range(count)])
        for number in range(4):
            assert ks_2samp(ours[:, number], theirs[:, number]).pvalue > 1e-4
        assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-4


@given(st.integers(1, 600), st.integers(1, 600), st.sampled_from([(32, 32), (16, 48)]), st.integers(0, 2**32))
def test_crops_lie_within_the_image(height: int, width: int, img_size: tuple[int, int], seed: int) -> None:
    for fit in ("retry", "clamp"):
        crop = draw_crop((height, width), img_size, Augmentation((0.2, 1.0), crop_fit=fit), generator(seed, "sample"))  # type: ignore[arg-type]
        assert 0 <= crop.top <= crop.top + crop.height <= height
        assert 0 <= crop.left <= crop.left + crop.width <= width
        assert min(crop.height, crop.width) > 0


def test_a_clamped_crop_is_the_released_linear_probes() -> None:
    """util/crop.py: area and aspect once, each side cut to the image's. Mean areas as it gives them on 500 x 375."""
    found = []
    for seed in range(4000):
        crop = draw_crop((375, 500), (224, 224), Augmentation(crop_fit="clamp"), generator(seed, "sample"))
        share, shape, *_ = generator(seed, "sample").random(5).tolist()
        area, aspect = 375 * 500 * (0.2 + 0.8 * share), math.exp((2 * shape - 1) * math.log(4 / 3))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        assert (crop.height, crop.width) == (min(h, 375), min(w, 500))
        found.append(crop.height * crop.width / (375 * 500))
    assert np.mean(found) == pytest.approx(0.575, abs=0.01)
    others = [draw_crop((375, 500), (224, 224), Augmentation(), generator(seed, "sample")) for seed in range(4000)]
    assert np.mean([crop.height * crop.width for crop in others]) / (375 * 500) == pytest.approx(0.496, abs=0.012)


def test_what_is_drawn_after_a_crop_does_not_depend_on_the_image() -> None:
    after = set()
    for size in ((100, 100), (10, 900)):
        draws = generator(3, "sample")
        draw_crop(size, (32, 32), Augmentation(), draws)
        after.add(draws.random())
    assert len(after) == 1


def test_whole_image_without_flip_is_the_resized_image() -> None:
    image = np.array(picture(8, (40, 30)))
    view = view_of(image, (16, 16), Augmentation((1.0, 1.0), hflip=False), 0)
    assert np.array_equal(view, resize(image, (16, 16)))


def test_a_mirrored_view_is_the_view_mirrored() -> None:
    image = np.array(picture(8, (40, 30)))
    straight, mirrored = (cut(image, (40, 30), Crop(5, 3, 20, 17, m), (16, 24)).astype(int) for m in (False, True))
    assert np.abs(straight[:, ::-1] - mirrored).max() <= 1


@settings(max_examples=30)
@given(
    st.tuples(st.integers(9, 40), st.integers(9, 40)),
    st.sampled_from([(16, 16), (8, 24)]),
    st.sampled_from([(True, True), (True, False), (False, True)]),
    st.integers(0, 2**32),
)
def test_turned_views_are_turned_pixels(
    side: tuple[int, int], size: tuple[int, int], shown: tuple[bool, bool], seed: int
) -> None:
    """numpy's, of the whole image and of parts; those that are not turned are the crops that are drawn without."""
    image = np.random.default_rng(seed).integers(0, 256, (*side, 2), np.uint8)
    augmentation = Augmentation((1.0, 1.0), vflip=shown[0], rotate90=shown[1])
    crop = draw_crop(side, size, augmentation, generator(seed, "sample"))
    draws = generator(seed, "sample")
    mirror = draws.random(23)[22]
    flip, turn = draws.random(2)
    expected = image[:, ::-1] if mirror < 0.5 else image
    expected = expected[::-1] if shown[0] and flip < 0.5 else expected
    expected = np.rot90(expected, int(4 * turn) if shown[1] else 0)
    assert np.array_equal(cropped(image, side, crop), expected)
    assert np.array_equal(cut(image, side, crop, expected.shape[:2]), expected)
    out = np.zeros((*size, 2), np.uint8)
    assert cut(image, side, crop, size, out=out) is out
    away = np.abs(out.astype(int) - resize(np.ascontiguousarray(expected), size))
    assert away.mean() < 1  # rounded, and cut off at black and white, after rows or after columns
    partly = draw_crop(side, size, replace(augmentation, crop_scale=(0.2, 1.0)), generator(seed, "sample"))
    along = (partly.height, partly.width) if partly.transposed else (partly.width, partly.height)
    assert partly.top + partly.height <= side[0]
    assert partly.left + partly.width <= side[1]
    if not shown[1]:
        plain = draw_crop(side, size, Augmentation(), generator(seed, "sample"))
        assert replace(partly, flipped=False) == plain
    elif max(side) < 2 * min(side) and size[0] == size[1]:
        assert 0.6 < along[0] / along[1] < 1.7


def test_every_way_of_turning_is_as_frequent() -> None:
    ways = [draw_crop((9, 9), (8, 8), Augmentation(rotate90=True), generator(seed, "sample")) for seed in range(800)]
    counts = Counter((crop.mirrored, crop.flipped, crop.transposed) for crop in ways)
    assert len(counts) == 8
    assert min(counts.values()) > 60


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(16, 16), (224, 160)]))
def test_images_are_only_reduced_where_twice_the_pixels_are_left(
    height: int, width: int, size: tuple[int, int]
) -> None:
    factor = reduction((height, width), size)
    assert factor in (1, 2, 4, 8)
    assert factor == 1 or (height / factor >= 2 * size[0] and width / factor >= 2 * size[1])
    larger = 2 * factor
    assert larger > 8 or height / larger < 2 * size[0] or width / larger < 2 * size[1]


def test_a_crop_of_a_reduced_jpeg_shows_the_same_place() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 15, 3), np.uint8)).resize((1200, 800))
    data = encoded(image, "JPEG", quality=95)
    crop = Crop(101, 203, 520, 700, True)
    views = []
    for reduce in (1, 2, 4, 8):
        pixels = decode(data, PixelFormat(), reduce=reduce)
        assert pixels.shape == (800 // reduce, 1200 // reduce, 3)
        views.append(cut(pixels, (800, 1200), crop, (32, 32), reduce).astype(int))
    moved = cut(decode(data, PixelFormat()), (800, 1200), Crop(117, 203, 520, 700, True), (32, 32)).astype(int)
    one_pixel = np.abs(moved - views[0]).mean()  # what a shift of one pixel of the view costs
    for view in views[1:]:
        assert np.abs(view - views[0]).mean() < one_pixel / 3


def by_torchvision(image: np.ndarray, resized: int, side: int) -> np.ndarray:
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    larger = tv.resize(pixels, [resized], interpolation=tv.InterpolationMode.BICUBIC, antialias=True)
    return tv.center_crop(larger, [side, side]).permute(1, 2, 0).numpy()


@given(
    st.integers(20, 700),
    st.integers(20, 700),
    st.sampled_from([224, 200, 65, 64, 32, 225, 384]),
    st.integers(0, 3),
)
def test_the_evaluation_view_is_the_released_codes(height: int, width: int, side: int, seed: int) -> None:
    """int(side / (224 / 256)) on the short side up to 224 pixels, and above the side itself (its build_transform)."""
    short, long = sorted((height, width))
    assume(long <= 7 * short)
    image = np.array(picture(seed, (height, width)))
    resized = int(side / (224 / 256)) if side <= 224 else side
    if (height, width) != (side, side):
        np.testing.assert_array_equal(centred_view(image, (side, side)), by_torchvision(image, resized, side))


@pytest.mark.parametrize("view", [(224, 224), (96, 96), (96, 64), (64, 112), (320, 240)])
def test_the_evaluation_view_is_timms(view: tuple[int, int]) -> None:
    part = 1.0 if max(view) > 224 else 224 / 256
    transform = create_transform((3, *view), interpolation="bicubic", crop_pct=part, normalize=False)
    for size in ((375, 500), (500, 333), (301, 333), (200, 281)):
        image = np.array(picture(9, size))
        theirs = np.asarray(transform(Image.fromarray(image))).transpose(1, 2, 0).astype(int)
        differences = np.abs(centred_view(image, view) - theirs)  # Pillow's kernel rounds on its own
        assert differences.max() <= 2
        assert differences.mean() < 0.05


def test_an_evaluated_photograph_is_decoded_whole(tmp_path: Path) -> None:
    picture(4, (900, 1200)).save(tmp_path / "large.jpg", quality=95)
    data = (tmp_path / "large.jpg").read_bytes()
    whole = np.array(Image.open(tmp_path / "large.jpg"))
    np.testing.assert_array_equal(centred(data, PixelFormat(), (32, 32)), centred_view(whole, (32, 32)))


def test_an_image_of_the_size_is_taken_as_it_is() -> None:
    exact = np.array(picture(9, (224, 224)))
    assert np.array_equal(centred_view(exact, (224, 224)), exact)


# ---------------------------------------------------------------- order


@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(1, 500))
def test_an_epochs_order_is_a_permutation_of_its_own(seed: int, epoch: int, length: int) -> None:
    order = epoch_order(seed, epoch, length)
    assert np.array_equal(np.sort(order), np.arange(length))
    assert np.array_equal(order, epoch_order(seed, epoch, length))
    if length > 20:
        assert not np.array_equal(order, epoch_order(seed, epoch + 1, length))
        assert not np.array_equal(order, epoch_order(seed + 1, epoch, length))


# ---------------------------------------------------------------- the stream


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    data = write_images(tmp_path_factory.mktemp("stream"), 14)
    (data / "class0/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (data / "class1/small.png").write_bytes(encoded(Image.new("RGB", (3, 30)), "PNG"))
    picture(99, (150, 200)).save(data / "class0/large.jpg")  # decoded at half its size
    return open_data(str(data)).all


@pytest.mark.parametrize("workers", [0, 1, pytest.param(8, marks=pytest.mark.slow)])
@settings(max_examples=15)
@given(micro_batch=st.integers(1, 13), first_step=st.integers(0, 8), repeats=st.sampled_from([1, 3, 4]))
def test_views_do_not_depend_on_workers_micro_batches_or_restarts(
    source: Source, workers: int, micro_batch: int, first_step: int, repeats: int
) -> None:
    stream = stream_of(source, batch_size=12, repeats=repeats)
    whole = rows(stream.batches(0, 12, 0))
    assert len(whole) == 108
    assert rows(stream.batches(first_step, micro_batch, workers)) == whole[12 * first_step :]


@settings(max_examples=30)
@given(size=st.integers(1, 5), micro_batch=st.integers(1, 9), repeats=st.sampled_from([1, 2, 3]))
def test_ranks_share_each_step_among_them(source: Source, size: int, micro_batch: int, repeats: int) -> None:
    """Also where the batch cannot be divided evenly."""
    stream = stream_of(source, batch_size=8, repeats=repeats)
    whole = rows(stream.batches(0, 8, 0))
    parts = [Ranks(rank, size).share(8) for rank in range(size)]
    shares = [rows(stream.batches(0, micro_batch, 0, part=part)) for part in parts]
    steps = [
        row
        for step in range(9)
        for part, share in zip(parts, shares, strict=True)
        for row in share[step * len(part) : (step + 1) * len(part)]
    ]
    assert steps == whole


@settings(max_examples=15)
@given(
    ring=st.integers(1, 40), workers=st.integers(1, 3), micro_batch=st.integers(1, 12), repeats=st.sampled_from([1, 3])
)
def test_a_small_ring_makes_the_same_views(
    source: Source, ring: int, workers: int, micro_batch: int, repeats: int
) -> None:
    stream = stream_of(source, batch_size=12, steps=2, repeats=repeats)
    expected = rows(stream.batches(0, 12, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openmae.data.loading.stream.MOST_RING_BYTES", ring * 16 * 16 * 3)
        assert rows(stream.batches(0, micro_batch, workers)) == expected


@pytest.mark.parametrize(("size", "repeats"), [(200, 1), (200, 4), (200, 32), (1000, 1), (1000, 4)])
def test_the_ring_is_bounded(source: Source, size: int, repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2**24
    monkeypatch.setattr("openmae.data.loading.stream.MOST_RING_BYTES", most)
    stream = stream_of(source, batch_size=64, repeats=repeats)
    stream = replace(stream, view=replace(stream.view, img_size=(size, size), pixels=PixelFormat(depth="float32")))
    began = in_use()
    batches = stream.batches(0, 32, 4)  # of 61 MB and more, if nothing bounded it
    assert in_use() - began < most + 2**22
    del batches


def whole(source: Source) -> Source:
    """Without the files for which others stand in."""
    names = [source.name(index) for index in range(len(source))]
    return source.take(np.array([i for i, name in enumerate(names) if "broken" not in name and "small" not in name]))


def test_every_epoch_visits_every_image_once_and_differently(source: Source) -> None:
    found = rows(stream_of(whole(source), batch_size=15, steps=2).batches(0, 4, 0))
    assert sorted(index for index, *_ in found[:15]) == list(range(15))
    assert sorted(index for index, *_ in found[15:]) == list(range(15))
    views = {index: parts for index, *parts in found[:15]}
    assert all(views[index] != parts for index, *parts in found[15:])


def test_repeated_views_are_of_one_image_and_differ(source: Source) -> None:
    found = rows(stream_of(whole(source), batch_size=12, steps=3, repeats=4).batches(0, 12, 0))
    for start in range(0, 36, 4):
        visit = found[start : start + 4]
        assert len({index for index, *_ in visit}) == 1
        assert len({pixels for _, pixels, *_ in visit}) == 4
        assert len({visible for _, _, visible, _ in visit}) == 4
    assert len({index for index, *_ in found}) == 9


def test_a_batch_may_be_larger_than_the_data(source: Source) -> None:
    assert len(rows(stream_of(source, batch_size=40, steps=1).batches(0, 40, 0))) == 40


def test_broken_and_too_small_files_are_replaced_and_named(source: Source) -> None:
    broken = {}
    for batch in stream_of(source, batch_size=4, steps=5).batches(0, 4, 0):
        assert batch.failure is None
        broken |= {source.name(index): reason for index, reason in batch.broken}
    assert set(broken) == {"class0/broken.jpg", "class1/small.png"}
    assert "smaller patch_size" in broken["class1/small.png"]


class Harmful(ImageFolder):
    """A folder of which an image kills the process that reads it, or takes its time."""

    def __init__(self, folder: Source, deadly: int = -1, seconds: float = 0.0) -> None:
        assert isinstance(folder, ImageFolder)
        super().__init__(folder.root, folder.listing)
        self.deadly, self.seconds = deadly, seconds

    def read(self, index: int) -> bytes:
        time.sleep(self.seconds)
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


def test_an_image_that_kills_when_it_is_read_is_left_out_and_alone(tmp_path: Path) -> None:
    data = write_images(tmp_path, 7)
    folder = open_data(str(data)).all
    batches = list(stream_of(Harmful(folder, deadly=3), steps=3).batches(0, 6, 2))
    assert {index for batch in batches for index, _ in batch.broken} == {3}
    assert all("ended 2 processes" in reason for batch in batches for _, reason in batch.broken)
    (data / folder.name(3)).write_bytes(b"")  # the stream is the same whatever is wrong with it
    assert rows(iter(batches)) == rows(stream_of(folder, steps=3).batches(0, 6, 0))


def test_an_image_that_is_read_slowly_is_not_taken_for_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(pool, "POLL_SECONDS", 0.2)
    source = Harmful(open_data(str(write_images(tmp_path, 2))).all, seconds=2.0)
    (batch,) = stream_of(source, batch_size=2, steps=1).batches(0, 2, 1)
    assert not batch.broken


# Run in a process of its own, which may take 512 MiB more than it has when everything is imported.
TOO_LARGE = """
import resource, sys
from openmae.data.sources.joined import Joined
from openmae.data.opening import open_data
from tests.data.streams import in_use, rows, stream_of

folder = open_data(sys.argv[1]).all
resource.setrlimit(resource.RLIMIT_AS, (in_use() + 2**29,) * 2)
for source in (folder, Joined("both", [folder])):
    (batch,) = stream_of(source, batch_size=8, steps=1).batches(0, 8, 0)
    assert batch.failure is None
    print({f"{source.name(index)}: {reason}" for index, reason in batch.broken})
"""


def test_a_file_that_does_not_fit_into_memory_is_broken(tmp_path: Path) -> None:
    large = write_images(tmp_path, 7) / "class0/large.jpg"
    large.touch()
    os.truncate(large, 2**30)
    ran = run_openmae([str(tmp_path)], code=TOO_LARGE)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "{'class0/large.jpg: it does not fit into memory'}\n" * 2


def test_files_that_vanish_are_replaced_until_there_are_too_few(tmp_path: Path) -> None:
    data = write_images(tmp_path, 12)
    source = open_data(str(data)).all
    gone = sorted(data.rglob("*.jpg"))
    for path in gone:
        path.unlink()
    batch = next(stream_of(source, batch_size=12).batches(0, 12, 0))
    assert batch.failure is None
    assert {source.name(index) for index, _ in batch.broken} == {str(path.relative_to(data)) for path in gone}
    for path in data.rglob("*.png"):
        path.unlink()
    batch = next(stream_of(source).batches(0, 2, 0))
    assert batch.failure is not None
    assert "in a row" in batch.failure.what


def test_ratio_schedule_follows_the_step(source: Source) -> None:
    stream = stream_of(source, steps=10, mask_ratio=0.25, mask_schedule="linear", mask_ratio_end=0.875)
    visible = [batch.visible.shape[1] for batch in stream.batches(0, 6, 0)]
    assert visible == [int(16 * (1 - (0.25 + 0.0625 * step))) for step in range(10)]
    drawn = stream_of(source, steps=10, mask_ratio=0.25, mask_schedule="random", mask_ratio_end=0.875)
    counts = [batch.visible.shape[1] for batch in drawn.batches(0, 6, 0)]
    assert len(set(counts)) > 3
    assert [batch.visible.shape[1] for batch in drawn.batches(5, 6, 0)] == counts[5:]


def test_frames_of_a_file_are_drawn_by_visit(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((20, 20), 40 * i, np.uint8)) for i in range(5)]
    for number in range(3):
        frames[0].save(tmp_path / f"{number}.tif", save_all=True, append_images=frames[1:])
    stream = stream_of(open_data(str(tmp_path)).all, batch_size=120, steps=1, repeats=2)
    batch = next(stream.batches(0, 120, 0))
    values = batch.images[:, 0, 0, 0].view(60, 2)
    assert torch.equal(values[:, 0], values[:, 1])  # views of one visit show one frame
    assert len(values.unique()) == 5
    assert rows(stream.batches(0, 7, 2)) == rows(iter([batch]))


# ---------------------------------------------------------------- sources


def every_kind(tmp_path: Path) -> dict[str, str]:
    """DATA of each kind, with the same images in the same order."""
    folder = tmp_path / "folder"
    folder.mkdir()
    files = [folder / f"{number:03d}.png" for number in range(9)]
    for number, file in enumerate(files):
        picture(number).save(file)
    (tmp_path / "table.csv").write_text("path\n" + "".join(f"folder/{file.name}\n" for file in files))
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for file in files:
            tar.add(file, file.name)
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "images.parquet", row_group_size=4)
    np.save(tmp_path / "array.npy", np.stack([np.array(picture(number)) for number in range(9)]))
    np.savez(tmp_path / "array.npz", images=np.load(tmp_path / "array.npy"))
    names = ("folder", "table.csv", "shard.tar", "images.parquet", "array.npy", "array.npz")
    return {name: str(tmp_path / name) for name in names}


def test_each_rank_reads_only_what_it_needs(tmp_path: Path) -> None:
    """Of shards on a web server: the ranks' parts of an epoch are one pass over the images, and a little more."""
    data = write_images(tmp_path / "data", 60)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for file in sorted(data.rglob("*.*")):
            tar.add(file, f"{file.stem}.{file.suffix[1:]}")
    size = sum(file.stat().st_size for file in data.rglob("*.*"))
    with serve(tmp_path) as server:
        source = open_data(f"{server.url}/shard.tar").all
        read = []
        for rank in range(4):
            server.ranges.clear()
            stream = stream_of(source, batch_size=12, steps=5)  # an epoch
            batches = stream.batches(0, 3, 0, part=Ranks(rank, 4).share(12))
            assert sum(len(batch) for batch in batches) == 15
            read.append(sum(map(len, server.ranges)))
    assert sum(read) < 1.1 * size
    assert max(read) < 0.4 * size


def test_a_stream_is_the_same_from_every_source(tmp_path: Path) -> None:
    kinds = every_kind(tmp_path)
    expected = rows(stream_of(open_data(kinds["folder"]).all, repeats=2).batches(0, 6, 0))
    with serve(tmp_path) as server:
        kinds["http"] = f"{server.url}/shard.tar"
        for kind, data in kinds.items():
            source = open_data(data).all
            assert len(source) == 9, kind
            stream = stream_of(source, repeats=2)
            assert rows(stream.batches(0, 6, 0)) == expected, kind
            assert rows(stream.batches(4, 5, 2)) == expected[24:], kind
            shares = [rows(stream.batches(0, 2, 0, part=Ranks(rank, 2).share(stream.batch_size))) for rank in (0, 1)]
            together = [row for step in range(9) for share in shares for row in share[3 * step : 3 * step + 3]]
            assert together == expected, kind


# ---------------------------------------------------------------- in memory


def test_a_stream_from_memory_is_the_stream_from_files(source: Source) -> None:
    small = source.take(np.array([i for i in range(len(source)) if "large" not in source.name(i)]))
    console = Console(file=io.StringIO(), force_terminal=True, width=90)
    loaded, pixels = in_memory(small, PixelFormat(), (16, 16), 1, console)
    assert isinstance(loaded, InMemory)
    assert "16 of 16 images" in console.file.getvalue()  # type: ignore[attr-defined]
    assert loaded.fingerprint == small.fingerprint
    for workers in (0, 2):
        batches, expected = (stream_of(s).batches(0, 6, workers) for s in (loaded, small))
        for found, wanted in zip(batches, expected, strict=True):
            assert found.broken == wanted.broken
            assert rows(iter([found])) == rows(iter([wanted]))
    assert pixels == PixelFormat(reading=Reading(layout="hwc"))


def test_what_is_broken_in_the_middle_is_the_same_from_memory(tmp_path: Path) -> None:
    for number in range(12):
        picture(number, (60, 60)).save(tmp_path / f"{number:02d}.jpg", quality=95)
    whole = (tmp_path / "03.jpg").read_bytes()
    (tmp_path / "03.jpg").write_bytes(whole[: len(whole) * 8 // 10] + b"\xff\xd9")  # good above the cut
    whole = encoded(picture(50, (60, 60)), "PNG")
    (tmp_path / "05.png").write_bytes(whole[: len(whole) // 2])  # opens, but does not decode
    source = open_data(str(tmp_path)).all
    loaded, _ = in_memory(source, PixelFormat(), (16, 16), 0, Console(quiet=True))
    assert isinstance(loaded, InMemory)
    streams = [stream_of(s, batch_size=13) for s in (loaded, source)]
    streams = [replace(stream, view=replace(stream.view, augmentation=Augmentation((0.05, 0.1)))) for stream in streams]
    found, expected = (list(stream.batches(0, 13, 0)) for stream in streams)
    assert [batch.broken for batch in found] == [batch.broken for batch in expected]
    assert {index for batch in expected for index, _ in batch.broken} == {3, 6}
    assert 0 < len([index for batch in expected for index, _ in batch.broken if index == 3]) < 9
    assert rows(iter(found)) == rows(iter(expected))


def test_how_far_a_broken_file_could_be_read_does_not_show(tmp_path: Path) -> None:
    whole = encoded(picture(50), "PNG")
    streams = []
    for name, data in (("early", b""), ("late", whole[: len(whole) // 2])):
        write_images(tmp_path / name, 6)
        (tmp_path / name / "class0/broken.png").write_bytes(data)
        streams.append(rows(stream_of(open_data(str(tmp_path / name)).all, batch_size=7).batches(0, 7, 0)))
    assert streams[0] == streams[1]


def test_a_long_strip_is_not_enlarged_whole() -> None:
    strip = np.random.default_rng(0).integers(0, 256, (4, 300_000, 3), np.uint8)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    view = centred_view(strip, (224, 224))
    assert view.shape == (224, 224, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 200_000  # KB
    assert np.abs(view.astype(int) - centred_view(strip[:, 149_900:150_100], (224, 224)).astype(int)).max() <= 1


def test_images_that_would_be_reduced_do_not_stay_in_memory(source: Source) -> None:
    assert in_memory(source, PixelFormat(), (16, 16), 0, Console(quiet=True))[0] is source


def test_large_images_that_are_never_reduced_stay_in_memory(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(encoded(picture(number, (90, 70)), "PNG"))
    source = open_data(str(tmp_path)).all
    assert reduction((90, 70), (16, 16)) == 2  # what is asked of a JPEG of this size
    loaded, _ = in_memory(source, PixelFormat(), (16, 16), 0, Console(quiet=True))
    assert isinstance(loaded, InMemory)
    assert rows(stream_of(loaded).batches(0, 6, 0)) == rows(stream_of(source).batches(0, 6, 0))


def test_bands_are_chosen_once(tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", np.random.default_rng(0).integers(0, 256, (9, 20, 20, 5), np.uint8))
    source = open_data(str(tmp_path / "all.npy")).all
    loaded, pixels = in_memory(source, PixelFormat(2, (4, 1)), (16, 16), 0, Console(quiet=True))
    assert isinstance(loaded, InMemory)
    for index in range(9):
        expected = decode(source.read(index), PixelFormat(2, (4, 1)))
        assert np.array_equal(decode(loaded.read(index), pixels), expected)
