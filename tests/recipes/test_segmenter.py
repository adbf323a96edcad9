"""What a segmenter is asked once it has learnt: to be judged, to outline new images, to be exported."""

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
import tifffile
import torch
from PIL import Image
from skimage.measure import points_in_poly

import openmae
from openmae.data.annotations.tracing import signed_area
from openmae.data.tiles import large
from openmae.evaluate.segmentation import segmented
from openmae.recipes.evaluate import outlined
from openmae.recipes.predict import masks
from openmae.transfer.segmenter import Segmenter
from openmae.weights import Loaded, load_model, serialize
from tests.commands import Run, refused
from tests.runs import Runs, copy
from tests.scenes import scene, write_geotiff


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
    refused(run("evaluate", model, scenes / "val" / "images"), "annotations")
    broken = load_model(model)  # which finds the first class everywhere
    broken.segmenter.encoder.norm.weight.data[0] = torch.nan
    (tmp_path / "nan.safetensors").write_bytes(serialize(broken.model, broken.info))
    refused(
        run("evaluate", tmp_path / "nan.safetensors", scenes),
        "weights that are not numbers (backbone.encoder.norm.weight)",
    )
    again = ["segment", tmp_path / "nan.safetensors", scenes, "--out", tmp_path / "run"]
    refused(run(*again), "weights that are not numbers", "--from-scratch")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- predict


def predicted(run: Run, model: Path, images: Path, out: Path, *more: object) -> str:
    code, printed, errors = run("predict", model, images, "--out", out, "--workers", "0", *more)
    assert code == 0, errors
    return printed


def rows_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))


def bytes_of(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}


