"""Files and classes whose names are no text, or mean something to a terminal, a shell or a table, in every command."""

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import parquet

from openmae.data.opening import open_data
from openmae.data.shards import read_index
from tests.commands import Run, finetune, pretrain
from tests.images import picture

CLASSES = {
    b"caf\xe9": r"caf\udce9",
    b"two\nlines": r"two\nlines",
    b"\x1b[2Jcleared": r"\x1b[2Jcleared",
    b"-rf;a|b": "-rf;a|b",
    b'=1+1, "x"': '=1+1, "x"',
}
IMAGES = [b"%d.png", b"caf\xe9 %d.png", b"-%d.png", b"a\n%d.png", b"\x1b]0;owned\x07%d.png", b"<b>%d.png"]
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 images in each of five folders."""
    root = tmp_path_factory.mktemp("odd")
    for number, name in enumerate(CLASSES):
        place = root / os.fsdecode(name)
        place.mkdir()
        for at, image in enumerate(IMAGES):
            picture(6 * number + at).save(os.fsdecode(os.fsencode(place) + b"/" + image % at))
    return root


def rows_of(table: Path) -> list[dict[str, str]]:
    """As a library reads them that is not ours."""
    if table.suffix == ".parquet":
        return list(parquet.read_table(table).to_pylist())
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def safely(run: Run) -> Callable[..., str]:
    """Runs a command that has to succeed, and gives what it printed, which no terminal takes for a command and no line
    of which is part of a name."""

    def call(*words: object) -> str:
        code, said, errors = run(*words)
        assert code == 0, errors
        assert not UNSAFE.search(said + errors)
        assert not [line for line in (said + errors).splitlines() if line.startswith(("lines", "5.png", "3.png"))]
        return said

    return call


def test_check_and_its_tables(odd: Path, tmp_path: Path, safely: Callable[..., str]) -> None:
    for suffix in ("csv", "parquet"):
        out = tmp_path / f"check.{suffix}"
        said = safely("check", odd, "--out", out, "--workers", 0)
        assert "Labels are taken for classes: names of folders are classes" in said
        rows = rows_of(out)
        assert {row["label"].lstrip("'") for row in rows} == {*CLASSES.values()}
        assert r"caf\udce9/caf\udce9 1.png" in {row["name"] for row in rows}


def test_embedding_and_what_it_lists(odd: Path, tmp_path: Path, finished: Path, safely: Callable[..., str]) -> None:
    query = next(odd.glob("two*/-2.png"))
    looked_for = ["--duplicates", "--threshold", 0.5, "--outliers", "--search", query, "--workers", 0]
    for suffix in ("npy", "parquet"):
        said = safely("embed", finished, odd, "--out", tmp_path / f"e.{suffix}", *looked_for)
        assert r"two\nlines/-2.png" in said
    table = rows_of(tmp_path / "e.parquet")
    assert {row["label"] for row in table} == {*CLASSES.values()}
    assert len(rows_of(tmp_path / "e.csv")) == len(table) == 30


def test_shards_hold_the_names_as_they_are(
    odd: Path, tmp_path: Path, finished: Path, safely: Callable[..., str]
) -> None:
    for _ in range(2):  # the same command goes on
        safely("pack", odd, tmp_path / "shards", "--workers", 0)
    names, original = read_index(tmp_path / "shards").names, open_data(str(odd)).all
    assert sorted(names[:], key=os.fsencode) == [original.name(index) for index in range(len(original))]
    packed = open_data(str(tmp_path / "shards")).all
    assert (packed.class_names, packed.label_kind) == (original.class_names, "folders")
    assert (tmp_path / "shards/classes.txt").read_text(encoding="utf-8").splitlines() == [*original.class_names]
    said = safely("knn", finished / "model.safetensors", tmp_path / "shards", "--no-baselines", "--workers", 0)
    assert "names of folders are classes, also such as have a ; or | (--task multi-label if these are several)" in said


def test_a_classifier_of_such_classes(odd: Path, tmp_path: Path, finished: Path, safely: Callable[..., str]) -> None:
    run_folder, saved = tmp_path / "run", [tmp_path / "p.csv", tmp_path / "p.parquet"]
    safely(*finetune(finished, odd, run_folder))
    info = json.loads((run_folder / "model.json").read_bytes())
    assert sorted(info["class_names"]) == sorted(CLASSES.values())
    for file in saved:
        said = safely("evaluate", run_folder, odd, "--split", "all", "--save", file, "--workers", 0)
        assert r"two\nlines" in said
    rows = rows_of(saved[1])
    assert {row["label"] for row in rows} == {*CLASSES.values()}
    assert len(rows_of(saved[0])) == len(rows) == 30
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert not UNSAFE.search(page.replace("\r", ""))
    assert "<b>3.png" not in page


def test_pre_training_and_its_pictures(odd: Path, tmp_path: Path, safely: Callable[..., str]) -> None:
    broken = tmp_path / "data"
    broken.mkdir()
    for number in range(30):
        picture(number).save(os.fsdecode(os.fsencode(broken) + b"/\xe9\n%d.png" % number))
    (broken / os.fsdecode(b"lost\xff\n.png")).write_bytes(b"no image")
    safely(*pretrain(broken, tmp_path / "run", "--max-broken 0.5"))
    assert (tmp_path / "run/broken.txt").read_text(encoding="utf-8").startswith("lost\\udcff .png\t")
    assert (tmp_path / "run/report.html").read_text(encoding="utf-8")
