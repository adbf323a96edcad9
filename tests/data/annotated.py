"""The same few scenes, annotated in every format that people have."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import tifffile
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.draw import disk
from skimage.measure import find_contours

from tests.images import picture

NAMES = ("cell", "dirt")
PER_SPLIT = {"train": 4, "val": 3}
COLOURS = {0: (0, 0, 0), 1: (250, 60, 10), 2: (10, 60, 250)}


class Scene(NamedTuple):
    """numbers: (H, W) of each object, from 1 on in the order of classes; classes (n,) of each."""

    image: Image.Image
    numbers: NDArray[np.uint16]
    classes: NDArray[np.int64]

    @property
    def semantic(self) -> NDArray[np.uint8]:
        """0, background, 1 cell, 2 dirt."""
        return np.array([0, *(self.classes + 1)], np.uint8)[self.numbers]

    def mask(self, number: int) -> NDArray[np.bool_]:
        return self.numbers == number

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(n, 4)"""
        places = [np.nonzero(self.mask(number + 1)) for number in range(len(self.classes))]
        return np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in places], float)


@cache
def scene(seed: int) -> Scene:
    """Discs that do not touch, 9 to 12 of them, some of each class."""
    height, width, cell = 60 + 4 * (seed % 3), 80, 20
    numbers = np.zeros((height, width), np.uint16)
    draws = np.random.default_rng(seed)
    count = int(9 + seed % 4)
    places = draws.permutation((height // cell) * (width // cell))[:count]
    for number, place in enumerate(sorted(places.tolist()), 1):
        centre = (place // (width // cell) * cell + cell // 2, place % (width // cell) * cell + cell // 2)
        numbers[disk(centre, draws.uniform(3, 8), shape=numbers.shape)] = number
    classes = (np.arange(count) >= count // 2).astype(np.int64)
    return Scene(picture(seed, (height, width)), numbers, classes)


def scenes() -> dict[str, Scene]:
    """train/0, ..., val/2"""
    found = {}
    for number, (split, count) in enumerate(PER_SPLIT.items()):
        found |= {f"{split}/{i}": scene(10 * number + i) for i in range(count)}
    return found


def write(root: Path, name: str, pixels: NDArray[Any] | Image.Image | str) -> None:
    """An image, an array as PNG or TIFF, or text."""
    place = root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, str):
        place.write_text(pixels)
    elif place.suffix in (".tif", ".tiff") and isinstance(pixels, np.ndarray):
        tifffile.imwrite(place, pixels)
    else:
        (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(place)


def palette(values: NDArray[np.uint8]) -> Image.Image:
    """With colours that say nothing."""
    image = Image.fromarray(values, "L")
    made = Image.new("P", image.size)
    made.putdata(list(values.ravel().tolist()))
    made.putpalette([0, 0, 0, 1, 2, 3, 200, 100, 0])
    return made


def coloured(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([COLOURS[i] for i in range(3)], np.uint8)[values]


def polygon(mask: NDArray[np.bool_]) -> list[float]:
    """x, y, ... of its outline, as tools trace it."""
    (contour, *_) = find_contours(np.pad(mask, 1).astype(float), 0.5)
    return [round(float(value), 2) for point in contour for value in (point[1] - 0.5, point[0] - 0.5)]


def coco(chosen: dict[str, Scene], form: str, prefix: str = "") -> dict[str, Any]:
    """form: polygons, rle (compressed) or counts."""
    images, annotations = [], []
    for image, (name, one) in enumerate(chosen.items(), 1):
        height, width = one.numbers.shape
        images.append({"id": image, "file_name": f"{prefix}{name}.png", "height": height, "width": width})
        for number, label in enumerate(one.classes.tolist()):
            mask = one.mask(number + 1)
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            flat = mask.T.ravel()
            runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])).tolist()
            outline: Any = {
                "polygons": [polygon(mask)],
                "rle": {"size": [height, width], "counts": rle["counts"].decode()},
                "counts": {"size": [height, width], "counts": [0, *runs] if flat[0] else runs},
            }[form]
            left, top, right, bottom = one.boxes[number].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 10 * (label + 1),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": outline,
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 10 * (i + 1), "name": name, "supercategory": "things"} for i, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _of_split(split: str) -> dict[str, Scene]:
    return {name: one for name, one in scenes().items() if name.startswith(split)}


def _both(root: Path, image: str, mask: str, of: Callable[[Scene], Any]) -> None:
    for name, one in scenes().items():
        split, stem = name.split("/")
        write(root, image.format(split=split, stem=stem), one.image)
        write(root, mask.format(split=split, stem=stem), of(one))


def semantic(root: Path) -> None:
    _both(root, "{split}/images/{stem}.png", "{split}/masks/{stem}.png", lambda one: one.semantic)
    write(root, "classes.csv", "index,name\n0,background\n1,cell\n2,dirt\n")


def semantic_other_way_up(root: Path) -> None:
    _both(root, "images/{split}/{stem}.jpg", "masks/{split}/{stem}.tif", lambda one: one.semantic.astype(np.uint16))
    write(root, "classes.txt", "background\ncell\ndirt\n")


def semantic_palette(root: Path) -> None:
    _both(root, "{split}/images/{stem}.png", "{split}/masks/{stem}.png", lambda one: palette(one.semantic))
    write(root, "classes.json", '["background", "cell", "dirt"]')


def semantic_colours(root: Path) -> None:
    _both(root, "{split}_images/{stem}.png", "{split}_masks/{stem}_mask.png", lambda one: coloured(one.semantic))
    write(root, "classes.csv", "name,r,g,b\nbackground,0,0,0\ncell,250,60,10\ndirt,10,60,250\n")


def semantic_hex(root: Path) -> None:
    _both(root, "images/{split}/{stem}.png", "annotations/{split}/{stem}.png", lambda one: coloured(one.semantic))
    write(root, "annotations/classes.csv", "name,color\nbackground,#000000\ncell,#fa3c0a\ndirt,#0a3cfa\n")


def numbered(root: Path) -> None:
    _both(root, "{split}/images/{stem}.png", "{split}/masks/{stem}.png", lambda one: one.numbers)


def numbered_tiff(root: Path) -> None:
    _both(root, "images/{split}/{stem}.tif", "labels/{split}/{stem}.tif", lambda one: one.numbers.astype(np.uint32))


def cellpose(root: Path) -> None:
    _both(root, "{split}/{stem}.png", "{split}/{stem}_cp_masks.png", lambda one: one.numbers)


def cellpose_masks(root: Path) -> None:
    _both(root, "{split}/{stem}_img.png", "{split}/{stem}_masks.tif", lambda one: one.numbers)


def numbered_by_class(root: Path) -> None:
    for label, name in enumerate(NAMES):

        def of(one: Scene, label: int = label) -> NDArray[np.uint16]:
            numbers = np.where(np.array([-1, *one.classes])[one.numbers] == label, one.numbers, 0)
            return np.unique(numbers, return_inverse=True)[1].reshape(numbers.shape).astype(np.uint16)

        _both(root, "{split}/images/{stem}.png", "{split}/masks/" + name + "/{stem}.png", of)


def a_mask_an_object(root: Path) -> None:
    for name, one in scenes().items():
        split, stem = name.split("/")
        write(root, f"stage1_{split}/{stem}/images/{stem}.png", one.image)
        for number in range(len(one.classes)):
            mask = one.mask(number + 1).astype(np.uint8) * 255
            write(root, f"stage1_{split}/{stem}/masks/{number:02d}aef.png", mask)


def coco_one_file(root: Path) -> None:
    for name, one in scenes().items():
        write(root, f"images/{name}.png", one.image)
    write(root, "labels.json", json.dumps(coco(scenes(), "rle")))


def coco_by_split(root: Path) -> None:
    for name, one in scenes().items():
        write(root, f"{name}.png", one.image)
    for split in PER_SPLIT:
        write(root, f"annotations/instances_{split}.json", json.dumps(coco(_of_split(split), "polygons")))
    write(root, "annotations/captions_train.json", '{"images": [], "annotations": [], "licenses": []}')


def coco_as_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        chosen = {name.removeprefix(f"{split}/"): one for name, one in _of_split(split).items()}
        for name, one in chosen.items():
            write(root, f"{folder}/{name}.png", one.image)
        found = coco(chosen, "counts")
        found["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
        write(root, f"{folder}/_annotations.coco.json", json.dumps(found))


def _yolo(root: Path, image: str, labels: str, polygons: bool) -> None:
    for name, one in scenes().items():
        split, stem = name.split("/")
        write(root, image.format(split=split, stem=stem), one.image)
        height, width = one.numbers.shape
        lines = []
        for number, label in enumerate(one.classes.tolist()):
            if polygons:
                points = np.array(polygon(one.mask(number + 1))).reshape(-1, 2) / [width, height]
                lines.append(f"{label} " + " ".join(f"{value:.6f}" for value in points.ravel()))
            else:
                left, top, right, bottom = (one.boxes[number] / [width, height, width, height]).tolist()
                box = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
                lines.append(f"{label} " + " ".join(f"{value:.6f}" for value in box))
        write(root, labels.format(split=split, stem=stem), "\n".join(lines) + "\n")


def yolo_polygons(root: Path) -> None:
    _yolo(root, "images/{split}/{stem}.png", "labels/{split}/{stem}.txt", True)
    described = {"path": ".", "train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES))}
    write(root, "data.yaml", yaml.safe_dump(described))


def yolo_boxes(root: Path) -> None:
    _yolo(root, "{split}/images/{stem}.png", "{split}/labels/{stem}.txt", False)
    described = {"train": "../train/images", "val": "../val/images", "nc": 2, "names": list(NAMES)}
    write(root, "data.yaml", yaml.safe_dump(described))


def voc(root: Path) -> None:
    for name, one in scenes().items():
        split, stem = name.split("/")
        write(root, f"JPEGImages/{split}_{stem}.jpg", one.image)
        height, width = one.numbers.shape
        objects = ""
        for box, label in zip(one.boxes.astype(int).tolist(), one.classes.tolist(), strict=True):
            inside = f"<xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
            objects += f"<object><name>{escape(NAMES[label])}</name><bndbox>{inside}</bndbox></object>\n"
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        write(root, f"Annotations/{split}_{stem}.xml", f"<annotation>{size}\n{objects}</annotation>\n")
    for split, count in PER_SPLIT.items():
        stems = "".join(f"{split}_{i}\n" for i in range(count))
        write(root, f"ImageSets/Main/{split}.txt", stems)


SEMANTIC = (semantic, semantic_other_way_up, semantic_palette, semantic_colours, semantic_hex)
NUMBERED = (numbered, numbered_tiff, cellpose, cellpose_masks, numbered_by_class, a_mask_an_object)
COCO = (coco_one_file, coco_by_split, coco_as_roboflow)
BOXES = (yolo_boxes, voc)
