"""`openmae check`: every fault is reported by its severity, clean data is not; the table says what each file is."""

import csv
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from pyarrow import parquet

from openmae.cli import main
from tests.commands import Run, refused
from tests.images import picture, write_images
from tests.processes import run_openmae


def save(place: Path, image: Image.Image | None = None, data: bytes = b"", **options: object) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if image is None:
        place.write_bytes(data)
    else:
        image.save(place, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- clean data


def test_clean_data_is_clean(tmp_path: Path, run: Run) -> None:
    write_images(tmp_path / "train", 12)
    write_images(tmp_path / "val", 4, first=12)
    framed = picture(99)
    framed.paste((0, 0, 0), (0, 0, 20, 1))  # the first row alone
    save(tmp_path / "train/class0/framed.png", framed)
    code, said, errors = run("check", tmp_path)
    assert (code, errors) == (0, "")
    assert "Nothing is wrong with that." in said
    assert "Looked at: all pixels of every file, of 8 frames where it has more; " in said
    assert "Not at what the images show." in said
    for fact in ("24 x 20", "PNG: 7, JPEG: 6", "uint8", "0 class0, 1 class1"):
        assert fact in said


def test_images_without_labels_are_clean_too(tmp_path: Path, run: Run) -> None:
    for number in range(5):
        save(tmp_path / f"{number}.png", picture(number))
    code, said, _ = run("check", tmp_path)
    assert code == 0
    assert "0 errors, 0 warnings, 1 note." in said
    assert "has no labels" in said


# ---------------------------------------------------------------- every fault


def one_unreadable_of_many(data: Path) -> None:
    write_images(data, 119)
    save(data / "class0/cut.jpg", data=(data / "class0/000.jpg").read_bytes()[:300])


def many_unreadable(data: Path) -> None:
    write_images(data, 20)
    save(data / "class0/empty.jpg")
    save(data / "class0/page.jpg", data=b"<html>")


def nothing_readable(data: Path) -> None:
    save(data / "a.jpg")
    save(data / "b.jpg")


def one_split_unreadable(data: Path) -> None:
    write_images(data / "train", 8)
    save(data / "val/class0/a.png")
    save(data / "val/class1/b.png")


def unreadable_for_the_same_reason(data: Path) -> None:
    write_images(data, 20)
    for number in range(3):
        save(data / f"class1/empty{number}.jpg")


def small(data: Path) -> None:
    write_images(data, 9)
    save(data / "class1/thin.png", picture(50, (15, 300)))


def far_larger(data: Path) -> None:
    write_images(data, 9)
    save(data / "class1/wide.png", picture(50, (24, 161)))


def blank(data: Path) -> None:
    write_images(data, 9)
    save(data / "class1/white.png", Image.new("RGB", (20, 24), "white"))


def few_blank(data: Path) -> None:
    write_images(data, 149)
    save(data / "class1/white.png", Image.new("RGB", (20, 24), "white"))


def copies(data: Path) -> None:
    write_images(data, 9)
    for name in ("again", "third"):
        save(data / f"class0/{name}.jpg", data=(data / "class0/000.jpg").read_bytes())


def in_both_splits(data: Path) -> None:
    write_images(data / "train", 8)
    write_images(data / "val", 4, first=8)
    save(data / "val/class1/leak.png", data=(data / "train/class1/003.png").read_bytes())


def two_labels(data: Path) -> None:
    write_images(data, 8)
    save(data / "class1/other.jpg", data=(data / "class0/002.jpg").read_bytes())


def two_labels_across(data: Path) -> None:
    in_both_splits(data)
    (data / "val/class1/leak.png").rename(data / "val/class0/leak.png")


def depths(data: Path) -> None:
    write_images(data, 8)
    save(data / "class0/deep.png", Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100))


def integers_beside_floats(data: Path) -> None:
    write_images(data, 8)
    floats = np.random.default_rng(0).normal(900, 90, (24, 20, 3)).astype(np.float32)
    tifffile.imwrite(data / "class0/deep.tif", floats, photometric="rgb")


def channels(data: Path) -> None:
    write_images(data, 8)
    (data / "class0/bands.tif").touch()
    bands = np.random.default_rng(0).integers(0, 255, (20, 20, 6), dtype=np.uint8)
    tifffile.imwrite(data / "class0/bands.tif", bands, photometric="minisblack", planarconfig="contig")


