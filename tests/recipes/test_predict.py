"""`openmae predict` as a user types it: what torch and `evaluate` say, the tables that others read, kills, sorting."""

import csv
import json
import multiprocessing
import os
import re
import shlex
import signal
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from openmae.cli import main
from openmae.files.spreadsheets import cells, original
from openmae.recipes.in_parts import work
from openmae.recipes.in_parts.folder import parts_folder
from openmae.recipes.predict.sort import folder_names
from openmae.recipes.predictions import Predictions
from tests.commands import Run, refused
from tests.images import picture
from tests.recipes.classifiers import NAMES, a_model, images, scores_of


def rows_of(file: Path) -> list[dict[str, Any]]:
    """As libraries read it that are not ours."""
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return a_model(tmp_path / "model")


# ---------------------------------------------------------------- what it says


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_classes_and_probabilities_are_torchs_and_evaluates(suffix: str, model: Path, tmp_path: Path, run: Run) -> None:
    data = images(tmp_path / "data", 70)
    out, saved = tmp_path / f"new/p{suffix}", tmp_path / f"saved{suffix}"
    code, said, errors = run("predict", model, data, "--out", out, "--top-k", 3, "--workers", 0)
    assert code == 0, errors
    assert "70 images in" in said
    files = sorted(data.rglob("*.png"))
    shares = scores_of(model, files)
    rows = rows_of(out)
    told = ["class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    assert list(rows[0]) == ["path", *told, "error"]
    assert [row["path"] for row in rows] == [str(file.relative_to(data)) for file in files]
    order = np.argsort(-shares, axis=1)
    for place, (name, share) in enumerate(zip(told[::2], told[1::2], strict=True)):
        assert [row[name] for row in rows] == [NAMES[number] for number in order[:, place]]
        found = [float(row[share]) for row in rows]
        assert found == pytest.approx(np.take_along_axis(shares, order, 1)[:, place], abs=1e-5)
    assert not any(row["error"] for row in rows)
    assert run("evaluate", model, data, "--save", saved, "--workers", 0)[0] == 0
    judged = rows_of(saved)
    for column in ("path", "class", "error"):
        assert [row[column] for row in judged] == [row[column] for row in rows]
    assert [float(row["probability"]) for row in judged] == pytest.approx([float(r["probability"]) for r in rows])
    frame = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet}.get(
        suffix, lambda f: pandas.read_json(f, lines=1)
    )
    table = frame(out)
    assert table["class"].value_counts().sum() == 70
    assert table["probability"].between(1 / 3 - 1e-6, 1).all()


@given(st.integers(1, 7).flatmap(lambda k: st.tuples(st.just(k), st.integers(1, k))), st.integers(0, 2**32 - 1))
def test_what_is_told_of_scores(sizes: tuple[int, int], seed: int) -> None:
    classes, top = sizes
    scores = np.random.default_rng(seed).normal(0, 3, (5, classes)).astype(np.float32).round(0)  # some are equal
    names = [f"c{number}" for number in range(classes)]
    asked = Predictions("classification", names, top)
    found = asked.cells(asked.told(scores))
    assert list(found) == list(asked.columns)
    order = np.argsort(-scores, axis=1, kind="stable")
    shares = torch.from_numpy(scores).softmax(1).numpy()
    for place in range(top):
        more = "" if place == 0 else f"_{place + 1}"
        assert found[f"class{more}"] == [names[number] for number in order[:, place]]
        assert found[f"probability{more}"] == pytest.approx(shares[range(5), order[:, place]], abs=1e-6)
    assert found["class"] == [names[number] for number in scores.argmax(1)]


