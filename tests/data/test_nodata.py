"""No-data: what GDAL's tag, the user, or a float that is no number calls missing, beside numpy's masked arrays."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.data.formats import apart
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, decode_masked, read_header
from openmae.data.formats.header import Depth
from openmae.data.formats.missing import equals
from openmae.data.formats.reading import Reading
from openmae.data.opening import open_data
from openmae.data.shards.packing import Packing, pack_image
from openmae.data.survey.distribution import PERCENTILES, measure
from openmae.data.survey.findings import Finding, InspectedSplit, judge
from openmae.data.survey.inspection import inspect
from openmae.data.survey.sample import survey
from openmae.data.views.centred import centred
from openmae.data.views.statistics import WHITE, Statistics
from openmae.errors import BrokenImage, UserError
from openmae.recipes.levels import check_levels
from openmae.recipes.nodata import warn_of_suspects
from openmae.recipes.pack.job import run as pack
from openmae.recipes.pack.settings import Pack
from openmae.recipes.pretrain.build import statistics_of
from openmae.recipes.pretrain.choose import choose
from openmae.recipes.pretrain.settings import Pretrain
from tests.data.deep import Files
from tests.images import encoded

LOWEST = float(np.finfo(np.float32).min)
BIG = float(np.float32(1e30))
TAGGED = [
    ("uint8", 255, "255"),
    ("uint8", 0, "0"),
    ("uint16", 65535, "65535"),
    ("uint16", 0, " 0 "),
    ("int8", -128, "-128"),
    ("int8", -7, "-7 -7 -7"),
    ("int16", -9999, "-9999"),
    ("int32", -(2**31), "-2147483648.0"),
    ("float32", -9999, "-9999"),
    ("float32", LOWEST, "-3.4028234663852886e+38"),
    ("float32", LOWEST, "-1.7976931348623157e+308"),
    ("float64", -1e300, "-1e+300"),
    ("float32", np.nan, "nan"),
    ("float32", np.inf, "-9999"),
]


def tagged(image: NDArray[Any], no_data: str | None, turn: int = 1, **options: Any) -> bytes:
    """(H, W, C) as a TIFF with GDAL's tag."""
    file = io.BytesIO()
    tags = [(274, "H", 1, turn, True), *([] if no_data is None else [(42113, "s", 0, no_data, True)])]
    layout = {"planarconfig": "contig"} if image.shape[2] > 1 else {}
    whole = image if image.shape[2] > 1 else image[..., 0]
    tifffile.imwrite(file, whole, extratags=tags, **{"photometric": "minisblack", **layout, **options})
    return file.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_gaps(dtype: str, value: float, seed: int, channels: int = 3) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """An image of about 500 to 2,000 (of less in 8 bits), and where it is `value`."""
    draws = np.random.default_rng(seed)
    image = draws.normal(1, 0.1, (24, 30, channels)) * (60 if dtype in ("uint8", "int8") else 1000)
    gaps = np.zeros(image.shape, bool)
    gaps[:, : draws.integers(3, 20)] = True
    image = image.astype(dtype)
    image[gaps] = value
    return image, gaps


def as_it_is(data: bytes) -> tuple[PixelFormat, NDArray[Any], NDArray[np.bool_] | None]:
    header = read_header(data)
    pixels = PixelFormat(header.channels, None, header.depth)
    return pixels, *decode_masked(data, pixels)


@pytest.mark.parametrize(("dtype", "value", "tag"), TAGGED)
def test_gdals_tag_means_the_same_for_every_type(dtype: str, value: float, tag: str) -> None:
    image, gaps = with_gaps(dtype, value, 1)
    pixels, found, missing = as_it_is(tagged(image, tag))
    np.testing.assert_array_equal(missing, gaps)
    there = np.ma.array(image.astype(np.float64), mask=gaps)
    whole = there.filled(there.mean((0, 1)))
    np.testing.assert_allclose(found, whole if pixels.depth == "float32" else whole.round(), rtol=1e-6)
    known = decode(tagged(image, tag), PixelFormat(3, None, pixels.depth, fill=(1.0, 2.0, 3.0)))
    np.testing.assert_array_equal(known[gaps].reshape(-1, 3), np.broadcast_to((1, 2, 3), (gaps[..., 0].sum(), 3)))
    np.testing.assert_array_equal(known[~gaps], found[~gaps])


