"""A column of labels by any name: tables, parquet with images inside, and the runs that remember it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openmae.data.opening import open_data
from openmae.data.sources.selection import Selection
from openmae.errors import UserError
from openmae.train.run import read_config
from tests.commands import Run, finetune, refused
from tests.images import write_images

DIAGNOSIS = Selection(label_column="diagnosis")


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    """The same rows three times: paths with two columns of labels, one of which is called label."""
    data = write_images(tmp_path / "data", 24)
    files = sorted(file for file in data.rglob("*.*"))
    columns = {
        "path": [str(file) for file in files],
        "label": ["one", "other"] * 12,
        "diagnosis": [file.parent.name for file in files],
    }
    lines = [",".join(row) for row in zip(*columns.values(), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    inside = {"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files], **columns}
    del inside["path"]
    pq.write_table(pa.table(inside), tmp_path / "i.parquet")
    return [tmp_path / name for name in ("t.csv", "t.parquet", "i.parquet")]


def test_the_column_is_read_that_is_named(tables: list[Path]) -> None:
    for table in tables:
        named, plain = open_data(str(table), DIAGNOSIS).all, open_data(str(table)).all
        assert named.class_names == ("class0", "class1")
        assert plain.class_names == ("one", "other")
        np.testing.assert_array_equal(named.labels, [0] * 12 + [1] * 12)
        with pytest.raises(
            UserError, match=r"no column 'diagnose' \(did you mean diagnosis\?\); its columns: .*'label'"
        ):
            open_data(str(table), Selection(label_column="diagnose")).all  # noqa: B018


def test_what_has_no_columns_is_refused(data: Path, run: Run, finished: Path, tmp_path: Path) -> None:
    refused(run("knn", finished, data, "--label-column", "x"), "--label-column is for tables")
    shutil.copytree(data, tmp_path / "d")
    words = ("embed", finished, data, "--out", tmp_path / "f.npy", "--label-column", "x")
    refused(run(*words), "--label-column is for tables")


def test_a_run_remembers_it(tables: list[Path], tmp_path: Path, finished: Path, run: Run) -> None:
    words = finetune(finished, tables[0], tmp_path / "run", "--label-column diagnosis")
    code, _, errors = run(*words)
    assert code == 0, errors
    assert read_config(tmp_path / "run")["label_column"] == "diagnosis"
    assert json.loads((tmp_path / "run/model.json").read_text())["class_names"] == ["class0", "class1"]
    for table in tables[:2]:  # what it learnt from, and another table
        code, said, errors = run("evaluate", tmp_path / "run", table, "--workers", 0)
        assert code == 0, errors
        assert "2 classes" in said
    refused(run("evaluate", tmp_path / "run", tables[1], "--label-column", "label"), "not among the 2 known ones")
    learnt = f"Labels: the column diagnosis, which {tmp_path / 'run'} learnt from (--label-column takes another)"
    code, said, errors = run("knn", tmp_path / "run", tables[2], "--workers", 0)
    assert code == 0, errors
    assert learnt in said
    assert "2 classes" in said
    out = tmp_path / "own.parquet"
    code, said, errors = run("embed", tmp_path / "run", tables[1], "--out", out, "--workers", 0)
    assert code == 0, errors
    assert learnt in said
    assert pq.read_table(out)["label"].to_pylist() == ["class0"] * 12 + ["class1"] * 12
    again = finetune(tmp_path / "run", tables[1], tmp_path / "again", "--blocks 0,1 --epochs 1")
    code, said, errors = run(*again)
    assert code == 0, errors
    assert said.count(learnt) == 1  # of a sweep, too
    for run_of in ("blocks-0", "blocks-1"):
        assert read_config(tmp_path / "again" / run_of)["label_column"] == "diagnosis"
        assert json.loads((tmp_path / "again" / run_of / "model.json").read_text())["class_names"] == [
            "class0",
            "class1",
        ]
    plain = tmp_path / "plain.csv"  # which has no such column
    plain.write_text(tables[0].read_text().replace("diagnosis", "other"))
    code, said, errors = run("knn", tmp_path / "run", plain, "--workers", 0)
    assert code == 0, errors
    assert "Labels:" not in said
    out = tmp_path / "f.parquet"
    assert run("embed", finished, tables[0], "--out", out, "--label-column", "diagnosis", "--workers", 0)[0] == 0
    assert pq.read_table(out)["label"].to_pylist() == ["class0"] * 12 + ["class1"] * 12
    refused(run("embed", finished, tables[0], "--out", out), "--label-column diagnosis, not None")


def test_a_third_split_is_read_where_it_is_asked_for(tmp_path: Path, finished: Path, run: Run) -> None:
    data = tmp_path / "d"
    for number, split in enumerate(("train", "val", "test")):
        write_images(data / split, 8 + 2 * number, first=100 * number)
    opened = open_data(str(data))
    assert [len(opened.split(which)) for which in ("train", "val", "test")] == [8, 10, 12]  # type: ignore[arg-type]
    assert run(*finetune(finished, data, tmp_path / "run", "--epochs 1"))[0] == 0
    code, said, errors = run("evaluate", tmp_path / "run", data, "--split", "test", "--workers", 0)
    assert code == 0, errors
    assert "12 images of" in said
    assert "(test)" in said
    assert "has learnt from some of these" not in said
    words = ("--split", "test", "--workers", 0)
    code, said, _ = run("predict", tmp_path / "run", data, "--out", tmp_path / "p.csv", *words)
    assert code == 0
    assert f"2 classes; 12 images in {data} (test)" in said
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 13
    code, said, _ = run("embed", finished, data, "--out", tmp_path / "f.npy", *words)
    assert code == 0
    assert f"12 images in {data} (test), 2 labels" in said
    assert len(np.load(tmp_path / "f.npy")) == 12
    shutil.rmtree(data / "test")
    refused(run("evaluate", tmp_path / "run", data, *words), "has no split called test: leave --split test out")
