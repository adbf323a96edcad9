"""What a sample of the images tells: moments and percentiles beside torch and numpy, sizes, channels, depths."""

import io
import os
import signal
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.header import Depth, Header
from openmae.data.formats.reading import UNSAID
from openmae.data.opening import open_data
from openmae.data.survey import sample
from openmae.data.survey.distribution import PERCENTILES, Distribution, measure
from openmae.data.survey.moments import histogram, image_moments
from openmae.data.survey.sample import as_grey, choose_pixels, survey
from openmae.errors import BrokenImage, UserError
from tests.data.deep import WHITE, Files, images_of, tiff, torch_moments
from tests.images import picture, write_images


def same(one: Distribution, other: Distribution) -> bool:
    """To the last bit."""
    for field in fields(one):
        values = getattr(one, field.name), getattr(other, field.name)
        if isinstance(values[0], np.ndarray):
            if values[0].dtype != values[1].dtype or values[0].tobytes() != values[1].tobytes():
                return False
        elif values[0] != values[1]:
            return False
    return True


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_mean_and_std_are_torchs(depth: Depth, channels: int) -> None:
    images = images_of(depth, channels, count=40)
    source = Files([tiff(image) for image in images])
    mean, std = torch_moments(images, depth)
    look = survey(source, seed=0)
    found = measure(source, look.statistics.pixels, workers=0)
    assert look.statistics.pixels == PixelFormat(channels, None, depth)
    for statistics_found in (look.statistics, found.statistics):
        torch.testing.assert_close(torch.tensor(statistics_found.mean), mean.float(), rtol=2e-6, atol=0)
        torch.testing.assert_close(torch.tensor(statistics_found.std), std.float(), rtol=2e-6, atol=0)
    pixels = [image.reshape(-1, channels) for image in images]
    np.testing.assert_array_equal(found.least, np.min([p.min(0) for p in pixels], axis=0))
    np.testing.assert_array_equal(found.most, np.max([p.max(0) for p in pixels], axis=0))
    assert found.sizes.tolist() == [[*image.shape[:2]] for image in images]


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="older numpy knows no weights of quantiles")
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@settings(max_examples=25)
@given(data=st.data())
def test_percentiles_are_numpys_each_image_weighing_the_same(depth: str, data: st.DataObject) -> None:
    shapes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.just(2))
    images = data.draw(st.lists(shapes.flatmap(lambda shape: arrays(depth, shape)), min_size=1, max_size=5))
    found = measure(Files([tiff(image) for image in images]), PixelFormat(2, (1, 2), depth), workers=0)  # type: ignore[arg-type]
    for channel in range(2):
        values = np.concatenate([image[..., channel].ravel() for image in images])
        weights = np.concatenate([np.full(image[..., 0].size, 1 / image[..., 0].size) for image in images])
        # A hair to either side, for a sum of weights may round to either side of a step.
        low, high = (
            np.quantile(values, np.array(PERCENTILES) / 100 + hair, method="inverted_cdf", weights=weights)
            for hair in (-1e-9, 1e-9)
        )
        assert (low <= found.percentiles[:, channel]).all()
        assert (found.percentiles[:, channel] <= high).all()
    assert found.weights.sum(1) == pytest.approx(1)


def test_the_median_of_two_levels_is_the_lower_one() -> None:
    found = measure(Files([tiff(np.array([[[10], [20]]], np.uint8))]), PixelFormat(1), workers=0)
    assert found.percentiles[:, 0].tolist() == [10, 10, 10, 10, 20, 20, 20]


def test_percentiles_of_floats_are_of_pixels_drawn_from_every_image_alike() -> None:
    draws = np.random.default_rng(3)
    images = [draws.normal(number, 1, (size, size, 2)).astype(np.float32) for number, size in ((0, 90), (10, 20))]
    found = measure(Files([tiff(image) for image in images]), PixelFormat(2, None, "float32"), workers=0)
    assert found.sample == 4096
    assert 1 < found.percentiles[3, 0] < 9  # the median lies between the two, though one has 20 times the pixels
    exact = np.quantile(images[0][..., 1], [0.02, 0.5])
    np.testing.assert_allclose(found.percentiles[[1, 2], 1], exact, atol=0.15)  # 1% and 25% of both together
    assert found.least[1] == min(image[..., 1].min() for image in images)
    ramp = np.linspace(0, 100, 90 * 90, dtype=np.float32).reshape(90, 90, 1)  # from the first row to the last
    drawn = measure(Files([tiff(ramp), tiff(ramp)]), PixelFormat(1, None, "float32"), workers=0)
    np.testing.assert_allclose(drawn.percentiles[:, 0], PERCENTILES, atol=3)


