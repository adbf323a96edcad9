"""Whether directions mean something: sets that are as likely every way by how they are made, and sets that are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from openmae.data.survey.directions import Directions, directions, thumbnail


def noise(count: int, seed: int, side: int = 48) -> list[np.ndarray]:
    """Blots, as likely every way."""
    draws = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(draws.integers(0, 256, (7, 7), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        found.append(np.asarray(coarse))
    return found


@given(st.integers(50, 250), st.integers(0, 2**32))
@settings(max_examples=6)
def test_of_images_that_are_as_likely_any_way_half_are_told(count: int, seed: int) -> None:
    """Within what chance allows to so many answers; the same of all of them turned, by numpy."""
    images = noise(count, seed)
    found = directions(images)
    assert found is not None
    assert found.images == count
    for share in (found.mirrored, found.upside_down, found.transposed):
        assert abs(share - 0.5) < 4.5 * np.sqrt(0.25 / count)
    assert not found.mirror_matters
    assert count >= 200 or not found.may_mean_nothing
    turned = directions([np.ascontiguousarray(np.rot90(image, 2)) for image in images])
    assert turned is not None
    assert turned.transposed == pytest.approx(found.transposed, abs=0.03)
    assert turned.upside_down == pytest.approx(found.upside_down, abs=0.03)


@pytest.mark.parametrize("meant", ["mirrored", "upside_down", "transposed"])
def test_a_direction_that_means_something_is_told(meant: str) -> None:
    slope = np.linspace(-40, 40, 48)
    if meant == "transposed":
        lit = 30 * (np.arange(48) % 6 < 3)[:, None] * np.ones(48)  # stripes, which are as likely mirrored
    else:
        lit = np.broadcast_to(slope if meant == "mirrored" else slope[:, None], (48, 48))
    found = directions([(image / 2 + 60 + lit).astype(np.uint8) for image in noise(250, 1)])
    assert found is not None
    others = {"mirrored", "upside_down"} - {meant}  # light from one side is told when it is transposed, too
    assert all(getattr(found, way) < 0.65 for way in others)
    assert getattr(found, meant) > 0.9
    assert found.mirror_matters == (meant == "mirrored")
    assert not found.may_mean_nothing


def test_letters_are_told_from_their_mirror_images() -> None:
    draws = np.random.default_rng(0)
    pages = []
    for _ in range(200):
        page = Image.new("L", (48, 48), 230)
        for row in range(-6, 48, 11):
            text = "".join(draws.choice(list("abcdefghknprst  "), 12))
            ImageDraw.Draw(page).text((-int(draws.integers(0, 6)), row), text, fill=20)
        pages.append(np.asarray(page))
    found = directions(pages)
    assert found is not None
    assert found.mirror_matters


def test_of_few_images_and_of_copies_nothing_is_said() -> None:
    assert directions([]) is None
    assert directions(noise(49, 0)) is None
    assert directions(noise(30, 0) * 9) is None
    many = directions(noise(1030, 2))
    assert many is not None
    assert many.images == 1024
    assert Directions(0.5, 0.5, 0.5, 50).may_mean_nothing is False
    assert Directions(0.52, 0.51, 0.53, 1024).mean_nothing
    assert Directions(0.52, 0.51, 0.58, 1024).may_mean_nothing
    assert not Directions(0.52, 0.51, 0.58, 1024).mean_nothing
    assert not Directions(0.52, 0.51, 0.6, 1024).may_mean_nothing


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_small_pictures_show_the_middle_of_the_first_frame(dtype: str) -> None:
    """As Pillow resizes it, up to contrast; what is missing counts for nothing."""
    image = np.asarray(Image.fromarray(noise(1, 3, 200)[0]).resize((300, 200)))
    many = np.concatenate([image, image[::-1]])[..., None].repeat(3, 2).astype(dtype)
    small = thumbnail(many, None, 200)
    assert small is not None
    expected = np.asarray(Image.fromarray(image[:, 50:250]).resize((48, 48), Image.Resampling.BICUBIC), float)
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.999
    missing = np.zeros(many.shape, bool)
    missing[:100] = True
    many[:100] = 60000 if dtype == "uint16" else 255
    half = thumbnail(many, missing, 200)
    assert half is not None
    assert np.ptp(half[:20].astype(int)) <= 4
    assert thumbnail(many, np.ones_like(missing), 200) is None
    assert thumbnail(np.full((9, 9, 3), 5, dtype), None, 9) is None
