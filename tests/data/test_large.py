"""Large images that are read part by part."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from openmae.data.formats import header
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode
from openmae.data.opening import open_images
from openmae.data.sources.source import Source
from openmae.data.tiles import large
from openmae.data.tiles.large import LargeImage, large_image
from openmae.errors import BrokenImage

WAYS = {
    "rows": {"rowsperstrip": 8},
    "strips": {"rowsperstrip": 8, "compression": "zlib"},
    "tiles": {"tile": (16, 32), "compression": "zlib"},
    "turned": {"tile": (32, 16), "extratags": [(274, "H", 1, 6, True)]},
}
SIZE = (210, 170)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("large")
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    for name, how in WAYS.items():
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="rgb", **how)
    tifffile.imwrite(folder / "whole.tif", pixels, photometric="rgb", rowsperstrip=SIZE[0], compression="zlib")
    return open_images([str(folder)]).all


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "_LARGE", 0)


@pytest.fixture(scope="module")
def whole(source: Source) -> dict[str, NDArray[np.uint8]]:
    return {source.name(index): decode(source.read(index), PixelFormat(3)) for index in range(len(source))}


def opened(source: Source, name: str) -> LargeImage | None:
    index = next(index for index in range(len(source)) if source.name(index) == name)
    return large_image(source, index, PixelFormat(3), 32)


places = st.integers(0, 220)


@given(st.sampled_from(sorted(WAYS)), places, places, places, places, st.integers(1, 40))
def test_parts_are_those_of_the_whole(
    source: Source,
    whole: dict[str, NDArray[np.uint8]],
    how: str,
    top: int,
    rows: int,
    left: int,
    columns: int,
    step: int,
) -> None:
    """Beyond its edges too, one after the other, and with steps."""
    image, right = opened(source, f"{how}.tif"), whole[f"{how}.tif"]
    assert image is not None
    assert (image.shape, image.dtype) == (right.shape, right.dtype)
    top, left = top % image.shape[0], left % image.shape[1]
    for begin in (top, top // 2):
        part = (slice(begin, begin + 1 + rows), slice(left, left + 1 + columns))
        assert np.array_equal(image[part], right[part])
    sparse = (slice(top, None, step), slice(left, None, step))
    assert np.array_equal(image[sparse], right[sparse])


def test_what_is_decoded_whole_and_what_is_broken(source: Source, tmp_path: Path) -> None:
    assert opened(source, "whole.tif") is None  # one strip: a part of it would need all of it
    (alone := tmp_path / "alone").mkdir()
    (alone / "whole.tif").write_bytes((Path(source.location) / "whole.tif").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(header, "MAX_PIXELS", 2000)
        image = opened(open_images([str(alone)]).all, "whole.tif")
        assert image is not None
        with pytest.raises(BrokenImage, match="as a TIFF in tiles"):
            image[:32, :32]
    file = tmp_path / "some" / "cut.tif"
    file.parent.mkdir()
    file.write_bytes((Path(source.location) / "rows.tif").read_bytes())
    image = opened(open_images([str(file.parent)]).all, "cut.tif")
    assert image is not None
    file.write_bytes(file.read_bytes()[:40_000])
    with pytest.raises(BrokenImage):
        image[200:210, 0:10]
    file.unlink()
    with pytest.raises(BrokenImage, match="No such file"):
        image[100:110, 0:10]
