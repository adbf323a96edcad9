"""The same scenes in every format give the same classes and the same objects."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from openmae.data.annotated import AnnotatedData, find_annotated, open_annotated, train_and_val
from openmae.data.formats.decode import open_image
from openmae.data.formats.orientation import upright
from openmae.data.formats.reading import UNSAID
from openmae.data.sources.selection import Selection
from tests.data import annotated
from tests.data.annotated import BOXES, COCO, NAMES, NUMBERED, PER_SPLIT, SEMANTIC, Scene, scenes, write
from tests.images import picture

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


def as_roboflow(ending: str) -> Writer:
    """Masks of other formats, and the list as Roboflow calls it."""

    def make(root: Path) -> None:
        annotated.semantic(root)
        (root / "classes.csv").unlink()
        write(root, "_classes.csv", "Pixel Value, Class\n0, background\n1, cell\n2, dirt\n")
        for file in sorted(root.glob("*/masks/*.png")):
            pixels = np.asarray(Image.open(file))
            if ending == ".npy":
                np.save(file.with_suffix(ending), pixels)
            else:
                Image.fromarray(pixels).save(file.with_suffix(ending))
            file.unlink()

    return make


@pytest.mark.parametrize("writer", [*SEMANTIC, *map(as_roboflow, (".bmp", ".gif", ".npy"))])
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


def turned_scenes(root: Path, orientation: int, stored: bool) -> None:
    """Upright scenes, each stored so that EXIF has to turn it; masks as the image is stored, or as it is seen."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[274] = orientation
    for name, one in scenes().items():
        split, stem = name.split("/")
        pixels = upright(np.asarray(one.image), inverse)
        numbers = upright(one.numbers[..., None], inverse)[..., 0] if stored else one.numbers
        write(root, f"{split}/masks/{stem}.png", numbers)
        (root / f"{split}/images").mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(root / f"{split}/images/{stem}.jpg", exif=exif)


@pytest.mark.parametrize(("orientation", "stored"), [(6, True), (6, False), (5, True), (8, True), (3, False)])
def test_annotations_of_images_that_are_turned(orientation: int, stored: bool, tmp_path: Path) -> None:
    turned_scenes(tmp_path, orientation, stored)
    opened = open_annotated(str(tmp_path), "detect")
    assert f"their annotations {'with them' if stored else 'are not'}, for" in "\n".join(map(str, opened.notes))
    for index in range(0, len(opened.all), 3):
        one = scene_of(opened, index)
        size = one.numbers.shape
        assert open_image(opened.all.images.read(index)).header.height == size[0]
        found = opened.all.right.objects(index, size)  # type: ignore[arg-type]
        assert found.masks is not None
        number = {mask.tobytes(): place for place, mask in enumerate(found.masks)}
        places = [number[one.mask(label + 1).tobytes()] for label in range(len(one.classes))]
        assert sorted(places) == [*range(len(one.classes))]
        np.testing.assert_array_equal(found.boxes[places], one.boxes)
    painted = open_annotated(str(tmp_path), "segment").all.right
    one = scene_of(opened, 0)
    np.testing.assert_array_equal(painted.mask(0, one.numbers.shape), one.numbers > 0)  # type: ignore[arg-type]


