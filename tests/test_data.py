"""The data path: listing, decoding, views, and the stream that a run is a function of."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from openmae.data.decode import BrokenImage, decode
from openmae.data.folder import ImageFolder, labelled_splits, open_folder
from openmae.data.order import epoch_order, generator
from openmae.data.statistics import Statistics, survey
from openmae.data.stream import Stream
from openmae.data.views import Augmentation, centred_view, resize, training_view
from openmae.errors import UserError
from openmae.masking import Masking
from tests.images import picture, write_images


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


# ---------------------------------------------------------------- folders


def test_lists_any_depth_in_sorted_order_and_skips_what_is_no_image(tmp_path: Path) -> None:
    for name in ("b/deep/er/2.PNG", "a/1.jpeg", "3.webp", ".hidden/4.png", "a/.5.png", "a/notes.txt", "b/Z.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert open_folder(tmp_path).paths == ("3.webp", "a/1.jpeg", "b/Z.tiff", "b/deep/er/2.PNG")


def test_splits_and_labels(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 6, classes=3)
    write_images(tmp_path / "val", 3, classes=3)
    train, val = labelled_splits(tmp_path, seed=0)
    assert (len(train), len(val)) == (6, 3)
    assert train.class_names == ("class0", "class1", "class2")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert open_folder(tmp_path, "train").paths == train.paths


def test_without_split_folders_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    data = write_images(tmp_path, 30, classes=3)
    train, val = labelled_splits(data, seed=1)
    assert sorted(train.paths + val.paths) == list(open_folder(data).paths)
    assert [int((val.labels == label).sum()) for label in range(3)] == [2, 2, 2]
    assert labelled_splits(data, seed=1)[1].paths == val.paths
    assert labelled_splits(data, seed=2)[1].paths != val.paths


def test_labels_are_refused_where_there_are_none(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="has no labels"):
        _ = open_folder(tmp_path).labels
    one_class = write_images(tmp_path / "one", 4, classes=1)
    with pytest.raises(UserError, match="two classes or more"):
        _ = open_folder(one_class).labels  # a single class would give 100% (pain 18)


def test_class_of_val_that_train_lacks_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 4)
    write_images(tmp_path / "val", 4, classes=4)
    with pytest.raises(UserError, match="class2, class3"):
        labelled_splits(tmp_path, seed=0)


def test_fingerprint_sees_names_and_sizes(tmp_path: Path) -> None:
    data = write_images(tmp_path, 4)
    before = open_folder(data).fingerprint
    assert open_folder(data).fingerprint == before
    (data / "class0/000.jpg").write_bytes(b"other")
    changed = open_folder(data).fingerprint
    (data / "class0/000.jpg").rename(data / "class0/x.jpg")
    assert len({before, changed, open_folder(data).fingerprint}) == 3


# ---------------------------------------------------------------- decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "LA", "RGBA"])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_lossless_formats_decode_as_pillow_does(kind: str, mode: str, in_chans: int) -> None:
    if (kind, mode) in {("BMP", "LA"), ("GIF", "LA"), ("GIF", "RGBA")}:
        mode = "RGB"  # the format cannot hold it
    image = picture(3, mode="RGB").convert(mode)
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGBA").convert("RGB" if in_chans == 3 else "L"))
    pixels = decode(data, in_chans)
    assert pixels.shape == (24, 20, in_chans)
    np.testing.assert_allclose(pixels.squeeze().astype(int), expected.astype(int), atol=1)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_decode_as_pillow_does(mode: str, progressive: bool) -> None:
    data = encoded(picture(4, (40, 56)).convert(mode), "JPEG", quality=95, progressive=progressive)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    difference = np.abs(decode(data, 3).astype(int) - expected.astype(int))
    assert difference.mean() < 1  # two decoders may round their inverse DCT differently
    assert difference.max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(orientation: int) -> None:
    image = picture(5, (16, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(image, "JPEG", quality=95, exif=exif), 3)
    assert pixels.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(np.full((8, 8), 40000, np.uint16)), "PNG"),
        (Image.fromarray(np.full((8, 8), 40000, np.uint16)), "TIFF"),
        (Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"),
        (Image.fromarray(np.zeros((8, 8), np.int32)), "TIFF"),
    ],
)
def test_deep_pixels_are_refused_not_squeezed(image: Image.Image, kind: str) -> None:
    with pytest.raises(BrokenImage, match="more than 8 bits"):
        decode(encoded(image, kind), 3)


def test_sixteen_bit_rgb_png_is_refused() -> None:
    # Pillow cannot write one, so the header of an 8-bit file is changed: depth is read before pixels.
    data = bytearray(encoded(picture(1), "PNG"))
    data[24] = 16
    with pytest.raises(BrokenImage):
        decode(bytes(data), 3)


@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]))
def test_damaged_bytes_give_an_image_or_broken_image(at: int, value: int, kind: str) -> None:
    data = bytearray(encoded(picture(6), kind))
    data[at % len(data)] = value
    for damaged in (bytes(data), bytes(data[: at % len(data)])):
        with contextlib.suppress(BrokenImage):  # nothing else may be raised
            pixels = decode(damaged, 3)
            assert pixels.dtype == np.uint8
            assert pixels.shape[2] == 3


def test_huge_header_is_refused_before_pixels() -> None:
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "BMP"))
    data[18:26] = (50_000).to_bytes(4, "little") * 2
    with pytest.raises(BrokenImage, match=r"pixels are more|exceeds limit"):
        decode(bytes(data), 3)


# ---------------------------------------------------------------- views


@pytest.mark.parametrize("size", [(32, 48), (7, 90), (100, 13)])
def test_resize_is_torchvisions(size: tuple[int, int]) -> None:
    image = np.array(picture(7, (60, 50)))
    expected = tv.resize(
        torch.from_numpy(image.copy()).permute(2, 0, 1),
        list(size),
        interpolation=tv.InterpolationMode.BICUBIC,
        antialias=True,
    )
    assert torch.equal(resize(image, size), expected)


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
    view = training_view(image, size, Augmentation(scale), generator(seed, "sample"))
    assert view.shape == (3, *size)
    assert (view == 77).all()


def test_crops_cover_the_share_of_area_asked_for() -> None:
    # Each pixel names its own place, so a crop's extent can be read off its corners.
    image = np.zeros((100, 100, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(100)[:, None], np.arange(100)[None]
    areas, flips = [], 0
    for seed in range(300):
        view = training_view(image, (100, 100), Augmentation((0.2, 0.6)), generator(seed, "sample")).int()
        rows = int(view[0].max() - view[0].min())
        columns = int(view[1].max() - view[1].min())
        areas.append((rows + 1) * (columns + 1) / 1e4)
        flips += int(view[1, 50, 0] > view[1, 50, -1])
    assert 0.17 < min(areas) < 0.25
    assert 0.55 < max(areas) < 0.64
    assert 110 < flips < 190


def test_whole_image_without_flip_is_the_resized_image() -> None:
    image = np.array(picture(8, (40, 30)))
    view = training_view(image, (16, 16), Augmentation((1.0, 1.0), hflip=False), generator(0, "sample"))
    assert torch.equal(view, resize(image, (16, 16)))


def test_centred_view_is_the_papers() -> None:
    image = np.array(picture(9, (300, 500)))
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    larger = tv.resize(pixels, [256], interpolation=tv.InterpolationMode.BICUBIC, antialias=True)
    difference = centred_view(image, (224, 224)).int() - tv.center_crop(larger, [224, 224]).int()
    assert difference.abs().float().mean() < 1  # the long side rounds, where torchvision truncates
    exact = np.array(picture(9, (224, 224)))
    assert torch.equal(centred_view(exact, (224, 224)), torch.from_numpy(exact.copy()).permute(2, 0, 1))


# ---------------------------------------------------------------- statistics


def test_survey_gives_exact_moments(tmp_path: Path) -> None:
    data = write_images(tmp_path, 12)
    (data / "class0/bad.png").write_bytes(b"no image")
    source = open_folder(data)
    look = survey(source, 3, seed=0)
    pixels = [decode(source.read(i), 3) / 255 for i in range(len(source)) if "bad" not in source.paths[i]]
    stacked = np.stack(pixels).reshape(-1, 3)
    np.testing.assert_allclose(look.statistics.mean, stacked.mean(0), atol=1e-6)
    np.testing.assert_allclose(look.statistics.std, stacked.std(0), atol=1e-6)
    assert look.size == (24, 20)
    assert [source.paths[i] for i, _ in look.broken] == ["class0/bad.png"]


def test_normalize_and_back() -> None:
    statistics = Statistics((0.2, 0.5), (0.1, 0.3))
    images = torch.randint(0, 256, (3, 2, 5, 4), dtype=torch.uint8)
    normal = statistics.normalize(images)
    expected = tv.normalize(images.float() / 255, list(statistics.mean), list(statistics.std))
    torch.testing.assert_close(normal, expected)
    torch.testing.assert_close(statistics.denormalize(normal) * 255, images.float(), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="2 channels"):
        statistics.normalize(images[:, :1])


# ---------------------------------------------------------------- the stream


@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(1, 500))
def test_an_epochs_order_is_a_permutation_of_its_own(seed: int, epoch: int, length: int) -> None:
    order = epoch_order(seed, epoch, length)
    assert np.array_equal(np.sort(order), np.arange(length))
    assert np.array_equal(order, epoch_order(seed, epoch, length))
    if length > 20:
        assert not np.array_equal(order, epoch_order(seed, epoch + 1, length))
        assert not np.array_equal(order, epoch_order(seed + 1, epoch, length))


def test_generators_of_different_coordinates_differ() -> None:
    coordinates = [
        {"seed": s, "purpose": p, "epoch": e, "index": i, "view": v}
        for s in (0, 1)
        for p in ("sample", "order")
        for e in (0, 1)
        for i in (0, 1)
        for v in (0, 1)
    ]
    draws = {tuple(generator(**c).integers(0, 2**63, 2)) for c in coordinates}  # type: ignore[arg-type]
    assert len(draws) == len(coordinates)


def stream_of(source: ImageFolder, batch_size: int = 6, steps: int = 9, **masking: object) -> Stream:
    return Stream(
        source,
        3,
        (16, 16),
        (4, 4),
        Augmentation(),
        Masking(**masking),
        batch_size,
        steps,
        seed=5,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    data = write_images(tmp_path_factory.mktemp("stream"), 14)
    (data / "class0/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (data / "class1/small.png").write_bytes(encoded(Image.new("RGB", (3, 30)), "PNG"))
    return open_folder(data)


def rows(stream: Stream, first_step: int, micro_batch: int, workers: int) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for batch in stream.batches(first_step, micro_batch, workers):
        for i in range(len(batch)):
            parts = (batch.images[i], batch.visible[i], batch.queries[i])
            found.append((int(batch.indices[i]), *(part.numpy().tobytes() for part in parts)))
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores, on purpose
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("micro_batch", [6, 4, 1])
def test_samples_do_not_depend_on_workers_micro_batches_or_restarts(
    source: ImageFolder, workers: int, micro_batch: int
) -> None:
    if workers and micro_batch == 1:
        micro_batch = 5
    stream = stream_of(source)
    whole = rows(stream, 0, 6, 0)
    assert len(whole) == 54
    assert rows(stream, 0, micro_batch, workers) == whole
    assert rows(stream, 4, micro_batch, workers) == whole[24:]


def test_every_epoch_visits_every_image_once_and_differently(source: ImageFolder) -> None:
    found = rows(stream_of(source, batch_size=4, steps=8), 0, 4, 0)  # 32 samples: two epochs of 16
    assert sorted(index for index, *_ in found[:16]) == list(range(16))
    assert sorted(index for index, *_ in found[16:]) == list(range(16))
    views = {index: parts for index, *parts in found[:16]}
    assert all(views[index] != parts for index, *parts in found[16:])


def test_a_batch_may_be_larger_than_the_data(source: ImageFolder) -> None:
    found = rows(stream_of(source, batch_size=40, steps=1), 0, 40, 0)
    assert len(found) == 40


def test_broken_and_too_small_files_are_replaced_and_named(source: ImageFolder) -> None:
    broken = {}
    for batch in stream_of(source, batch_size=4, steps=4).batches(0, 4, 0):
        assert batch.failure is None
        broken |= {source.paths[index]: reason for index, reason in batch.broken}
    assert set(broken) == {"class0/broken.jpg", "class1/small.png"}
    assert "smaller patch_size" in broken["class1/small.png"]


def test_a_stream_of_vanished_files_says_so(source: ImageFolder, tmp_path: Path) -> None:
    gone = ImageFolder(tmp_path, source.paths)
    batch = next(stream_of(gone).batches(0, 2, 0))
    assert batch.failure is not None
    assert "in a row" in batch.failure


def test_ratio_schedule_follows_the_step(source: ImageFolder) -> None:
    stream = stream_of(source, steps=10, mask_ratio=0.25, mask_schedule="linear", mask_ratio_end=0.875)
    visible = [batch.visible.shape[1] for batch in stream.batches(0, 6, 0)]
    assert visible == [int(16 * (1 - (0.25 + 0.0625 * step))) for step in range(10)]
    drawn = stream_of(source, steps=10, mask_ratio=0.25, mask_schedule="random", mask_ratio_end=0.875)
    counts = [batch.visible.shape[1] for batch in drawn.batches(0, 6, 0)]
    assert len(set(counts)) > 3
    assert [batch.visible.shape[1] for batch in drawn.batches(5, 6, 0)] == counts[5:]