def test_masks_are_the_models_and_are_read_again(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(scenes / "val" / "images", data / "images" / "some")
    for path in data.rglob("*"):
        path.chmod(0o755)
    (data / "images" / "some" / "00.png").rename(data / "images" / "one.png")
    with Image.open(data / "images" / "one.png") as twin:
        twin.save(data / "images" / "one.bmp")
    (data / "images" / "zzz.png").write_bytes(b"nothing")
    printed = predicted(run, model, data / "images", out)
    assert f"segmentation, 3 classes; 8 images in {data / 'images'}" in printed
    assert "1 image could not be read" in printed
    rows = rows_of(out)
    assert [row["path"] for row in rows if row["error"]] == ["zzz.png"]
    places = {row["path"]: row["mask"] for row in rows if not row["error"]}
    assert (places["one.png"], places["one.bmp"]) == ("masks/one.png.png", "masks/one.bmp.png")
    assert places["some/01.png"] == "masks/some/01.png"
    loaded, listing = load_model(model), [*csv.DictReader((out / "classes.csv").read_text().splitlines())]
    for row in rows[:-1]:
        with Image.open(data / "images" / row["path"]) as image, Image.open(out / row["mask"]) as mask:
            pixels, said = np.asarray(image), np.asarray(mask)
            assert mask.mode == "P"
            colours = np.asarray(mask.convert("RGB"))
        right = segmented(loaded.segmenter, loaded.statistics, pixels, torch.device("cpu"))
        assert np.array_equal(said, right)
        for index, name in enumerate(("ground", "disc", "square")):
            assert float(row[f"share({name})"]) == pytest.approx((right == index).mean(), abs=1e-5)
            listed = next(one for one in listing if one["name"] == name)
            assert {"#{:02x}{:02x}{:02x}".format(*c) for c in colours[right == index]} <= {listed["colour"]}
    # what it says is, taken for what is right, all right
    for twin in ("one.bmp", "zzz.png"):
        (data / "images" / twin).unlink()
    shutil.copytree(out / "masks", data / "masks")
    shutil.copy(out / "classes.csv", data / "classes.csv")
    (data / "masks" / "one.png.png").rename(data / "masks" / "one.png")
    (data / "masks" / "one.bmp.png").unlink()
    place = copy(model, tmp_path / "run")
    code, _, errors = run("evaluate", place, data, "--workers", "0")
    assert code == 0, errors
    assert results(place)[str(data)]["clean"]["figures"]["miou"] == 1


def test_large_tiffs_are_read_part_by_part_and_give_the_same(
    model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose last rows are damaged is left out, and said, once it comes to these."""
    (images := tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    tifffile.imwrite(images / "a.tif", pixels, photometric="rgb", rowsperstrip=4)
    predicted(run, model, images, tmp_path / "whole")
    monkeypatch.setattr(large, "_LARGE", 0)
    (images / "b.tif").write_bytes((images / "a.tif").read_bytes()[:-900])
    assert "1 image could not be read" in predicted(run, model, images, tmp_path / "parts")
    for name in ("masks/a.png", "classes.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "parts" / "masks" / "b.png").exists()
    first, last = rows_of(tmp_path / "parts")
    assert first == {**rows_of(tmp_path / "whole")[0]}
    assert last["error"]


def test_large_tiffs_are_judged_in_parts_and_drawn_of_what_was_found_then(
    model: Path, scenes: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is looked for twice, and the same is kept as of whole images."""
    data = tmp_path / "data"
    for number in range(2):
        image, mask = scene(np.random.default_rng(number), 500)
        (data / "images").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(data / "images" / f"{number}.tif", image, photometric="rgb", rowsperstrip=4)
        (data / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(data / "masks" / f"{number}.png")
    shutil.copy(scenes / "classes.csv", data)
    kept = []
    for size in (2**26, 0):
        monkeypatch.setattr(large, "_LARGE", size)
        place = copy(model, tmp_path / f"run-{size}")
        code, _, errors = run("evaluate", place, data, "--workers", "0", "--split", "all")
        assert code == 0, errors
        (sheet,) = (place / "results").glob("data-*/outlines.jpg")
        kept.append((results(place)[str(data)]["clean"]["figures"], sheet.read_bytes()))
        monkeypatch.setattr(outlined, "segmented", None)
    assert kept[0] == kept[1]


def test_what_was_stopped_goes_on_and_gives_the_same(
    model: Path, scenes: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, whole, out = scenes / "val" / "images", tmp_path / "whole", tmp_path / "out"
    predicted(run, model, images, whole)
    write, calls = masks.write_mask, itertools.count(1)

    def stopped(*args: Any) -> None:
        if next(calls) == 4:
            raise KeyboardInterrupt
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(masks, "write_mask", stopped)
        assert run("predict", model, images, "--out", out, "--workers", "0")[0] == 130
    assert not (out / "predictions.csv").exists()
    refused(run("predict", model, scenes / "train" / "images", "--out", out), "other images")
    assert "Resuming: 3 of 6 images are done" in predicted(run, model, images, out)
    assert bytes_of(out) == bytes_of(whole)
    assert "has their masks already" in predicted(run, model, images, out)
    refused(run("predict", model, scenes / "train" / "images", "--out", out), "other images")
    # killed when masks were there and nothing was noted of them
    shutil.copytree(whole, tmp_path / "killed")
    for name in ("predictions.csv", "predictions.json", "classes.csv", "sheet.jpg"):
        (tmp_path / "killed" / name).unlink()
    (tmp_path / "killed" / ".predictions.csv.part").mkdir()
    predicted(run, model, images, tmp_path / "killed")
    assert bytes_of(tmp_path / "killed") == bytes_of(whole)


@pytest.mark.parametrize("point", [False, True])
def test_geotiffs_give_masks_and_polygons_where_they_lie(model: Path, tmp_path: Path, run: Run, point: bool) -> None:
    image = scene(np.random.default_rng(1), 40)[0]
    write_geotiff(tmp_path / "images" / "field.tif", image, point)
    predicted(run, model, tmp_path / "images", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["mask"] == "masks/field.tif"
    with tifffile.TiffFile(tmp_path / "out" / "masks" / "field.tif") as file:
        mask, found = file.asarray(), file.geotiff_metadata
    with tifffile.TiffFile(tmp_path / "images" / "field.tif") as file:
        assert found == file.geotiff_metadata
    drawn = json.loads((tmp_path / "out" / "polygons" / "field.geojson").read_text())
    assert drawn["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    down, across = np.mgrid[:40, :40]
    half = 0.0 if point else 0.5  # where the coordinates of a pixel's middle are
    middles = np.stack([500_000 + 0.5 * (across + half), 4_000_000 - 0.25 * (down + half)], axis=-1).reshape(-1, 2)
    inside = np.zeros((3, 1600), int)
    for feature in drawn["features"]:
        for number, ring in enumerate(feature["geometry"]["coordinates"]):
            inside[feature["properties"]["index"]] += (1 - 2 * (number > 0)) * points_in_poly(middles, np.array(ring))
            assert (signed_area(np.array(ring)) > 0) is (number == 0)
    assert {feature["properties"]["class"] for feature in drawn["features"]} == {"ground", "disc", "square"}
    assert np.array_equal(inside.argmax(0).reshape(40, 40), mask)
    assert (inside.sum(0) == 1).all()


def test_what_predict_refuses(model: Path, runs: Runs, scenes: Path, tmp_path: Path, run: Run) -> None:
    images = scenes / "val" / "images"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    refused(run("predict", model, images, "--out", tmp_path / "a.csv"), "a mask for each image: give a folder")
    refused(run("predict", model, images, "--out", tmp_path / "full" / "mine.txt"), "give a folder")
    refused(run("predict", model, images, "--out", tmp_path / "full"), "not empty")
    refused(run("predict", model, images, "--out", images / "masks"), "in", "itself")
    refused(run("predict", model, images, "--out", tmp_path / "a", "--top-k", "2"), "--top-k is for classes of whole")
    refused(run("predict", model, images, "--out", tmp_path / "a", "--tile", "32"), "--tile")
    refused(run("predict", runs.scenes_encoder(), images, "--out", tmp_path / "a"), "openmae segment")
    refused(run("predict", runs.classes(), images, "--out", tmp_path / "a"), "ends in .csv")
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------- export


def windows(scenes: Path, model: Loaded) -> torch.Tensor:
    """5 images of the model's size, normalised."""
    files = sorted((scenes / "val" / "images").iterdir())[:5]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file.read_bytes())))[:16, :16] for file in files])
    return model.statistics.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2))


