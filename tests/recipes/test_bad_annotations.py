"""What is wrong with what images show, as `segment` and `detect` say it: a sentence, or a counted, listed skip."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from openmae.evaluate.segmentation import segmented
from openmae.recipes.detect.settings import Detect
from openmae.recipes.outline.choose import at_once
from openmae.weights import load_model
from tests.commands import Run, refused, segment
from tests.models import vit
from tests.recipes.test_detect import detect
from tests.runs import Runs, copy
from tests.scenes import scene, write_objects

Told = dict[str, Any]


def of_masks(place: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for file in sorted(place.glob("masks/*.png")):
        Image.fromarray(change(np.array(Image.open(file)))).save(file)


def of_coco(file: Path, change: Callable[[Told], object]) -> None:
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))


def unlisted(told: Told) -> None:
    for number, one in enumerate(told["images"]):
        one["file_name"] = f"gone-{number}.png"


def with_value(mask: np.ndarray) -> np.ndarray:
    mask[5, 5] = 9
    return mask


REFUSED: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "no masks": (
        "segment",
        lambda data: [shutil.rmtree(data / split / "masks") for split in ("train", "val")],
        ("no images with annotations",),
    ),
    "sizes": (
        "segment",
        lambda data: of_masks(data / "train", lambda mask: mask[:20]),
        ("of another size than the image", "give both in one size"),
    ),
    "values": (
        "segment",
        lambda data: of_masks(data / "train", with_value),
        (
            "the split train of",
            "no image whose annotation can be used (the first: train/masks/00.png: 1 pixel has the value 9",
        ),
    ),
    "nothing judged": (
        "segment",
        lambda data: of_masks(data / "val", lambda mask: np.full_like(mask, 255)),
        ("the split val of", "has no pixel that is judged"),
    ),
    "nothing but ground": (
        "segment",
        lambda data: of_masks(data / "val", np.zeros_like),
        ("the split val of", "has no pixel of any class but ground"),
    ),
    "lists": (
        "segment",
        lambda data: (data / "val/classes.csv").write_text("index,name\n0,ground\n1,disc\n2,circle\n"),
        ("name different classes",),
    ),
    "no object": (
        "detect",
        lambda data: of_coco(data / "val/annotations.json", lambda told: told.update(annotations=[])),
        ("the split val of", "has no object at all"),
    ),
    "gone": (
        "detect",
        lambda data: of_coco(data / "train/annotations.json", unlisted),
        ("none of the 8 images that", "lists is in"),
    ),
    "classes of splits": (
        "detect",
        lambda data: of_coco(
            data / "val/annotations.json", lambda told: told["categories"].append({"id": 3, "name": "star"})
        ),
        ("list different classes (1 class is in one of them alone: star)", "give both the same list"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_sentence(case: str, runs: Runs, tmp_path: Path, run: Run) -> None:
    command, spoil, said = REFUSED[case]
    made = runs.scenes() if command == "segment" else runs.once("objects", write_objects)
    data = copy(made, tmp_path / "data")
    spoil(data)
    asked = (segment if command == "segment" else detect)(runs.scenes_encoder(), data, tmp_path / "run")
    refused(run(*asked), *said)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_masks_that_do_not_fit_are_left_out_and_said(runs: Runs, tmp_path: Path, run: Run) -> None:
    """One to learn from, one to be judged by."""
    data = copy(runs.scenes(), tmp_path / "data")
    mask = np.array(Image.open(data / "train/masks/03.png"))
    Image.fromarray(mask[:20]).save(data / "train/masks/03.png")
    Image.fromarray(with_value(np.array(Image.open(data / "val/masks/01.png")))).save(data / "val/masks/01.png")
    out = tmp_path / "run"
    code, said, errors = run(*segment(runs.scenes_encoder(), data, out, "--max-broken 0.1"))
    assert code == 0, errors
    for sentence in (
        "1 annotation of the 18 that were looked at is of another size than the image (train/images/03.png is 40 x 40 "
        "pixels, its annotation 20 x 40)",
        "1 of 6 images cannot be read with what they show, and is left out (val/images/01.png; the first: 1 pixel has "
        "the value 9, which is no class",
    ):
        assert sentence in said
    assert (out / "broken.txt").read_text().startswith("train/images/03.png\tits mask train/masks/03.png is 20 x 40")
    (found,) = json.loads((out / "results.json").read_text()).values()
    assert (found["clean"]["images"], found["clean"]["unreadable"]) == (5, ["val/images/01.png"])


def test_objects_that_are_none_are_left_out_and_said(runs: Runs, tmp_path: Path, run: Run) -> None:
    data = copy(runs.once("objects", write_objects), tmp_path / "data")
    area, side = [[3, 3, 8, 3, 8, 8]], 48
    bad: list[Told] = [
        {"bbox": [3, 3, 5, 5], "segmentation": [[3, 3, 8, 8]]},
        {"bbox": [3, 3, 5, 5], "segmentation": [[3, 3, 8, 3, 5, 3]]},
        {"bbox": [3, 3, 5, 5], "segmentation": {"size": [side, side], "counts": [side**2]}},
        {"bbox": [3, 3, -5, 5], "segmentation": area},
        {"bbox": [3, 3, 0, 5], "segmentation": area},
        {"image_id": 99, "segmentation": area},
    ]

    def spoil(told: Told) -> None:
        told["images"].append({"id": 99, "file_name": "gone.png", "height": side, "width": side})
        told["annotations"] += [{"id": 1000 + at, "image_id": 0, "category_id": 1, **one} for at, one in enumerate(bad)]

    of_coco(data / "train/annotations.json", spoil)
    code, said, errors = run(
        *detect(runs.scenes_encoder(), data, tmp_path / "run", "--epochs 1 --resize fit --most-objects 1")
    )
    assert code == 0, errors
    for sentence in (
        "warning: 1 polygon of fewer than three points is left out (00.png, annotation 1000)",
        "warning: 1 polygon without an area is left out (00.png, annotation 1001)",
        "warning: 1 object is left out: their run lengths have no pixel inside (00.png, annotation 1002)",
        "warning: 2 of the boxes are empty or negative (00.png, annotation 1003, 00.png, annotation 1004)",
        "warning: 1 listed image is not there, and is left out (gone.png)",
        "learnt from 8 images, judged by 4 others",
        "warning: a window has up to about 4 objects, and no more than --most-objects 1 are found in one",
    ):
        assert sentence in said


def test_more_objects_in_an_image_than_are_ever_found(runs: Runs, tmp_path: Path, run: Run) -> None:
    """In label images of 16 bits; masks are made of what a window shows alone, and count among what memory is for."""
    for split, side in (("train", 256), ("val", 64)):
        places = np.arange(2, side - 5, 7)
        inside = np.isin(np.arange(side), [places + step for step in range(5)])
        numbers = 1 + len(places) * ((np.arange(side) - 2) // 7)[:, None] + ((np.arange(side) - 2) // 7)[None]
        labels = np.where(inside[:, None] & inside[None], numbers, 0).astype(np.uint16)
        for kind, pixels in (("images", np.where(labels, 220, 90).astype(np.uint8)), ("masks", labels)):
            place = tmp_path / "data" / split / kind / "0.png"
            place.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(place)
    asked = detect(runs.scenes_encoder(), tmp_path / "data", tmp_path / "run", "--masks-hold objects --batch-size 1")
    code, said, errors = run(*asked)
    assert code == 0, errors
    assert "--most-objects 1000: an image has up to 1,296; average precision counts as many of each" in said
    assert "more in a window than 1,000 are not found" in said


def test_masks_count_among_what_memory_is_for() -> None:
    """1,296 objects a window leave less room for windows at once than one does."""
    settings = Detect(batch_size=16, img_size=256)
    cpu, few, many = torch.device("cpu"), 6 * 256**2, 6 * 1296 * 256**2
    found = [at_once(settings, vit(), cpu, 8 * 2**30, asked)["micro_batch"][0] for asked in (few, many)]
    assert found[1] < found[0]


@pytest.mark.parametrize("kind", ["16 bits, 2 channels", pytest.param("floats, 5 channels", marks=pytest.mark.slow)])
def test_masks_beside_images_of_any_kind(kind: str, tmp_path: Path, run: Run) -> None:
    draws = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            image, mask = scene(draws, 24)
            for folder in ("images", "masks"):
                (tmp_path / "data" / split / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(tmp_path / "data" / split / "masks" / f"{number}.png")
            place = tmp_path / "data" / split / "images" / str(number)
            if kind.startswith("16"):
                pages = np.moveaxis(image[..., :2].astype(np.uint16) * 200, -1, 0)
                tifffile.imwrite(place.with_suffix(".tif"), pages, photometric="minisblack", planarconfig="separate")
            else:
                np.save(place.with_suffix(".npy"), np.concatenate([image, image[..., :2]], 2).astype(np.float32) / 255)
    (tmp_path / "data" / "classes.csv").write_text("index,name\n0,ground\n1,disc\n2,square\n255,ignore\n")
    out = tmp_path / "run"
    code, _, errors = run(*segment("vit_tiny", tmp_path / "data", out, "--from-scratch --img-size 16 --patch-size 8"))
    assert code == 0, errors
    assert run("predict", out, tmp_path / "data/val/images", "--out", tmp_path / "found", "--workers", 0)[0] == 0
    loaded = load_model(out)
    pixels = loaded.statistics.pixels
    expected = ("uint16", 2) if kind.startswith("16") else ("float32", 5)
    assert (pixels.depth, pixels.in_chans) == expected
    file = next((tmp_path / "data/val/images").glob("0.*"))
    image = np.moveaxis(tifffile.imread(file), 0, -1) if kind.startswith("16") else np.load(file)
    right = segmented(loaded.segmenter, loaded.statistics, image, torch.device("cpu"))
    assert np.array_equal(np.array(Image.open(tmp_path / "found/masks/0.png")), right)
