"""The same scenes in every format give the same classes and the same objects."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openmae.data.annotated import AnnotatedData, open_annotated, train_and_val
from tests.data import annotated
from tests.data.annotated import BOXES, COCO, NAMES, NUMBERED, PER_SPLIT, SEMANTIC, Scene, scenes

Writer = Callable[[Path], None]


def scene_of(opened: AnnotatedData, index: int) -> Scene:
    """By its image's name, in which the split and the number stand somewhere."""
    name = opened.all.images.name(index)
    split = "train" if "train" in name else "val"
    return scenes()[f"{split}/{next(c for c in reversed(name.rpartition('.')[0]) if c.isdigit())}"]


def check_splits(opened: AnnotatedData) -> None:
    train, val = train_and_val(opened, 0)
    assert (len(train), len(val)) == tuple(PER_SPLIT.values())
    for part, split in ((train, "train"), (val, "val")):
        assert all(split in part.images.name(index) for index in range(len(part)))
        assert len(part.right) == len(part)


@pytest.mark.parametrize("writer", SEMANTIC)
def test_masks_of_classes(writer: Writer, tmp_path: Path) -> None:
    writer(tmp_path)
    opened = open_annotated(str(tmp_path), "segment")
    assert opened.names == ("background", *NAMES)
    check_splits(opened)
    for index in range(len(opened.all)):
        one = scene_of(opened, index)
        mask = opened.all.right.mask(index, one.numbers.shape)  # type: ignore[arg-type]
        np.testing.assert_array_equal(mask, one.semantic)


@pytest.mark.parametrize("writer", [*NUMBERED, *COCO, annotated.yolo_polygons])
def test_objects(writer: Writer, tmp_path: Path) -> None:
    writer(tmp_path)
    opened = open_annotated(str(tmp_path), "detect")
    by_class = writer in (*COCO, annotated.yolo_polygons, annotated.numbered_by_class)
    assert opened.names == (NAMES if by_class else ("object",))
    check_splits(opened)
    for index in range(len(opened.all)):
        one = scene_of(opened, index)
        size = one.numbers.shape
        found = opened.all.right.objects(index, size)  # type: ignore[arg-type]
        masks = found.masks
        assert masks is not None
        np.testing.assert_array_equal(masks, [one.mask(number + 1) for number in range(len(one.classes))])
        np.testing.assert_allclose(found.boxes, one.boxes, atol=0.6)
        np.testing.assert_array_equal(found.classes, one.classes if by_class else 0 * one.classes)
    painted = open_annotated(str(tmp_path), "segment")
    assert painted.names == ("background", *opened.names)
    one = scene_of(painted, 0)
    mask = painted.all.right.mask(0, one.numbers.shape)  # type: ignore[arg-type]
    np.testing.assert_array_equal(mask, one.semantic if by_class else one.numbers > 0)


@pytest.mark.parametrize("writer", BOXES)
def test_boxes(writer: Writer, tmp_path: Path) -> None:
    writer(tmp_path)
    opened = open_annotated(str(tmp_path), "detect")
    assert opened.names == NAMES
    check_splits(opened)
    for index in range(len(opened.all)):
        one = scene_of(opened, index)
        found = opened.all.right.objects(index, one.numbers.shape)  # type: ignore[arg-type]
        assert found.masks is None
        np.testing.assert_allclose(found.boxes, one.boxes, atol=1e-3)
        np.testing.assert_array_equal(found.classes, one.classes)


def test_what_is_read_can_be_sent_to_workers(tmp_path: Path) -> None:
    annotated.coco_by_split(tmp_path)
    right = open_annotated(str(tmp_path), "segment").all.right
    again = pickle.loads(pickle.dumps(right))
    size = scenes()["train/0"].numbers.shape
    np.testing.assert_array_equal(again.mask(0, size), right.mask(0, size))  # type: ignore[arg-type]
    assert again.fingerprint == right.fingerprint
    assert right.take(np.array([1, 0])).fingerprint != right.fingerprint
