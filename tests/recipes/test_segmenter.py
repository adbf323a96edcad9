"""What a segmenter is asked once it has learnt: to be judged, to outline new images, to be exported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import Run, refused
from tests.runs import Runs, copy


@pytest.fixture(scope="module")
def scenes(runs: Runs) -> Path:
    return runs.scenes()


@pytest.fixture(scope="module")
def model(runs: Runs) -> Path:
    return runs.segmenter()


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


# ---------------------------------------------------------------- evaluate


def test_classes_are_matched_by_name(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    """The same masks, whose classes have other numbers, in another place."""
    place, data = copy(model, tmp_path / "run"), tmp_path / "data"
    table = np.full(256, 255, np.uint8)
    table[:3] = 7, 0, 3
    for name in sorted(file.name for file in (scenes / "val" / "images").iterdir()):
        for kind in ("images", "masks"):
            (data / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(scenes / "val" / "images" / name, data / "images" / name)
        mask = np.asarray(Image.open(scenes / "val" / "masks" / name))
        Image.fromarray(table[mask]).save(data / "masks" / name)
    (data / "classes.csv").write_text("index,name\n0,disc\n3,square\n7,ground\n")
    code, out, errors = run("evaluate", place, data, "--workers", "0")
    assert code == 0, errors
    assert "segmentation, 3 classes; 6 images of" in out
    before, now = results(place)[f"{scenes} (val)"]["clean"], results(place)[str(data)]["clean"]
    for kind in ("images", "figures", "errors", "overlaps"):
        assert now[kind] == before[kind]
    assert f"{before['figures']['miou']:.2%} ± {100 * before['errors']['miou']:.2f}" in out
    assert "taken for" in out
    assert str(data) in (place / "report.html").read_text()
    with Image.open(place / now["pictures"]["outlines"]) as sheet:
        assert sheet.width > 3 * 224


def test_which_images_judge(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    place = copy(model, tmp_path / "run")
    said = {}
    for split in ("", "train", "all"):
        code, said[split], errors = run("evaluate", place, scenes, *(["--split", split] if split else []))
        assert code == 0, errors
    assert f"6 images of {scenes} (val)" in said[""]
    assert "has learnt from some of these" not in said[""]
    assert f"12 images of {scenes} (train)" in said["train"]
    assert f"18 images of {scenes}\n" in said["all"]
    assert "has learnt from some of these" in said["all"]


def test_what_evaluate_refuses(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(scenes, tmp_path / "data")
    for path in (tmp_path / "data", tmp_path / "data" / "classes.csv"):
        path.chmod(0o755)
    (tmp_path / "data" / "classes.csv").write_text("index,name\n0,ground\n1,circle\n2,square\n")
    refused(run("evaluate", model, tmp_path / "data"), "no class circle", "ground, disc, square")
    refused(run("evaluate", model, scenes, "--corruptions", "fog"), "--corruptions is for classification")
    refused(run("evaluate", model, scenes, "--classes", "all"), "--classes is for classification")
    refused(run("evaluate", model, scenes, "--save", tmp_path / "a.csv"), "--save", "openmae predict")
    refused(run("evaluate", model, scenes / "val" / "images"), "no annotations")