def test_several_labels_and_numbers(tmp_path: Path, run: Run) -> None:
    data = images(tmp_path / "data", 20)
    several = a_model(tmp_path / "several", ("a", "b", "c"), "multi-label")
    for threshold, more in ((0.5, ()), (0.9, ("--threshold", 0.9))):
        out = tmp_path / f"p{threshold}.parquet"
        assert run("predict", several, data, "--out", out, *more, "--workers", 0)[0] == 0
        rows = rows_of(out)
        assert list(rows[0]) == ["path", "labels", "p(a)", "p(b)", "p(c)", "error"]
        for row in rows:
            assert row["labels"] == ";".join(name for name in "abc" if row[f"p({name})"] > threshold)
    given = np.array([[row[f"p({name})"] for name in "abc"] for row in rows])
    unlike = np.log(given / (1 - given)) - np.log(scores_of(several, sorted(data.rglob("*.png"))))
    np.testing.assert_allclose(unlike - unlike[:, :1], 0, atol=1e-3)  # sigmoid and softmax of the same scores
    number = a_model(tmp_path / "number", ("value",), "regression")
    assert run("predict", number, data, "--out", tmp_path / "n.csv", "--workers", 0)[0] == 0
    rows = rows_of(tmp_path / "n.csv")
    assert list(rows[0]) == ["path", "value", "error"]
    assert len({row["value"] for row in rows}) > 10
    assert run("predict", number, data, "--out", tmp_path / "m.jsonl", "--workers", 0)[0] == 0
    assert [row["value"] for row in rows_of(tmp_path / "m.jsonl")] == [float(row["value"]) for row in rows]


def test_a_number_comes_in_the_unit_of_the_labels(tmp_path: Path, finished: Path, data: Path, run: Run) -> None:
    files = sorted(data.rglob("*.jpg"))
    table = tmp_path / "ages.csv"
    table.write_text("path,label\n" + "".join(f"{file},{500.5 + n}\n" for n, file in enumerate(files)))
    fit = "--epochs 1 --batch-size 8 --micro-batch 8 --precision fp32 --device cpu --workers 0"
    assert run("finetune", finished, table, "--out", tmp_path / "run", *fit.split())[0] == 0
    assert run("predict", tmp_path / "run", data, "--out", tmp_path / "p.csv", "--workers", 0)[0] == 0
    assert all(480 < float(row["value"]) < 540 for row in rows_of(tmp_path / "p.csv"))


def test_broken_images_have_rows_that_say_why(model: Path, tmp_path: Path, run: Run) -> None:
    data = images(tmp_path / "data", 12)
    (data / "class1/000broken.png").write_bytes(b"no image")
    for suffix in (".csv", ".parquet"):
        code, said, errors = run("predict", model, data, "--out", tmp_path / f"p{suffix}", "--workers", 1)
        assert code == 0, errors
        assert "1 image could not be read" in said
        rows = rows_of(tmp_path / f"p{suffix}")
        assert [row["path"] for row in rows] == sorted(str(f.relative_to(data)) for f in data.rglob("*.png"))
        (broken,) = [row for row in rows if row["error"]]
        assert broken["path"] == "class1/000broken.png"
        assert not broken["class"]
        assert not broken["probability"]


def test_files_that_are_named_one_by_one(model: Path, tmp_path: Path, run: Run) -> None:
    data = images(tmp_path / "data", 4)
    files = sorted(data.rglob("*.png"), reverse=True)
    for chosen in (files, files[:1], [*files, files[0]]):
        out = tmp_path / f"{len(chosen)}.csv"
        assert run("predict", model, *chosen, "--out", out, "--workers", 0)[0] == 0
        rows = rows_of(out)
        assert [row["path"] for row in rows] == [str(file) for file in chosen]
        expected = scores_of(model, chosen)
        assert [row["class"] for row in rows] == [NAMES[number] for number in expected.argmax(1)]
    missing = data / "none.png"
    refused(run("predict", model, *files, missing, "--out", tmp_path / "q.csv"), "none.png is no file")
    refused(run("predict", model, files[0], data, "--out", tmp_path / "q.csv"), "is no image file")


# ---------------------------------------------------------------- whatever happens


