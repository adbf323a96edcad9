"""What a detector is asked once it has learnt: to find objects in new images, to be exported."""

import contextlib
import csv
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from skimage.measure import points_in_poly

import openmae
from openmae.data.annotations.tracing import signed_area
from openmae.evaluate.detected import detected
from openmae.recipes.predict import objects
from openmae.transfer.detector import Detector
from openmae.weights import load_model, serialize
from tests.commands import Run, refused
from tests.runs import Runs, copy
from tests.scenes import scene, write_geotiff

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'


@pytest.fixture(scope="module")
def scenes(runs: Runs) -> Path:
    return runs.objects()


@pytest.fixture(scope="module")
def model(runs: Runs) -> Path:
    return runs.detector()


def predicted(run: Run, model: Path, images: Path, out: Path, *more: object) -> str:
    code, printed, errors = run("predict", model, images, "--out", out, "--workers", "0", *more)
    assert code == 0, errors
    return printed


def rows_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))


def bytes_of(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def opened(file: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


def test_objects_are_those_that_evaluate_counts(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    """As pycocotools reads them, pixel by pixel; and counted by it they give the figures of evaluate."""
    images, out = scenes / "val" / "images", tmp_path / "out"
    printed = predicted(run, model, images, out, "--threshold", "0")
    assert f"detection, 2 classes; 4 images in {images}" in printed
    loaded, said = load_model(model), opened(out / "objects.json")
    assert [one["name"] for one in said.loadCats(said.getCatIds())] == ["disc", "square"]
    for image in said.loadImgs(said.getImgIds()):
        pixels = np.array(Image.open(images / image["file_name"]))
        right = detected(loaded.detector, loaded.statistics, pixels, torch.device("cpu"))
        masks = right.objects.masks
        assert masks is not None
        seen = np.flatnonzero(masks.any((1, 2)))
        found = said.loadAnns(said.getAnnIds(image["id"]))
        assert [one["category_id"] - 1 for one in found] == right.objects.classes[seen].tolist()
        np.testing.assert_allclose([one["score"] for one in found], right.scores[seen], atol=1e-6)
        for one, number in zip(found, seen.tolist(), strict=True):
            assert np.array_equal(said.annToMask(one), masks[number])
            assert one["area"] == masks[number].sum()
            left, top, width, height = one["bbox"]
            box = [left, top, left + width, top + height]
            np.testing.assert_allclose(box, right.objects.boxes[number], atol=0.02)
    kept = json.loads((model / "results.json").read_text())[f"{scenes} (val)"]["clean"]["figures"]
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO(str(scenes / "val" / "annotations.json"))
        numbers = {image["file_name"]: image["id"] for image in there.dataset["images"]}
        names = {image["id"]: image["file_name"] for image in said.dataset["images"]}
        listed = [{**one, "image_id": numbers[names[one["image_id"]]]} for one in said.dataset["annotations"]]
        counted = COCOeval(there, there.loadRes(listed), "segm")
        counted.evaluate()
        counted.accumulate()
    precision = counted.eval["precision"][..., 0, -1]
    assert precision[0][precision[0] > -1].mean() == pytest.approx(kept["mask_ap50"], abs=1e-6)


def test_what_it_finds_is_read_again(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(scenes / "val" / "images", data / "some")
    for path in data.rglob("*"):
        path.chmod(0o755)
    (data / "some" / "zzz.png").write_bytes(b"nothing")
    table = openmae.predict(model, data, out=out, threshold=0.2, workers=0)
    assert len(table) == 5
    rows = rows_of(out)
    assert [row["path"] for row in rows if row["error"]] == ["some/zzz.png"]
    said = opened(out / "objects.json")
    for image in said.dataset["images"]:
        row = next(row for row in rows if row["path"] == image["file_name"])
        found = said.loadAnns(said.getAnnIds(image["id"]))
        assert min([one["score"] for one in found], default=1) >= 0.2
        for number, name in enumerate(("disc", "square"), 1):
            assert int(row[f"count({name})"]) == sum(one["category_id"] == number for one in found)
        assert (int(row["height"]), int(row["width"])) == (48, 48)
    assert {one["category_id"] for one in said.dataset["annotations"]} == {1, 2}
    with Image.open(out / "sheet.jpg") as sheet:
        assert sheet.width > 2 * 448
    # taken for what is right, all of it is right
    (data / "some" / "zzz.png").unlink()
    shutil.copy(out / "objects.json", data / "objects.json")
    place = copy(model, tmp_path / "run")
    code, printed, errors = run("evaluate", place, data, "--workers", "0")
    assert code == 0, errors
    assert "left out" not in printed
    figures = json.loads((place / "results.json").read_text())[str(data)]["clean"]["figures"]
    assert figures["mask_ap"] > 0.98  # two that overlap may stand for each other


def test_what_was_stopped_goes_on_and_gives_the_same(
    model: Path, scenes: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, whole, out = scenes / "train" / "images", tmp_path / "whole", tmp_path / "out"
    predicted(run, model, images, whole)
    write, calls = objects.as_annotations, itertools.count(1)

    def stopped(*args: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(objects, "as_annotations", stopped)
        assert run("predict", model, images, "--out", out, "--workers", "0")[0] == 130
    assert not (out / "objects.json").exists()
    refused(run("predict", model, images, "--out", out, "--threshold", "0.4"), "--threshold 0.5, not 0.4")
    assert "Resuming: 3 of 8 images are done" in predicted(run, model, images, out)
    assert bytes_of(out) == bytes_of(whole)
    assert "has their objects already" in predicted(run, model, images, out)
    refused(run("predict", model, scenes / "val" / "images", "--out", out), "other images")


@pytest.mark.parametrize("masks", [True, False])
def test_geotiffs_give_polygons_where_the_objects_lie(model: Path, tmp_path: Path, run: Run, masks: bool) -> None:
    loaded = load_model(model)
    if not masks:
        boxes = Detector.from_arguments({**loaded.detector.arguments(), "masks": False})
        boxes.load_state_dict(loaded.model.state_dict(), strict=False)
        model = tmp_path / "boxes.safetensors"
        model.write_bytes(serialize(boxes, {**loaded.info, "architecture": boxes.arguments()}))
    write_geotiff(tmp_path / "images" / "field.tif", scene(np.random.default_rng(1), 48)[0])
    predicted(run, model, tmp_path / "images", tmp_path / "out")
    drawn = json.loads((tmp_path / "out" / "polygons" / "field.geojson").read_text())
    assert drawn["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    said = opened(tmp_path / "out" / "objects.json")
    found = said.dataset["annotations"]
    assert len(found) == len(drawn["features"]) > 0
    down, across = np.mgrid[:48, :48]
    middles = np.stack([500_000 + 0.5 * (across + 0.5), 4_000_000 - 0.25 * (down + 0.5)], axis=-1).reshape(-1, 2)
    for one, feature in zip(found, drawn["features"], strict=True):
        geometry, about = feature["geometry"], feature["properties"]
        assert about["class"] == ("disc", "square")[one["category_id"] - 1]
        assert about["score"] == one["score"]
        several = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        inside = np.zeros(48 * 48, int)
        for polygon in several:
            assert signed_area(np.array(polygon[0])) > 0
            for number, ring in enumerate(polygon):
                inside += (1 - 2 * (number > 0)) * points_in_poly(middles, np.array(ring))
        if masks:
            assert np.array_equal(inside.reshape(48, 48), said.annToMask(one))
            assert about["pixels"] == one["area"]
        else:
            assert "segmentation" not in one
            left, top, width, height = one["bbox"]
            corners = np.array(several[0][0])
            np.testing.assert_allclose(np.ptp(corners, axis=0), [0.5 * width, 0.25 * height], atol=0.02)
            np.testing.assert_allclose(corners.min(0)[0], 500_000 + 0.5 * left, atol=0.02)
            np.testing.assert_allclose(corners.max(0)[1], 4_000_000 - 0.25 * top, atol=0.02)


def test_what_predict_refuses(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    images = scenes / "val" / "images"
    refused(run("predict", model, images, "--out", tmp_path / "a.csv"), "the objects of each image: give a folder")
    refused(run("predict", model, images, "--out", tmp_path / "a", "--threshold", "2"), "--threshold", "0 to 1")
    refused(run("predict", model, images, "--out", tmp_path / "a", "--top-k", "2"), "--top-k is for classes of whole")
    broken = load_model(model)  # which finds nothing
    broken.detector.heads.box_predictor.cls_score.bias.data[0] = torch.nan
    (spoilt := tmp_path / "nan.safetensors").write_bytes(serialize(broken.model, broken.info))
    said = "nan.safetensors has weights that are not numbers (heads.box_predictor.cls_score.bias)"
    refused(run("predict", spoilt, images, "--out", tmp_path / "a"), said)
    refused(run("evaluate", spoilt, scenes), said)
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------- export


def test_as_onnx_with_as_many_objects_as_there_are(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "served.onnx"
    code, printed, errors = run("export", model, "--to", "onnx", "--out", out, "--data", scenes)
    assert code == 0, errors
    assert "on 8 images: objects differ" in printed
    assert "0 disc, 1 square" in printed
    assert b"/tmp" not in out.read_bytes()
    loaded, session = load_model(model), onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    counts = set()
    for seed in range(3):
        pixels = torch.from_numpy(scene(np.random.default_rng(seed), 32)[0])[None].permute(0, 3, 1, 2)
        image = loaded.statistics.normalize(pixels if seed else pixels * 0 + 110)
        boxes, scores, classes, masks = session.run(None, {"images": image.numpy()})
        with torch.no_grad():
            (right,) = loaded.detector.eval()(image)
        assert right.masks is not None
        np.testing.assert_allclose(boxes, right.boxes, atol=1e-3)
        np.testing.assert_allclose(scores, right.scores, atol=1e-4)
        np.testing.assert_array_equal(classes, right.classes)
        np.testing.assert_allclose(masks, right.masks, atol=1e-4)
        counts.add(len(boxes))
    assert len(counts) > 1
    said = json.loads(out.with_suffix(".json").read_text())
    assert said["class_names"] == ["disc", "square"]
    refused(run("export", model, "--to", "pt2", "--out", tmp_path / "a.pt2"), "--to safetensors or onnx")