@pytest.mark.parametrize(
    ("dtype", "tag"),
    [("uint8", "-9999"), ("uint16", "0.5"), ("uint8", "none"), ("uint16", ""), ("uint8", "inf"), ("int32", "1e300")],
)
def test_a_value_that_no_pixel_can_have_is_nowhere(dtype: str, tag: str) -> None:
    image, _ = with_gaps(dtype, 0, 2)
    _, found, missing = as_it_is(tagged(image, tag))
    assert missing is None
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_what_is_missing_turns_with_the_image(turn: int) -> None:
    image, gaps = with_gaps("uint8", 9, 3, 1)
    missing = as_it_is(tagged(image, "9", turn))[2]
    np.testing.assert_array_equal(missing, as_it_is(tagged(image, None, turn))[1] == 9)
    assert missing is not None
    assert missing.sum() == gaps.sum()


def test_white_that_is_zero_palettes_and_pages_keep_what_was_stored() -> None:
    image, gaps = with_gaps("uint8", 0, 4, 1)
    inverted = as_it_is(tagged(image, "0", photometric="miniswhite"))
    np.testing.assert_array_equal(inverted[2], gaps)
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256), dtype=np.uint16)
    palette = as_it_is(tagged(image, "0", photometric="palette", colormap=colours))
    np.testing.assert_array_equal(palette[2], np.dstack([gaps] * 3))
    file = io.BytesIO()
    pages = np.stack([image[..., 0], image[::-1, :, 0], image[..., 0]])
    tifffile.imwrite(file, pages, photometric="minisblack", extratags=[(42113, "s", 0, "0", True)])
    np.testing.assert_array_equal(as_it_is(file.getvalue())[2], gaps[::-1])


@pytest.mark.parametrize(("dtype", "kind"), [("uint8", "rgb"), ("uint16", "minisblack")])
def test_the_mask_of_a_file_says_what_is_there(dtype: str, kind: str) -> None:
    image, gaps = with_gaps(dtype, 77, 13)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(image, photometric=kind, planarconfig="contig", extratags=[(42113, "s", 0, "-1", True)])
        writer.write(image[::2, ::2], photometric=kind, planarconfig="contig", subfiletype=1)
        for step in (1, 2):  # of the image, and of its smaller copy
            there = ~gaps[::step, ::step, 0]
            writer.write(there, photometric="mask", subfiletype=4 + (step > 1), compression="deflate")
    pixels, found, missing = as_it_is(file.getvalue())
    assert pixels == PixelFormat(3, None, dtype)  # type: ignore[arg-type]
    np.testing.assert_array_equal(missing, gaps)
    np.testing.assert_array_equal(found[~gaps], image[~gaps])


def test_colours_are_missing_together_and_bands_one_by_one() -> None:
    draws = np.random.default_rng(5)
    image = draws.integers(0, 3, (20, 20, 3), dtype=np.uint8)
    colours, bands = (as_it_is(tagged(image, "0", photometric=kind))[2] for kind in ("rgb", "minisblack"))
    np.testing.assert_array_equal(colours, np.dstack([(image == 0).all(-1)] * 3))
    np.testing.assert_array_equal(bands, image == 0)
    grey = decode_masked(tagged(image, "0", photometric="rgb"), PixelFormat(1))[1]
    np.testing.assert_array_equal(grey, (image == 0).all(-1, keepdims=True))
    chosen = decode_masked(tagged(image, "0"), PixelFormat(2, (3, 1)))[1]
    np.testing.assert_array_equal(chosen, image[..., [2, 0]] == 0)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "NPY"])
def test_the_users_value_is_missing_in_every_format(kind: str) -> None:
    image, gaps = with_gaps("uint8", 7, 6, 1)
    data = npy(image) if kind == "NPY" else encoded(Image.fromarray(image[..., 0]), kind)
    pixels = PixelFormat(1, reading=Reading(nodata=(7.0,)))
    np.testing.assert_array_equal(decode_masked(data, pixels)[1], gaps)
    assert decode_masked(data, PixelFormat(1))[1] is None


def test_the_users_values_add_to_the_files_own() -> None:
    image, gaps = with_gaps("int16", -9999, 7, 2)
    image[3:5, 25:28] = -32768
    wanted = PixelFormat(2, None, "float32", Reading(nodata=(-32768.0, -1.0)))
    expected = gaps | (image == -32768)
    np.testing.assert_array_equal(decode_masked(tagged(image, "-9999"), wanted)[1], expected)
    typed = PixelFormat(1, None, "float32", Reading(nodata=(-3.4e38,)))
    np.testing.assert_array_equal(decode_masked(npy(np.float32([[LOWEST, 1]])), typed)[1], [[[True], [False]]])


