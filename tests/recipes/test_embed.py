"""`openmae embed`: the vectors, the files that others read, kills, and what lies near what."""

import csv
import io
import itertools
import json
import multiprocessing
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity

import openmae
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.header import Depth
from openmae.data.opening import open_data
from openmae.data.views.statistics import Statistics
from openmae.evaluate import copies, neighbours
from openmae.evaluate.embedding import embed, embedder_of
from openmae.evaluate.features import centred_images
from openmae.evaluate.in_batches import rows_of_each
from openmae.files.left import left_in
from openmae.heads import Classifier
from openmae.recipes.embed import job as recipe
from openmae.recipes.in_parts import work
from openmae.recipes.in_parts.folder import parts_folder
from openmae.weights import load_model, model_json, serialize
from tests.commands import Run, in_one_process, refused
from tests.evaluate.outliers import sorted_means
from tests.images import picture, write_images
from tests.processes import SMALL_FILES, run_openmae, started_openmae, wait_for

CPU = torch.device("cpu")


def save_model(
    file: Path, *, classes: int = 0, tokens: int = 1, in_chans: int = 3, depth_of_pixels: Depth = "uint8"
) -> Path:
    """A tiny model for 16 x 16 images, of 2 blocks; with `classes` a fine-tuned one."""
    form = PixelFormat(in_chans, depth=depth_of_pixels)
    model: Any = openmae.create_model(
        img_size=16,
        patch_size=4,
        in_chans=in_chans,
        embed_dim=24,
        depth=2,
        num_heads=2,
        class_tokens=tokens,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    model.initialize(torch.Generator().manual_seed(0))
    if classes:
        model = Classifier(model.encoder, classes)
    statistics = Statistics((0.4,) * in_chans, (0.2,) * in_chans, form)
    file.write_bytes(serialize(model, model_json(model, statistics, {"step": 7, "model": None})))
    return file


@pytest.fixture
def run(run: Run) -> Run:
    return in_one_process(run, "embed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def array_images(file: Path, count: int) -> NDArray[np.uint8]:
    images = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    np.savez(file, images=images, labels=np.arange(count) % 3)
    return images


def by_torch(file: Path, images: NDArray[Any], layer: int | None = None, pool: str = "mean") -> NDArray[np.float32]:
    """The vectors as anyone would compute them."""
    loaded = load_model(file)
    white = {"uint8": 255, "uint16": 65535}[str(images.dtype)]
    pixels = torch.from_numpy(images.astype(np.float32) / white).permute(0, 3, 1, 2)
    with torch.no_grad():
        tokens = loaded.encoder((pixels - 0.4) / 0.2, layer)
    count = loaded.encoder.class_tokens
    return (tokens[:, count:] if pool == "mean" else tokens[:, :count]).mean(1).numpy()


def read_parquet(file: Path) -> tuple[NDArray[np.float32], list[str], list[str | None]]:
    table = pq.read_table(file)
    assert table.schema.names == ["path", "label", "vector"]
    assert pa.types.is_fixed_size_list(table.schema.field("vector").type)
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    return vectors, table["path"].to_pylist(), table["label"].to_pylist()


# ---------------------------------------------------------------- vectors and files


@pytest.mark.parametrize(
    ("flags", "layer", "pool"),
    [
        ("", None, "mean"),
        ("--layer 1", 1, "mean"),
        ("--pool class", None, "class"),
        ("--layer 2 --workers 1", 2, "mean"),
    ],
)
def test_vectors_are_the_encoders_own(
    flags: str, layer: int | None, pool: str, model: Path, tmp_path: Path, run: Run
) -> None:
    images = array_images(tmp_path / "data.npz", 70)
    out = tmp_path / "new/folder/features.parquet"
    code, said, errors = run(
        "embed", model, tmp_path / "data.npz", "--out", out, *flags.split(), "--batch-size", 20, "--precision", "fp32"
    )
    assert code == 0, errors
    vectors, paths, labels = read_parquet(out)
    np.testing.assert_allclose(vectors, by_torch(model, images, layer, pool), atol=1e-5)
    assert labels == [str(i % 3) for i in range(70)]
    assert len(set(paths)) == 70
    assert "70 images in" in said
    assert "3 labels" in said
    assert not list(out.parent.glob(".*"))  # no part is left


@pytest.mark.parametrize(("mode", "channels", "depth"), [("I;16", 1, "uint16"), ("RGBA", 4, "uint8")])
def test_any_channels_and_depths(mode: str, channels: int, depth: Any, tmp_path: Path, run: Run) -> None:
    model = save_model(tmp_path / "m.safetensors", in_chans=channels, depth_of_pixels=depth)
    draws = np.random.default_rng(0)
    shape = (20, 16, 16) if channels == 1 else (20, 16, 16, channels)
    images = draws.integers(0, np.iinfo(depth).max, shape, dtype=depth)
    (tmp_path / "data").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "data" / f"{number:02d}.png")
    out = tmp_path / "f.parquet"
    words = ("embed", model, tmp_path / "data", "--out", out, "--precision", "fp32", "--workers", 1)
    (tmp_path / "copy").write_bytes((tmp_path / "data/07.png").read_bytes())
    query = tmp_path / "copy"
    code, said, errors = run(*words, "--search", query, "--duplicates", "--outliers", "--threshold", 0)
    assert code == 0, errors
    np.testing.assert_allclose(read_parquet(out)[0], by_torch(model, images.reshape(20, 16, 16, channels)), atol=1e-5)
    assert re.search(r"similarity +image *\n +1\.0000 +07\.png", said)
    for name in ("search", "duplicates", "outliers"):
        assert (tmp_path / f"f-{name}.png").stat().st_size > 10_000


def test_a_fine_tuned_model_gives_its_encoders_vectors(tmp_path: Path, run: Run) -> None:
    model = save_model(tmp_path / "tuned.safetensors", classes=5)
    images = array_images(tmp_path / "data.npz", 9)
    assert run("embed", model, tmp_path / "data.npz", "--out", tmp_path / "f.parquet", "--precision", "fp32")[0] == 0
    np.testing.assert_allclose(read_parquet(tmp_path / "f.parquet")[0], by_torch(model, images), atol=1e-5)


def test_npy_is_the_same_and_says_what_it_is(model: Path, tmp_path: Path, run: Run) -> None:
    array_images(tmp_path / "data.npz", 40)
    for kind in ("parquet", "npy"):
        assert run("embed", model, tmp_path / "data.npz", "--out", tmp_path / f"f.{kind}", "--batch-size", 16)[0] == 0
    vectors, paths, labels = read_parquet(tmp_path / "f.parquet")
    stored = np.load(tmp_path / "f.npy")
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, vectors)
    with (tmp_path / "f.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["path", "label"], *map(list, zip(paths, labels, strict=True))]
    about = json.loads(pq.read_schema(tmp_path / "f.parquet").metadata[b"openmae"])
    assert about == json.loads((tmp_path / "f.json").read_text())
    assert (about["step"], about["layer"], about["pool"], about["width"]) == (7, 2, "mean", 24)
    assert about["statistics"]["mean"] == [0.4, 0.4, 0.4]
    assert about["data_fingerprint"] == open_data(str(tmp_path / "data.npz")).all.fingerprint
    assert about["model"] == str(model)


def test_python_gives_the_same(model: Path, tmp_path: Path) -> None:
    images = array_images(tmp_path / "data.npz", 33)
    vectors, names = embed(model, str(tmp_path / "data.npz"), layer=1, batch_size=10)
    np.testing.assert_allclose(vectors, by_torch(model, images, 1), atol=1e-5)
    assert names[3] == open_data(str(tmp_path / "data.npz")).all.name(3)


def test_labels_come_along_from_wherever_they_are(model: Path, tmp_path: Path, run: Run) -> None:
    for split, first in (("train", 0), ("val", 7)):
        write_images(tmp_path / "split" / split, 7, classes=3, first=first)
    (tmp_path / "split/other").mkdir()
    picture(0).save(tmp_path / "split/other/x.png")
    out = tmp_path / "a.parquet"
    assert run("embed", model, tmp_path / "split", "--out", out)[0] == 0
    _, paths, labels = read_parquet(out)
    assert len(paths) == 15
    for path, label in zip(paths, labels, strict=True):
        assert label == (None if path.startswith("other") else path.split("/")[1])
    assert run("embed", model, tmp_path / "split", "--out", tmp_path / "b.parquet", "--split", "val")[0] == 0
    assert read_parquet(tmp_path / "b.parquet")[1:] == ([p[4:] for p in paths[8:]], labels[8:])

    names = [f"split/{path}" for path in paths[:4]]
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, ("cat", "", "dog", "cat"), strict=True))
    (tmp_path / "some.csv").write_text(f"path,label\n{rows}")
    assert run("embed", model, tmp_path / "some.csv", "--out", tmp_path / "c.parquet")[0] == 0
    assert read_parquet(tmp_path / "c.parquet")[1:] == (names, ["cat", None, "dog", "cat"])
    assert (
        "has their features already" in run("embed", model, tmp_path / "some.csv", "--out", tmp_path / "c.parquet")[1]
    )
    (tmp_path / "some.csv").write_text(f"path,label\n{rows}".replace("dog", "cow"))
    again = run("embed", model, tmp_path / "some.csv", "--out", tmp_path / "c.parquet")
    refused(again, "has the labels that", "had then", "choose another --out")

    said = run("embed", model, tmp_path / "split/other", "--out", tmp_path / "d.parquet")[1]
    assert "without labels" in said
    assert read_parquet(tmp_path / "d.parquet")[1:] == (["x.png"], [None])


