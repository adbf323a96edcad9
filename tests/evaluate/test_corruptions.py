"""Corrupted images are those of ImageNet-C's authors, and the mean corruption error is its definition."""

import io
import json
from pathlib import Path
from typing import Any

import imagecorruptions
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from openmae.data.formats.channels import PixelFormat
from openmae.data.opening import open_data
from openmae.errors import UserError
from openmae.evaluate import corruptions, imagenet_c
from openmae.randomness import generator
from tests.images import picture


def view(size: tuple[int, int] = (40, 36), seed: int = 3) -> np.ndarray:
    return np.asarray(picture(seed, size))


class Drawn:
    """Draws as the authors' code does, from numpy's generator of old, which it seeds by the severity."""

    def __init__(self, seed: int) -> None:
        self.seed, self.draws = seed, np.random.RandomState(seed)
        self.uniform, self.normal = self.draws.uniform, self.draws.normal

    def integers(self, *least_and_most: int, size: int | None = None) -> Any:
        return (
            np.full(size, self.seed) if size else self.draws.randint(*least_and_most)
        )  # what the library is seeded by


AUTHORS = json.loads((Path(__file__).parent / "imagenet_c.json").read_text())
"""What the code released with arXiv 1903.12261 (hendrycks/robustness at 8190fe3, ImageMagick 6.9.11) makes of `BLOCKS`
at each severity, its generator seeded by that: the mean change, and each 80th pixel of each 80th row from the 30th."""
BLOCKS = np.kron(np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8), np.ones((7, 7, 1), np.uint8))
DRAWN_OTHERWISE = ("impulse_noise", "glass_blur")  # the library's have a generator of their own


@pytest.mark.parametrize("severity", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 4)), 5])
@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_every_kind_is_the_authors(kind: str, severity: int) -> None:
    expected = AUTHORS[kind][severity - 1]
    found = corruptions.corrupt(BLOCKS, kind, severity, Drawn(severity))  # type: ignore[arg-type]
    change = np.abs(found.astype(int) - BLOCKS).mean()
    if kind in DRAWN_OTHERWISE:
        assert change == pytest.approx(expected["change"], rel=0.03)
        return
    assert change == pytest.approx(expected["change"], rel=0.002)
    np.testing.assert_allclose(found[30::80, 30::80].reshape(-1).astype(int), expected["pixels"], atol=1)


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_numpys_generator_is_left_as_it_was(kind: str) -> None:
    np.random.seed(11)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    found = corruptions.corrupt(view(), kind, 3, generator(1, "corruption", index=7))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert found.dtype == np.uint8
    assert found.shape == view().shape
    np.testing.assert_array_equal(found, corruptions.corrupt(view(), kind, 3, generator(1, "corruption", index=7)))


@pytest.mark.parametrize("kind", imagenet_c.KINDS)
@pytest.mark.parametrize("size", [(32, 32), (64, 100), (90, 33), (448, 448), (300, 700)])
def test_kinds_of_our_own_take_any_size(kind: str, size: tuple[int, int]) -> None:
    image = np.asarray(picture(5, size))
    for severity in corruptions.SEVERITIES:
        found = corruptions.corrupt(image, kind, severity, generator(2, "corruption", index=severity))
        assert found.shape == image.shape
        assert 0.2 < np.abs(found.astype(int) - image).mean() < 128


def test_views_are_made_as_the_published_set_was(tmp_path: Path) -> None:
    """Resize(256) of Pillow's pictures, bilinear; CenterCrop(224); the corruption; JPEG of quality 85."""
    picture(3, (300, 437)).save(tmp_path / "image.png")
    made = corruptions.Corrupted(open_data(str(tmp_path)).all, PixelFormat(3), (224, 224), (16, 16), "contrast", 2, 0)
    found = Image.open(io.BytesIO(made.read(0)))
    assert found.format == "JPEG"
    view = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(picture(3, (300, 437)))
    file = io.BytesIO()
    Image.fromarray(imagecorruptions.corrupt(np.asarray(view), 2, "contrast")).save(file, "JPEG", quality=85)
    theirs = Image.open(file)
    assert theirs.quantization == found.quantization
    assert np.abs(np.asarray(found).astype(int) - np.asarray(theirs)).mean() < 0.3


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
        return np.asarray(Image.open(io.BytesIO(made.read(index))))

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
    assert corruptions.is_imagenet(ids, (224, 224), 3)
    assert not corruptions.is_imagenet(ids, (224, 224), 1)
    assert not corruptions.is_imagenet(ids, (448, 448), 3)
    assert not corruptions.is_imagenet(ids[:200], (224, 224), 3)
    assert not corruptions.is_imagenet([*ids[1:], "tench"], (224, 224), 3)
