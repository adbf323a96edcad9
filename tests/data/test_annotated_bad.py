"""What is wrong with annotations is one sentence, or a counted skip that is said."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openmae.data.annotated import AnnotatedData, open_annotated, train_and_val
from openmae.errors import BrokenImage, UserError
from tests.commands import Run
from tests.data import annotated
from tests.data.annotated import write
from tests.images import picture

BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb">]><annotation><object><name>&b;</name></object></annotation>'


def notes_of(opened: AnnotatedData) -> str:
    return "\n".join(map(str, opened.notes))


def changed(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))


def coco(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        annotated.coco_one_file(root)
        changed(root / "labels.json", change)

    return make


def text(writer: Callable[[Path], None], name: str, content: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        writer(root)
        write(root, name, content)

    return make


def all_of_one_size(root: Path) -> None:
    annotated.numbered(root)
    for mask in root.glob("*/masks/*"):
        Image.fromarray(np.asarray(Image.open(mask))[:-3]).save(mask)


def nothing_in_val(root: Path) -> None:
    annotated.numbered(root)
    for mask in root.glob("val/masks/*"):
        Image.fromarray(np.zeros_like(np.asarray(Image.open(mask)))).save(mask)


def unclear(root: Path) -> None:
    for number in range(6):
        mask = np.zeros((20, 20), np.uint8)
        for value in range(1, 3 + number % 2):
            mask[5 * value, 3:9] = value
        write(root, f"images/{number}.png", picture(number, (20, 20)))
        write(root, f"masks/{number}.png", mask)


def in_colour(root: Path) -> None:
    annotated.semantic_colours(root)
    (root / "classes.csv").unlink()


def as_jpeg(root: Path) -> None:
    annotated.semantic(root)
    for mask in root.glob("*/masks/*.png"):
        Image.open(mask).save(mask.with_suffix(".jpg"))
        mask.unlink()


def split_lists_differ(root: Path) -> None:
    annotated.coco_by_split(root)
    changed(
        root / "annotations/instances_val.json", lambda found: found["categories"].append({"id": 99, "name": "new"})
    )


def no_masks(root: Path) -> None:
    for number in range(3):
        write(root, f"images/{number}.png", picture(number))


def _set(found: dict[str, Any], kind: str, **more: Any) -> None:
    found[kind][0].update(more)


def deep(root: Path) -> None:
    annotated.coco_one_file(root)
    write(root, "labels.json", '{"images": ' + "[" * 100_000 + "]" * 100_000 + ', "annotations": [], "categories": []}')


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing there": (lambda root: None, "has no images with annotations"),
    "images alone": (no_masks, "has no images with annotations that are read"),
    "sizes": (all_of_one_size, r"of another size than the image in .* \(train/images/0.png is 6\d x 80 pixels"),
    "no object": (nothing_in_val, "the split val of .* has no object at all"),
    "unclear": (unclear, "not clear whether the masks of .* say it by `masks_hold`"),
    "colour": (in_colour, "in colour, and nothing says which colour is which class"),
    "jpeg": (as_jpeg, "none of the masks of .* a lossy format, which changes numbers"),
    "classes": (annotated.semantic, "hold classes, background, cell, dirt, and no objects to detect"),
    "list": (text(annotated.semantic, "classes.csv", "index,name\n0,a\n0,b\n"), "the number 0 is there twice"),
    "list's colours": (text(annotated.semantic_colours, "classes.csv", "name,color\na,red\n"), "line 2 has the colour"),
    "lists": (text(annotated.semantic, "val/classes.txt", "a\nb\n"), "name different classes"),
    "json": (
        text(annotated.coco_one_file, "labels.json", '{"images": [], "annotations": ['),
        "labels.json is damaged JSON",
    ),
    "deep json": (deep, "damaged JSON .*nested too deeply"),
    "no images": (coco(lambda found: found.update(images=[])), "lists no images"),
    "ids of images": (coco(lambda found: _set(found, "images", id=2)), "two images of the id 2"),
    "an image twice": (
        coco(lambda found: _set(found, "images", file_name="train/1.png")),
        "lists the image train/1.png twice",
    ),
    "category": (
        coco(lambda found: _set(found, "annotations", category_id=7)),
        "of the category 7, which it does not list",
    ),
    "categories": (coco(lambda found: _set(found, "categories", id=20)), "two categories of the id 20"),
    "other images": (
        coco(
            lambda found: (
                [one.update(file_name="x.png") for one in found["images"][:1]]
                + [found.update(images=found["images"][:1])]
            )
        ),
        "none of the 1 images that .* lists is in",
    ),
    "classes of splits": (split_lists_differ, "list different classes .1 class is in one of them alone: new"),
    "no annotations": (coco(lambda found: found.update(annotations=[])), "has no object at all"),
    "yaml": (text(annotated.yolo_boxes, "data.yaml", "names: [a"), "data.yaml is damaged YAML"),
    "yaml's names": (text(annotated.yolo_boxes, "data.yaml", "names: {1: a, 2: b}"), "are not 0, 1, 2"),
    "yaml's folder": (
        text(annotated.yolo_boxes, "data.yaml", "names: [a, b]\ntrain: there"),
        "train is there, where no image is",
    ),
    "class of yolo's": (
        text(annotated.yolo_boxes, "train/labels/0.txt", "2 .5 .5 .1 .1"),
        "line 1 of .*0.txt has the class 2",
    ),
    "line of yolo's": (text(annotated.yolo_boxes, "train/labels/0.txt", "0 .5 .5 .1"), "is no object of YOLO's"),
    "pixels in yolo's": (
        text(annotated.yolo_boxes, "train/labels/0.txt", "0 30 40 9 9"),
        "shares of the image's sides are at most 1",
    ),
    "xml": (text(annotated.voc, "Annotations/train_0.xml", "<annotation><object>"), "no annotation of Pascal VOC's"),
    "bomb": (text(annotated.voc, "Annotations/train_0.xml", BOMB), "declares a document type"),
    "box of voc's": (
        text(annotated.voc, "Annotations/train_0.xml", "<annotation><object><name>a</name></object></annotation>"),
        "an object has no xmin",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    make, complaint = REFUSED[case]
    make(tmp_path)
    with pytest.raises(UserError, match=complaint) as caught:
        open_annotated(str(tmp_path), "detect")
    assert "\n" not in str(caught.value)


def one_mask_of_another_size(root: Path) -> None:
    annotated.numbered(root)
    write(root, "val/masks/1.png", np.ones((9, 9), np.uint8))


def partners(root: Path) -> None:
    annotated.numbered(root)
    write(root, "train/images/lonely.png", picture(1))
    write(root, "train/masks/lost.png", np.ones((9, 9), np.uint8))


def polygon(*points: float) -> Callable[[Path], None]:
    return coco(lambda found: _set(found, "annotations", segmentation=[[*points]]))


def rle(counts: Any, size: list[int] | None = None) -> Callable[[Path], None]:
    return coco(lambda found: _set(found, "annotations", segmentation={"size": size or [60, 80], "counts": counts}))


SKIPPED: dict[str, tuple[Callable[[Path], None], str]] = {
    "size": (one_mask_of_another_size, "1 annotation of the 7 that were looked at is of another size"),
    "partners": (partners, r"1 image has no mask, and is left out \(train/images/lonely.png\)\n1 mask is of no image"),
    "two points": (polygon(1, 2, 3, 4), "1 polygon of fewer than three points is left out"),
    "no area": (polygon(1, 2, 3, 2, 9, 2), "1 polygon without an area is left out"),
    "no pixel": (rle([4800]), "1 object is left out: their run lengths have no pixel inside"),
    "words": (
        coco(lambda found: _set(found, "annotations", segmentation=[["a", 1, 2, 3, 4, 5]])),
        "their polygon is no list of x and y",
    ),
    "not finite": (polygon(1, 2, 3, float("nan"), 5, 6), "their polygon is no list of x and y"),
    "run lengths": (rle([1, 2, 3]), "their run lengths do not make up the image"),
    "negative": (rle([-5, 4805]), "their run lengths do not make up the image"),
    "letters": (rle("~~"), "letters that do not occur"),
    "huge": (rle([10**12], [10**6 - 1, 10**6 - 1]), "of another size than the image"),
    "box": (coco(lambda found: _set(found, "annotations", bbox=[5, 5, -3, 4])), "1 of the boxes is empty or negative"),
    "outside": (
        coco(lambda found: _set(found, "annotations", bbox=[5, 5, 300, 4])),
        "1 of the boxes reach beyond the image",
    ),
    "ids": (coco(lambda found: _set(found, "annotations", id=2)), "1 annotation has an id that another one has"),
    "no image": (
        coco(lambda found: _set(found, "annotations", image_id=77)),
        "1 object is of an image that is not listed",
    ),
    "file": (
        coco(lambda found: _set(found, "images", file_name="gone.png")),
        "1 listed image is not there, and is left out .gone.png",
    ),
    "empty box of yolo's": (
        text(annotated.yolo_boxes, "train/labels/0.txt", "0 .5 .5 0 .1\n1 .5 .5 .1 .1"),
        "1 object is empty or negative",
    ),
    "lost .txt": (text(annotated.yolo_boxes, "train/labels/lost.txt", ""), "1 .txt file is of no image"),
    "lost .xml": (
        text(annotated.voc, "Annotations/lost.xml", "<annotation></annotation>"),
        "1 .xml file is of no image",
    ),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_left_out_and_said(case: str, tmp_path: Path) -> None:
    make, said = SKIPPED[case]
    make(tmp_path)
    opened = open_annotated(str(tmp_path), "detect")
    assert len(re.findall(said, notes_of(opened))) == 1, notes_of(opened)
    train, val = train_and_val(opened, 0)
    assert len(train) + len(val) >= 6


def test_what_does_not_fit_is_a_broken_image(tmp_path: Path) -> None:
    annotated.semantic(tmp_path)
    write(tmp_path, "train/masks/0.png", np.full((60, 80), 9, np.uint8))
    right = open_annotated(str(tmp_path), "segment").all.right
    with pytest.raises(BrokenImage, match="4,800 pixels have the value 9, which is no class"):
        right.mask(0, (60, 80))
    with pytest.raises(BrokenImage, match="is 64 x 80 pixels, and the image 10 x 10"):
        right.mask(1, (10, 10))
    (tmp_path / "train/masks/2.png").write_bytes(b"text")
    with pytest.raises(BrokenImage, match=r"its mask train/masks/2.png cannot be read"):
        right.mask(2, (68, 80))


def faulty(root: Path) -> None:
    """An object outside the image, one that is there twice, a class that nothing has, a file that is not there."""

    def change(found: dict[str, Any]) -> None:
        first, second = found["annotations"][:2]
        first.update(bbox=[5, 5, 300, 4], segmentation=[[200, 200, 210, 200, 210, 210]])
        found["annotations"].append({**second, "id": second["id"]})
        found["categories"].append({"id": 99, "name": "dust"})

    coco(change)(root)
    (root / "images/val/2.png").unlink()


def test_check_judges_annotations(tmp_path: Path, run: Run) -> None:
    faulty(tmp_path)
    table = tmp_path / "found.csv"
    code, out, _ = run("check", tmp_path, "--workers", "0", "--out", table)
    assert code == 1, out
    rows = {row["name"]: row for row in csv.DictReader(table.read_text().splitlines())}
    assert rows["images/train/1.png"]["objects"] == str(len(annotated.scene(1).classes))
    assert {row["reason"] for row in rows.values()} == {""}
    for said in (
        "Annotations: COCO, 1 file",
        "1 object of train has no pixel in the image",
        "1 object of train has a twin of the same place and class",
        "1 of the 3 classes does not occur in val (dust)",
        "1 listed image is not there, and is left out (val/2.png)",
        "1 annotation has an id that another one has",
        "1 of the boxes reach beyond the image, and is cut to it",
    ):
        assert said in " ".join(out.split()), out


def test_check_lists_masks_that_do_not_fit(tmp_path: Path, run: Run) -> None:
    annotated.semantic(tmp_path)
    write(tmp_path, "train/masks/0.png", np.full((60, 80), 9, np.uint8))
    write(tmp_path, "val/masks/1.png", np.zeros((9, 9), np.uint8))
    code, out, _ = run("check", tmp_path, "--workers", "0")
    assert code == 1, out
    said = " ".join(out.split())
    assert "of the 7 that were looked at" not in said
    assert "the annotations of 1 image of train cannot be used (25.00%)" in said
    assert "4,800 pixels have the value 9, which is no class" in said
    assert "its mask val/masks/1.png is 9 x 9 pixels, and the image" in said
    assert "7 of 14 images are called like masks of the others" in said
    assert "--exclude masks" in said


def test_check_goes_on_where_annotations_cannot_be_read(tmp_path: Path, run: Run) -> None:
    unclear(tmp_path)
    code, out, _ = run("check", tmp_path, "--workers", "0")
    assert code == 2
    assert "say it by --masks-hold: classes or objects" in " ".join(out.split())
    code, out, _ = run("check", tmp_path, "--workers", "0", "--masks-hold", "objects")
    assert code == 0, out
    assert "objects            15" in out