def quick_parts(words: list[str]) -> None:
    work.PART_SECONDS = 0.0  # type: ignore[misc]  # in a process of its own
    os._exit(main(words))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(suffix: str, model: Path, tmp_path: Path, run: Run) -> None:
    data = images(tmp_path / "data", 40)
    (data / "class0/009.png").write_bytes(b"no image")
    common = ["--batch-size", "4", "--workers", "0", "--top-k", "2", "--device", "cpu"]
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"p{suffix}"
    assert run("predict", model, data, "--out", whole, *common)[0] == 0
    words = ["predict", str(model), str(data), "--out", str(out), *common, "--sort", str(tmp_path / "sorted")]
    folder, moments = parts_folder(out), ("job.json", "000000000008.npz", "000000000024.npz", f"p{suffix}")
    for moment in (*moments, "sorted"):
        process = multiprocessing.get_context("fork").Process(target=quick_parts, args=(words,))
        process.start()
        deadline = time.monotonic() + 120
        there = (folder / moment).exists if moment != "sorted" else (tmp_path / "sorted/class1").exists
        while not there() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.0002)
        process.terminate() if moment == "000000000024.npz" else process.kill()
        process.join()
        assert process.exitcode == (75 if moment == "000000000024.npz" else -signal.SIGKILL)
    code, _, errors = run(*words)
    assert code == 0, errors
    assert not folder.exists()
    assert out.read_bytes() == whole.read_bytes()
    assert sorted_files(tmp_path / "sorted") == expected_places(rows_of(out))


def test_parts_that_begin_at_once_sort_into_one_folder(model: Path, tmp_path: Path, run: Run) -> None:
    """One of them writes whose the folder is while the others look."""
    data, place = images(tmp_path / "data", 6), tmp_path / "sorted"
    place.mkdir()
    (place / "..openmae-sort.json.part").write_bytes(b"half")
    words = ("predict", model, data, "--out", tmp_path / "p.csv", "--workers", 0, "--sort", place)
    code, _, errors = run(*words)
    assert code == 0, errors
    (place / "other.txt").write_text("")
    (place / ".openmae-sort.json").unlink()
    refused(run(*words), "is not empty")


def test_a_table_is_not_written_over_nor_mixed(model: Path, tmp_path: Path, run: Run) -> None:
    data, out = images(tmp_path / "data", 6), tmp_path / "p.csv"
    words = ("predict", model, data, "--out", out, "--workers", 0)
    assert run(*words)[0] == 0
    before = out.read_bytes(), out.stat().st_mtime_ns
    assert "has their predictions already" in run(*words)[1]
    refused(run(*words, "--top-k", 2), "--top-k 1, not 2", "choose another --out")
    other = a_model(tmp_path / "other", ("x", "y"))
    refused(run("predict", other, data, "--out", out), "another model")
    picture(99, (32, 32)).save(data / "class0/new.png")
    refused(run(*words), "other images")
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before
    (tmp_path / "mine.csv").write_text("path\n")
    refused(run("predict", model, data, "--out", tmp_path / "mine.csv"), "was not written by openmae predict")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("HEADLESS DATA --out p.csv", "has not learnt any labels: openmae finetune"),
        ("MODEL DATA --out p.txt", "give a file that ends in .csv or .parquet or .jsonl"),
        ("MODEL DATA --out p.csv --top-k 4", "--top-k is 4, and the model has 3 classes: give 1 to 3"),
        ("MODEL DATA --out p.csv --top-k 0", "--top-k is 0"),
        ("MODEL DATA --out p.csv --threshold 0.5", "--threshold is for several labels at once"),
        ("SEVERAL DATA --out p.csv --threshold 1.5", "--threshold is 1.5: give a probability"),
        ("SEVERAL DATA --out p.csv --top-k 2", "--top-k is for classes, and this model's task is multi-label"),
        ("NUMBER DATA --out p.csv --sort s", "--sort is for classes"),
        ("JOINED DATA --out p.csv --sort s", "and one is 'a;b': leave --sort out, or fine-tune"),
        ("MODEL empty --out p.csv", "holds no images"),
        ("MODEL missing --out p.csv", "missing does not exist"),
        ("MODEL missing.png --out p.csv", "missing.png is no file"),
        ("MODEL broken --out p.csv", "none of the 1 images in broken can be read"),
        ("MODEL DATA --out p.csv --split test", "has no splits"),
        ("MODEL DATA --out p.csv --batch-size 0", "--batch-size is 0"),
        ("MODEL DATA --out p.csv --sort DATA/sorted", "is in DATA itself"),
        ("MODEL DATA --out p.csv --sort broken", "is not empty"),
        ("MODEL DATA --out p.csv --sort DATA.npz", "which is a file"),
        ("MODEL DATA.npz --out p.csv --sort s --sort-by link", "give --sort-by copy"),
        ("MODEL --out p.csv", "IMAGES"),
    ],
)
def test_bad_input_is_one_sentence(
    words: str, said: str, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "DATA", 3)
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken/a.png").write_bytes(b"broken")
    np.savez(tmp_path / "DATA.npz", images=np.zeros((2, 32, 32, 3), np.uint8))
    places = {"HEADLESS": finished, "MODEL": a_model(tmp_path / "m")}
    places["SEVERAL"] = a_model(tmp_path / "several", ("a", "b"), "multi-label")
    places["JOINED"] = a_model(tmp_path / "joined", ("a;b", "c"), "multi-label")
    places["NUMBER"] = a_model(tmp_path / "number", ("value",), "regression")
    refused(run("predict", *[places.get(word, word) for word in words.split()]), said)
    assert not list(tmp_path.glob(".p*"))
    assert not list(tmp_path.glob("p.*"))


