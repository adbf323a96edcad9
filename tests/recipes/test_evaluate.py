"""`openmae evaluate` as a user types it: its figures against scikit-learn, what it keeps, and bad input."""

import base64
import csv
import io
import json
import multiprocessing
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk

import openmae
from openmae.data.formats.channels import PixelFormat
from openmae.data.held_out import split_for
from openmae.data.opening import open_data
from openmae.data.sources.selection import Selection
from openmae.evaluate import corruptions
from openmae.recipes.evaluate.keep import read_results, update_results
from openmae.recipes.evaluate.part import may_be_learnt
from openmae.weights import serialize
from tests.commands import Run, in_one_process, pretrain, refused
from tests.images import picture, write_images
from tests.recipes.classifiers import NAMES, a_model, images, scores_of


@pytest.fixture
def run(run: Run) -> Run:
    return in_one_process(run, "evaluate")


def only_result(run: Path) -> dict:
    (entry,) = read_results(run).values()
    return entry


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("workers", [0, 2])
def test_figures_and_predictions_are_scikit_learns(tmp_path: Path, run: Run, workers: int) -> None:
    # The model's order of classes is not the data's.
    model = a_model(tmp_path / "model", ("class2", "class0", "class1"))
    data = images(tmp_path / "data", 70)
    code, out, errors = run("evaluate", model, data, "--save", tmp_path / "a/p.csv", "--workers", workers)
    assert code == 0, errors
    files = sorted(data.rglob("*.png"))
    shares = scores_of(model, files)
    labels = np.array([("class2", "class0", "class1").index(file.parent.name) for file in files])
    predicted = shares.argmax(1)
    assert len(set(predicted.tolist())) > 1
    found = only_result(model)["clean"]
    assert found["images"] == 70
    assert found["figures"] == {
        "top1": pytest.approx(sk.accuracy_score(labels, predicted)),
        "loss": pytest.approx(sk.log_loss(labels, shares), rel=1e-4),
        "balanced_accuracy": pytest.approx(sk.balanced_accuracy_score(labels, predicted)),
        "calibration_error": pytest.approx(found["figures"]["calibration_error"]),
    }
    assert f"{sk.accuracy_score(labels, predicted):.2%}" in out
    rows = list(csv.DictReader((tmp_path / "a/p.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == [str(file.relative_to(data)) for file in files]
    assert [row["label"] for row in rows] == [file.parent.name for file in files]
    assert [("class2", "class0", "class1").index(row["class"]) for row in rows] == predicted.tolist()
    assert [float(row["probability"]) for row in rows] == pytest.approx(shares.max(1), abs=1e-4)
    assert [float(row["label_probability"]) for row in rows] == pytest.approx(shares[range(70), labels], abs=1e-4)
    (most, *_) = found["confused"]
    matrix = sk.confusion_matrix(labels, predicted)
    np.fill_diagonal(matrix, 0)
    assert most["times"] == matrix.max()
    assert f"{most['predicted']} ({most['times']})" in out


def test_the_page_shows_tables_and_pictures(tmp_path: Path, run: Run) -> None:
    model, data = a_model(tmp_path / "model"), images(tmp_path / "data")
    assert run("evaluate", model, data)[0] == 0
    page = (model / "report.html").read_text()
    for said in (
        "Results on", "classification, 3 classes", "Balanced accuracy", "Expected calibration error", "24 images",
        "Each class", "mostly taken for", "Most often confused", "taken for",
    ):  # fmt: skip
        assert said in page
    (folder,) = (model / "results").iterdir()
    assert {file.name for file in folder.iterdir()} == {
        "confusion.svg", "reliability.svg", "samples.jpg", "mistakes.json",
    }  # fmt: skip
    assert page.count("data:image/svg+xml") == 1
    found = json.loads((folder / "mistakes.json").read_text())
    entry = read_results(model)[str(data)]["clean"]
    assert [sum(row) for row in found["counts"]] == [8, 8, 8]
    assert sum(found["counts"][number][number] for number in range(3)) == round(24 * entry["figures"]["top1"])
    wrong = 24 - sum(found["counts"][number][number] for number in range(3))
    assert sum(pair["times"] for pair in found["pairs"]) == wrong
    shown = [image for pair in found["pairs"] for image in pair["images"]]
    assert page.count('src="data:image/jpeg') == 1 + len(shown)
    for pair in found["pairs"]:
        row, column = found["names"].index(pair["label"]), found["names"].index(pair["predicted"])
        assert pair["times"] == found["counts"][row][column]
        for image in pair["images"]:  # it is what it is called
            assert image["name"].split("/")[0] == pair["label"]
            with Image.open(io.BytesIO(base64.b64decode(image["jpeg"]))) as tile:
                assert tile.size == (32, 32)
    targets = set(re.findall('href="#([^"]+)"', page))
    assert len(targets) == len(found["pairs"]) > 0
    assert targets <= set(re.findall('id="([^"]+)"', page))
    with Image.open(folder / "samples.jpg") as sheet:
        assert sheet.size > (300, 200)


def test_several_sets_are_kept_and_the_same_one_is_replaced(tmp_path: Path, run: Run) -> None:
    model = a_model(tmp_path / "model")
    first, second = images(tmp_path / "first"), images(tmp_path / "second", 12)
    for data in (first, second, first):
        assert run("evaluate", model, data)[0] == 0
    assert [entry["clean"]["images"] for entry in read_results(model).values()] == [24, 12]
    page = (model / "report.html").read_text()
    assert page.count(f"Results on {first}") == 1
    assert page.count(f"Results on {second}") == 1


def test_results_that_come_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model")
    value = {"images": 1, "figures": {"loss": 1.0}}
    crew = [
        multiprocessing.get_context("fork").Process(target=_keep_some, args=(model, who, value)) for who in range(4)
    ]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
        assert one.exitcode == 0
    assert set(read_results(model)) == {f"set {who} {n}" for who in range(4) for n in range(5)}


def _keep_some(run: Path, who: int, value: dict) -> None:
    for number in range(5):
        update_results(run, f"set {who} {number}", "clean", value)


def test_a_file_keeps_nothing_and_says_so(tmp_path: Path, run: Run) -> None:
    model, data = a_model(tmp_path / "model"), images(tmp_path / "data")
    file = (model / "model.safetensors").rename(tmp_path / "alone.safetensors")
    before = set(tmp_path.iterdir())
    code, out, errors = run("evaluate", file, data)
    assert code == 0, errors
    assert "Top-1 accuracy" in out
    assert "nothing was kept" in out
    assert set(tmp_path.iterdir()) == before


def test_many_classes_are_cut_to_the_best_and_the_worst(tmp_path: Path, run: Run) -> None:
    data = images(tmp_path / "data", 80, classes=40)
    model = a_model(tmp_path / "model", [f"class{number}" for number in range(40)])
    code, out, errors = run("evaluate", model, data)
    assert code == 0, errors
    assert "The 5 best and the 10 worst of 40" in out
    assert len(re.findall(r"class\d+ ┃?│", out)) <= 2 * 15
    assert len(only_result(model)["clean"]["classes"]) == 40
    assert "Top-5 accuracy" in out
    (folder,) = (model / "results").iterdir()
    assert {"overview.svg", "confusion.svg"} <= {file.name for file in folder.iterdir()}


# ---------------------------------------------------------------- which images


def test_val_is_judged_where_there_are_splits(tmp_path: Path, run: Run) -> None:
    model = a_model(tmp_path / "model")
    images(tmp_path / "data/train", 12)
    images(tmp_path / "data/val", 6)
    for words, count in (((), 6), (("--split", "train"), 12), (("--split", "all"), 18)):
        code, out, errors = run("evaluate", model, tmp_path / "data", *words)
        assert code == 0, errors
        assert f"{count} images of" in out
    assert [one["clean"]["images"] for one in read_results(model).values()] == [6, 12, 18]
    undivided = images(tmp_path / "undivided")
    refused(run("evaluate", model, undivided, "--split", "val"), "has no splits train and val", "leave --split out")


def test_what_the_model_learnt_from_is_not_asked(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "data", 30)
    model = a_model(tmp_path / "model", data="data")
    code, out, _ = run("evaluate", model, tmp_path / "data")
    assert code == 0
    assert "6 images of" in out
    assert "(val)" in out
    assert "24 images of" in run("evaluate", model, "data", "--split", "train")[1]
    code, everything, _ = run("evaluate", model, "data", "--split", "all")
    assert "30 images of" in everything
    assert "has learnt from some of these" in everything
    assert "has learnt from" not in out
    # From anywhere, by what the run itself keeps; a file has but its provenance.
    (model / "config.toml").write_text(f'data = "{tmp_path}/data"')
    monkeypatch.chdir(model)
    assert "6 images of" in run("evaluate", model, tmp_path / "data")[1]


def test_images_that_came_later_leave_open_what_was_held_out(tmp_path: Path, run: Run) -> None:
    """The fifth that is held out is drawn from the images that are there, so others would be. Exports do not say where
    images lie, and know what was held out all the same."""
    data = images(tmp_path / "data")
    _, _, val = split_for(open_data(str(data)), None, 0)
    model = a_model(tmp_path / "model", data=str(data), held_out=val.fingerprint)
    assert run("evaluate", model, data)[0] == 0
    unknown = "does not say which images it learnt from"
    for to, name in (("timm", "t.safetensors"), ("hf-vit", "h")):
        out = tmp_path / name
        assert run("export", model, "--to", to, "--out", out)[0] == 0
        said = run("evaluate", out, data)[1].replace("\n", " ")
        assert ("(val)" in said, unknown in said, "has learnt from" in said) == (True, False, False)
        assert "has learnt from some of these" in run("evaluate", out, data, "--split", "all")[1]
    picture(99).save(data / "class0/new.png")
    refused(run("evaluate", model, data), "has changed since", "--split all")
    assert "it will do worse on images" in run("evaluate", model, data, "--split", "all")[1]
    assert unknown in run("evaluate", out, data)[1].replace("\n", " ")


def test_a_folder_of_the_training_images_is_known(tmp_path: Path, run: Run) -> None:
    for split in ("train", "val"):
        images(tmp_path / "data" / split, 9)
    model = a_model(tmp_path / "model", data=str(tmp_path / "data"))
    assert "has learnt from some of these" in run("evaluate", model, tmp_path / "data/train")[1]
    assert "has learnt from some of these" not in run("evaluate", model, tmp_path / "data/val")[1]
    images(tmp_path / "data/valves", 9)
    assert "has learnt from some of these" in run("evaluate", model, tmp_path / "data/valves")[1]


@pytest.mark.parametrize(
    ("folder", "then", "may_be"),
    [
        ("Testing", {}, False),
        ("seg_val/cat", {}, False),
        ("root/Test", {}, False),
        ("Training", {}, True),
        ("cat", {}, True),
        ("Testing", {"splits": "none"}, True),
        ("Testing", {"splits": "classes"}, True),
        ("site2", {"splits": "site1,site2"}, False),
        ("site1", {"splits": "site1,site2"}, True),
        ("val", {"splits": "site1,site2"}, True),
    ],
)
def test_what_was_val_is_known_whatever_it_is_called(folder: str, then: dict[str, str], may_be: bool) -> None:
    assert may_be_learnt(f"/data/{folder}", "all", "/data", Selection.from_dict(then)) == may_be


def test_fewer_classes_compete_among_themselves(tmp_path: Path, run: Run) -> None:
    names = ("n01440764", "class0", "n01443537", "class1")
    model, data = a_model(tmp_path / "model", names), images(tmp_path / "data", 40, classes=2)
    files = sorted(data.rglob("*.png"))
    shares = scores_of(model, files)
    labels = np.array([names.index(file.parent.name) for file in files])
    among = np.array([1, 3])[shares[:, [1, 3]].argmax(1)]
    assert (among != shares.argmax(1)).any()
    code, out, errors = run("evaluate", model, data)
    assert code == 0, errors
    assert "No image is of 2 of the model's classes (n01440764, n01443537): their outputs are left out" in out
    assert only_result(model)["clean"]["figures"]["top1"] == pytest.approx((among == labels).mean())
    code, out, _ = run("evaluate", model, data, "--classes", "all")
    assert "count all the same" in out
    found = only_result(model)["clean"]
    assert found["figures"]["top1"] == pytest.approx((shares.argmax(1) == labels).mean())
    assert {one["name"] for one in found["classes"]} == {"class0", "class1"}
    assert "n01440764" in (model / "report.html").read_text()


def test_unreadable_images_are_counted_and_listed(tmp_path: Path, run: Run) -> None:
    model, data = a_model(tmp_path / "model"), images(tmp_path / "data")
    (data / "class1/000broken.png").write_bytes(b"no image")
    code, out, errors = run("evaluate", model, data, "--save", tmp_path / "p.csv")
    assert code == 0, errors
    assert "1 of 25 images cannot be read and are left out (class1/000broken.png)" in out
    found = only_result(model)["clean"]
    assert found["unreadable"] == ["class1/000broken.png"]
    files = [file for file in sorted(data.rglob("*.png")) if "broken" not in file.name]
    right = scores_of(model, files).argmax(1) == [NAMES.index(file.parent.name) for file in files]
    assert found["figures"]["top1"] == pytest.approx(right.mean())
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert len(rows) == 25
    (broken,) = [row for row in rows if row["error"]]
    assert (broken["path"], broken["label"], broken["class"]) == ("class1/000broken.png", "class1", "")
    assert "class1/000broken.png" in (model / "report.html").read_text()


# ---------------------------------------------------------------- labels and numbers


def a_table(folder: Path, labels: Sequence[str]) -> Path:
    data = images(folder, len(labels), classes=1)
    rows = [f"class0/{number:03d}.png,{label}" for number, label in enumerate(labels)]
    table = data / "labels.csv"
    table.write_text("\n".join(["path,label", *rows]) + "\n")
    return table


def test_several_labels_an_image(tmp_path: Path, run: Run) -> None:
    model = a_model(tmp_path / "model", ("a", "b", "c"), "multi-label")
    texts = ["a;b", "b", "c;a", "b;c"] * 5
    table = a_table(tmp_path / "data", texts)
    code, out, errors = run("evaluate", model, table, "--save", tmp_path / "p.parquet")
    assert code == 0, errors
    shares = scores_of(model, [table.parent / f"class0/{n:03d}.png" for n in range(20)])
    logits = np.log(shares)  # up to a number for each image
    found = only_result(model)["clean"]
    rows = pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pylist()
    given = np.array([[row[f"p({name})"] for name in "abc"] for row in rows])
    unlike = np.log(given / (1 - given)) - logits
    np.testing.assert_allclose(unlike - unlike[:, :1], 0, atol=1e-3)  # sigmoid and softmax of the same scores
    values = np.array([[name in text for name in "abc"] for text in texts])
    each = [sk.average_precision_score(values[:, k], given[:, k]) for k in range(3)]
    assert found["figures"]["mean_ap"] == pytest.approx(np.mean(each))
    assert found["figures"]["mean_f1"] == pytest.approx(
        sk.f1_score(values, given > 0.5, average="macro", zero_division=0)
    )
    assert {one["name"]: one["average_precision"] for one in found["labels"]} == pytest.approx(
        dict(zip("abc", each, strict=True))
    )
    assert [row["label"] for row in rows] == ["a;b", "b", "a;c", "b;c"] * 5
    assert "Mean average precision" in out
    page = (model / "report.html").read_text()
    assert "Each label" in page
    assert "multi-label, 3 labels" in page
    refused(run("evaluate", model, table, "--corruptions", "all"), "--corruptions is for classification")
    refused(run("evaluate", model, table, "--classes", "all"), "--classes is for classification")


def test_numbers(tmp_path: Path, run: Run) -> None:
    model = a_model(tmp_path / "model", ("value",), "regression")
    values = np.random.default_rng(0).normal(3, 2, 20).round(3)
    table = a_table(tmp_path / "data", [str(value) for value in values])
    code, out, errors = run("evaluate", model, table, "--save", tmp_path / "p.csv")
    assert code == 0, errors
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    predicted = np.array([float(row["value"]) for row in rows])
    figures = only_result(model)["clean"]["figures"]
    assert figures["r2"] == pytest.approx(sk.r2_score(values, predicted), rel=1e-3)
    assert figures["mae"] == pytest.approx(sk.mean_absolute_error(values, predicted), rel=1e-3)
    assert figures["rmse"] == pytest.approx(sk.root_mean_squared_error(values, predicted), rel=1e-3)
    assert "R²" in out
    (folder,) = (model / "results").iterdir()
    assert {file.name for file in folder.iterdir()} == {"scatter.svg", "samples.jpg"}
    for label in ("nan", "tall"):
        bad = a_table(tmp_path / label, ["1.5", label, "2.5"])
        refused(run("evaluate", model, bad), f"the label '{label}' (class0/001.png), which is no number")
    refused(run("evaluate", model, a_table(tmp_path / "same", ["1.50", "1.5", "1.500"])), "the same value")


# ---------------------------------------------------------------- corruptions


def test_corruptions_are_measured_kept_and_not_measured_again(tmp_path: Path, run: Run) -> None:
    model, data = a_model(tmp_path / "model"), images(tmp_path / "data")
    words = ("evaluate", model, data, "--corruptions", "contrast,gaussian_noise", "--workers", "0")
    code, out, errors = run(*words, "--severities", "1,5")
    assert code == 0, errors
    first = only_result(model)["corruptions"]
    assert list(first["errors"]) == ["gaussian_noise", "contrast"]
    assert "Mean corruption error" in out
    # Image by image.
    clean = only_result(model)["clean"]
    assert first["clean_error"] == pytest.approx(1 - clean["figures"]["top1"])
    source = open_data(str(data)).all
    made = corruptions.Corrupted(source, PixelFormat(3), (32, 32), (8, 8), "contrast", 5, 0)
    for index in range(len(made)):
        place = tmp_path / "made" / made.name(index)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(made.read(index))).save(place)
    files = sorted((tmp_path / "made").rglob("*.png"))
    wrong = scores_of(model, files).argmax(1) != [NAMES.index(file.parent.name) for file in files]
    assert first["errors"]["contrast"]["5"] == pytest.approx(wrong.mean())
    code, out, _ = run(*words, "--severities", "1,3,5")
    assert "4 of 6 corruptions were measured at an earlier time" in out
    second = only_result(model)["corruptions"]
    assert second["errors"]["contrast"]["5"] == first["errors"]["contrast"]["5"]
    assert list(second["errors"]["contrast"]) == ["1", "3", "5"]
    assert "earlier time" not in run(*words, "--severities", "1", "--seed", "1")[1]
    name, entry = next(iter(read_results(model).items()))
    before = {key: value for key, value in entry["corruptions"].items() if key != "definition"}
    update_results(model, name, "corruptions", {**before, "relative_error": 0.5})  # of an older openmae
    assert "AlexNet" not in (model / "report.html").read_text()
    assert "earlier time" not in run(*words, "--severities", "1", "--seed", "1")[1]
    page = (model / "report.html").read_text()
    assert "Under corruptions" in page
    assert "AlexNet" not in page
    assert run("evaluate", model, data)[0] == 0
    assert "corruptions" in only_result(model)  # the same model and images: still true
    a_model(model, ("class1", "class0", "class2"))
    assert run("evaluate", model, data)[0] == 0
    assert "corruptions" not in only_result(model)  # of another model


def test_images_that_the_clean_result_lacks_are_not_counted_corrupted(tmp_path: Path, run: Run) -> None:
    """One smaller than a patch cannot be read clean, and is not to be judged corrupted."""
    model, data = a_model(tmp_path / "model"), images(tmp_path / "data", 8, classes=2)
    picture(1, (4, 40)).save(data / "class0/small.png")
    words = ("evaluate", model, data, "--corruptions", "brightness", "--severities", "1", "--workers", "0")
    assert run(*words)[0] == 0
    with_it = only_result(model)
    (data / "class0/small.png").unlink()
    assert run(*words)[0] == 0
    without = only_result(model)
    assert with_it["clean"]["images"] == without["clean"]["images"] == 8
    assert with_it["corruptions"]["errors"] == without["corruptions"]["errors"]


def test_workers_corrupt_alike(tmp_path: Path, run: Run) -> None:
    data = images(tmp_path / "data", 40)
    found = []
    for workers in (0, 2):
        model = a_model(tmp_path / f"model{workers}")
        words = ("--corruptions", "glass_blur,impulse_noise,fog", "--severities", "3", "--workers", workers)
        code, _, errors = run("evaluate", model, data, *words)
        assert code == 0, errors
        found.append(only_result(model)["corruptions"]["errors"])
    assert found[0] == found[1]


# ---------------------------------------------------------------- bad input


def test_bad_words_are_refused(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = a_model(tmp_path / "model"), images(tmp_path / "data")
    for words, said in (
        (("--corruptions", "rain"), ("give all, or some of gaussian_noise",)),
        (("--corruptions", "fog", "--severities", "0"), ("numbers from 1 to 5",)),
        (("--save", tmp_path / "p.xlsx"), ("give a file that ends in .csv, .parquet or .jsonl",)),
        (("--save", tmp_path / "data.csv/p.csv"), ("cannot be made",)),
        (("--batch-size", "0"), ("give 1 or more",)),
        (("--seed", "-1"), ("from 0",)),
        (("--severities", "1"), ("--severities is for --corruptions",)),
    ):
        (tmp_path / "data.csv").touch()
        refused(run("evaluate", model, data, *words), *said)
    assert not (model / "results.json").exists()
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    corruptions.imported.cache_clear()
    refused(run("evaluate", model, data, "--corruptions", "fog"), "pip install imagecorruptions-imaug")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(run("evaluate", model, data, "--save", tmp_path / "p.parquet"), "pip install pyarrow")


def test_bad_models_and_data_are_refused(tmp_path: Path, run: Run) -> None:
    model, data = a_model(tmp_path / "model"), images(tmp_path / "data")
    unlabelled = write_images(tmp_path / "more", 8)
    assert run(*pretrain(unlabelled, tmp_path / "first"))[0] == 0
    refused(run("evaluate", tmp_path / "first", data), "has not learnt any labels", "openmae finetune")
    refused(run("evaluate", tmp_path / "none", data), "does not exist")
    refused(run("evaluate", model, tmp_path / "none"), "does not exist")
    refused(run("evaluate", model, data / "class0"), "no labels")
    refused(run("evaluate", model, images(tmp_path / "one", 4, classes=1)), "100% would mean nothing")
    refused(run("evaluate", model, images(tmp_path / "four", 8, classes=4)), "not among the 3 known ones (class3;")
    small = a_model(tmp_path / "small", side=16)
    refused(run("evaluate", small, data, "--corruptions", "fog"), "32 pixels a side or more")
    deep = a_model(tmp_path / "deep", pixels=PixelFormat(3, None, "uint16"))
    refused(run("evaluate", deep, data, "--corruptions", "fog"), "8 bits")
    broken = openmae.weights.load_model(model)
    broken.classifier.head.bias.data[0] = torch.nan
    (tmp_path / "nan.safetensors").write_bytes(serialize(broken.model, broken.info))
    refused(run("evaluate", tmp_path / "nan.safetensors", data), "not finite numbers")
    for file in data.rglob("*.png"):
        file.write_bytes(b"")
    refused(run("evaluate", model, data), "none of the 24 images", "can be read")
    (model / "results.json").write_text("{")
    refused(run("evaluate", model, images(tmp_path / "good")), "results.json is damaged")


def test_what_lies_in_no_run_is_not_shown(tmp_path: Path, run: Run) -> None:
    model = a_model(tmp_path / "model")
    (tmp_path / "secret.png").write_bytes((images(tmp_path / "data") / "class0/000.png").read_bytes())
    entry = {"clean": {"figures": {"top1": 0.5, "loss": "x"}, "pictures": {"samples": "../secret.png"}}, "odd": 3}
    (model / "results.json").write_text(json.dumps({"<b>set</b>": entry, "nothing": None}))
    assert run("report", model)[0] == 0
    page = (model / "report.html").read_text()
    assert "data:image/png" not in page
    assert "50.00%" in page
    assert "&lt;b&gt;set" in page


# ---------------------------------------------------------------- sweeps and the page


def test_a_sweep_goes_on_and_has_a_page(tmp_path: Path, run: Run) -> None:
    data, model = write_images(tmp_path / "data", 20), a_model(tmp_path / "model")
    words = ("finetune", model, data, "--from-scratch", "--out", tmp_path / "sweep")
    words = (*words, "--epochs", 0.5, "--batch-size", 8, "--evaluations", 1, "--workers", 0)
    refused(run(*words, "--blocks", "0,2"), "--blocks has 2, and this encoder has 1")
    assert not (tmp_path / "sweep").exists()
    code, _, errors = run(*words, "--blocks", "1,0")
    assert code == 0, errors
    assert run(*words, "--blocks", "0,0.5")[0] == 0
    kept = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert list(kept) == ["0", "0.5", "1"]
    trained = openmae.load(tmp_path / "sweep/blocks-0.5")
    last = trained.encoder.blocks[-1]
    head = 16 * 2 + 2 + 2 * 16  # with the norm before it
    mlp = sum(p.numel() for part in (last.norm2, last.mlp) for p in part.parameters())
    everything = sum(p.numel() for p in trained.parameters()) - 2 * 16  # the encoder's norm is not asked
    assert [one["parameters"] for one in kept.values()] == [head, head + mlp, everything]
    assert all(0 <= one["figures"]["top1"] <= 1 and one["seconds"] > 0 for one in kept.values())
    page = (tmp_path / "sweep/report.html").read_text()
    for said in ("Partial fine-tuning", "0 (head alone)", f"{kept['1']['parameters']:,}", "data:image/svg+xml"):
        assert said in page
    (tmp_path / "sweep/report.html").unlink()
    assert run("report", tmp_path / "sweep")[0] == 0
    assert (tmp_path / "sweep/report.html").read_text() == page
    assert "classification, 2 classes" in (tmp_path / "sweep/blocks-1/report.html").read_text()
    refused(run(*words[:4], "--out", tmp_path / "sweep/blocks-1", "--blocks", "1,0"), "is a run, and a sweep")
    (tmp_path / "sweep/sweep.json").write_text("[")
    refused(run(*words, "--blocks", "1,0"), "sweep.json is damaged")


def test_the_pages_commands_run(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    a_model(Path("runs/classes"))
    a_model(Path("runs/imagenet"), ("class0", "class1", "n01440764"))
    for name in ("labelled", "others", "imagenet-a"):
        images(Path(name), 6, classes=2)
    text = (Path(__file__).parents[2] / "docs/evaluate.md").read_text()
    commands = re.findall(r"^openmae .*$", text, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        code, _, errors = run(*shlex.split(command)[1:], "--workers", "0")
        assert code == 0, errors
    found = next(iter(read_results(Path("runs/classes")).values()))["corruptions"]
    assert corruptions.is_complete({k: {int(s): e for s, e in of.items()} for k, of in found["errors"].items()})
