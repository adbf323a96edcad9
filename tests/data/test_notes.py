"""Files whose names do not say what they are: found by their first bytes, counted and listed."""

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from openmae.data.opening import open_data
from openmae.data.signatures import ENOUGH, format_of
from openmae.data.sources import listing
from openmae.data.sources.notes import mask_folders, masks_among
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Names
from openmae.errors import UserError
from tests.commands import Run, pretrain
from tests.images import picture


def encoded(form: str) -> bytes:
    data = io.BytesIO()
    picture(1).save(data, form)
    return data.getvalue()


FORMATS = {"JPEG": "jpeg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "WEBP": "webp", "AVIF": "avif"}


@pytest.mark.parametrize("form", FORMATS)
def test_first_bytes_tell_what_pillow_finds(form: str) -> None:
    assert format_of(encoded(form)[:ENOUGH]) == FORMATS[form]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"BMW and other makes of cars",
        b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41",
        b"RIFF\x10\0\0\0WAVEfmt ",
        b"II and MM",
        encoded("PPM"),
        encoded("JPEG2000"),
        encoded("TGA"),
    ],
    ids=["nothing", "text", "film", "sound", "more text", "PPM", "JPEG 2000", "TGA"],
)
def test_first_bytes_of_something_else(data: bytes) -> None:
    assert format_of(data[:ENOUGH]) is None


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def said(place: Path, *, exclude: Sequence[str] = ()) -> list[str]:
    data = open_data(str(place), Selection(exclude=tuple(exclude)))
    _ = data.train, data.val
    return [note.what for note in data.notes]


NAMES = ["a.jpg", "b.jpe", "c", "d.JPG_large", "e.image", "f.1.2.840.7", "g.dat2", "sub/h.jpeg_original", "sub/i.ppm"]


def test_every_file_that_pillow_knows_is_taken_or_counted(tmp_path: Path) -> None:
    write(tmp_path, {name: encoded("JPEG") for name in NAMES})
    write(tmp_path, {"z.ppm": encoded("PPM"), "y.jp2": encoded("JPEG2000"), "README.txt": b"text", "LICENSE": b"text"})
    source = open_data(str(tmp_path)).all
    assert sorted(source.name(i) for i in range(len(source))) == sorted(NAMES)
    for index in range(len(source)):
        assert Image.open(io.BytesIO(source.read(index))).format == "JPEG"
    assert said(tmp_path) == [
        "8 images are known by their first bytes, not by their names: 2 without extension, 1 .dat2, 1 .image, 1 .jpe, "
        "1 .jpg_large, 1 .jpeg_original, 1 .ppm",
        "2 images are left out, of kinds that are not read: 1 .jp2, 1 .ppm",
        "2 files are left out, by the first bytes or the ending no image: 1 without extension, 1 .txt",
    ]


def test_a_folder_of_what_is_not_read_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path, {"a.ppm": encoded("PPM"), "b.ppm": encoded("PPM"), "c.jp2": encoded("JPEG2000")})
    with pytest.raises(UserError, match=r"holds no images .* but files that are not read: 2 .ppm, 1 .jp2"):
        _ = open_data(str(tmp_path)).all


def test_cameras_files_are_not_taken_for_the_thumbnail_in_them(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": encoded("JPEG"), "b.nef": encoded("TIFF"), "c.SVS": encoded("TIFF")})
    assert len(open_data(str(tmp_path)).all) == 1
    assert said(tmp_path) == [
        "1 slide is left out, too large to be taken whole: 1 .svs",
        "1 image is left out, of a kind that is not read: 1 .nef",
    ]


def test_what_is_called_like_an_image_or_a_text_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.jpg": b"", "b.txt": b"", "c.xml": b"", "d.png": b"", "e.odd": encoded("PNG"), "f": b"text"})
    opened: list[str] = []
    whole = os.open

    def counting(path: bytes, *arguments: int) -> int:
        opened.append(Path(os.fsdecode(path)).name)
        return whole(path, *arguments)

    monkeypatch.setattr(os, "open", counting)
    assert len(listing.list_images(tmp_path).names) == 3
    assert sorted(name for name in opened if (tmp_path / name).is_file()) == ["e.odd", "f"]


def test_the_counts_are_kept_and_are_of_the_folder_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "KEPT_FROM", 2)
    monkeypatch.setattr(listing, "RACY_NS", -(10**18))
    for split in ("Train", "Test"):
        write(tmp_path / split / "cat", {f"{i}.jpg": encoded("JPEG") for i in range(2)})
        write(tmp_path / split / "dog", {"1.jpe": encoded("JPEG"), "1.txt": b""})
    write(tmp_path, {"notes.txt": b""})
    for _ in range(2):  # the second time from what is kept
        assert said(tmp_path) == [
            "Splits: Train/ for train, Test/ for val",
            "2 images are known by their first bytes, not by their names: 2 .jpe",
            "2 files are left out, by the first bytes or the ending no image: 2 .txt",
        ]
        data = open_data(str(tmp_path))
        _ = data.val
        assert data.notes[1].what == "1 image is known by its first bytes, not by its name: 1 .jpe"
        data = open_data(str(tmp_path))
        _ = data.all
        assert data.notes[2].what.endswith("3 .txt")


