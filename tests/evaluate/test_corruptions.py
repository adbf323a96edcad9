"""Corrupted images are the library's, and the mean corruption error is its definition."""

import io
from pathlib import Path

import imagecorruptions
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmae.data.formats.channels import PixelFormat
from openmae.data.opening import open_data
from openmae.errors import UserError
from openmae.evaluate import corruptions
from openmae.randomness import generator
from tests.images import picture


def view(size: tuple[int, int] = (40, 36), seed: int = 3) -> np.ndarray:
    return np.asarray(picture(seed, size))


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_every_kind_is_the_librarys_and_gets_worse(kind: str) -> None:
    image, draws = view(), generator(1, "corruption", epoch=2, index=7)
    own, shared = generator(1, "corruption", epoch=2, index=7).integers(2**31, size=2).tolist()
    extra = {"seed": own} if kind in ("impulse_noise", "glass_blur") else {}
    np.random.seed(shared)  # noqa: NPY002
    expected = imagecorruptions.corrupt(image, 5, kind, **extra)
    np.random.seed(11)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    worst = corruptions.corrupt(image, kind, 5, draws)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.testing.assert_array_equal(worst, expected)
    assert worst.dtype == np.uint8
    assert worst.shape == image.shape
    mild = corruptions.corrupt(image, kind, 1, generator(1, "corruption", epoch=2, index=7))
    changed = [np.abs(one.astype(int) - image).mean() for one in (mild, worst)]
    assert 0 < changed[0] < changed[1]


def test_the_kinds_are_the_librarys_common_ones() -> None:
    assert list(corruptions.KINDS) == imagecorruptions.get_corruption_names()


def test_grey_images_stay_grey() -> None:
    grey = view()[..., :1]
    for kind in corruptions.KINDS:
        assert corruptions.corrupt(grey, kind, 3, generator(0, "corruption")).shape == grey.shape


def test_a_corrupted_image_depends_on_seed_index_kind_and_severity_alone(tmp_path: Path) -> None:
    for number in range(3):
        picture(1, (40, 40)).save(tmp_path / f"{number}.png")  # the same picture
    source = open_data(str(tmp_path)).all

    def read(index: int, kind: str = "gaussian_noise", severity: int = 2, seed: int = 0) -> np.ndarray:
        made = corruptions.Corrupted(source, PixelFormat(3), (32, 32), (8, 8), kind, severity, seed)
        return np.load(io.BytesIO(made.read(index)))

    first = read(0)
    assert first.shape == (32, 32, 3)
    np.testing.assert_array_equal(first, read(0))
    for other in (read(1), read(0, seed=1), read(0, severity=3), read(0, kind="shot_noise")):
        assert (other != first).any()
    # Draws of one severity are not those of the next, scaled.
    noise = [read(0, severity=s).astype(float) - read(0, "brightness", 1) for s in (1, 2)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.9


@given(
    st.dictionaries(
        st.sampled_from(corruptions.KINDS),
        st.dictionaries(st.sampled_from(corruptions.SEVERITIES), st.floats(0, 1), min_size=1),
        min_size=1,
    )
)
def test_mean_corruption_error_is_its_definition(errors: dict[str, dict[int, float]]) -> None:
    means = {kind: np.mean(list(of.values())) for kind, of in errors.items()}
    assert corruptions.mean_corruption_error(errors, None) == pytest.approx(np.mean(list(means.values())))
    relative = np.mean([mean / corruptions.ALEXNET[kind] for kind, mean in means.items()])
    assert corruptions.mean_corruption_error(errors, corruptions.ALEXNET) == pytest.approx(relative)
    assert corruptions.is_complete(errors) == (sum(map(len, errors.values())) == 75)


def test_alexnet_relative_to_itself_is_one() -> None:
    errors = {kind: dict.fromkeys(corruptions.SEVERITIES, error) for kind, error in corruptions.ALEXNET.items()}
    assert corruptions.is_complete(errors)
    assert corruptions.mean_corruption_error(errors, corruptions.ALEXNET) == pytest.approx(1)


def test_what_cannot_be_corrupted_is_refused() -> None:
    for pixels in (PixelFormat(3, None, "uint16"), PixelFormat(4)):
        with pytest.raises(UserError, match="grey and colour images of 8 bits"):
            corruptions.check_corruptible(pixels, (64, 64))
    with pytest.raises(UserError, match="32 pixels a side or more"):
        corruptions.check_corruptible(PixelFormat(3), (64, 16))
    corruptions.check_corruptible(PixelFormat(1), (32, 64))


def test_only_imagenet_at_224_is_compared_with_alexnet() -> None:
    ids = [f"n{number:08d}" for number in range(1000)]
    assert corruptions.is_imagenet(ids, (224, 224))
    assert not corruptions.is_imagenet(ids, (448, 448))
    assert not corruptions.is_imagenet(ids[:200], (224, 224))
    assert not corruptions.is_imagenet([*ids[1:], "tench"], (224, 224))
