"""Annotated images that a tiny model learns from: red discs and blue squares on grey, some pixels ignored."""

import json
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image


def write_scenes(folder: Path, train: int = 12, val: int = 6, side: int = 40) -> Path:
    """FOLDER/{train,val}/images and masks (0 ground, 1 disc, 2 square, 255 ignored), and classes.csv."""
    for split, count in (("train", train), ("val", val)):
        draws = np.random.default_rng(len(split))
        for number in range(count):
            image, mask = scene(draws, side)
            for kind, pixels in (("images", image), ("masks", mask)):
                file = folder / split / kind / f"{number:02d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    (folder / "classes.csv").write_text("index,name\n0,ground\n1,disc\n2,square\n255,ignore\n")
    return folder


def scene(draws: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) and (H, W)."""
    down, across = np.mgrid[:side, :side]
    image = draws.integers(90, 130, (side, side, 3)).astype(np.uint8)
    mask = np.zeros((side, side), np.uint8)
    for label, colour in ((1, 0), (2, 2)):
        y, x = draws.integers(8, side - 8, 2)
        inside = (down - y) ** 2 + (across - x) ** 2 < 40 if label == 1 else abs(down - y) + abs(across - x) * 0 < 6
        inside = inside if label == 1 else inside & (abs(across - x) < 6)
        image[inside] = 20
        image[inside, colour] = draws.integers(200, 255)
        mask[inside] = label
    mask[:2] = 255
    return image, mask


def write_objects(folder: Path, train: int = 8, val: int = 4, side: int = 48) -> Path:
    """FOLDER/{train,val}/images and annotations.json as COCO has them: a red disc and a blue square in each image, of
    which the last ones show nothing, and a crowd of squares in one."""
    for split, count in (("train", train), ("val", val)):
        draws = np.random.default_rng(len(split))
        place = folder / split / "images"
        place.mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            image, mask = scene(draws, side)
            if number == count - 1:
                image[:], mask[:] = image[:2, :2].mean((0, 1)).astype(np.uint8), 0
            name = f"{number:02d}.png"
            Image.fromarray(image).save(place / name)
            images.append({"id": number, "file_name": name, "height": side, "width": side})
            for label in (1, 2):
                inside = mask == label
                if not inside.any():
                    continue
                rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
                flat = np.concatenate([[False], inside.T.ravel(), [False]])
                edges = np.flatnonzero(flat[1:] != flat[:-1])
                counts = np.diff(np.concatenate([[0], edges, [side * side]])).tolist()
                top, left = int(rows[0]), int(columns[0])
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label,
                        "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                        "area": int(inside.sum()),
                        "iscrowd": int(number == 1 and label == 2),
                        "segmentation": {"size": [side, side], "counts": counts},
                    }
                )
        categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
        told = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "annotations.json").write_text(json.dumps(told))
    return folder


def write_geotiff(file: Path, image: np.ndarray, point: bool = False) -> None:
    """Pixels of 0.5 x 0.25 m from 500,000 m, 4,000,000 m on (UTM 33N): of its corner, or of the first one's middle."""
    tags = [
        (33550, "d", 3, (0.5, 0.25, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0), True),
        (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1 + point, 3072, 0, 1, 32633), True),
        (34737, "s", 0, "WGS 84 / UTM zone 33N|", True),
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, image, photometric="rgb", extratags=tags)