def grey_as_colour(data: Path) -> None:
    write_images(data, 8)
    save(data / "class0/grey.png", picture(30, mode="L").convert("RGB"))


def grey_beside_colour(data: Path) -> None:
    write_images(data, 8)
    save(data / "class0/grey.png", picture(30, mode="L"))


def frames(data: Path) -> None:
    write_images(data, 8)
    pages = np.stack([np.asarray(picture(n, mode="L")) for n in (60, 61, 62)])
    tifffile.imwrite(data / "class0/stack.tif", pages, photometric="minisblack")


def a_class_of_one(data: Path) -> None:
    write_images(data, 8)
    save(data / "rare/a.png", picture(40))


def a_class_of_nearly_all(data: Path) -> None:
    write_images(data, 21, classes=1)
    for number in (30, 31):
        save(data / f"class1/{number}.png", picture(number))


def capitals(data: Path) -> None:
    write_images(data, 8)
    for number in (30, 31):
        save(data / f"Class1/{number}.png", picture(number))


def unknown_in_val(data: Path) -> None:
    write_images(data / "train", 8)
    write_images(data / "val", 6, classes=3, first=8)


def unused_in_val(data: Path) -> None:
    write_images(data / "train", 9, classes=3)
    write_images(data / "val", 4, first=9)


def labels_in_one_split(data: Path) -> None:
    write_images(data / "train", 8)
    save(data / "val/a.png", picture(20))