@settings(max_examples=40)
@given(
    count=st.integers(1, 100),
    batch_size=st.integers(1, 40),
    begun=st.integers(0, 3),
    broken=st.sets(st.integers(0, 99), max_size=60),
)
def test_batches_are_the_same_wherever_one_starts(
    count: int, batch_size: int, begun: int, broken: set[int], model: Path, broken_tables: Path
) -> None:
    loaded = load_model(model)
    embedder = embedder_of(loaded, None, "mean", "fp32", CPU)
    table = broken_tables / "table.csv"
    names = [f"{'broken' if i in broken else i % 10}.png" for i in range(count)]
    table.write_text("path\n" + "".join(f"{name}\n" for name in names))
    images = centred_images(loaded.encoder, loaded.statistics, open_data(str(table)).all)
    whole = list(rows_of_each(images, embedder, batch_size, 0))
    assert [(b.start, b.stop) for b in whole] == [
        (start, min(start + batch_size, count)) for start in range(0, count, batch_size)
    ]
    assert [index for b in whole for index in b.missing] == sorted(i for i in broken if i < count)
    start = min(begun, len(whole) - 1)
    for one, other in zip(
        whole[start:], rows_of_each(images, embedder, batch_size, 0, start * batch_size), strict=True
    ):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.rows, other.rows)


