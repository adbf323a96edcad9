"""What DATA becomes: how it is told apart, its splits, and that it is read once, whatever is asked of it."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openmae.data.held_out import split_for
from openmae.data.opening import open_data
from openmae.data.sources import listing
from openmae.data.sources.folder import ImageFolder, open_folder
from openmae.data.sources.listing import list_images
from openmae.data.sources.source import Source
from openmae.errors import UserError
from tests.images import write_images


def names(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


# ---------------------------------------------------------------- what it is


def test_what_data_is_not(tmp_path: Path) -> None:
    for name in ("a.png", "a.tar.gz", "a.zip", "a.h5"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed/deep").mkdir(parents=True)
    (tmp_path / "packed/deep/0.tar.gz").touch()
    for data, reason in (
        ("nothing", r"does not exist: give a folder of images, a .csv"),
        ("a.png", "is one image: give the folder"),
        ("a.tar.gz", "is compressed.*gunzip it and give the .tar"),
        ("{0..1}.tar.gz", "is compressed.*gunzip it and give the .tar"),
        ("a.zip", "unzip it and give the folder"),
        ("a.h5", "is not what images are read from: give a folder of images"),
        ("empty", r"holds no images .*avif, bmp"),
        ("packed", r"holds no images, but deep/0.tar.gz: gunzip it"),
        ("long" * 2000, r"cannot be read \(File name too long\)"),
        ("{0..1}.tar", r"0.tar cannot be read \(No such file"),
    ):
        with pytest.raises(UserError, match=reason):
            _ = open_data(str(tmp_path / data)).all


def write_parquet(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [b"1", b"22"], "label": [0, 1]}), file)


def test_folder_of_images_and_shards_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 2)
    write_parquet(tmp_path / "data/deep/x.parquet")  # a stray file deep inside is no matter
    assert isinstance(open_data(str(tmp_path / "data")).all, ImageFolder)
    pq.write_table(pa.table({"path": ["a"], "caption": ["b"]}), tmp_path / "data/metadata.parquet")
    assert isinstance(open_data(str(tmp_path / "data")).all, ImageFolder)
    write_parquet(tmp_path / "data/x.parquet")
    with pytest.raises(UserError, match=r"holds images and \.parquet files"):
        _ = open_data(str(tmp_path / "data")).all
    (tmp_path / "data/x.tar").touch()
    with pytest.raises(UserError, match=r"holds images and \.tar files and \.parquet"):
        _ = open_data(str(tmp_path / "data")).all


# ---------------------------------------------------------------- splits


def test_splits_and_labels(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 6, classes=3)
    write_images(tmp_path / "val", 3, classes=3)
    _, train, val = split_for(open_data(str(tmp_path)), "classification", seed=0)
    assert (len(train), len(val), len(open_data(str(tmp_path)).all)) == (6, 3, 9)
    assert train.class_names == ("class0", "class1", "class2")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert names(open_data(str(tmp_path)).train) == names(train)
    assert names(open_data(str(tmp_path)).all)[0] == "train/class0/000.jpg"


def test_each_part_is_opened_once(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet")
    write_parquet(tmp_path / "val.parquet")
    data = open_data(str(tmp_path))
    joined = data.all
    assert joined.parts == (data.train, data.val)  # type: ignore[attr-defined]
    assert joined is data.all
    assert data.train is data.split("train")


# ---------------------------------------------------------------- read once


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each folder has been read, by its whole path."""
    counts: Counter[str] = Counter()
    real = os.scandir

    def scandir(folder: Any) -> Any:
        counts[os.path.realpath(os.fsdecode(folder))] += 1
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    return counts


def test_a_folder_is_walked_once_whatever_is_asked(tmp_path: Path, walked: Counter[str]) -> None:
    data = open_data(str(write_images(tmp_path, 30, classes=3)))
    split_for(data, None, 0)
    assert not data.has_splits
    assert not data.has_unused_test
    assert data.all is data.train is data.val
    _ = data.all.fingerprint, data.all.labels, data.all.class_names
    assert walked == {str(tmp_path / folder): 1 for folder in ("", "class0", "class1", "class2")}


def test_of_splits_what_is_not_asked_for_is_not_walked(tmp_path: Path, walked: Counter[str]) -> None:
    for part in ("train", "val", "test"):
        write_images(tmp_path / part, 4)
    data = open_data(str(tmp_path))
    assert data.has_splits
    assert data.has_unused_test
    assert not walked
    assert len(data.train) == 4
    assert walked == {str(tmp_path / folder): 1 for folder in ("train", "train/class0", "train/class1")}
    split_for(data, None, 0)
    assert len(data.all) == 12  # of which test was left
    assert set(walked.values()) == {1}
    assert len(walked) == 10


FILES = (
    "1.png",
    "IM1.dcm",
    "x.tar",
    "train/2.jpg",
    "train/3.jpg",
    "é/4.png",
    "train/é/5.gif",
    "val/6.png",
    "7.parquet",
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "train", "val", "tra", "train-", "a", "zz", "val/val"]), st.sampled_from(FILES))
    )
)
@example([("train/train", "1.png"), ("train/val", "2.png"), ("", "val/3.png")])
def test_the_whole_of_splits_is_as_walked_at_once(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for number, (folder, name) in enumerate([("train", "0.png"), ("val", "0.png"), *files]):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(bytes(number))
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(listing, "cache_file", lambda kind, key: root / "nothing.npz")
        try:
            found = open_data(str(root)).all
        except UserError:  # images and shards in one
            return
        assert_walked_at_once(found, root)


@pytest.mark.parametrize("target", [".", "val", "..", "train/class0"])
def test_links_out_of_a_split_are_followed_as_from_the_whole(tmp_path: Path, target: str) -> None:
    """Alone, train may hold what from the whole is a circle."""
    root = tmp_path / "data"
    for part in ("train", "val"):
        write_images(root / part, 4)
    (root / "train/link").symlink_to(root / target)
    assert_walked_at_once(open_data(str(root)).all, root)


def assert_walked_at_once(found: Source, root: Path) -> None:
    expected = open_folder(root, list_images(root))
    assert isinstance(found, ImageFolder)
    assert names(found) == names(expected)
    assert found.fingerprint == expected.fingerprint
    assert found.listing.shards[:] == expected.listing.shards[:]
    assert sorted(found.listing.folders[:]) == sorted(expected.listing.folders[:])
    assert sorted(found.listing.states.tolist()) == sorted(expected.listing.states.tolist())


def test_the_whole_of_splits_is_kept_and_recalled(
    tmp_path: Path, walked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "KEPT_FROM", 10)  # the whole, not its splits
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for part in ("train", "val", "test"):
        write_images(root / part, 4)
    for folder, _, _ in os.walk(root):
        os.utime(folder, (1e9, 1e9))
    first = open_data(str(root)).all
    walked.clear()
    second = open_data(str(root)).all
    assert (names(first), first.fingerprint) == (names(second), second.fingerprint)
    assert str(root / "test") not in walked
    (root / "val/class0/new.png").touch()
    assert "val/class0/new.png" in names(open_data(str(root)).all)
