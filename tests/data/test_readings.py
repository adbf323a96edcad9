"""Files that can be read in more than one way: what a sample of them tells, what is asked, and what pixels follow."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut
from rich.console import Console

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, open_image
from openmae.data.formats.header import Header
from openmae.data.formats.reading import UNSAID, Alpha, Pages, Reading
from openmae.data.loading.memory import InMemory, in_memory
from openmae.data.opening import open_data
from openmae.data.survey.axes import layout_of, pages_of
from openmae.data.survey.distribution import measure
from openmae.data.survey.readings import Channels, Evidence, SeenThrough, choose_reading
from openmae.data.survey.sample import evidence, look, survey
from openmae.errors import BrokenImage, UserError
from tests.data.bad_files import dicom, npy, tiff
from tests.data.deep import Files
from tests.images import encoded


def look_at(files: Sequence[bytes]) -> list[Evidence]:
    return evidence(look(Files(files), 0, 0, len(files), UNSAID))


def pixels_of(data: bytes, reading: Reading, frame: int | None = None) -> NDArray[Any]:
    header = open_image(data, reading).header
    return decode(data, PixelFormat(header.channels, None, header.depth, reading), frame=frame)


# ---------------------------------------------------------------- arrays


@given(st.integers(1, 32), st.integers(2, 40), st.integers(2, 40), st.integers(1, 9))
def test_a_short_end_is_that_of_the_channels(channels: int, height: int, width: int, count: int) -> None:
    size = (height + 2 * channels, width + 2 * channels)
    for shape, word in (((channels, *size), "chw"), ((*size, channels), "hwc")):
        found = layout_of({shape: count}, None)  # type: ignore[dict-item]
        assert found is not None
        assert found[0] == word


@pytest.mark.parametrize(
    ("shapes", "in_chans", "expected"),
    [
        ([(200, 64, 64)], None, "chw"),  # more bands than are usual, and a square image
        ([(64, 64, 200)], None, "hwc"),
        ([(40, 50, 60), (40, 70, 55)], None, "chw"),  # sizes vary and the number of channels does not
        ([(50, 60, 40), (70, 55, 40)], None, "hwc"),
        ([(20, 30, 40)], None, None),
        ([(4, 64, 4)], None, None),
        ([(20, 30, 40)], 20, "chw"),
        ([(20, 30, 40)], 40, "hwc"),
        ([(13, 64, 64)], 64, "hwc"),  # of a model that was trained on such once
        ([(3, 64, 64)], 1, "chw"),
        ([(8, 64, 8), (8, 64, 64)], None, "chw"),
    ],
)
def test_what_decides_how_arrays_lie(shapes: list[tuple[int, int, int]], in_chans: int | None, expected: Any) -> None:
    found = layout_of(dict.fromkeys(shapes, 1), in_chans)
    assert (found and found[0]) == expected


def test_what_cannot_be_told_is_asked_and_what_contradicts_is_refused() -> None:
    sample = look_at([npy(np.zeros((20, 30, 40)))])
    unclear = choose_reading(sample, UNSAID)
    with pytest.raises(UserError, match=r"20 x 30 x 40 may be .*: say which by `layout=hwc` or `layout=chw`"):
        unclear.settled()
    assert (
        choose_reading(look_at([npy(np.zeros((20, 30, 40)))]), Reading(layout="chw")).settled().reading.layout == "chw"
    )
    known = choose_reading(look_at([npy(np.zeros((20, 30, 40)))]), UNSAID, Channels(5, is_known=True))
    assert known.settled().reading == UNSAID
    both = [npy(np.zeros((3, 30, 40))), npy(np.zeros((30, 40, 3)))]
    with pytest.raises(UserError, match="of 2 arrays some have their channels first and some last"):
        choose_reading(look_at(both), UNSAID).settled()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">f8", "?"])
@pytest.mark.parametrize("by_columns", [False, True])
def test_channels_first_are_moved_last(dtype: str, by_columns: bool) -> None:
    array = (np.random.default_rng(0).random((5, 8, 9)) * 200).astype(dtype)
    last = np.moveaxis(array, 0, -1)
    stored = npy(np.asfortranarray(array) if by_columns else array)
    np.testing.assert_array_equal(pixels_of(stored, Reading(layout="chw")), pixels_of(npy(last), Reading(layout="hwc")))


@pytest.mark.parametrize("kind", ["files", ".npy", ".npz"])
def test_a_survey_of_arrays_with_channels_first_is_numpys(tmp_path: Path, kind: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (12, 6, 20, 24), dtype=np.uint8)
    place = tmp_path / f"images{kind}" if kind != "files" else tmp_path
    if kind == "files":
        for number, image in enumerate(images):
            np.save(tmp_path / f"{number:02d}.npy", image)
    elif kind == ".npy":
        np.save(place, images)
    else:
        np.savez(place, images=images)
    found = survey(open_data(str(place)).all, seed=0)
    assert found.statistics.pixels == PixelFormat(6, None, "uint8", Reading(layout="chw"))
    assert "12 of 12 arrays" in found.choice.why["layout"]
    assert found.size == (20, 24)
    np.testing.assert_allclose(found.statistics.mean, images.mean((0, 2, 3)) / 255, rtol=1e-5)


def test_a_batch_of_one_is_its_image() -> None:
    array = np.random.default_rng(7).integers(0, 256, (1, 3, 20, 24), dtype=np.uint8)
    for stored in (array, np.asfortranarray(array)):
        found = pixels_of(npy(stored), Reading(layout="chw"))
        np.testing.assert_array_equal(found, np.moveaxis(array[0], 0, -1))


def test_arrays_that_do_not_fit_are_named_as_they_lie_from_memory_too() -> None:
    source = Files([npy(np.zeros((5, 20, 24), np.uint8)), npy(np.zeros((6, 20, 24), np.uint8))])
    pixels = PixelFormat(5, None, "uint8", Reading(layout="chw"))
    loaded, kept = in_memory(source, pixels, (16, 16), 0, Console(quiet=True))
    assert isinstance(loaded, InMemory)
    np.testing.assert_array_equal(decode(loaded.read(0), kept), np.zeros((20, 24, 5)))
    with pytest.raises(BrokenImage, match="it has 6 channels and 5 are wanted"):
        loaded.read(1)


# ---------------------------------------------------------------- pages


def stack(*shape: int) -> NDArray[np.uint16]:
    return np.random.default_rng(2).integers(0, 65536, shape, dtype=np.uint16)


def test_silent_pages_are_asked_about_and_read_as_is_said() -> None:
    values = stack(13, 20, 24)
    data = tiff(values, photometric="minisblack")
    with pytest.raises(UserError, match=r"13 pages of one size .*`pages=channels` or `pages=frames`"):
        choose_reading(look_at([data] * 3), UNSAID).settled()
    channels = pixels_of(data, Reading(pages="channels"))
    np.testing.assert_array_equal(channels, np.moveaxis(values, 0, -1))
    assert open_image(data, Reading(pages="channels")).header.frames == 1
    np.testing.assert_array_equal(pixels_of(data, Reading(pages="frames"), 4)[..., 0], values[4])
    found = survey(Files([data] * 3), 0, reading=Reading(pages="channels"))
    np.testing.assert_allclose(found.statistics.mean, values.mean((1, 2)) / 65535, rtol=1e-5)


@pytest.mark.parametrize("frames", [2, 5, 8, 13])
@pytest.mark.parametrize("depth", ["uint16", "float32"])
def test_statistics_are_of_frames_all_over_a_file(frames: int, depth: str) -> None:
    values = (stack(frames, 12, 14) // 16 * np.arange(1, frames + 1)[:, None, None] ** 2 % 60_000).astype(depth)
    data = tiff(values, photometric="minisblack", metadata={"axes": "ZYX"})
    chosen = values if frames <= 8 else values[[frames * (2 * part + 1) // 16 for part in range(8)]]
    white = 65535 if depth == "uint16" else 1
    look = survey(Files([data] * 2), 0)
    found = measure(Files([data] * 2), look.statistics.pixels, 0)
    assert look.frames == frames
    for statistics in (look.statistics, found.statistics):
        assert statistics.mean[0] == pytest.approx(chosen.mean(dtype=float) / white, rel=1e-6)
        assert statistics.std[0] == pytest.approx(chosen.std(dtype=float) / white, rel=1e-5)
    assert found.most[0] == chosen.max()


@pytest.mark.parametrize(
    ("shape", "options", "channels", "frames"),
    [
        ((5, 12, 14), {"imagej": True, "metadata": {"axes": "CYX"}}, 5, 1),
        ((5, 12, 14), {"imagej": True, "metadata": {"axes": "ZYX"}}, 1, 5),
        ((5, 12, 14), {"imagej": True, "metadata": {"axes": "TYX"}}, 1, 5),
        ((5, 12, 14), {"ome": True, "metadata": {"axes": "CYX"}}, 5, 1),
        ((5, 12, 14), {"ome": True, "metadata": {"axes": "ZYX"}}, 1, 5),
        ((4, 3, 12, 14), {"ome": True, "metadata": {"axes": "TCYX"}}, 3, 4),
        ((4, 3, 12, 14), {"imagej": True, "metadata": {"axes": "ZCYX"}}, 3, 4),
    ],
)
def test_ome_and_imagej_decide_where_they_speak(
    shape: tuple[int, ...], options: dict[str, Any], channels: int, frames: int
) -> None:
    data = tiff(stack(*shape), photometric="minisblack", **options)
    choice = choose_reading(look_at([data] * 3), UNSAID).settled()
    assert choice.reading == UNSAID
    header = open_image(data, choice.reading).header
    assert (header.channels, header.frames) == (channels, frames)
    if channels > 1:  # which no flag changes
        assert open_image(data, Reading(pages="channels")).header == header


@pytest.mark.parametrize(
    ("stacks", "files", "in_chans", "expected"),
    [
        ({(13, 64, 64): 4}, 4, None, None),
        ({(13, 64, 64): 4}, 4, 13, "channels"),
        ({(13, 64, 64): 4}, 4, 1, "frames"),
        ({(13, 64, 64): 2, (9, 64, 64): 2}, 4, None, "frames"),
        ({(13, 64, 64): 3}, 4, None, "frames"),
        ({(64, 70, 13): 4}, 4, None, "rows"),
        ({(64, 70, 40): 4}, 4, 40, "rows"),
    ],
)
def test_what_decides_what_pages_are(
    stacks: dict[tuple[int, int, int], int], files: int, in_chans: int | None, expected: Pages | None
) -> None:
    found = pages_of(stacks, files, in_chans)
    assert (found and found[0]) == expected


def test_an_array_written_without_a_word_on_its_axes_is_read_as_it_was() -> None:
    values = stack(30, 34, 13)
    data = tiff(values, photometric="minisblack")  # 30 pages of 34 x 13
    choice = choose_reading(look_at([data]), UNSAID).settled()
    assert choice.reading == Reading(pages="rows")
    np.testing.assert_array_equal(pixels_of(data, choice.reading), values)


# ---------------------------------------------------------------- DICOM


@given(
    st.sampled_from([("u1", 8), ("u1", 5), ("u2", 16), ("u2", 12), ("i2", 16), ("i2", 12), ("i1", 8)]),
    st.sampled_from([None, (1, 0), (2.5, -1024), (-10, 3000), (1, -1000)]),
    st.sampled_from([None, "value", "range"]),
    st.booleans(),
)
def test_rescaled_numbers_are_pydicoms(
    layout: tuple[str, int], rescale: tuple[float, float] | None, padding: str | None, raw: bool
) -> None:
    (dtype, bits), is_signed = layout, layout[0].startswith("i")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    values = np.random.default_rng(bits).integers(low + 3, high + 1, (11, 14))
    values[:2] = low + np.arange(14) % 3
    elements: dict[str, Any] = {"BitsStored": bits, "PixelRepresentation": int(is_signed)}
    if rescale:
        elements |= dict(zip(("RescaleSlope", "RescaleIntercept"), map(str, rescale), strict=True))
    if padding:
        elements["PixelPaddingValue"] = low
    if padding == "range":
        elements["PixelPaddingRangeLimit"] = low + 2
    data = dicom((values & (2**bits - 1)).astype(dtype.replace("i", "u")), **elements)
    dataset = pydicom.dcmread(io.BytesIO(data))
    expected = values if raw else apply_modality_lut(values, dataset)
    missing = {None: values < low, "value": values == low, "range": values <= low + 2}[padding]
    reading = Reading(dicom_units="raw" if raw else "rescaled")
    header = open_image(data, reading).header
    for depth in dict.fromkeys((header.depth, "float32")):
        found = decode(data, PixelFormat(1, None, depth, reading))[..., 0]
        np.testing.assert_array_equal(found[~missing], expected[~missing].astype(np.float32))
    if missing.any():
        assert found[missing] == pytest.approx(
            expected[~missing].mean(), abs=0.51 if header.depth != "float32" else 1e-2
        )


def test_two_devices_of_one_study_give_the_same_numbers() -> None:
    values = np.random.default_rng(3).integers(0, 4096, (16, 20))
    twelve = dicom(values.astype(np.uint16), BitsStored=12, HighBit=11)
    sixteen = dicom(values.astype(np.uint16), BitsStored=16, HighBit=15)
    halved = dicom((values // 2).astype(np.uint16), BitsStored=12, RescaleSlope="2", RescaleIntercept="0")
    shallow = dicom((values // 16).astype(np.uint8), BitsStored=8, RescaleSlope="16", RescaleIntercept="0")
    inverted = dicom((4095 - values).astype(np.uint16), BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    look = survey(Files([twelve, sixteen, halved, shallow, inverted]), 0)
    assert look.statistics.pixels == PixelFormat(1, None, "float32", Reading(dicom_units="rescaled"))
    for data, step in ((twelve, 1), (sixteen, 1), (halved, 2), (shallow, 16), (inverted, 1)):
        np.testing.assert_array_equal(decode(data, look.statistics.pixels)[..., 0], values // step * step)
    assert len(look.choice.notes) == 1
    assert "not all in one unit (3 as stored, 2 rescaled" in look.choice.notes[0].what
    alike = survey(Files([twelve, sixteen]), 0)
    assert alike.statistics.pixels.depth == "uint16"
    assert not alike.choice.notes
    assert alike.statistics.mean[0] == pytest.approx(values.mean() / 65535, rel=1e-5)


def test_numbers_beside_levels_are_said() -> None:
    values = np.random.default_rng(4).integers(0, 256, (16, 20)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    found = choose_reading(
        look_at([dicom(values, RescaleSlope="1", RescaleIntercept="-1024"), file.getvalue()]), UNSAID
    )
    assert "1 file has numbers of DICOM, and 1 levels of" in found.notes[0].what


def test_a_table_gives_the_unit_that_it_names() -> None:
    table = Dataset()
    numbers = np.array([7, 5, 3, 1, 10, 20, 300, 4000], np.uint16)
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [8, 0, 16], numbers.tobytes(), "OD"
    values = np.random.default_rng(5).integers(0, 8, (6, 7)).astype(np.uint16)
    data = dicom(values, ModalityLUTSequence=[table])
    reading = Reading(dicom_units="rescaled")
    assert open_image(data, reading).header.units == "OD"
    found = decode(data, PixelFormat(1, None, "float32", reading))[..., 0]
    np.testing.assert_array_equal(found, numbers[values])
    np.testing.assert_array_equal(pixels_of(data, Reading(dicom_units="raw"))[..., 0], values)


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("described", [False, True])
def test_files_without_a_preamble_are_dicom(implicit: bool, little: bool, described: bool) -> None:
    values = np.random.default_rng(6).integers(0, 4096, (16, 20)).astype(np.uint16)
    dataset = pydicom.dcmread(io.BytesIO(dicom(values, BitsStored=12, PixelPaddingValue=int(values[0, 0]))))
    meta = dataset.file_meta
    dataset = Dataset(dataset)
    if not little:
        dataset.PixelData = values.astype(">u2").tobytes()
    if described:
        syntax = "" if implicit else ".1" if little else ".2"
        dataset.file_meta = meta
        meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2" + syntax)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    data = file.getvalue()
    assert data[128:132] != b"DICM"
    found = decode(data, PixelFormat(1, None, "uint16", Reading(dicom_units="rescaled")))[..., 0]
    there = values != values[0, 0]
    np.testing.assert_array_equal(found[there], values[there])


def test_a_padding_value_may_be_written_with_the_other_sign() -> None:
    stored = np.full((4, 4), 100, np.uint16)
    stored[0] = 63536  # -2000 in 16 bits
    for is_signed, value in ((1, 63536), (1, -2000), (0, 63536)):
        element = DataElement(0x00280120, "US" if value > 0 else "SS", value)
        data = dicom(stored, PixelRepresentation=is_signed, PixelPaddingValue=element)
        assert (pixels_of(data, Reading(dicom_units="rescaled")) == 100).all()


# ---------------------------------------------------------------- transparency


def icons(count: int, transparent: bool, *blank: Alpha) -> list[Evidence]:
    header = Header("PNG", 8, 8, 4, "uint8", "RGBA", alpha="straight")
    return [Evidence(header, SeenThrough(transparent, frozenset(blank)))] * count


@pytest.mark.parametrize("level", [0, 255, 90])
def test_an_image_is_blank_where_one_pixel_does_not_differ(level: int) -> None:
    image = np.full((300, 200, 4), level, np.uint8)
    image[..., 3] = (np.arange(200) > 99) * 255
    for spot in (False, True):
        image[101, 57] = (1, 2, 3, 255) if spot else image[0, 0]
        (seen,) = look_at([encoded(Image.fromarray(image), "PNG")])
        blank = {"ignore"} | {0: {"black"}, 255: {"white"}}.get(level, set())
        assert seen.seen == SeenThrough(True, frozenset() if spot else frozenset(blank))  # type: ignore[arg-type]
    image[..., 3] = 255
    (seen,) = look_at([encoded(Image.fromarray(image), "PNG")])
    assert seen.seen == SeenThrough(False, frozenset())


PHOTOGRAPH = Evidence(Header("JPEG", 8, 8, 3, "uint8", "RGB"))


@pytest.mark.parametrize(
    ("sample", "channels", "expected"),
    [
        ([PHOTOGRAPH], Channels(), None),
        (icons(3, False), Channels(), "white"),
        ([*icons(3, True), PHOTOGRAPH], Channels(), "white"),
        (icons(3, True, "black", "ignore"), Channels(), "white"),
        (icons(3, True, "white", "ignore"), Channels(), "black"),
        ([*icons(3, True, "white"), *icons(3, True, "black")], Channels(), "channel"),
        ([*icons(1, True, "white"), *icons(30, True, "black")], Channels(), "white"),
        (icons(3, True, "white", "black"), Channels(), "ignore"),  # all hidden, as some writers leave 32-bit BMPs
        ([*icons(1, True, "white", "black", "ignore"), *icons(9, True)], Channels(), "white"),
        (icons(3, True), Channels(4), "channel"),
        ([*icons(3, True, "white"), *icons(3, True, "black")], Channels(3), "white"),
        (icons(3, True), Channels(None, (1, 2, 3)), None),
        (icons(3, True), Channels(3, is_known=True), None),
    ],
)
def test_what_decides_what_stands_behind_transparent_pixels(
    sample: list[Evidence], channels: Channels, expected: Alpha | None
) -> None:
    choice = choose_reading(sample, UNSAID, channels).settled()
    assert choice.reading.alpha == expected
    assert ("alpha" in choice.why) == (expected is not None)


def test_what_makes_all_images_one_colour_is_refused_and_what_makes_most_is_said() -> None:
    drawn = icons(3, True, "black", "ignore")
    for asked, channels in ((Reading(alpha="black"), Channels()), (UNSAID, Channels(3, is_known=True))):
        with pytest.raises(UserError, match=r"all of 3 images looked at are one colour: `alpha=white` shows"):
            choose_reading(drawn, asked, channels).settled()
    with pytest.raises(UserError, match="`in_chans=3` has no room for alpha"):
        choose_reading(drawn, Reading(alpha="channel"), Channels(3)).settled()
    some = choose_reading([*drawn, *icons(1, True), PHOTOGRAPH], Reading(alpha="black")).settled()
    assert "3 of 4 images" in some.notes[0].what
    assert not choose_reading(drawn, Reading(alpha="white")).settled().notes
    seen = choose_reading([*icons(2, True), PHOTOGRAPH], UNSAID, Channels(3, is_known=True)).settled()
    assert "2 of 3 images have transparent pixels" in seen.notes[0].what
    assert not choose_reading(icons(2, True), UNSAID, Channels(4, is_known=True)).notes