def test_every_command_says_it(tmp_path: Path, run: Run) -> None:
    files = {f"{name}/{i}.jpg": encoded("JPEG") for name in ("cat", "dog") for i in range(4)}
    data = write(tmp_path / "data", {**files, "cat/5.jpe": encoded("JPEG"), "dog/6.ppm": encoded("PPM"), "x.txt": b""})
    lines = (
        "1 image is known by its first bytes, not by its name: 1 .jpe",
        "1 image is left out, of a kind that is not read: 1 .ppm",
        "1 file is left out, by the first bytes or the ending no image: 1 .txt",
    )
    assert run(*pretrain(data, tmp_path / "run"))[0] == 0
    for words in (
        pretrain(data, tmp_path / "run2"),
        ["check", str(data), "--workers", "0"],
        ["stats", str(data), "--workers", "0"],
        ["pack", str(data), str(tmp_path / "shards"), "--workers", "0"],
        ["embed", str(tmp_path / "run"), str(data), "--out", str(tmp_path / "e.npy"), "--workers", "0"],
        ["knn", str(tmp_path / "run"), str(data), "--workers", "0", "--no-baselines"],
    ):
        _, output, errors = run(*words)
        assert [line for line in lines if line not in output] == [], (words, output, errors)


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("folders", "masks"),
    [
        ("images masks", "masks"),
        ("img mask", "mask"),
        ("JPEGImages SegmentationClass SegmentationObject", "SegmentationClass"),
        ("train train_masks", "train_masks"),
        ("train_images train_masks test_images", "train_masks"),
        ("images annotations", "annotations"),
        ("images labels", "labels"),
        ("Original Ground_Truth", ""),
        ("cat dog", ""),
        ("with_mask without_mask", ""),
        ("mask no_mask", ""),
        ("masks hats gloves", ""),
        ("masks", ""),
    ],
)
def test_folders_that_are_called_as_masks(folders: str, masks: str) -> None:
    assert mask_folders(folders.split())[:1] == masks.split()


MASKS = {
    "1.png 1_mask.png 2.png 2_mask.png": ("2 of 4", "'*_mask*'"),
    "benign (1).png,benign (1)_mask.png,benign (1)_mask_1.png": ("2 of 3", "'*_mask*'"),
    "a/images/1.png a/masks/x.png a/masks/y.png b/images/2.png b/masks/z.png": ("3 of 5", "masks"),
    "im1.jpg im1-seg.png im2.jpg im2-seg.png": ("2 of 4", "'*-seg*'"),
    "t_01.png t_01_GT.png": ("1 of 2", "'*_GT*'"),
    "7_sat.jpg 7_mask.png 8_sat.jpg 8_mask.png": ("2 of 4", "'*_mask*'"),
    "a/0.img.png a/0.mask.png": ("1 of 2", "'*.mask*'"),
    "train/1.jpg train_masks/1_mask.gif": ("1 of 2", "train_masks"),
}


@pytest.mark.parametrize("names", MASKS)
def test_masks_among_images_are_said(names: str) -> None:
    paths = sorted(names.split(",") if "," in names else names.split())
    count, pattern = MASKS[names]
    note = next(masks_among(Names.of(paths)))
    assert note.is_warning
    assert note.what.startswith(f"{count} images are called like masks of the others")
    assert f"by `exclude` {pattern}," in note.advice
    left = [path for path in paths if Selection(exclude=(pattern.strip("'"),)).patterns.takes(path)]  # type: ignore[union-attr]
    assert len(left) == len(paths) - int(count.split()[0])


@pytest.mark.parametrize(
    "names",
    ["mask/1.png no_mask/2.png", "a_mask.png b_mask.png", "label1.png label2.png", "1.png 2.png", "damask.png x.png"],
)
def test_what_is_called_so_without_an_image_that_it_would_be_of(names: str) -> None:
    assert [*masks_among(Names.of(sorted(names.split())))] == []


ALIKE = "Each of the 2 folders has the same folders in it (a, b); as labels count the outer ones"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("fold1/a/1 fold1/b/2 fold2/a/3 fold2/b/4", [f"{ALIKE} (fold1, fold2)"]),
        ("train/x/a/1 train/x/b/1 train/y/a/1 train/y/b/1 val/x/1 val/y/2", [f"{ALIKE} (x, y)"]),
        ("train/a/1 train/b/2 val/a/3 val/b/4", []),
        ("x/train/1 x/val/2 y/train/3 y/val/4", ["Splits: CLASS/train/ for train, CLASS/val/ for val"]),
        ("x/a/1 x/b/2 y/a/3 y/c/4", []),
        ("x/a/1 x/b/2 y/a/3 y/b/4 y/5", []),
        ("x/a/1 y/a/2", []),
    ],
)
def test_folders_that_may_not_be_the_classes(names: str, expected: list[str], tmp_path: Path) -> None:
    assert said(write(tmp_path, {f"{name}.png": b"" for name in names.split()})) == expected


def test_masks_are_said_whatever_the_images_lie_in(tmp_path: Path) -> None:
    names = [f"{folder}/{i}.png" for folder in ("images", "masks") for i in range(2)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    (tmp_path / "t.csv").write_text("\n".join(["path", *names]))
    images = [{"bytes": b"", "path": name} for name in names]
    parquet.write_table(pyarrow.table({"image": images}), tmp_path / "i.parquet")
    write(tmp_path / "f", dict.fromkeys(names, b""))
    for place in ("a.tar", "t.csv", "i.parquet", "f"):
        assert "2 of 4 images are called like masks of the others (masks/0.png)" in said(tmp_path / place), place


def test_masks_of_a_large_set_are_found_in_a_part_of_it() -> None:
    names = [f"{i:07d}{kind}.png" for i in range(75_000) for kind in ("", "_mask")]
    (note,) = masks_among(Names.of(names))
    assert note.what.startswith("about 50% of 150,000 images are called like masks")