# ---------------------------------------------------------------- sorting


def sorted_files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() and p.name[0] != "."}


def expected_places(rows: list[dict[str, Any]]) -> set[str]:
    return {f"{row['class'] or '_unreadable'}/{row['path']}" for row in rows}


def test_copies_and_links_lie_in_the_folders_of_their_classes(model: Path, tmp_path: Path, run: Run) -> None:
    data, out = images(tmp_path / "data", 12), tmp_path / "p.parquet"
    (data / "class1/broken.png").write_bytes(b"no image")
    words = ("predict", model, data, "--out", out, "--workers", 0)
    assert run(*words, "--sort", tmp_path / "copies")[0] == 0
    assert run(*words, "--sort", tmp_path / "links", "--sort-by", "link")[0] == 0
    for name in ("copies", "links"):
        folder = tmp_path / name
        assert sorted_files(folder) == expected_places(rows_of(out))
        for file in folder.rglob("*.png"):
            assert file.is_symlink() == (name == "links")
            assert file.read_bytes() == (data / Path(*file.relative_to(folder).parts[1:])).read_bytes()
    refused(run(*words, "--sort", tmp_path / "copies", "--sort-by", "link"), "images sorted by another model")
    assert run(*words, "--sort", tmp_path / "copies")[0] == 0


