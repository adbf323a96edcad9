"""`--tile`, as commands have it: a run that learns from windows, and what becomes of them after it."""

import csv
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode
from openmae.data.held_out import split_for
from openmae.data.opening import open_data
from openmae.data.sources.selection import Selection
from openmae.data.sources.windows import window_of
from openmae.errors import UserError
from openmae.files.parsing import read_toml
from tests.commands import Run, finetune, pretrain, refused


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Six scenes of two classes, of 12 windows each."""
    for number in range(6):
        place = tmp_path / f"scenes/class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        pixels[..., number % 2] //= 2
        tifffile.imwrite(place / f"{number}.tif", pixels, tile=(16, 16), photometric="rgb", compression="zlib")
    return tmp_path / "scenes"


def test_a_run_learns_from_windows_and_every_table_says_where_they_lie(
    scenes: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    code, said, errors = run(*pretrain(scenes, out, "--tile 32 --tile-min-detail 0 --pictures 1 --evaluations 0"))
    assert code == 0, errors
    assert "72 windows of 32 pixels, cut from 6 images" in said
    config = read_toml((out / "config.toml").read_text())
    assert (str(config["tile"]), config["tile_min_detail"]) == ("32", 0)
    code, said, errors = run(*pretrain(scenes, out, "--epochs 1"))  # which goes on with what it was begun with
    assert code == 0, errors
    assert "72 windows of 32 pixels" in said
    refused(run(*pretrain(scenes, out, "--tile 16")), "tile = 32, not 16")

    table = tmp_path / "features.parquet"
    code, said, errors = run("embed", out, scenes, "--out", table, "--tile", "32:8", "--workers", "0")
    assert code == 0, errors
    found = pq.read_table(table).drop(["vector"]).to_pylist()
    assert [*found[0]] == ["path", "label", "x", "y", "width", "height"]
    seen = {path: np.zeros((96, 128), int) for path in {row["path"] for row in found}}
    assert len(seen) == 6
    for row in found:
        assert row["label"] == row["path"].split("/")[0]
        seen[row["path"]][row["y"] : row["y"] + row["height"], row["x"] : row["x"] + row["width"]] += 1
    assert all((whole > 0).all() for whole in seen.values())  # what stitches has a vector for every pixel

    code, said, errors = run("embed", out, scenes, "--out", tmp_path / "whole.npy", "--workers", "0")
    assert code == 0, errors
    assert "learnt from windows of 32 pixels, and 6 of 6 images looked at are larger: --tile 32" in said.replace(
        "\n", " "
    )
    assert (tmp_path / "whole.csv").read_text().splitlines()[0] == "path,label"

    classes = tmp_path / "classes"
    code, said, errors = run(*finetune(out, scenes, classes, "--tile 32 --tile-min-detail 0 --epochs 1"))
    assert code == 0, errors
    learnt, judged = map(int, re.findall(r"learnt from (\d+) images, judged by (\d+) others", said)[0])
    assert learnt + judged == 72
    assert learnt % 12 == judged % 12 == 0  # of whole scenes
    out_csv = tmp_path / "predictions.csv"
    code, said, errors = run(
        "predict", classes, scenes, "--out", out_csv, "--tile", "32", "--workers", "0", "--sort", tmp_path / "sorted"
    )
    assert code == 0, errors
    with out_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["x"], row["width"]) for row in rows} == {(str(x), "32") for x in (0, 32, 64, 96)}
    assert len({(row["path"], row["x"], row["y"]) for row in rows}) == 72
    sorted_files = [file for file in (tmp_path / "sorted").rglob("*#xywh=*")]  # noqa: C416
    assert len(sorted_files) == 72
    window = window_of(sorted_files[0].name.rpartition(".")[0])
    assert window is not None
    (scene,) = scenes.rglob(window.path)
    whole = tifffile.imread(scene)[window.y : window.y + 32, window.x : window.x + 32]
    np.testing.assert_array_equal(decode(sorted_files[0].read_bytes(), PixelFormat()), whole)


def test_packed_windows_keep_pixels_places_labels_and_what_belongs_together(
    scenes: Path, tmp_path: Path, run: Run
) -> None:
    code, _, errors = run("pack", scenes, tmp_path / "shards", "--tile", "40", "--workers", "0")
    assert code == 0, errors
    cut, packed = open_data(str(scenes), Selection(tile="40")).all, open_data(str(tmp_path / "shards")).all
    places = {cut.name(index): index for index in range(len(cut))}
    assert len(packed) == len(places) == 6 * 12
    groups: dict[str, set[int]] = {}
    assert packed.together is not None
    for index in range(len(packed)):
        own = places[packed.name(index)]
        np.testing.assert_array_equal(decode(packed.read(index), PixelFormat()), decode(cut.read(own), PixelFormat()))
        assert packed.class_names[packed.labels[index]] == cut.class_names[cut.labels[own]]
        window = window_of(packed.name(index))
        assert window is not None
        groups.setdefault(window.path, set()).add(int(packed.together[index]))
    assert all(len(numbers) == 1 for numbers in groups.values())
    assert len(set.union(*groups.values())) == 6


def test_check_counts_windows_as_windows(scenes: Path, run: Run) -> None:
    code, said, errors = run("check", scenes, "--tile", "32", "--tile-min-detail", "0", "--workers", "0")
    assert code == 0, errors
    assert re.search(r"^windows +72 *$", said, re.MULTILINE)
    assert not re.search(r"^(images|bytes) ", said, re.MULTILINE)  # files have several windows each


def test_what_cannot_be_cut_is_said_in_a_sentence(scenes: Path, tmp_path: Path, run: Run) -> None:
    for words, reason in (
        (("--tile", "8"), "--tile is 8"),
        (("--tile", "512:600"), "cannot overlap"),
        (("--tile", "big"), "--tile is 'big'"),
        (("--tile", "32", "--tile-min-detail", "2"), "--tile-min-detail is 2"),
    ):
        refused(run("stats", scenes, *words), reason)
    refused(run("stats", "https://nowhere.invalid/{0..1}.tar", "--tile", "32"), "lies on a server", "pack them")


def test_windows_of_the_only_image_of_a_class_are_not_divided(scenes: Path) -> None:
    for number in range(2, 6):
        (scenes / f"class{number % 2}/{number}.tif").unlink()
    data = open_data(str(scenes), Selection(tile="32"))
    with pytest.raises(
        UserError, match=r"windows of class 'class0' of .* are of 1 image.*: give each class two images"
    ):
        split_for(data, None, 0)