@pytest.fixture(scope="module")
def broken_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for number in range(10):
        picture(number, (16, 16)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"broken")
    return folder


def test_broken_images_are_left_out_counted_and_listed(model: Path, tmp_path: Path, run: Run) -> None:
    data = write_images(tmp_path / "data", 12)
    (data / "class0/004.jpg").write_bytes(b"broken")
    Image.new("RGB", (3, 40)).save(data / "class1/thin.png")
    out = tmp_path / "f.parquet"
    code, said, errors = run("embed", model, data, "--out", out, "--workers", 1, "--outliers")
    assert code == 0, errors
    assert "2 that could not be read are left out" in said
    lines = (tmp_path / "f-broken.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["class0/004.jpg", "class1/thin.png"]
    assert "40 x 3 pixels are less than one patch" in lines[1]
    vectors, paths, labels = read_parquet(out)
    assert len(vectors) == 11
    assert not {"class0/004.jpg", "class1/thin.png"} & set(paths)
    assert labels == [path.split("/")[0] for path in paths]
    with (tmp_path / "f-outliers.csv").open(newline="") as file:  # rows of the file, not indices of the images
        listed = list(csv.DictReader(file))
    means = sorted_means(vectors, 10)
    assert [row["path"] for row in listed] == [paths[i] for i in np.argsort(means, kind="stable")]


# ---------------------------------------------------------------- whatever happens


@pytest.fixture(scope="module")
def slow_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that take a moment to read; one is broken, and so is all of a batch."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(60):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        picture(number, (300, 400)).save(place / f"{number:02d}.png", compress_level=0)
    for name in ("a/08.png", "b/21.png", "b/23.png", "b/25.png", "b/27.png", "b/29.png", "b/31.png"):
        (folder / name).write_bytes(b"broken")
    return folder


def quick_parts(model: Path, data: Path, out: Path, **settings: Any) -> None:
    work.PART_SECONDS = 0.0  # type: ignore[misc]  # in a process of its own
    recipe.run(recipe.Embed(model, str(data), out, **{"batch_size": 5, "workers": 0, "device": "cpu", **settings}))


def in_a_process(*given: Any, **settings: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=quick_parts, args=given, kwargs=settings)
    process.start()
    return process


@pytest.mark.parametrize(
    ("kind", "pool"),
    [("parquet", "mean"), ("npy", "mean"), pytest.param("parquet", "patches", marks=pytest.mark.slow)],
)
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    kind: str, pool: str, model: Path, slow_images: Path, tmp_path: Path, run: Run
) -> None:
    whole = tmp_path / f"whole.{kind}"
    words = ("embed", model, slow_images, "--out", whole, "--batch-size", 5, "--workers", 1, "--pool", pool)
    assert run(*words)[0] == 0
    out = tmp_path / f"f.{kind}"
    folder = parts_folder(out)
    kept: dict[str, int] = {}
    for moment in ("job.json", "000000000000.npz", "000000000015.npz", "000000000035.npz", f"f.{kind}"):
        process = in_a_process(model, slow_images, out, pool=pool)
        deadline = time.monotonic() + 120
        while not (folder / moment).exists() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.0002)
        process.kill()
        process.join()
        if folder.exists():
            now = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.npz")}
            assert kept.items() <= now.items()  # nothing is lost, or made again
            kept = now
    assert kept
    process = in_a_process(model, slow_images, out, pool=pool)
    process.join()
    assert process.exitcode == 0
    assert not folder.exists()
    assert out.read_bytes() == whole.read_bytes()
    assert (tmp_path / "f-broken.txt").read_bytes() == (tmp_path / "whole-broken.txt").read_bytes()
    assert len((tmp_path / "f-broken.txt").read_text().splitlines()) == 7
    if kind == "npy":
        assert (tmp_path / "f.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_killed_when_all_was_done(model: Path, tmp_path: Path, run: Run) -> None:
    array_images(tmp_path / "data.npz", 8)
    out = tmp_path / "f.npy"
    assert run("embed", model, tmp_path / "data.npz", "--out", out)[0] == 0
    folder = parts_folder(out)
    folder.mkdir()
    (folder / "job.json").write_text("{}")
    before = out.read_bytes()
    code, said, _ = run("embed", model, tmp_path / "data.npz", "--out", out)
    assert code == 0
    assert "has their features already: 8 vectors of 24 values" in said
    assert not folder.exists()
    assert out.read_bytes() == before


def test_a_second_process_is_refused_and_ctrl_c_keeps_what_was_done(
    model: Path, slow_images: Path, tmp_path: Path, run: Run
) -> None:
    out, table = tmp_path / "f.parquet", tmp_path / "long.csv"
    table.write_text("path\n" + f"{slow_images / 'a/00.png'}\n" * 3000)
    words = f"embed {model} {table} --out {out} --batch-size 2 --workers 0".split()
    for pause in (0.3, 15, 40):  # a busy machine takes its time for a first batch
        log = tmp_path / f"log{pause}"
        with started_openmae(words, log) as process:
            wait_for((parts_folder(out) / "job.json").exists, process)
            if pause == 0.3:
                refused(run(*words), "another process is writing")
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
        assert log.read_text().endswith("openmae embed: stopped; the same command goes on where it was.\n")
        if parts := list(parts_folder(out).glob("*.npz")):
            break
    (part,) = parts
    with np.load(part) as stored:
        assert 0 < len(stored["indices"]) < 3000


def test_a_full_disk_is_one_sentence_and_no_loss(model: Path, slow_images: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "f.parquet"
    words = f"embed {model} {slow_images} --out {out} --workers 0".split()
    command = run_openmae(["5000", *words], code=SMALL_FILES)
    assert command.returncode == 2, command.stderr
    assert re.fullmatch(r"openmae embed: the disk that holds .* is full: free some space .*\n", command.stderr)
    assert not out.exists()
    assert run(*words)[0] == 0
    assert len(read_parquet(out)[0]) == 53


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("finished", [True, False])
def test_features_of_something_else_are_not_mixed(finished: bool, model: Path, tmp_path: Path, run: Run) -> None:
    array_images(tmp_path / "data.npz", 20)
    array_images(tmp_path / "other.npz", 21)
    other = save_model(tmp_path / "other.safetensors", tokens=2)
    out = tmp_path / "f.parquet"
    data = tmp_path / "data.npz"
    assert run("embed", model, data, "--out", out, "--precision", "fp32")[0] == 0
    if not finished:
        parts_folder(out).mkdir()
        about = pq.read_schema(out).metadata[b"openmae"]
        (parts_folder(out) / "job.json").write_bytes(about)
        out.unlink()
    before = out.read_bytes() if finished else b""
    for words, said in (
        ((model, data, "--layer", 1), "--layer 2, not 1"),
        ((model, data, "--pool", "class"), "--pool mean, not class"),
        ((model, data, "--precision", "bf16"), "--precision fp32, not bf16"),
        ((other, data), "another model"),
        ((model, tmp_path / "other.npz"), "other images"),
    ):
        refused(run("embed", *words, "--out", out), said, "choose another --out")
        assert (out.read_bytes() if finished else b"") == before
    assert run("embed", model, data, "--out", out)[0] == 0  # a precision that is left open is what it was
    assert json.loads(pq.read_schema(out).metadata[b"openmae"])["precision"] == "fp32"


def test_files_of_others_are_not_written_over(model: Path, tmp_path: Path, run: Run) -> None:
    array_images(tmp_path / "data.npz", 5)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "mine.parquet")
    np.save(tmp_path / "mine.npy", np.zeros(3))
    (tmp_path / "text.parquet").write_text("text")
    (tmp_path / "table.csv").write_text("path\n")
    for name in ("mine.parquet", "mine.npy", "text.parquet"):
        before = (tmp_path / name).read_bytes()
        refused(
            run("embed", model, tmp_path / "data.npz", "--out", tmp_path / name), "was not written by openmae embed"
        )
        assert (tmp_path / name).read_bytes() == before
    refused(run("embed", model, tmp_path / "data.npz", "--out", tmp_path / "table.npy"), "table.csv exists")
    assert (tmp_path / "table.csv").read_text() == "path\n"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("MODEL DATA --out f.txt", "give a file that ends in .parquet or .npy"),
        ("MODEL DATA --out f", "give a file that ends in"),
        ("missing DATA --out f.npy", "does not exist"),
        ("MODEL missing --out f.npy", "missing does not exist"),
        ("MODEL empty --out f.npy", "holds no images"),
        ("MODEL broken --out f.npy", "none of the 1 images in broken can be read"),
        ("MODEL DATA --out f.npy --layer 3", "--layer is 3: this model has layers 1 to 2"),
        ("MODEL DATA --out f.npy --layer 0", "--layer is 0"),
        ("MODEL DATA --out f.npy --threshold 1.5 --duplicates", "--threshold is 1.5: give a similarity from 0 to 1"),
        ("MODEL DATA --out f.npy --threshold nan", "--threshold is nan"),
        ("MODEL DATA --out f.npy --nearest 0", "--nearest is 0"),
        ("MODEL DATA --out f.npy --batch-size 0", "--batch-size is 0"),
        ("MODEL DATA --out f.npy --workers -1", "--workers is -1"),
        ("MODEL DATA --out f.npy --split val", "has no splits"),
        ("MODEL DATA --out f.npy --search missing.jpg", "--search missing.jpg cannot be read (No such file"),
        ("MODEL DATA --out f.npy --search broken/a.png", "--search broken/a.png cannot be used"),
        ("MODEL DATA --out f.npy --picture a.png", "--picture is of a search"),
        ("MODEL DATA --out f.npy --search DATA.png --picture a.jpg", "a name that ends in .png"),
        ("MODEL DATA --out f.npy --pool max", "--pool is max"),
        ("MODEL DATA --out f.npy --index faiss --search DATA.png", "--index is of --duplicates and --outliers"),
        ("tokenless DATA --out f.npy --pool class", "no class token"),
        ("MODEL single --out f.npy --outliers", "--outliers needs two or more"),
        ("MODEL DATA --out f.npy --pool patches --outliers", "--outliers compares whole images"),
        ("MODEL DATA --out f.npy --pool patches --search DATA.png", "--search compares whole images"),
    ],
)
def test_bad_input_is_one_sentence(
    words: str, said: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "DATA", 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_bytes(b"broken")
    (tmp_path / "single").mkdir()
    picture(0).save(tmp_path / "single/a.png")
    picture(0).save(tmp_path / "DATA.png")
    if "tokenless" in words:
        save_model(tmp_path / "tokenless", tokens=0)
    given = [str(model) if word == "MODEL" else word for word in words.split()]
    refused(run("embed", *given), said)
    assert not list(tmp_path.glob(".f*"))


def test_pyarrow_that_is_missing_is_named_before_anything_is_read(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    write_images(tmp_path / "data", 3)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(
        run("embed", model, tmp_path / "data", "--out", tmp_path / "f.parquet"),
        "pip install pyarrow",
        ".npy",
    )
    assert run("embed", model, tmp_path / "data", "--out", tmp_path / "f.npy")[0] == 0


def test_a_model_that_diverged_is_refused(tmp_path: Path, run: Run) -> None:
    file = save_model(tmp_path / "m.safetensors")
    loaded = load_model(file)
    with torch.no_grad():
        loaded.encoder.norm.weight.fill_(torch.nan)
    file.write_bytes(serialize(loaded.model, loaded.info))
    array_images(tmp_path / "data.npz", 5)
    refused(run("embed", file, tmp_path / "data.npz", "--out", tmp_path / "f.npy"), "not numbers")


# ---------------------------------------------------------------- what lies near what


@pytest.fixture(scope="module", autouse=True)
def _small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK", 7)
        yield


def test_all_searches_in_one_go_without_embedding_twice(
    model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_images(tmp_path / "data", 14)
    recompressed = data / "class0/copy.jpg"
    Image.open(data / "class1/003.png").save(recompressed, quality=95)
    out = tmp_path / "f.parquet"
    query = tmp_path / "q.png"
    Image.open(data / "class0/006.jpg").save(query)
    searches = (
        "--search",
        query,
        data / "class1/003.png",
        "--duplicates",
        "--threshold",
        0.998,
        "--outliers",
        "--nearest",
        4,
    )
    words = ("embed", model, data, "--out", out, *searches, "--precision", "fp32")
    code, said, errors = run(*words)
    assert code == 0, errors
    assert re.search(r"Nearest to .*q\.png:\nsimilarity +image +label *\n +1\.0000 +class0/006\.jpg +class0", said)
    vectors, paths, _ = read_parquet(out)
    similar = cosine_similarity(vectors)
    own = paths.index("class1/003.png")
    expected = [(f"{similar[own, i]:.4f}", paths[i]) for i in np.argsort(-similar[own], kind="stable") if i != own]
    listed = said.split("003.png, itself left out:\n")[1].split("Picture")[0]
    assert re.findall(r"^ +(\S+) +(\S+) ", listed, re.MULTILINE)[-4:] == expected[:4]
    with (tmp_path / "f-duplicates.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    found = {(row["path"], row["path_2"]) for row in pairs}
    upper = zip(*np.triu_indices(len(paths), 1), strict=True)
    assert found == {(paths[i], paths[j]) for i, j in upper if similar[i, j] >= 0.998}
    assert ("class0/copy.jpg", "class1/003.png") in found
    assert pairs[0]["label"] == pairs[0]["path"].split("/")[0]
    for name in ("search", "duplicates", "outliers"):
        with Image.open(tmp_path / f"f-{name}.png") as image:
            assert min(image.size) > 200
            assert len(image.convert("L").getcolors()) > 50
    before = out.stat().st_mtime_ns
    monkeypatch.setattr(work, "rows_of_each", lambda *given: pytest.fail("embeds again"))
    again = run(*words)[1]
    assert out.stat().st_mtime_ns == before
    assert again[again.index("Nearest") :] == said[said.index("Nearest") :]
    left = tmp_path / ".f.parquet.near.abcdefgh.part"  # by a killed one
    left.mkdir()
    os.utime(left, (0, 0))
    left_in.cache_clear()  # as in another process
    lists = {name: (tmp_path / f"f-{name}.csv").read_text() for name in ("duplicates", "outliers")}
    code, said, errors = run(*words, "--index", "faiss")
    assert code == 0, errors
    assert re.search(r"An index of 1 cells, of which 1 .* finds 100\.0% of the 14 nearest \(measured on 7", said)
    for name, before in lists.items():
        rows, exact = ([*csv.reader(io.StringIO(text))] for text in ((tmp_path / f"f-{name}.csv").read_text(), before))
        assert [row[1:] for row in rows] == [row[1:] for row in exact]
        np.testing.assert_allclose([float(row[0]) for row in rows[1:]], [float(row[0]) for row in exact[1:]], atol=2e-6)
    assert not list(tmp_path.glob(".f*"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(run(*words, "--index", "faiss"), "--index faiss needs faiss: pip install 'openmae[faiss]'")
    monkeypatch.undo()
    assert run(*words[:5], "--search", query, "--picture", tmp_path / "new/s.png")[0] == 0
    assert (tmp_path / "new/s.png").exists()
    (data / "class0/006.jpg").unlink()
    refused(run(*words), "other images")


def test_copies_are_found_among_images_that_are_all_alike(model: Path, tmp_path: Path, run: Run) -> None:
    """Saved again, resized, cropped; of others, which the model finds as similar as copies, none is listed."""
    data = tmp_path / "data"
    data.mkdir()
    draws = np.random.default_rng(0)
    for number in range(30):
        cells = Image.new("L", (96, 80), 12)
        for x, y in draws.integers(8, 72, (14, 2)).tolist():
            cells.paste(int(draws.integers(60, 90)), (x, y, x + 5, y + 4))
        cells.save(data / f"{number:02d}.png")
    Image.open(data / "03.png").save(data / "03-again.jpg", quality=60)
    Image.open(data / "11.png").resize((60, 50), Image.Resampling.BICUBIC).save(data / "11-smaller.png")
    Image.open(data / "19.png").crop((6, 3, 93, 76)).save(data / "19-cropped.png")
    code, said, errors = run("embed", model, data, "--out", tmp_path / "f.npy", "--duplicates", "--precision", "fp32")
    assert code == 0, errors
    with (tmp_path / "f-duplicates.csv").open(newline="") as file:
        found = {row["path"]: row for row in csv.DictReader(file)}
    assert set(found) <= {"03-again.jpg", "11-smaller.png", "19-cropped.png"}
    assert {"03-again.jpg", "11-smaller.png"} <= set(found)
    assert all(row["path_2"] == f"{name[:2]}.png" and float(row["pixels"]) >= 0.9 for name, row in found.items())
    assert "fifth nearest" in said
    pixels = {file.name: copies.picture(np.array(Image.open(file).convert("L"))[..., None]) for file in data.iterdir()}
    for one, other in itertools.combinations(sorted(pixels), 2):
        is_copy = one[:2] == other[:2]
        assert (copies.agreement(pixels[one], pixels[other])[0] >= copies.LEAST) is is_copy, (one, other)
    flat = copies.picture(np.zeros((20, 20, 1), np.uint8))
    assert copies.agreement(flat, flat)[0] == 0


def test_gradients_are_no_copies_and_what_is_on_them_tells() -> None:
    """Two skies with noise of their own agree by their gradient alone; one that was saved again agrees by its noise."""
    draws, down = np.random.default_rng(0), np.linspace(90, 190, 96)[:, None]
    one, other = (down + draws.normal(0, 12, (96, 96)).clip(-40, 40) for _ in range(2))
    file = io.BytesIO()
    Image.fromarray(one.astype(np.uint8)).save(file, "JPEG", quality=60)
    again = np.array(Image.open(file))
    skies = [copies.picture(sky.astype(np.uint8)[..., None]) for sky in (one, other, again)]
    assert all(sky.is_smooth for sky in skies)
    assert copies.agreement(skies[0], skies[1])[1]
    assert copies.agreement(skies[0], skies[1])[0] < 0.4
    value, is_gradient = copies.agreement(skies[0], skies[2])
    assert (value > 0.95, is_gradient) == (True, False)


def test_no_duplicates_is_said(model: Path, tmp_path: Path, run: Run) -> None:
    data = write_images(tmp_path / "data", 6)
    said = run("embed", model, data, "--out", tmp_path / "f.npy", "--duplicates", "--threshold", 1)[1]
    assert "No two images have a similarity of 1 or more" in said
    assert (tmp_path / "f-duplicates.csv").read_bytes() == b"similarity,path,label,path_2,label_2\r\n"


def test_where_all_are_alike_digits_tell_them_apart(model: Path, tmp_path: Path, run: Run) -> None:
    shades = picture(1).point(lambda value: value // 2)
    for number in range(6):
        shades.point(lambda value, more=number: value + more).save(tmp_path / f"{number}.png")
    out = tmp_path / "f.parquet"
    said = run("embed", model, tmp_path, "--out", out, "--outliers", "--nearest", 2, "--precision", "fp32")[1]
    means = sorted_means(read_parquet(out)[0], 2)
    assert 0.999 < means.min() < 0.99999
    told = [float(value) for value in re.findall(r"^ +(0\.\d{6}) ", said, re.MULTILINE)]
    np.testing.assert_allclose(told, np.sort(means), atol=2e-6)


def test_a_damaged_file_is_one_sentence(model: Path, tmp_path: Path, run: Run) -> None:
    array_images(tmp_path / "data.npz", 30)
    out = tmp_path / "f.npy"
    assert run("embed", model, tmp_path / "data.npz", "--out", out)[0] == 0
    os.truncate(out, 500)
    refused(run("embed", model, tmp_path / "data.npz", "--out", out, "--outliers"), "f.npy is damaged")


def test_the_pages_commands_and_python_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "DATA", 9)
    picture(50).save("photo.jpg")
    Path("RUN").mkdir()
    (tmp_path / "RUN/model.safetensors").write_bytes(model.read_bytes())
    text = (Path(__file__).parents[2] / "docs/embed.md").read_text()
    commands = re.findall(r"^openmae .*$", text, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        code, _, errors = run(*shlex.split(command)[1:])
        assert code == 0, errors
    found: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "embed.md", "exec"), found)
        assert found["vectors"].shape == (9, 24)
    assert found["features"].vectors.shape == (9, 24)
    assert found["grid"].shape == (4, 4, 24)


def test_a_query_is_not_near_to_itself_wherever_it_lies(
    model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever name it is reached; a copy of it under another name is another file."""
    data = write_images(tmp_path / "data", 8, classes=2)
    first = data / "class0/000.jpg"
    (data / "class1/linked.jpg").symlink_to(first)
    (data / "class1/copied.jpg").write_bytes(first.read_bytes())
    monkeypatch.chdir(data / "class0")
    (tmp_path / "table.csv").write_text("path\n" + "".join(f"data/{p.relative_to(data)}\n" for p in data.glob("*/*")))
    assert run("pack", data, tmp_path / "shards", "--short-side", 512, "--workers", 0)[0] == 0
    for number, place in enumerate((data, tmp_path / "table.csv", tmp_path / "shards")):
        words = ("--out", tmp_path / f"{number}.npy", "--search", "000.jpg", "--workers", 0)
        code, said, errors = run("embed", model, place, *words)
        assert code == 0, errors
        assert "Nearest to 000.jpg, itself left out:" in said
        listed = re.findall(r"^ +[01]\.\d+ +(\S+)", said, re.MULTILINE)
        copies = ("copied.jpg", "linked.jpg") if place.name == "shards" else "copied.jpg"  # a link is packed as a file
        assert listed[0].endswith(copies)
        assert not [name for name in listed if name.endswith("/000.jpg")]