def test_an_image_of_nothing_is_broken() -> None:
    with pytest.raises(BrokenImage, match="all of its pixels are no-data"):
        as_it_is(tagged(np.full((4, 4, 2), 5, np.uint16), "5"))


@given(
    hn.arrays(np.float32, (4, 5, 3), elements=st.sampled_from([1.0, 2.5, -7.0, BIG, -BIG, np.nan, np.inf])),
    st.lists(st.sampled_from([2.5, -7.0, 1e30, np.nan, 4.0]), max_size=3),  # 1e30 is BIG as a file may give it
)
def test_missing_is_what_equals_or_is_no_number(values: NDArray[np.float32], no_data: list[float]) -> None:
    found = equals(values, no_data)
    expected = ~np.isfinite(values) | np.isin(values, np.float32([value for value in no_data if value == value]))
    np.testing.assert_array_equal(np.zeros_like(expected) if found is None else found, expected)


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("dtype", "value", "tag"), [("uint8", 255, "255"), ("uint16", 65535, "65535"), ("float32", -9999, "-9999")]
)
def test_figures_are_of_what_is_there(dtype: Depth, value: float, tag: str) -> None:
    made = [with_gaps(dtype, value, seed) for seed in range(6)]
    source = Files([tagged(image, tag) for image, _ in made])
    there = np.ma.concatenate([np.ma.array(image.astype(float), mask=gaps) for image, gaps in made], axis=1)
    white = WHITE[dtype]
    look = survey(source, seed=0)
    found = measure(source, look.statistics.pixels, workers=0)
    for statistics in (look.statistics, found.statistics):
        np.testing.assert_allclose(statistics.mean, there.mean((0, 1)) / white, rtol=1e-6)
        np.testing.assert_allclose(statistics.std, there.std((0, 1)) / white, rtol=1e-6)
    np.testing.assert_array_equal(found.least, there.min((0, 1)))
    np.testing.assert_array_equal(found.most, there.max((0, 1)))
    exact = [np.percentile(there[..., c].compressed(), PERCENTILES, method="inverted_cdf") for c in range(3)]
    assert np.abs(found.percentiles.T - exact)[:, 1:-1].max() < (0.1 * there.std() if found.sample else 1)
    share = there.mask.mean()
    np.testing.assert_allclose(found.missing, share)
    assert found.gaps == 6
    np.testing.assert_allclose(look.missing.mean(), share)
    assert not look.suspected
    assert not found.suspected


def test_a_channel_that_is_missing_everywhere_is_a_constant() -> None:
    image, _ = with_gaps("uint16", 0, 8)
    image[..., 1] = 0
    source = Files([tagged(image, "0")])
    statistics = survey(source, seed=0).statistics
    assert (statistics.mean[1], statistics.std[1]) == (0, 1)
    found = measure(source, statistics.pixels, workers=0)
    assert found.missing[1] == 1
    assert (found.least[1], found.most[1]) == (0, 0)
    assert found.weights[1].sum() == 0


# ---------------------------------------------------------------- views


@pytest.mark.parametrize(("dtype", "value", "tag"), TAGGED)
def test_no_kernel_spreads_what_is_missing(dtype: str, value: float, tag: str) -> None:
    image, gaps = with_gaps(dtype, value, 9)
    header = read_header(tagged(image, tag))
    level = 60 if dtype in ("uint8", "int8") else 1000
    statistics = Statistics(
        *(((part / WHITE[header.depth],) * 3) for part in (level, level / 10)), PixelFormat(3, None, header.depth)
    )
    view = centred(tagged(image, tag), statistics.pixels, (16, 16))
    normal = statistics.normalize(
        torch.from_numpy(view.astype(np.float32) / WHITE[header.depth]).permute(2, 0, 1)[None]
    )
    assert normal.abs().max() < 6
    border = int(gaps[0, :, 0].sum() * 16 / 30) - 4
    if border > 0:
        assert normal[..., :border].abs().max() < 0.1


