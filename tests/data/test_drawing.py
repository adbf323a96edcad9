"""Outlines and run lengths are the pixels that pycocotools makes of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from openmae.data.annotations.drawing import decompressed, polygons, runs
from openmae.data.annotations.objects import Objects, Piece, bounds, cut, numbered
from openmae.data.formats.orientation import upright
from openmae.errors import TooLarge

pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # of pycocotools

SIDES = st.integers(1, 40)
MASKS = st.tuples(SIDES, SIDES).flatmap(lambda size: arrays(np.bool_, size))


def whole(piece: Piece | None, size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    if piece is not None:
        height, width = piece.mask.shape
        mask[piece.top : piece.top + height, piece.left : piece.left + width] = piece.mask
    return mask


@settings(max_examples=50)
@given(st.data(), SIDES, SIDES)
def test_polygons(data: st.DataObject, height: int, width: int) -> None:
    coordinate = st.one_of(
        st.integers(-5, 45).map(float), st.integers(-20, 400).map(lambda n: n / 10), st.floats(-10, 50)
    )
    ring = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9)
    rings = [
        np.clip(np.array(one), -min(height, width), None) for one in data.draw(st.lists(ring, min_size=1, max_size=3))
    ]
    rings = [np.minimum(one, [2 * width, 2 * height]) for one in rings]
    theirs = coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects([one.ravel().tolist() for one in rings], height, width))
    )
    np.testing.assert_array_equal(whole(polygons(rings, (height, width)), (height, width)), theirs.astype(bool))


def test_a_polygon_far_outside_takes_no_memory() -> None:
    assert polygons([np.array([[0, 0], [1e300, 0], [1e300, 1e300]])], (8, 8)) is not None
    assert polygons([np.array([[-1e9, -1e9], [-1e8, -1e9], [-1e8, -1e8]])], (8, 8)) is None


@settings(max_examples=25)
@given(MASKS)
def test_run_lengths_and_pieces(mask: NDArray[np.bool_]) -> None:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = decompressed(encoded["counts"].decode())
    size = (mask.shape[0], mask.shape[1])
    assert counts.sum() == mask.size
    piece = runs(counts, size)
    np.testing.assert_array_equal(whole(piece, size), mask)
    if piece is None:
        assert not mask.any()
        return
    rows, columns = np.nonzero(mask)
    left, top, width, height = coco_mask.toBbox(encoded).tolist()
    assert piece.box == (left, top, left + width, top + height)
    assert piece.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("text", ["~~", "o", "P" * 20, "é"])
def test_run_lengths_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"run lengths|ascii"):
        decompressed(text)


@given(
    st.tuples(SIDES, SIDES).flatmap(
        lambda size: arrays(np.int64, size, elements=st.sampled_from([0, 1, 2, 3, 70, 2**31]))
    )
)
def test_numbered_objects(labels: NDArray[np.int64]) -> None:
    size = (labels.shape[0], labels.shape[1])
    found = numbered(labels)
    numbers = [number for number in np.unique(labels) if number]
    assert len(found) == len(numbers)
    for piece, number in zip(found, numbers, strict=True):
        np.testing.assert_array_equal(whole(piece, size), labels == number)


@settings(max_examples=25)
@given(MASKS, st.integers(1, 8))
def test_objects_turn_with_their_image(mask: NDArray[np.bool_], orientation: int) -> None:
    if (piece := cut(mask)) is None:
        return
    found = Objects(mask.shape, bounds((piece,)), np.zeros(1, np.int64), np.zeros(1, np.bool_), (piece,))  # type: ignore[arg-type]
    turned = found.turned(orientation)
    expected = upright(mask[..., None], orientation)[..., 0]
    assert turned.size == expected.shape
    masks = turned.masks
    assert masks is not None
    np.testing.assert_array_equal(masks[0], expected)
    assert turned.boxes[0].tolist() == list(turned.pieces[0].box)  # type: ignore[index]


def test_too_many_masks_for_the_memory_are_refused() -> None:
    piece = Piece(0, 0, np.ones((1, 1), np.bool_))
    many = Objects(
        (10_000, 10_000), np.zeros((99, 4), np.float32), np.zeros(99, np.int64), np.zeros(99, bool), (piece,) * 99
    )
    with pytest.raises(TooLarge, match="99 masks of 10000 x 10000"):
        _ = many.masks