def test_a_large_image_is_counted_in_parts() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2500, 1100, 1), dtype=np.uint8)
    for stored in (image, image.astype(np.float32)):
        moments = image_moments(stored)
        white = WHITE[stored.dtype.name]
        assert moments[0] == 1
        np.testing.assert_allclose(moments[1], (image / white).mean(), rtol=1e-12)
        np.testing.assert_allclose(moments[2], ((image / white) ** 2).mean(), rtol=1e-12)
    assert np.array_equal(histogram(image)[0], np.bincount(image.ravel(), minlength=256))


def test_a_huge_photograph_is_surveyed_at_a_smaller_size(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    picture(1, (2100, 2300)).save(file, "JPEG", quality=95)
    small = io.BytesIO()
    picture(1, (800, 700)).save(small, "JPEG", quality=95)
    shapes = []
    monkeypatch.setattr(
        sample, "image_moments", lambda image, _: shapes.append(image.shape) or np.ones((3, image.shape[2]))
    )
    look = survey(Files([file.getvalue(), small.getvalue()]), seed=0)
    assert shapes == [(525, 575, 3), (800, 700, 3)]
    assert look.sizes == {0: (2100, 2300), 1: (800, 700)}


def test_constant_channels_stay_and_dark_ones_are_normalised() -> None:
    dark = np.random.default_rng(0).integers(100, 130, (20, 20, 2)).astype(np.uint16)
    dark[..., 1] = 700
    found = measure(Files([tiff(dark)] * 3), PixelFormat(2, (1, 2), "uint16"), workers=0).statistics
    normal = found.normalize(torch.from_numpy(dark).permute(2, 0, 1)[None])
    assert normal[0, 0].std() == pytest.approx(1, abs=0.01)
    assert normal[0, 0].mean() == pytest.approx(0, abs=0.01)
    assert found.std[1] == 1
    assert normal[0, 1].abs().max() < 1e-6


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_the_number_of_workers_changes_no_bit(depth: Depth) -> None:
    files = [tiff(image) for image in images_of(depth, 2, count=50)]
    files[7], files[20] = b"", files[20][:60]
    pixels = PixelFormat(2, (1, 2), depth)
    alone = measure(Files(files), pixels, workers=0)
    assert [index for index, _ in alone.broken] == [7, 20]
    good = measure(Files([file for index, file in enumerate(files) if index not in (7, 20)]), pixels, workers=0)
    assert alone.statistics.mean == pytest.approx(good.statistics.mean, rel=1e-6)
    assert same(alone, measure(Files(files), pixels, workers=3))
    looks = [survey(Files(files), 1, 2, (1, 2), workers, most=30) for workers in (0, 2)]
    assert looks[0] == looks[1]
    assert looks[0] != survey(Files(files), 2, 2, (1, 2), most=30)  # another seed, other images


class Deadly(Files):
    """Whoever first reads image 5 is killed."""

    def __init__(self, files: Sequence[bytes], mark: Path) -> None:
        super().__init__(files)
        self.mark = mark

    def read_many(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        if 5 in indices and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_many(indices)


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    files = [tiff(image) for image in images_of("uint8", 3, count=40)]
    expected = measure(Files(files), PixelFormat(), workers=0)
    assert same(measure(Deadly(files, tmp_path / "measure"), PixelFormat(), workers=2), expected)
    assert survey(Deadly(files, tmp_path / "survey"), 0, 3, workers=2) == survey(Files(files), 0, 3)
    assert (tmp_path / "survey").exists()


def header(channels: int, depth: Depth = "uint8", colour: bool = False) -> Header:
    return Header("TIFF", 10, 10, channels, depth, "", colour=colour)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([header(1)] * 3, PixelFormat(1)),
        ([header(1), header(2)], PixelFormat(1)),
        ([header(2, colour=True)] * 2, PixelFormat(1)),
        ([header(2, "float32")] * 2, PixelFormat(2, None, "float32")),
        ([header(1), header(3)], PixelFormat(3)),
        ([header(3), header(4, colour=True)], PixelFormat(3)),
        ([header(4, colour=True)] * 2, PixelFormat(3)),
        ([header(4, "uint16")] * 2, PixelFormat(4, None, "uint16")),
        ([header(13, "uint16")] * 2, PixelFormat(13, None, "uint16")),
        ([header(3), header(3, "uint16"), header(3)], PixelFormat(3, None, "uint16")),
        ([header(1, "float32"), header(1, "uint16")], PixelFormat(1, None, "float32")),
        ([], PixelFormat(3)),
    ],
)
def test_what_the_images_have_decides(headers: list[Header], expected: PixelFormat) -> None:
    assert choose_pixels(headers, None, None, None, "here")[0] == expected