def many_channels(root: Path) -> None:
    """Images of 16 bits and five channels."""
    for number in range(6):
        draws = np.random.default_rng(number)
        pixels = draws.integers(0, 60_000, (30, 40, 5)).astype(np.uint16)
        (root / "images").mkdir(exist_ok=True)
        tifffile.imwrite(root / f"images/{number}.tif", pixels, photometric="minisblack", planarconfig="contig")
        write(root, f"masks/{number}.tif", (np.arange(1200).reshape(30, 40) // 300).astype(np.uint16))


def test_images_of_any_kind_and_a_fifth_held_out(tmp_path: Path) -> None:
    many_channels(tmp_path)
    opened = open_annotated(str(tmp_path), "segment", masks_hold="classes")
    assert opened.names == ("0", "1", "2", "3")
    assert "are called by their numbers (0, 1, 2, 3), for nothing names them" in "\n".join(map(str, opened.notes))
    parts = train_and_val(opened, 0)
    names = [{part.images.name(index) for index in range(len(part))} for part in parts]
    assert [*map(len, names)] == [5, 1]
    assert names == [{part.images.name(i) for i in range(len(part))} for part in train_and_val(opened, 0)]
    again = open_annotated(str(tmp_path), "segment", masks_hold="classes", selection=Selection(group_by="name:[0-2]"))
    assert len(again.all) == 6


def test_splits_that_are_to_be_one_set(tmp_path: Path) -> None:
    annotated.coco_by_split(tmp_path)
    opened = open_annotated(str(tmp_path), "detect", selection=Selection(splits="none"))
    assert not opened.data.has_splits
    assert [*map(len, train_and_val(opened, 0))] == [6, 1]


def test_folders_that_are_called_masks_for_another_reason(tmp_path: Path) -> None:
    for name in ("masks/0.png", "masks/7.png", "hats/1.png", "hats/2.png", "gloves/3.png"):
        write(tmp_path, name, picture(1))
    assert find_annotated(str(tmp_path), None, UNSAID, Selection(), None) is None


def test_what_is_ignored(tmp_path: Path) -> None:
    values = np.zeros((20, 30), np.uint8)
    values[4:, 4:], values[:2], values[10:, 10:] = 1, 255, 7
    for number in range(4):
        write(tmp_path, f"images/{number}.png", picture(number, (20, 30)))
        write(tmp_path, f"masks/{number}.png", values)
    write(tmp_path, "classes.csv", "index,name\n0,road\n7,Void\n1,car\n")
    write(tmp_path, "images/classes.csv", "path,label,split\n0.png,few,train\n1.png,many,val\n")  # of other labels
    opened = open_annotated(str(tmp_path), "segment")
    assert opened.names == ("road", "car")
    expected = np.array([0, 1, *[255] * 254])[values]
    np.testing.assert_array_equal(opened.all.right.mask(0, (20, 30)), expected)


def test_a_crowd_is_ignored_and_later_objects_lie_over_earlier_ones(tmp_path: Path) -> None:
    write(tmp_path, "a.png", picture(0, (20, 30)))
    write(tmp_path, "b.png", picture(1, (20, 30)))
    outlines = [
        ([0, 0, 10, 0, 10, 10, 0, 10], 0, 1),
        ([5, 5, 20, 5, 20, 15, 5, 15], 0, 2),
        ([0, 0, 30, 0, 30, 8, 0, 8], 1, 1),
    ]
    found = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}, {"id": 2, "file_name": "b.png"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": category, "segmentation": [outline], "iscrowd": crowd}
            for number, (outline, crowd, category) in enumerate(outlines)
        ],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }
    write(tmp_path, "coco.json", json.dumps(found))
    opened = open_annotated(str(tmp_path), "segment")
    mask = opened.all.right.mask(0, (20, 30))
    expected = np.zeros((20, 30), int)
    expected[:8], expected[:10, :10], expected[5:15, 5:20] = 255, 1, 2
    np.testing.assert_array_equal(mask, expected)
    assert not opened.all.right.mask(1, (20, 30)).any()


def test_masks_of_classes_and_of_objects_beside_each_other(tmp_path: Path) -> None:
    for number in range(3):
        one = annotated.scene(number)
        write(tmp_path, f"JPEGImages/{number}.jpg", one.image)
        write(tmp_path, f"SegmentationClass/{number}.png", annotated.palette(one.semantic))
        write(tmp_path, f"SegmentationObject/{number}.png", one.numbers.astype(np.uint8))
    write(tmp_path, "ImageSets/Segmentation/train.txt", "0\n2\n")
    write(tmp_path, "ImageSets/Segmentation/val.txt", "1\n")
    write(tmp_path, "labelmap.txt", "# label:color_rgb\nbackground:0,0,0::\ncell:1,2,3::\ndirt:200,100,0::\n")
    classes = open_annotated(str(tmp_path), "segment")
    assert classes.names == ("background", "cell", "dirt")
    one = annotated.scene(0)
    np.testing.assert_array_equal(classes.all.right.mask(0, one.numbers.shape), one.semantic)  # type: ignore[arg-type]
    objects = open_annotated(str(tmp_path), "detect", masks_hold="objects")
    assert len(objects.all.right.objects(0, one.numbers.shape)) == len(one.classes)  # type: ignore[arg-type]
    assert [*map(len, train_and_val(objects, 0))] == [2, 1]


def test_what_is_read_can_be_sent_to_workers(tmp_path: Path) -> None:
    annotated.coco_by_split(tmp_path)
    right = open_annotated(str(tmp_path), "segment").all.right
    again = pickle.loads(pickle.dumps(right))
    size = scenes()["train/0"].numbers.shape
    np.testing.assert_array_equal(again.mask(0, size), right.mask(0, size))  # type: ignore[arg-type]
    assert again.fingerprint == right.fingerprint
    assert right.take(np.array([1, 0])).fingerprint != right.fingerprint