def a_third_split(data: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        write_images(data / split, 4, first=4 * number)


def a_third_split_in_a_table(data: Path) -> None:
    write_images(data, 12)
    splits = ("train", "val", "test")
    rows = "".join(f"{path},{path.parent.name},{splits[i // 2 % 3]}\n" for i, path in enumerate(data.rglob("*.*")))
    save(data / "table.csv", data=f"path,label,split\n{rows}".encode())


def damaged_shards(data: Path) -> None:
    write_images(data / "images", 12)
    assert main(["pack", str(data / "images"), str(data / "shards"), "--workers", "0"]) == 0
    os.truncate(data / "shards/0000.tar", 2000)


def one_label_in_a_table(data: Path) -> None:
    write_images(data, 4)
    rows = "".join(f"{path},cat\n" for path in sorted(data.rglob("*.*")))
    save(data / "table.csv", data=f"path,label\n{rows}".encode())


FAULTS = {
    one_unreadable_of_many: ("warning", "1 image cannot be read (0.83%)", "class0/cut.jpg: "),
    many_unreadable: ("error", "2 images cannot be read (9.09%)", "class0/empty.jpg: the file is empty"),
    nothing_readable: ("error", "2 images cannot be read (100.00%)", "a.jpg"),
    one_split_unreadable: ("error", "2 images of val cannot be read", "val: class0/a.png"),
    unreadable_for_the_same_reason: ("error", "3 images cannot", "class1/empty0.jpg and 2 more: the file is empty"),
    small: ("warning", "1 image has a side of less than 16 pixels", "class1/thin.png"),
    far_larger: ("note", "1 image is more than 8 times smaller or larger than the median, 24 x 20", "class1/wide.png"),
    blank: ("warning", "1 image is blank", "class1/white.png"),
    few_blank: ("note", "1 image is blank", "class1/white.png"),
    copies: ("warning", "with 2 copies too many", "class0/000.jpg = class0/again.jpg = class0/third.jpg"),
    in_both_splits: ("error", "1 image is in both", "train: class1/003.png = val: class1/leak.png"),
    two_labels: ("error", "1 image has two labels", "class0/002.jpg = class1/other.jpg"),
    two_labels_across: ("error", "1 image has two labels", "train: class1/003.png = val: class0/leak.png"),
    depths: ("warning", "differ in depth: uint8 8, uint16 1", "uint16: class0/deep.png"),
    integers_beside_floats: (
        "warning",
        "differ in depth: uint8 8, float32 1",
        "8 and 16 bits to 0..1: keep them apart",
    ),
    channels: ("warning", "number of channels", "6: class0/bands.tif"),
    grey_as_colour: ("note", "1 of 9 images is grey and stored as colour", "--in-chans 1"),
    grey_beside_colour: ("note", "colour 8, grey 1", "--in-chans 1"),
    frames: ("note", "1 image has several frames", "draws one of them"),
    a_class_of_one: ("warning", "1 of 3 classes have a single image: rare", "two images"),
    a_class_of_nearly_all: ("warning", "91.3% of the images are of class 'class0'", "compare"),
    capitals: ("warning", "capitals or spaces only: Class1, class1", "same name"),
    unknown_in_val: ("error", "val has classes that train lacks: class2", "mend"),
    unused_in_val: ("warning", "train has classes that val lacks: class2", "mend"),
    labels_in_one_split: ("warning", "val has no labels", "refuse"),
    a_third_split: ("note", "a third split, test", "--split test"),
    a_third_split_in_a_table: ("note", "a third split, test", "--split test"),
    damaged_shards: ("error", "11 images cannot be read", "pack the images again into another folder"),
    one_label_in_a_table: ("warning", "have the label 'cat'", "refuse"),
}
CODES = {"note": 0, "warning": 1, "error": 2}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_every_fault_is_reported(fault: Callable[[Path], None], tmp_path: Path, run: Run) -> None:
    severity, what, more = FAULTS[fault]
    fault(tmp_path)
    given = next((place for name in ("table.csv", "shards") if (place := tmp_path / name).exists()), tmp_path)
    code, said, _ = run("check", given, "--workers", 0)
    lines = [line for line in said.splitlines() if what in line]
    assert len(lines) == 1, said
    assert lines[0].startswith(severity)
    assert more in said
    found = {line.split()[0] for line in said.splitlines() if line.split(" ")[0] in CODES}
    assert code == max(CODES[word] for word in found)  # the worst one
    assert code == CODES[severity]


def test_it_says_what_was_taken_for_a_split(tmp_path: Path, run: Run) -> None:
    write_images(tmp_path / "Training", 8)
    write_images(tmp_path / "Testing", 4, first=8)
    code, said, _ = run("check", tmp_path, "--workers", 0)
    assert code == 0
    assert "Splits: Training/ for train, Testing/ for val" in said
    write_images(tmp_path / "other", 4, first=12)
    refused(
        run("check", tmp_path, "--workers", 0), "called Testing, Training beside other", "say by --splits what they are"
    )
    assert "other" in run("check", tmp_path, "--splits", "classes", "--workers", 0)[1]


def test_the_worst_comes_first_and_decides(tmp_path: Path, run: Run) -> None:
    small(tmp_path / "train")
    many_unreadable(tmp_path / "val")
    grey_beside_colour(tmp_path / "val")
    code, said, _ = run("check", tmp_path)
    words = [line.split()[0] for line in said.splitlines() if line.split(" ")[0] in CODES]
    assert code == 2
    assert words == sorted(words, key=lambda word: -CODES[word])
    assert set(words) == set(CODES)


def test_an_image_of_both_splits_is_no_copy_and_has_one_label(tmp_path: Path, run: Run) -> None:
    in_both_splits(tmp_path)
    assert "1 error, 0 warnings, 0 notes." in run("check", tmp_path)[1]


def test_no_label_contradicts_none(tmp_path: Path, run: Run) -> None:
    labels_in_one_split(tmp_path)
    save(tmp_path / "val/copy.png", data=(tmp_path / "train/class1/003.png").read_bytes())
    said = run("check", tmp_path)[1]
    assert "train: class1/003.png = val: copy.png" in said
    assert "two labels" not in said


# ---------------------------------------------------------------- the table


def test_a_row_for_each_file(tmp_path: Path, run: Run) -> None:
    data = tmp_path / "data"
    in_both_splits(data)
    frames(data / "val")
    save(data / "train/class0/cmyk.jpg", picture(9, (30, 40)).convert("CMYK"))
    save(data / "train/class0/late.jpg", data=b"\xff\xd8\xff\xe0 no more")
    code, said, _ = run("check", data, "--out", tmp_path / "check.csv")
    assert code == 2
    assert str(tmp_path / "check.csv") in said
    with (tmp_path / "check.csv").open(newline="") as file:
        rows = {f"{row['split']}/{row['name']}": row for row in csv.DictReader(file)}
    files = {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*.*")}
    assert set(rows) == set(files)
    for name, content in files.items():
        row = rows[name]
        assert row["label"] == name.split("/")[1]
        if name.endswith("late.jpg"):
            assert row["reason"]
            assert row["height"] == row["format"] == row["blank"] == row["bytes"] == row["digest"] == ""
            continue
        assert row["bytes"] == str(len(content))
        assert row["digest"] == hashlib.blake2b(content, digest_size=16).hexdigest()
        assert row["reason"] == ""
        with Image.open(io.BytesIO(content)) as image:
            assert (row["width"], row["height"], row["format"]) == (*map(str, image.size), image.format)
    assert rows["train/class0/cmyk.jpg"]["mode"] == "CMYK"
    assert rows["val/class0/stack.tif"]["frames"] == "3"
    assert rows["val/class0/stack.tif"]["channels"] == "1"

    assert run("check", data, "--out", tmp_path / "check.parquet", "--workers", 2)[0] == 2
    table = parquet.read_table(tmp_path / "check.parquet").to_pylist()
    as_text = [{key: "" if value is None else str(value) for key, value in row.items()} for row in table]
    assert as_text == list(rows.values())
    assert {path.name for path in tmp_path.iterdir()} == {"data", "check.csv", "check.parquet"}


def test_names_that_are_no_text(tmp_path: Path, run: Run) -> None:
    write_images(tmp_path / "data", 4)
    os.rename(tmp_path / "data/class0/000.jpg", os.fsencode(tmp_path) + b'/data/class0/\xff,\n".jpg')  # noqa: PTH104
    for kind in ("csv", "parquet"):
        assert run("check", tmp_path / "data", "--out", tmp_path / f"c.{kind}")[0] == 0
    with (tmp_path / "c.csv").open(newline="", encoding="utf-8") as file:
        assert r"class0/\udcff," in [row["name"][:14] for row in csv.DictReader(file)]


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--out", "check.txt"], ".csv or .parquet"),
        (["--out", "/proc/no/t.csv"], "choose another --out"),
        (["--workers", "-2"], "0"),
    ],
)
def test_bad_settings_of_check_are_one_sentence(tmp_path: Path, run: Run, words: list[str], complaint: str) -> None:
    refused(run("check", write_images(tmp_path, 4), *words), complaint)