def test_what_is_asked_for_comes_first() -> None:
    mixed = [header(4), header(13, "uint16")]
    with pytest.raises(UserError, match=r"1 with 4, 1 with 13.*`bands=\(1, 2, 3\)`"):
        choose_pixels(mixed, None, None, None, "here")
    assert choose_pixels(mixed, None, (4, 2), None, "here")[0] == PixelFormat(2, (4, 2), "uint16")
    assert choose_pixels(mixed, 13, None, None, "here")[0] == PixelFormat(13, None, "uint16")
    assert choose_pixels(mixed, 4, None, "float32", "here")[0] == PixelFormat(4, None, "float32")
    with pytest.raises(UserError, match="names 2 channels and `in_chans` is 3"):
        choose_pixels(mixed, 3, (1, 2), None, "here")


def test_the_survey_looks_again_where_the_first_headers_mislead() -> None:
    images = images_of("uint8", 1, count=90)
    files = [tiff(image) for image in images]
    deep = np.random.default_rng(0).integers(0, 65536, (20, 20, 1)).astype(np.uint16)
    for odd in range(len(files)):  # one that is not among those whose headers are read first
        files[odd] = tiff(deep)
        if all(
            one.header.depth == "uint8" for one in sample.evidence(sample.look(Files(files), 0, 0, sample.PEEK, UNSAID))
        ):
            break
        files[odd] = tiff(images[odd])
    images[odd] = deep
    look = survey(Files(files), seed=0)
    assert look.statistics.pixels == PixelFormat(1, None, "uint16")
    mean, _ = torch_moments([image if image is deep else image.astype(np.uint16) * 257 for image in images], "uint16")
    assert look.statistics.mean[0] == pytest.approx(mean.item(), rel=1e-6)
    assert not look.broken


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_grey_images_stored_as_colour_are_surveyed_as_one_channel(dtype: str) -> None:
    images = [np.random.default_rng(n).integers(0, 256, (9, 12, 1)).astype(dtype).repeat(3, 2) for n in range(6)]
    source = Files([tiff(image) for image in images])
    look = survey(source, 0)
    assert look.grey == 6
    found, expected = as_grey(look), survey(source, 0, in_chans=1)
    assert found.statistics.pixels == expected.statistics.pixels
    assert found.statistics.mean == pytest.approx(expected.statistics.mean, rel=1e-6)
    assert found.statistics.std == pytest.approx(expected.statistics.std, rel=1e-6)
    np.testing.assert_allclose(found.levels.moments, expected.levels.moments, rtol=1e-6)


def test_a_survey_tells_what_it_saw(tmp_path: Path) -> None:
    data = write_images(tmp_path, 12)
    (data / "class0/bad.png").write_bytes(b"no image")
    picture(1, mode="L").save(data / "class1/grey.png")
    picture(2, mode="L").convert("RGB").save(data / "class1/grey-as-colour.png")
    source = open_data(str(data)).all
    look = survey(source, seed=0)
    assert look.grey == 1
    assert look.size == (24, 20)
    assert look.channels == {1: 1, 3: 13}
    assert "grey" in look.why_channels
    assert look.looked_at == len(source) == 15
    assert [source.name(index) for index, _ in look.broken] == ["class0/bad.png"]
    assert len(look.smaller_than((22, 22))) == 14
    with pytest.raises(UserError, match="none of 2 images"):
        survey(Files([b"", b""]), seed=0)
