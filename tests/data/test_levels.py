"""Whether images have the values that are expected of them: by hand, and for what people really mix up."""

import io
from collections.abc import Sequence

import numpy as np
import pytest

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.header import Depth
from openmae.data.survey.distribution import measure
from openmae.data.survey.levels import Levels, apart, check_given, unlike
from openmae.data.survey.sample import sample_levels, survey
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.weights.shapes import IMAGENET
from tests.data.deep import Files

GENERATOR = np.random.default_rng(0)
PICTURES = GENERATOR.integers(20, 220, (12, 24, 24, 3)).astype(np.float64)  # in levels of 8 bits


def files(values: np.ndarray, dtype: str) -> list[bytes]:
    """As .npy."""
    return [_npy(image.astype(dtype)) for image in values]


def _npy(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


KINDS = {  # the same pictures, as people store them
    "8 bits": files(PICTURES, "u1"),
    "12 bits in 16": files(PICTURES * 16, "u2"),
    "16 bits": files(PICTURES * 257, "u2"),
    "reflectance in 16 bits": files(PICTURES * 20, "u2"),
    "Hounsfield units": files(PICTURES * 12 - 1000, "i2"),
    "floats of 0..1": files(PICTURES / 255, "f4"),
    "floats of 0..255": files(PICTURES, "f4"),
    "floats of 0..65535": files(PICTURES * 257, "f4"),
}
CANNOT_BE = [
    *((learnt, "8 bits") for learnt in ("12 bits in 16", "reflectance in 16 bits", "Hounsfield units")),
    ("floats of 0..255", "8 bits"),
    ("floats of 0..255", "floats of 0..1"),
    ("floats of 0..1", "floats of 0..255"),
    ("floats of 0..1", "Hounsfield units"),
    ("floats of 0..255", "floats of 0..65535"),
    ("12 bits in 16", "16 bits"),
]
THE_SAME = [("16 bits", "8 bits"), ("floats of 0..1", "8 bits"), ("floats of 0..1", "16 bits")]


def of(means: Sequence[float], std: float, depth: Depth = "float32") -> Levels:
    """Grey images of these means, each with this deviation."""
    moments = np.array([[[mean], [mean**2 + std**2]] for mean in means])
    return Levels(moments, (depth,) * len(means))


@pytest.mark.parametrize(("learnt", "given"), CANNOT_BE)
def test_pictures_of_another_scale_are_impossible(learnt: str, given: str) -> None:
    statistics = survey(Files(KINDS[learnt]), 0).statistics
    assert unlike(sample_levels(Files(KINDS[learnt]), statistics.pixels), statistics) is None
    found = unlike(sample_levels(Files(KINDS[given]), statistics.pixels), statistics)
    assert found is not None
    assert found.impossible


@pytest.mark.parametrize(("learnt", "given"), THE_SAME)
def test_pictures_of_another_depth_and_the_same_scale_are_fine(learnt: str, given: str) -> None:
    statistics = survey(Files(KINDS[learnt]), 0).statistics
    assert unlike(sample_levels(Files(KINDS[given]), statistics.pixels), statistics) is None


def test_what_is_said_is_what_normalising_gives() -> None:
    levels = of([0.4, 0.6], 0.2, "uint8")
    statistics = Statistics((0.02,), (0.01,), PixelFormat(1, None, "uint16"))
    normal = (np.array([0.4 - 0.2, 0.4 + 0.2, 0.6 - 0.2, 0.6 + 0.2]) - 0.02) / 0.01  # pixels of these moments
    found = unlike(levels, statistics)
    assert found is not None
    assert found.impossible
    assert f"mean {normal.mean():.3g} and deviation {normal.std():.3g} instead" in found.what
    assert "32,768 ± 14,654 of 65535, where around 1,311 ± 655 of 65535 are expected" in found.what
    assert "of 16 bits; these files have 8 bits" in found.what


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (0.13, 0.31),  # handwritten digits
        (0.95, 0.15),  # scanned pages
        (0.25, 0.2),  # X-rays
        (0.06, 0.08),  # photographs at night
    ],
)
def test_images_that_differ_from_photographs_as_images_do_are_fine(mean: float, std: float) -> None:
    levels = Levels(np.array([[[mean] * 3, [mean**2 + std**2] * 3]]), ("uint8",))
    assert unlike(levels, Statistics(*IMAGENET, PixelFormat())) is None


def test_dark_images_of_16_bits_are_odd_and_not_impossible() -> None:
    levels = Levels(np.array([[[0.02] * 3, [0.02**2 + 0.01**2] * 3]]), ("uint16",))
    found = unlike(levels, Statistics(*IMAGENET, PixelFormat(3, None, "uint16")))
    assert found is not None
    assert not found.impossible