def test_names_that_collide_and_images_that_are_no_files(model: Path, tmp_path: Path, run: Run) -> None:
    data = images(tmp_path / "data", 6)
    table = data / "class0/t.csv"
    table.write_text("path\n../class1/001.png\n../class1/../class1/001.png\n./000.png\n000.png\n")
    assert run("predict", model, table, "--out", tmp_path / "t.csv", "--sort", tmp_path / "t", "--workers", 0)[0] == 0
    assert len(sorted_files(tmp_path / "t")) == 4
    names = ["000-1.png", "000-2.png", "000--2.png", "\u3042" * 83 + ".png"]  # as numbered ones are called, and long
    for name in names:
        picture(0, (32, 32)).save(data / "class0" / name)
    table.write_text("\n".join(["path", "000.png", "000.png", *names]))
    assert run("predict", model, table, "--out", tmp_path / "u.csv", "--sort", tmp_path / "u", "--workers", 0)[0] == 0
    assert len(sorted_files(tmp_path / "u")) == 6
    for name in names:
        (data / "class0" / name).unlink()
    column = [{"bytes": (data / "class0/000.png").read_bytes(), "path": name} for name in ("a", "a.png", "a-1.png")]
    pq.write_table(pa.table({"image": column}), tmp_path / "i.parquet")
    words = ("predict", model, tmp_path / "i.parquet", "--out", tmp_path / "i.csv", "--sort", tmp_path / "i")
    assert run(*words, "--workers", 0)[0] == 0
    assert {Path(place).name for place in sorted_files(tmp_path / "i")} == {"a--1.png", "a.png", "a-1.png"}
    assert run("pack", data, tmp_path / "shards", "--workers", 0)[0] == 0
    words = ("predict", model, tmp_path / "shards", "--out", tmp_path / "s.csv", "--sort", tmp_path / "s")
    assert run(*words, "--workers", 0)[0] == 0
    assert len(sorted_files(tmp_path / "s")) == 6
    pixels = np.stack([np.array(Image.open(file)) for file in sorted(data.rglob("*.png"))])
    np.savez(tmp_path / "a.npz", images=pixels)
    words = ("predict", model, tmp_path / "a.npz", "--out", tmp_path / "a.csv", "--sort", tmp_path / "a")
    assert run(*words, "--workers", 0)[0] == 0
    files = [file for file in (tmp_path / "a").rglob("*") if file.suffix == ".npy"]
    assert len(files) == 6
    assert np.load(files[0]).shape == (32, 32, 3)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_classes_whose_folders_had_bytes_that_are_no_text(suffix: str, tmp_path: Path, run: Run) -> None:
    model, data = a_model(tmp_path / "m", ("a\udcff", "=b", "\udcfe")), images(tmp_path / "data", 12)
    out, folder = tmp_path / f"p{suffix}", tmp_path / "sorted"
    code, _, errors = run("predict", model, data, "--out", out, "--sort", folder, "--workers", 0)
    assert code == 0, errors
    classes = {row["class"].removeprefix("'") for row in rows_of(out)}
    assert classes <= {"a\\udcff", "=b", "\\udcfe"}
    assert {place.name.replace("_", "\\") for place in folder.iterdir() if place.is_dir()} == classes


HOSTILE = ["..", ".", "", "/", "a/b", "a\\b", "con", "Con.txt", "aux ", "_none", "_NONE", "e\u0301", "\u00e9"]
HOSTILE += ["_unreadable", "\u3042" * 99]


@settings(max_examples=30)
@given(st.lists(st.text(max_size=20) | st.sampled_from(HOSTILE), max_size=6))
@example(HOSTILE)
def test_folders_have_names_that_are_safe_and_their_own(names: list[str]) -> None:
    found = folder_names(names)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in found}) == len(names)
    for name in found:
        assert name not in ("_none", "_unreadable")
        assert len(name.encode()) <= 130
        assert not name.endswith((".", " "))
        assert name.split(".")[0].lower() not in ("con", "aux", "com1", "lpt9", "nul", "prn")
        assert name
        assert name[0] != "."
        assert not set(name) & set('/\\\0:*?"<>|\n')


@given(st.text() | st.sampled_from(["=1", "'=1", "''-x", "-1", "'abc", "+a"]))
def test_the_text_of_a_cell_is_found_again(text: str) -> None:
    assert original(cells([text])[0]) == text


def test_the_pages_commands_run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "IMAGES", 24)
    picture(50, (32, 32)).save("photo.jpg")
    model.rename("RUN")
    text = (Path(__file__).parents[2] / "docs/predict.md").read_text()
    commands = re.findall(r"^openmae .*$", text, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        small = ("--epochs", 1) if " finetune " in command else ()
        code, _, errors = run(*shlex.split(command)[1:], "--workers", 0, *small)
        assert code == 0, errors
    assert {place.name for place in Path("sorted").iterdir()} <= {*NAMES, ".openmae-sort.json"}