def test_packed_floats_stay_missing_and_integers_stay_as_they_are() -> None:
    image, gaps = with_gaps("float32", -9999, 10)
    packed = pack_image(tagged(image, "-9999"), Packing(short_side=12))
    small = np.load(io.BytesIO(packed.data))
    assert small.shape == (12, 15, 3)
    np.testing.assert_array_equal(np.isnan(small), gaps.reshape(12, 2, 15, 2, 3).mean((1, 3)) > 0.5)
    assert np.nanmin(small) > 500
    for number in ("uint8", "uint16"):
        data = tagged(with_gaps(number, 0, 11)[0], "0")
        packed = pack_image(data, Packing(short_side=12))
        assert (packed.data, packed.extension) == (data, "tif")


def suspects_of(images: Sequence[NDArray[Any]]) -> tuple[Any, Any, Any]:
    look = survey(Files([npy(image) for image in images]), seed=0)
    return look.statistics.pixels.reading.nodata, look.no_data, look.suspected


def test_several_usual_values_at_once_and_a_wide_range_beside_them() -> None:
    draws = np.random.default_rng(1)
    wide = draws.integers(0, 16000, (4, 20, 20)).astype(np.int16)
    wide[:, :4], wide[1, 4:8], wide[2, 4:8] = -9999, -32768, -32767
    chosen, no_data, suspected = suspects_of(list(wide))
    assert chosen == (-32768.0, -32767.0, -9999.0)
    assert [one.images for one in no_data] == [1, 1, 4]
    assert not suspected
    blank = np.full((20, 20), -9999, np.int16)
    assert suspects_of([*wide[3:], blank])[0] == (-9999.0,)


@pytest.mark.parametrize("value", [-9999, -32768, -999, LOWEST, 9.96921e36, -1e20])
def test_usual_values_that_no_file_names_are_taken_for_no_data_and_said(value: float) -> None:
    dtype = "float32" if abs(value) > 1e5 else "int16"
    made = [with_gaps(dtype, value, seed) for seed in range(4)]
    chosen, no_data, suspected = suspects_of([image for image, _ in made])
    assert chosen == (float(np.float32(value)),)
    assert no_data[0].images == 4
    assert not suspected
    there = np.concatenate([image[~gaps] for image, gaps in made])
    assert f"all else is from {there.min():g} to {there.max():g}" in str(no_data[0])