def test_a_shell_sees_the_exit_code(tmp_path: Path) -> None:
    copies(tmp_path)
    done = run_openmae(["check", str(tmp_path)])
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "0 errors, 1 warning, 0 notes." in done.stdout


def labelled_table(folder: Path, labels: Sequence[object]) -> Path:
    for number in range(len(labels)):
        save(folder / f"{number}.png", picture(number))
    rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))
    (folder / "table.csv").write_text("path,label\n" + rows)
    return folder / "table.csv"


def test_numbers_to_predict_are_no_classes(tmp_path: Path, run: Run) -> None:
    data = labelled_table(tmp_path, [f"{number / 4}" for number in range(12)])
    code, said, _ = run("check", data, "--workers", 0)
    assert "0 to 2.75, mean 1.375" in said
    assert "numbers to predict: all are numbers, 12 different ones, and '0.25' is not whole (--task class" in said
    assert (code, "Nothing is wrong with that." in said, "classes" in said) == (0, True, False)
    assert "12 of 12 classes have a single image" in run("check", data, "--workers", 0, "--task", "classification")[1]


def test_labels_of_images_that_have_several_are_counted_one_by_one(tmp_path: Path, run: Run) -> None:
    code, said, _ = run("check", labelled_table(tmp_path, ["cat;dog", "cat", "dog;bird", "2", "10;2"]), "--workers", 0)
    assert "0 2, 1 10, 2 bird, 3 cat, 4 dog" in said
    assert "2 of 5 classes have a single image: 10, bird" in said
    assert code == 1


def test_numbers_that_are_written_in_two_ways(tmp_path: Path, run: Run) -> None:
    code, said, _ = run("check", labelled_table(tmp_path, ["1", "1.0", "2"] * 2), "--workers", 0)
    assert "classes are the same number, written in different ways: 1, 1.0" in said
    assert code == 1


def test_numbers_but_for_nan_are_a_finding(tmp_path: Path, run: Run) -> None:
    code, said, _ = run("check", labelled_table(tmp_path, ["1", "nan", "2", "1"]), "--workers", 0)
    assert "are numbers, but for nan" in said
    assert "leave the cell empty where there is no label" in said
    assert code == 1


def test_classes_are_shown_in_the_order_of_a_new_model(tmp_path: Path, run: Run) -> None:
    for number in range(24):
        save(tmp_path / f"{number % 12}/{number}.png", picture(number))
    said = run("check", tmp_path, "--workers", 0)[1]
    assert "0 0, 1 1, 2 2, 3 3, 4 4, 5 5, 6 6, 7 7, 8 8, 9 9, ..." in said
    assert "Labels are taken for classes: names of folders are classes" in said
