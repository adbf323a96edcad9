"""Which column of a parquet file holds images, beside pyarrow and the arrays that were written."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from numpy.typing import NDArray
from pyarrow import parquet

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode
from openmae.data.formats.reading import Reading
from openmae.data.opening import open_data
from openmae.data.sources.image_columns import image_column, of_row
from openmae.data.sources.selection import Selection
from openmae.data.survey.sample import survey
from openmae.errors import BrokenImage, UserError
from tests.images import encoded, picture


def nested(array: NDArray[Any], kind: str) -> Any:
    """One row (...), as pyarrow's lists in each other."""
    types = {"list": pyarrow.list_, "large": pyarrow.large_list}
    made = pyarrow.from_numpy_dtype(array.dtype)
    for axis in reversed(range(array.ndim)):
        made = pyarrow.list_(made, array.shape[axis]) if kind == "fixed" else types[kind](made)
    return pyarrow.array([array.tolist()], made)


@given(
    hn.arrays(
        st.sampled_from(["u1", "u2", "i8", "f4", "?"]),
        hn.array_shapes(min_dims=2, max_dims=3),
        elements={"min_value": 0},
    )
    .filter(lambda array: array.dtype.kind != "f" or bool(np.isfinite(array).all()))
    .map(np.ascontiguousarray),
    st.sampled_from(["list", "large", "fixed"]),
)
def test_lists_of_lists_are_the_array_that_was_written(array: NDArray[Any], kind: str) -> None:
    column = nested(array, kind)
    assert image_column(pyarrow.schema([("pixels", column.type), ("label", pyarrow.int64())])) == "pixels"
    found = np.load(io.BytesIO(of_row(column[0])))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_tensors_of_one_shape_are_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 20), dtype=np.uint8)
    column = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(images)
    parquet.write_table(pyarrow.table({"image": column, "label": list("aabbab")}), tmp_path / "data.parquet")
    source = open_data(str(tmp_path / "data.parquet")).all
    for index, image in enumerate(images):
        np.testing.assert_array_equal(np.load(io.BytesIO(source.read(index))), image)
    assert source.class_names == ("a", "b")


@pytest.mark.parametrize("first", [True, False])
def test_pixels_in_lists_are_images_whichever_way_they_lie(tmp_path: Path, first: bool) -> None:
    images = np.random.default_rng(1).integers(0, 256, (9, 5, 16, 20), dtype=np.uint8)
    rows = images if first else np.moveaxis(images, 1, -1)
    table = pyarrow.table({"x": pyarrow.array(rows.tolist()), "label": [0, 1, 2] * 3})
    parquet.write_table(table, tmp_path / "data.parquet", row_group_size=4)
    source = open_data(str(tmp_path / "data.parquet")).all
    found = survey(source, 0)
    pixels = PixelFormat(5, None, "float32", Reading(layout="chw" if first else "hwc"))
    assert found.statistics.pixels == pixels  # Python's numbers are of 64 bits
    np.testing.assert_allclose(found.statistics.mean, images.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(decode(source.read(7), pixels), np.moveaxis(images[7], 0, -1))


def test_of_several_columns_of_images_one_is_named(tmp_path: Path) -> None:
    photos, masks = ([encoded(picture(number + first), "PNG") for number in range(3)] for first in (0, 9))
    parquet.write_table(pyarrow.table({"photo": photos, "mask": masks, "label": [0, 1, 0]}), tmp_path / "a.parquet")
    several = r"a.parquet: there are several columns of images \(photo, mask\)"
    for place in (tmp_path, tmp_path / "a.parquet"):
        with pytest.raises(UserError, match=several):
            _ = open_data(str(place)).all
        source = open_data(str(place), Selection(image_key="mask")).all
        assert [source.read(index) for index in range(3)] == masks
        with pytest.raises(UserError, match=r"`image_key=depth` is no column of images \(.*: photo, mask\)"):
            _ = open_data(str(place), Selection(image_key="depth")).all


def test_a_table_of_files_is_one_whatever_lists_it_has_too(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "0.png")
    boxes = pyarrow.array([[[0.0, 1.0], [2.0, 3.0]]])
    parquet.write_table(pyarrow.table({"path": ["0.png"], "boxes": boxes}), tmp_path / "table.parquet")
    assert open_data(str(tmp_path / "table.parquet")).all.read(0) == (tmp_path / "0.png").read_bytes()


def test_flat_lists_and_torn_ones_are_refused_in_a_sentence(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"pixels": [[1, 2, 3, 4]], "label": [0]}), tmp_path / "flat.parquet")
    with pytest.raises(UserError, match="'pixels' has flat lists of numbers"):
        open_data(str(tmp_path / "flat.parquet"))
    torn = pyarrow.array([[[1, 2], [3]], [[1, None]], None, [[1, 2], None]])
    for row, complaint in enumerate(("different lengths", "null", "no bytes", "different lengths")):
        with pytest.raises(BrokenImage, match=complaint):
            of_row(torn[row])


# ---------------------------------------------------------------- .npy and .npz


@pytest.mark.parametrize("shape", [(64, 48, 3), (64, 48, 1), (64, 48, 13), (512, 20, 4)])
@pytest.mark.parametrize("kind", [".npy", ".npz"])
def test_one_image_is_not_taken_for_many(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    place, image = tmp_path / f"one{kind}", np.zeros(shape, np.uint8)
    np.save(place, image) if kind == ".npy" else np.savez(place, images=image)
    with pytest.raises(UserError, match=rf"one image whose channels are {shape[2]}, or {shape[0]} images of"):
        _ = open_data(str(place)).all


@pytest.mark.parametrize("shape", [(64, 28, 28), (600, 20, 10), (5, 30, 20), (6, 4, 4), (3, 8, 3)])
def test_many_grey_images_are(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "many.npy", np.zeros(shape, np.uint8))
    assert len(open_data(str(tmp_path / "many.npy")).all) == shape[0]


def test_images_that_come_last_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "last.npy", np.zeros((32, 32, 3, 600), np.uint8))
    with pytest.raises(UserError, match="32 images of 600 channels: save it with its images first"):
        _ = open_data(str(tmp_path / "last.npy")).all