def test_saturation_and_background_are_no_suspects_and_odd_values_are_no_more_than_that() -> None:
    draws = np.random.default_rng(0)
    full = draws.integers(0, 65536, (4, 20, 20), dtype=np.uint16)
    assert suspects_of(list(full)) == (None, (), ())
    full[:, :5] = 0
    full[:, 5:9] = 65535
    assert suspects_of(list(full)) == (None, (), ())
    dim = (full // 8).astype(np.uint16)
    dim[:, :5] = 65535
    chosen, no_data, suspected = suspects_of(list(dim))
    assert (chosen, no_data) == (None, ())
    assert [one.value for one in suspected] == [65535]
    hounsfield = draws.integers(-1024, 3000, (4, 20, 20)).astype(np.int16)
    assert suspects_of(list(hounsfield)) == (None, (), ())
    assert suspects_of([np.where(image < -900, -999, image) for image in hounsfield])[0] is None


def test_what_is_missing_comes_back_from_a_decoder_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    image, gaps = with_gaps("uint16", 0, 12)
    monkeypatch.setattr(apart.IN_HAND, "is_suspect", True)
    np.testing.assert_array_equal(as_it_is(tagged(image, "0"))[2], gaps)


def test_no_file_names_it_so_a_model_that_knows_nothing_of_it_refuses_it() -> None:
    console = Console(file=io.StringIO(), width=200)
    made = [with_gaps("int16", -9999, seed)[0] for seed in range(4)]
    source = Files([npy(image) for image in made])
    statistics = Statistics((1000.0,) * 3, (100.0,) * 3, PixelFormat(3, None, "float32"))
    with pytest.raises(UserError, match=r"-9999 in 4 of 4 images.* looks like no-data.*give --nodata -9999"):
        check_levels("model", statistics, source, 0, console)
    told = replace(statistics, pixels=replace(statistics.pixels, reading=Reading(nodata=(-9999.0,))))
    check_levels("model", told, source, 0, console)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_who_is_told_of_a_value_keeps_those_that_he_has_given() -> None:
    """What is given takes the place of all that was."""
    console = Console(file=io.StringIO(), width=200)
    made = [with_gaps("int16", -9999, seed)[0] for seed in range(4)]
    for image in made:
        image[-3:] = -32768
    source, told = Files([npy(image) for image in made]), Reading(nodata=(-9999.0,))
    statistics = Statistics((1000.0,) * 3, (100.0,) * 3, PixelFormat(3, None, "float32", told))
    with pytest.raises(UserError, match=r"give --nodata -9999 -32768, or"):
        check_levels("model", statistics, source, 0, console)
    look = survey(source, seed=0, reading=told)
    warn_of_suspects(look.suspected, look.statistics.pixels.reading.nodata, console)
    assert "give --nodata -9999 -32768" in console.file.getvalue()  # type: ignore[attr-defined]
    (finding,) = told_by_check(source, told)
    assert with_flags(finding.advice) == "if it is, give every command --nodata -9999 -32768"
    assert not told_by_check(source, Reading(nodata=()))
    assert all(with_flags(one.advice).endswith("--nodata -32768 -9999") for one in told_by_check(source, Reading()))


def told_by_check(source: Files, reading: Reading) -> list[Finding]:
    found = judge([InspectedSplit("", source, inspect(source, 0, reading=reading), None, (), "no")])
    return [finding for finding in found if "looks like no-data" in finding.what]


def test_values_that_the_user_names_travel_with_the_statistics() -> None:
    for nodata in (None, (), (-9999.0, LOWEST)):
        statistics = Statistics((1.0,), (1.0,), PixelFormat(1, None, "float32", Reading(nodata=nodata)))
        kept = json.loads(json.dumps(statistics.to_dict()))
        assert ("nodata" in kept) == (nodata is not None)
        assert Statistics.from_dict(kept) == statistics


def test_check_counts_what_is_missing_and_names_what_looks_so() -> None:
    images = [with_gaps("uint16", 0, seed) for seed in range(3)]
    for number, (image, _) in enumerate(images):
        image[:] = 1000
        image[:, : (3, 8, 26)[number]] = 0
    source = Files([tagged(image, "0") for image, _ in images])
    found = inspect(source, 0)
    shares = [(image == 0).mean() for image, _ in images]
    np.testing.assert_allclose(found.rows["missing"], shares, rtol=1e-6)
    said = {finding.what: finding.severity for finding in judge([InspectedSplit("", source, found, None, (), "no")])}
    assert said["1 image is no-data for more than half"] == "warning"
    assert said[f"3 images have no-data, {np.mean(shares):.2%} of all pixels"] == "note"
    unsaid = Files([npy(with_gaps("float32", LOWEST, seed)[0]) for seed in range(3)])
    (finding,) = [
        finding
        for finding in judge([InspectedSplit("", unsaid, inspect(unsaid, 0), None, (), "no")])
        if "no-data" in finding.what
    ]
    assert finding.severity == "warning"
    assert "-3.40282347e+38 in 3 of 3 images" in finding.what
    assert "`nodata=-3.40282347e+38`" in finding.advice


def test_what_is_packed_smaller_is_not_mixed_with_no_data_that_no_file_names(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        np.save(images / f"{number}.npy", with_gaps("int16", -9999, number)[0])
    pack(Pack(str(images), tmp_path / "shards", short_side=16, workers=0))
    source = open_data(str(tmp_path / "shards")).all
    kept = [np.load(io.BytesIO(data)) for data in source.read_each(range(6)) if isinstance(data, bytes)]
    assert all(image.shape == (16, 20, 3) and np.isnan(image).any() for image in kept)
    assert min(np.nanmin(image) for image in kept) > 500


def test_pretrain_takes_what_the_survey_took_says_so_and_keeps_it_with_the_weights() -> None:
    source = Files([npy(with_gaps("int16", -9999, seed)[0]) for seed in range(4)])
    look = survey(source, seed=0)
    console = Console(file=io.StringIO(), width=400)
    wanted = Pretrain("data", Path("out"), precision="fp32")
    found = choose(wanted, look, 4, torch.device("cpu"), 2**34, console)
    assert found.nodata == (-9999.0,)
    assert statistics_of(found).pixels.reading.nodata == (-9999.0,)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "--nodata -9999: no-data: -9999 in 4 of 4 images" in said
    none = survey(source, seed=0, reading=Reading(nodata=()))
    assert min(none.statistics.mean) < 0
    assert not none.no_data