def test_a_channel_that_is_the_same_everywhere_says_nothing() -> None:
    levels = Levels(np.array([[[0.5, 0.0], [0.29, 0.0]]]), ("uint8",))
    assert unlike(levels, Statistics((0.5, 0.5), (0.2, 0.2), PixelFormat(2))) is None
    assert unlike(of([0, 0], 0), Statistics((0.5,), (0.2,), PixelFormat(1))) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("floats of 0..1", "floats of 0..255"),
        ("8 bits", "floats of 0..255"),
        ("8 bits", "Hounsfield units"),
        ("8 bits", "12 bits in 16"),
        ("12 bits in 16", "16 bits"),
    ],
)
def test_two_scales_in_one_set_are_found(first: str, second: str) -> None:
    source = Files([*KINDS[first][:9], *KINDS[second][9:]])
    look = survey(source, 0)
    found, over_all = apart(look.levels.sizes, look.levels.depths), measure(source, look.statistics.pixels, 0).apart
    assert found is not None
    assert over_all is not None
    assert over_all.what == found.what
    assert found.few.tolist() == [9, 10, 11]
    assert "9 images" in found.what
    assert "3 images" in found.what


@pytest.mark.parametrize(("first", "second"), [("8 bits", "16 bits"), ("8 bits", "floats of 0..1")])
def test_depths_of_one_scale_are_fine(first: str, second: str) -> None:
    look = survey(Files([*KINDS[first][:9], *KINDS[second][9:]]), 0)
    assert apart(look.levels.sizes, look.levels.depths) is None


def test_bright_and_dark_images_and_black_ones_are_one_scale() -> None:
    sizes = np.array([0.0, 0.0, *np.geomspace(0.001, 1.0, 40)])
    assert apart(sizes, ["uint8"] * 42) is None
    assert apart(np.zeros(4), ["uint8"] * 4) is None
    assert apart(np.array([0.001, *np.full(40, 0.5)]), ["uint8"] * 41) is None  # one odd image is no scale
    assert apart(np.zeros(0), []) is None


def look(kind: str) -> tuple[Levels, Statistics]:
    found = survey(Files(KINDS[kind]), 0)
    return found.levels, found.statistics


@pytest.mark.parametrize(
    ("kind", "white", "mean", "std"),
    [
        ("8 bits", 255, (119.7, 119.4, 119.9), (57.7, 57.7, 57.7)),
        ("12 bits in 16", 65535, (1915.0, 1910.0, 1918.0), (923.0, 923.0, 923.0)),
        ("16 bits", 255, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),  # ImageNet's, of pictures stored deeper
        ("reflectance in 16 bits", 65535, (2394.0, 2388.0, 2398.0), None),
        ("reflectance in 16 bits", 65535, None, (1154.0, 1154.0, 1154.0)),
    ],
)
def test_figures_in_levels_are_refused_with_those_that_are_meant(
    kind: str, white: int, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> None:
    with pytest.raises(UserError, match="is in levels of 0 to") as refused:
        check_given(mean, std, *look(kind))
    assert f"in levels of 0 to {white}, and pixels are scaled to 0..1" in str(refused.value)
    for values in (mean, std):
        if values is not None:
            assert f"{values[0] / white:.4g}, {values[1] / white:.4g}, {values[2] / white:.4g}" in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "mean", "std"),
    [
        ("floats of 0..1", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
        ("floats of 0..255", *IMAGENET),
        ("8 bits", (1424.0, 1413.0, 1477.0), (1000.0, 1000.0, 1000.0)),  # of no scale that these images have
        ("8 bits", (0.5, 0.5, 0.5), (0.00001, 0.00001, 0.00001)),
    ],
)
def test_figures_that_cannot_be_the_images_are_refused_with_the_images(
    kind: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    levels, own = look(kind)
    with pytest.raises(UserError, match="cannot be of these images") as refused:
        check_given(mean, std, levels, own)
    assert f"their own: `mean={own.mean}` `std={own.std}`" in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "mean", "std"),
    [
        ("8 bits", *IMAGENET),
        ("8 bits", None, None),
        ("floats of 0..255", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
        ("Hounsfield units", (400.0, 400.0, 400.0), None),
        ("12 bits in 16", (0.03, 0.03, 0.03), (0.015, 0.015, 0.015)),
    ],
)
def test_figures_that_may_be_the_images_are_taken(
    kind: str, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> None:
    check_given(mean, std, *look(kind))