@pytest.mark.slow
def test_the_papers_head_as_onnx(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    linear = load_model(model)
    upernet = Segmenter(linear.encoder, 3, "upernet")
    upernet.initialize(torch.Generator().manual_seed(0))
    info = {**linear.info, "architecture": upernet.arguments()}
    (tmp_path / "upernet.safetensors").write_bytes(serialize(upernet, info))
    out = tmp_path / "served.onnx"
    code, printed, errors = run("export", tmp_path / "upernet.safetensors", "--to", "onnx", "--out", out)
    assert code == 0, errors
    assert "0 ground, 1 disc, 2 square" in printed
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    images = windows(scenes, linear)
    for batch in (images[:1], images):
        (found,) = session.run(None, {"images": batch.numpy()})
        with torch.no_grad():
            right = upernet.eval()(batch)
        assert found.shape == (len(batch), 3, 16, 16)
        assert right.std() > 1e-3
        torch.testing.assert_close(torch.from_numpy(found), right, atol=1e-5, rtol=1e-4)
    said = json.loads(out.with_suffix(".json").read_text())
    assert said["class_names"] == ["ground", "disc", "square"]


def test_other_formats(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    loaded = load_model(model)
    images = windows(scenes, loaded)
    right = openmae.load(model)(images)
    for to, read in (("pt2", lambda file: torch.export.load(file).module()), ("safetensors", openmae.load)):
        out = tmp_path / f"as-{to}.{to}"
        code, printed, errors = run("export", model, "--to", to, "--out", out, "--data", scenes)
        assert code == 0, errors
        assert "on 8 images: scores differ" in printed
        with torch.no_grad():
            torch.testing.assert_close(read(out)(images), right, atol=1e-5, rtol=1e-4)
    refused(run("export", model, "--to", "timm", "--out", tmp_path / "a.safetensors"), "timm has no layers")
    refused(run("export", model, "--to", "hf-vit", "--out", tmp_path / "a"), "hf-vit has no layers", "onnx")
    words = ("--to", "onnx", "--out", tmp_path / "a.onnx", "--quantize", "int8")
    refused(run("export", model, *words), "--quantize is for models of whole images")
