"""Everything that DATA may be, but shards: folders, tables, parquet with images, arrays."""

import csv
import io
import multiprocessing
import os
import pickle
import resource
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmae.console import progress
from openmae.data.held_out import split_for
from openmae.data.opening import open_data
from openmae.data.sources import listing, parquet
from openmae.data.sources.folder import ImageFolder
from openmae.data.sources.labels import number_labels
from openmae.data.sources.listing import list_images
from openmae.data.sources.source import Source
from openmae.errors import BrokenImage, UserError
from openmae.files.cache import keep, map_arrays, recall, write_arrays
from openmae.machine import limits
from tests.images import picture, write_images
from tests.machine.groups import V2, laid_out
from tests.processes import run_openmae


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for every test, which keeps the listing of small sets too."""
    monkeypatch.setattr(listing, "KEPT_FROM", 1)
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "openmae"


def names(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def everything_of(source: Source) -> list[tuple[bytes, str]]:
    """Bytes and class of every image."""
    data = source.read_many(range(len(source)))
    assert not [entry for entry in data if isinstance(entry, Exception)]
    return [(bytes(entry), source.class_names[i]) for entry, i in zip(data, source.labels, strict=True)]  # type: ignore[arg-type]


def age(root: Path) -> None:
    """Makes the folders old enough for their listing to be kept."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (1e9, 1e9))


# ---------------------------------------------------------------- the same images, however they are kept


def as_csv(folder: Path, to: Path) -> Path:
    rows = [(f"{folder.name}/{name}", name.split("/")[0]) for name in names(open_data(str(folder)).all)]
    with (to / "images.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return to / "images.csv"


def as_table(folder: Path, to: Path) -> Path:
    found = names(open_data(str(folder)).all)
    columns = {"path": [str(folder / name) for name in found], "label": [name.split("/")[0] for name in found]}
    pq.write_table(pa.table(columns), to / "paths.parquet")
    return to / "paths.parquet"


def as_tar(folder: Path, to: Path) -> Path:
    with tarfile.open(to / "images.tar", "w") as tar:
        for name in names(open_data(str(folder)).all):
            tar.add(folder / name, name)
    return to / "images.tar"


def as_parquet(folder: Path, to: Path) -> Path:
    """As `datasets` writes them: rows of {bytes, path}, and the names of a ClassLabel in the schema."""
    found = names(open_data(str(folder)).all)
    classes = sorted({name.split("/")[0] for name in found})
    images = [{"bytes": (folder / name).read_bytes(), "path": name} for name in found]
    table = pa.table({"image": images, "label": [classes.index(name.split("/")[0]) for name in found]})
    features = f'{{"info": {{"features": {{"label": {{"names": {classes}, "_type": "ClassLabel"}}}}}}}}'
    table = table.replace_schema_metadata({"huggingface": features.replace("'", '"')})
    (to / "hub/data").mkdir(parents=True)
    half = len(found) // 2
    for number, rows in enumerate((table[:half], table[half:])):
        pq.write_table(rows, to / f"hub/data/train-0000{number}-of-00002.parquet", row_group_size=3)
    return to / "hub"


KINDS: list[Callable[[Path, Path], Path]] = [lambda folder, to: folder, as_csv, as_table, as_tar, as_parquet]


@pytest.mark.parametrize("make", KINDS, ids=["folder", "csv", "table", "tar", "parquet"])
def test_same_images_however_they_are_kept(make: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 14, classes=3)
    expected = [(file.read_bytes(), file.parent.name) for file in sorted(folder.glob("*/*"))]
    data = str(make(folder, tmp_path))
    source = open_data(data).all
    assert len(source) == 14
    assert everything_of(source) == expected
    assert [source.read(i) for i in (13, 0, 5)] == [expected[i][0] for i in (13, 0, 5)]
    again = pickle.loads(pickle.dumps(source))
    assert everything_of(again) == expected
    assert open_data(data).all.fingerprint == source.fingerprint == again.fingerprint
    if "parquet" not in data and "hub" not in data and "csv" not in data:
        assert source.fingerprint == open_data(str(folder)).all.fingerprint
    _, train, val = split_for(open_data(data), "classification", seed=3)
    assert sorted(everything_of(train) + everything_of(val)) == sorted(expected)
    assert everything_of(split_for(open_data(data), "classification", seed=3)[2]) == everything_of(val)
    assert everything_of(split_for(open_data(data), "classification", seed=4)[2]) != everything_of(val)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(everything_of, [source] * 2) == [expected] * 2


def sequence_of(count: int) -> list[bytes]:
    return [bytes([i]) * (i + 1) for i in range(count)]


def test_fingerprints_tell_changes(tmp_path: Path) -> None:
    def parquet(images: list[bytes], name: str = "a.parquet") -> str:
        pq.write_table(pa.table({"image": images}), tmp_path / name)
        return open_data(str(tmp_path / name)).all.fingerprint

    def array(images: np.ndarray, name: str = "a.npz") -> str:  # type: ignore[type-arg]
        np.savez(tmp_path / name, images=images)
        return open_data(str(tmp_path / name)).all.fingerprint

    zeros = np.zeros((3, 4, 4), np.uint8)
    prints = [parquet(sequence_of(n)) for n in (3, 4)] + [parquet([b"1", b"22"]), parquet([b"1"], "b.parquet")]
    prints += [array(zeros), array(zeros[:2]), array(zeros + 1), array(zeros.astype(np.uint16))]
    assert len(set(prints)) == len(prints)
    assert parquet([b"1", b"22"]) == prints[2]
    assert array(zeros) == prints[4]


# ---------------------------------------------------------------- folders


def test_lists_any_depth_in_sorted_order_and_skips_what_is_no_image(tmp_path: Path) -> None:
    present = "b/deep/er/2.PNG a/1.jpeg 3.webp a-b/1.jfif a.dcm a0.gif b/Z.tiff a/é.heic scan.npy".split()
    absent = ".hidden/4.png a/.5.png a/notes.txt b/png README a/.tar run/config.toml run/lock run/1.png 7.12".split()
    for name in present + absent:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(open_data(str(tmp_path)).all) == sorted(present, key=os.fsencode)
    assert open_data(str(tmp_path)).all.path(0) == tmp_path / "3.webp"  # type: ignore[attr-defined]


def test_dicom_files_without_extension_are_found_by_their_bytes(tmp_path: Path) -> None:
    for name, start in (("IM0001", b"DICM"), ("1.2.840.5", b"DICM"), ("IM0002", b"none"), ("a.txt", b"DICM")):
        (tmp_path / name).write_bytes(bytes(128) + start + b"rest")
    os.mkfifo(tmp_path / "PIPE")  # which nothing ever comes out of
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(open_data(str(tmp_path)).all) == ["1.2.840.5", "IM0001"]


@given(st.lists(st.lists(st.sampled_from(["a", "a-", "a.b", "a0", "B", "é", "z.png"]), min_size=1, max_size=4)))
def test_order_is_that_of_sorted_paths(tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path in paths:
        folder = root.joinpath(*path[:-1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path[-1]}.jpg").touch()
    expected = sorted((str(file.relative_to(root)) for file in root.rglob("*.jpg") if file.is_file()), key=os.fsencode)
    assert list(list_images(root).names) == expected


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", 2)
    root = tmp_path / "data"
    root.mkdir()
    (root / "b").symlink_to(tmp_path / "elsewhere/class0")
    (root / "c").symlink_to(root)
    (tmp_path / "elsewhere/class0/d").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root / "loop")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "nowhere.png").symlink_to(tmp_path / "nothing.png")
    source = open_data(str(root)).all
    assert names(source) == ["b/000.jpg", "b/d/class1/001.png", "loop.png", "nowhere.png"]
    found = source.read_many(range(4))
    assert [isinstance(entry, OSError) for entry in found] == [False, False, True, True]


def test_files_that_vanish_or_are_no_files(tmp_path: Path) -> None:
    write_images(tmp_path, 3, classes=1)
    (tmp_path / "class0/empty.png").touch()
    (tmp_path / "class0/huge.png").touch()
    os.truncate(tmp_path / "class0/huge.png", 3 << 30)  # takes no place on the disk
    source = open_data(str(tmp_path)).all
    (tmp_path / "class0/000.jpg").unlink()
    (tmp_path / "class0/001.png").unlink()
    (tmp_path / "class0/001.png").mkdir()
    found = source.read_many(range(5))
    assert [type(entry) for entry in found] == [FileNotFoundError, BrokenImage, bytes, bytes, BrokenImage]
    assert found[3] == b""
    assert "more than an image has" in str(found[4])


def test_folder_that_cannot_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, 2)
    (tmp_path / "class1").chmod(0)
    if os.geteuid() == 0:  # whom permissions do not stop
        scandir = os.scandir

        def refuse(folder: bytes) -> object:
            if folder.endswith(b"class1/"):
                raise PermissionError(13, "Permission denied")
            return scandir(folder)

        monkeypatch.setattr(os, "scandir", refuse)
    try:
        with pytest.raises(UserError, match=r"class1 cannot be read \(Permission denied\)"):
            _ = open_data(str(tmp_path)).all
    finally:
        (tmp_path / "class1").chmod(0o755)


def test_names_of_any_bytes(tmp_path: Path) -> None:
    strange = [b"\xff.png", b"a\nb.png", "ü.png".encode(), "日本.png".encode()]
    for name in strange:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(name)  # noqa: PTH118
    source = open_data(str(tmp_path)).all
    assert [os.fsencode(name) for name in names(source)] == sorted(strange)
    assert source.read_many(range(4)) == sorted(strange)


# ---------------------------------------------------------------- the kept listing


def test_listing_is_kept_until_a_folder_changes(tmp_path: Path, cache: Path) -> None:
    root = write_images(tmp_path / "data", 6, classes=3)
    (root / "link").symlink_to(write_images(tmp_path / "linked", 2))
    age(tmp_path)
    fingerprints = [open_data(str(root)).all.fingerprint]
    assert len(list(cache.iterdir())) == 1
    other = write_images(tmp_path / "other", 2)
    changes: list[Callable[[], object]] = [
        (root / "class1/new.png").touch,
        (root / "class1/new.png").unlink,
        lambda: (root / "class2/002.jpg").rename(root / "class2/2.jpg"),
        (tmp_path / "linked/class0/new.png").touch,
        lambda: (root / "more/deep").mkdir(parents=True),
        (root / "more/deep/1.png").touch,
        lambda: ((root / "link").unlink(), (root / "link").symlink_to(other)),
    ]
    for change in changes:
        change()
        fingerprints.append(open_data(str(root)).all.fingerprint)
        age(tmp_path)
        assert open_data(str(root)).all.fingerprint == fingerprints[-1]
    assert len(set(fingerprints)) == 6  # adding a file and taking it away again, and adding folders, is no change


def test_kept_listing_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, 6)
    age(tmp_path)
    first = open_data(str(tmp_path)).all
    monkeypatch.delattr(os, "scandir")
    second = open_data(str(tmp_path)).all
    assert isinstance(first, ImageFolder)
    assert isinstance(second, ImageFolder)
    assert (second.paths[:], second.fingerprint) == (first.paths[:], first.fingerprint)
    assert everything_of(second) == everything_of(first)


def test_folder_that_has_just_changed_is_listed_again(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path, 2)
    now = time.time_ns()
    for _ in range(2):
        for folder, _, _ in os.walk(tmp_path):
            os.utime(folder, ns=(now, now))
        _ = open_data(str(tmp_path)).all
        (tmp_path / "class0/new.png").touch()
    os.utime(tmp_path / "class0", ns=(now, now))  # as if that had happened within one tick of the clock
    assert "class0/new.png" in names(open_data(str(tmp_path)).all)
    assert not cache.exists()


@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_damaged_cache_is_as_none(tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: bool) -> None:
    home = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(home / "cache"))
        (home / "data").mkdir()
        for name in ("a.png", "b.png"):
            (home / "data" / name).touch()
        age(home)
        expected = names(open_data(str(home / "data")).all)
        (kept,) = (home / "cache/openmae").iterdir()
        data = bytearray(kept.read_bytes())
        at %= len(data)
        data[at] = value
        kept.write_bytes(bytes(data[:at]) if cut else bytes(data))
        assert names(open_data(str(home / "data")).all) == expected


@pytest.mark.parametrize("change", [0x01, 0xBA, 0xFF])
def test_a_changed_byte_anywhere_is_damage_or_nothing(tmp_path: Path, change: int) -> None:
    file = tmp_path / "x.npz"
    write_arrays(file, {"names": np.arange(5), "sizes": np.ones(3, np.float32)})
    data = file.read_bytes()
    noticed = 0
    for at in range(len(data)):
        file.write_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
        try:
            found = map_arrays(file)
        except (ValueError, OSError):
            noticed += 1
            continue
        for name, expected in (("names", np.arange(5)), ("sizes", np.ones(3))):
            assert name not in found or np.array_equal(found[name], expected)
    assert noticed > len(data) / 2


def test_cache_with_other_names_is_noticed_by_its_checksum(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path, 2)
    age(tmp_path)
    expected = names(open_data(str(tmp_path)).all)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes().replace(b"000.jpg", b"999.jpg"))
    assert names(open_data(str(tmp_path)).all) == expected


def test_file_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npz", {"a": np.arange(3)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # as a full disk
    try:
        with pytest.raises(OSError, match="too large"):
            write_arrays(tmp_path / "x.npz", {"a": np.zeros(100_000)})
        keep(tmp_path / "y.npz", {"a": np.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
    assert map_arrays(tmp_path / "x.npz")["a"].tolist() == [0, 1, 2]


def test_long_listings_say_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(progress, "SILENT_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    for i in range(10_001):
        (tmp_path / f"{i}.png").touch()
    list_images(tmp_path)
    assert terminal.getvalue().startswith(f"\rlisting {tmp_path}: 10,000 images")
    assert terminal.getvalue().endswith(" \r")  # nothing is left of it


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_images(tmp_path / "data", 2)
    age(data)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder
    assert len(open_data(str(data)).all) == 2
    assert (tmp_path / "file").stat().st_size == 0


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.tuples(st.sampled_from(["u1", "<i8", "<u4", ">f4"]), st.lists(st.integers(0, 4), max_size=3)),
    )
)
def test_arrays_are_mapped_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, described: dict[str, tuple[str, list[int]]]
) -> None:
    arrays = {
        name: np.arange(int(np.prod(shape))).astype(kind).reshape(shape) for name, (kind, shape) in described.items()
    }
    file = tmp_path_factory.mktemp("arrays") / "x.npz"
    write_arrays(file, arrays)
    mapped = map_arrays(file)
    with np.load(file) as theirs:
        assert set(mapped) == set(theirs.files) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(mapped[name], array)
        assert mapped[name].dtype == array.dtype


def test_memory_of_a_listing(tmp_path: Path) -> None:
    """In a process of its own, for the peak is the process's."""
    for folder, count in (("few", 100), ("many", 29_900)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            os.close(os.open(tmp_path / folder / f"photograph_{i:08d}.jpg", os.O_CREAT))
    grown = run_openmae([str(tmp_path)], code=MEASURE)
    assert grown.returncode == 0, grown.stderr
    entries, peak = map(int, grown.stdout.split())
    assert entries == 30_000
    assert peak / entries <= 200


MEASURE = """
import sys
from pathlib import Path
from openmae.data.opening import open_data
from openmae.data.held_out import split_for

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

_ = open_data(sys.argv[1] + "/few").all  # what first use takes
before = peak()
print(len(open_data(sys.argv[1]).all), peak() - before)
"""


# ---------------------------------------------------------------- labels


def test_labels_are_refused_where_there_are_none(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="has no labels"):
        _ = open_data(str(tmp_path)).all.labels
    one_class = write_images(tmp_path / "one", 4, classes=1)
    with pytest.raises(UserError, match="two classes or more"):
        _ = open_data(str(one_class)).all.labels  # a single class would give 100% (pain 18)
    (tmp_path / "t.csv").write_text("path,label\na.png,cat\nb.png,cat\n")
    with pytest.raises(UserError, match="the label 'cat'"):
        _ = open_data(str(tmp_path / "t.csv")).all.class_names
    (tmp_path / "t.csv").write_text("path,label\na.png,cat\nb.png,\nc.png,dog\n")
    with pytest.raises(UserError, match="1 of the 3 images"):
        _ = open_data(str(tmp_path / "t.csv")).all.labels
    write_images(tmp_path / "split/train", 2)
    with pytest.raises(UserError, match=r"of one class, its folder train: give .*/train"):
        _ = open_data(str(tmp_path / "split")).all.labels


@pytest.mark.parametrize(
    ("texts", "given_names", "numbers", "classes"),
    [
        (["b", "a", "b"], None, [1, 0, 1], ("a", "b")),
        (["10", "9", "9"], None, [1, 0, 0], ("9", "10")),
        (["2", "0", "2"], ["x", "y", "z"], [2, 0, 2], ("x", "y", "z")),
        (["z", "", "x"], ["x", "y", "z"], [2, -1, 0], ("x", "y", "z")),
        (["7", "0", "-1"], ["x", "y"], [-1, 0, -1], ("x", "y")),
        (["", "-1"], ["x", "y"], None, ()),
        (["", "-1", "1"], None, [-1, 0, 1], ("-1", "1")),
        (["007", "0"], list("abcdefgh"), [7, 0], tuple("abcdefgh")),
        (["1;0", "", "1"], ["x", "y"], [2, 0, 1], ("", "y", "y;x")),
        (["0;0;1", "1;0;1", "0;0;0"], None, [1, 0, 2], ("0;2", "2", ";")),
        (["a\nb", "\x1b[2J", "\udce9"], None, [2, 1, 0], ("\\udce9", "\\x1b[2J", "a\\nb")),
    ],
)
def test_numbers_of_labels(
    texts: list[str], given_names: list[str] | None, numbers: list[int] | None, classes: tuple[str, ...]
) -> None:
    found, names_found, kind = number_labels(texts, given_names)
    assert kind == ("listed" if given_names and classes == tuple(given_names) else "written")
    assert (None if found is None else found.tolist(), names_found) == (numbers, classes)


# ---------------------------------------------------------------- tables


def test_table_with_splits_and_missing_files(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 6)
    files = [str(file.relative_to(tmp_path)) for file in sorted((tmp_path / "images").rglob("*.*"))]
    rows = [(file, i % 2 + 8, "val" if i in (2, 3) else "train") for i, file in enumerate([*files, "missing.png"])]
    (tmp_path / "t.csv").write_text("split,other,label,path\n" + "".join(f"{s},x,{y},{p}\n\n" for p, y, s in rows))
    columns = dict(zip(("path", "label", "split"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({**columns, "label": [float(y) for y in columns["label"]]}), tmp_path / "t.parquet")
    for table in ("t.csv", "t.parquet"):
        data = str(tmp_path / table)
        assert open_data(data).has_splits
        _, train, val = split_for(open_data(data), "classification", 0)
        assert names(val) == files[2:4]
        assert names(train) == [*files[:2], *files[4:], "missing.png"]
        assert train.class_names == ("8", "9")
        assert train.labels.tolist() == [0, 1, 0, 1, 0]
        assert isinstance(train.read_many([4])[0], FileNotFoundError)
        assert len(open_data(data).all) == 7


def test_table_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path\na.png\n")
    os.utime(table, (1e9, 1e9))
    first = open_data(str(table)).all.fingerprint
    (tmp_path / "a.png").write_bytes(b"12")  # which the kept listing does not notice
    assert open_data(str(table)).all.fingerprint == first
    table.write_text("path\nb.png\n")
    assert names(open_data(str(table)).all) == ["b.png"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"no column 'path' \(its columns: none\)"),
        (b"file,label\na.png,1\n", r"its columns: 'file', 'label'"),
        (b"path;label\na.png;1\n", "write it with commas"),
        (b"path\tlabel\na.png\t1\n", "write it with commas"),
        (b"path\n", "has no rows"),
        (b"path,label\na.png\n", "line 2 of .* has 1 cells"),
        (b"path,label\n,1\n", "row 1 of .* has no path"),
        (b"path,split\na.png,middle\n", "the split 'middle'"),
        (b"path\n\xff\xfe\n", "no CSV table in UTF-8"),
        (b"PAR1", "no column 'path'"),
    ],
)
def test_table_that_is_wrong(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        _ = open_data(str(tmp_path / "t.csv")).all


def test_paths_that_are_relative_to_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "images", 2, classes=1)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/t.csv").write_text("path\nimages/class0/000.jpg\nimages/class0/001.png\n")
    missing = open_data(str(tmp_path / "tables/t.csv")).all
    assert len(missing) == 2
    with pytest.raises(FileNotFoundError, match=rf"^there is no such file in the folder of {tmp_path}/tables/t\.csv"):
        missing.read(0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables/t.csv").touch()
    with pytest.raises(UserError, match=r"relative to the folder of the table; but images/class0/000\.jpg is there"):
        _ = open_data("tables/t.csv").all
    assert len(open_data(str((tmp_path / "tables/t.csv").rename("t.csv"))).all) == 2


# ---------------------------------------------------------------- parquet with images


def write_hub(file: Path, images: list[bytes | None], labels: list[int], group: int = 3) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    entries = [None if data is None else {"bytes": data, "path": None} for data in images]
    pq.write_table(pa.table({"img": entries, "fine_label": labels}), file, row_group_size=group)


def test_splits_of_the_hub(tmp_path: Path) -> None:
    for folder in ("data", "plain_text"):
        root = tmp_path / folder
        write_hub(root / folder / "train-00000-of-00002.parquet", sequence_of(5), [0, 1, 0, 1, 0])
        write_hub(root / folder / "train-00001-of-00002.parquet", sequence_of(4), [1, 0, 1, 0])
        write_hub(root / folder / "test-00000-of-00001.parquet", sequence_of(3), [0, 1, 0])
        _, train, val = split_for(open_data(str(root)), "classification", 0)
        assert (len(train), len(val), len(open_data(str(root)).all)) == (9, 3, 12)
        assert train.read_many(range(9)) == sequence_of(5) + sequence_of(4)
        assert train.name(7) == "train-00001-of-00002.parquet#7"
        write_hub(root / folder / "validation-00000-of-00001.parquet", sequence_of(2), [0, 1])
        assert len(open_data(str(root)).val) == 2


def test_rows_are_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[bytes | None] = [os.urandom(1000) for _ in range(60)]
    images[7] = None
    write_hub(tmp_path / "a.parquet", images, [0] * 60, group=10)
    monkeypatch.setattr(parquet, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(parquet, "MOST_IN_CACHE", 25_000)
    source = open_data(str(tmp_path / "a.parquet")).all
    order = np.random.default_rng(0).permutation(60).tolist()
    found = source.read_many(order)
    assert [images[i] for i in order if i != 7] == [entry for entry in found if not isinstance(entry, BrokenImage)]
    assert isinstance(found[order.index(7)], BrokenImage)
    assert len(source.cached) <= 2  # type: ignore[attr-defined]
    (tmp_path / "a.parquet").unlink()
    gone = pickle.loads(pickle.dumps(source))  # which remembers no row group
    assert all(isinstance(entry, OSError) for entry in gone.read_many([0, 30]))


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=40))
def test_damaged_parquet_loses_images_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, garbage: bytes
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "a.parquet"
    write_hub(file, sequence_of(60), [0] * 60, group=10)
    data = bytearray(file.read_bytes())
    data[at % len(data) : at % len(data) + len(garbage)] = garbage
    file.write_bytes(data)
    try:
        found = open_data(str(file)).all.read_many(range(60))
    except UserError:
        return
    assert len(found) == 60  # bytes, whole or wrong, and errors; nothing is raised


def test_parquet_that_is_wrong(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "number": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column 'path' \(its columns: 'text', 'number'\)"):
        _ = open_data(str(tmp_path / "a.parquet")).all
    with pytest.raises(UserError, match=r"no column of images \(its columns: text, number\)"):
        _ = open_data(str(tmp_path)).all
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        _ = open_data(str(tmp_path / "a.parquet")).all


# ---------------------------------------------------------------- arrays


def loaded(data: bytes) -> np.ndarray:  # type: ignore[type-arg]
    return np.load(io.BytesIO(data), allow_pickle=False)


@given(
    st.sampled_from(["|u1", "<u2", ">u2", "<f4", "|b1"]),
    st.lists(st.integers(1, 5), min_size=3, max_size=4),
    st.sampled_from(["npy", "npz", "compressed"]),
)
def test_arrays_are_read_image_by_image(
    tmp_path_factory: pytest.TempPathFactory, kind: str, shape: list[int], file: str
) -> None:
    images = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    path = tmp_path_factory.mktemp("array") / f"a.{file[:3] if file != 'compressed' else 'npz'}"
    if file == "npy":
        np.save(path, images)
    else:
        (np.savez if file == "npz" else np.savez_compressed)(path, only=images)
    source = open_data(str(path)).all
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert len(one) == len(images)
        for i, data in enumerate(one.read_many(range(len(images)))):
            read = loaded(data)  # type: ignore[arg-type]
            assert read.dtype.newbyteorder("=") == images.dtype.newbyteorder("=")
            assert read.shape == images.shape[1:]
            np.testing.assert_array_equal(read, images[i])


def test_labels_and_splits_of_arrays(tmp_path: Path) -> None:
    medical = {
        f"{split}_{what}": array
        for split, n in (("train", 6), ("val", 3), ("test", 4))
        for what, array in (("images", np.full((n, 4, 4), n, np.uint8)), ("labels", np.arange(n)[:, None] % 3))
    }
    np.savez_compressed(tmp_path / "medical.npz", **medical)
    _, train, val = split_for(open_data(str(tmp_path / "medical.npz")), "classification", 0)
    assert (len(train), len(val), len(open_data(str(tmp_path / "medical.npz")).all)) == (6, 3, 13)
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert open_data(str(tmp_path / "medical.npz")).has_unused_test
    assert loaded(val.read(0)).tolist() == [[3] * 4] * 4
    np.savez(tmp_path / "named.npz", images=np.zeros((4, 4, 4)), labels=np.array(["cat", "dog", "cat", "dog"]))
    assert open_data(str(tmp_path / "named.npz")).all.class_names == ("cat", "dog")
    texts = {"train_labels": np.array(["a", "b", "c"]), "val_labels": np.array(["c", "b"])}
    images = {"train_images": np.zeros((3, 4, 4)), "val_images": np.zeros((2, 4, 4))}
    np.savez(tmp_path / "texts.npz", **images, **texts)
    joined = open_data(str(tmp_path / "texts.npz")).all  # whose parts number their classes each in its own way
    assert [joined.class_names[label] for label in joined.labels] == ["a", "b", "c", "c", "b"]
    np.savez(tmp_path / "many.npz", images=np.zeros((4, 4, 4)), labels=np.zeros((4, 3, 2)))
    with pytest.raises(UserError, match="one number or text for each image"):
        _ = open_data(str(tmp_path / "many.npz")).all.labels


def test_array_that_is_cut_off(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((10, 8, 8), np.uint8))
    os.truncate(tmp_path / "a.npy", (tmp_path / "a.npy").stat().st_size - 100)
    found = open_data(str(tmp_path / "a.npy")).all.read_many(range(10))
    assert [type(entry) for entry in found] == [bytes] * 8 + [BrokenImage] * 2


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": np.array([{"a": 1}] * 3, object)}, "cannot be read .*objects"),
        ({"images": np.zeros((3, 4))}, r"has the shape \(3, 4\)"),
        ({"images": np.array([[["a"]]])}, "of <U1"),
        ({"a": np.zeros((3, 4, 4)), "b": np.zeros(3)}, "has the arrays a, b"),
        ({"images": np.zeros((3, 4, 4)), "labels": np.zeros(2)}, "2 labels for 3 images"),
        ({}, "has the arrays none"),
    ],
)
def test_arrays_that_are_wrong(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:  # type: ignore[type-arg]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=reason):
        _ = open_data(str(tmp_path / "a.npz")).all


def test_damaged_arrays(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.random.default_rng(0).random((9, 9, 9)))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    for damaged in (data[:200], data[:300] + b"xxxx" + data[304:], b"", b"PK"):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(UserError, match="cannot be read"):
            _ = open_data(str(tmp_path / "a.npz")).all
    np.save(tmp_path / "a.npy", np.array([None] * 3, object), allow_pickle=True)
    with pytest.raises(UserError, match="no array of numbers"):
        _ = open_data(str(tmp_path / "a.npy")).all
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="no array of numbers"):
        _ = open_data(str(tmp_path / "a.npy")).all
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 5)).T)
    with pytest.raises(UserError, match="ascontiguousarray"):
        _ = open_data(str(tmp_path / "a.npy")).all


def test_archive_of_more_than_a_container_has_left_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Array by array: what the first one took is not there for the second."""
    group = "sys/fs/cgroup/user.slice/memory"
    files = {f"{group}.max": "1000000000\n", f"{group}.current": "980000000\n", f"{group}.stat": "inactive_file 0\n"}
    np.savez(tmp_path / "a.npz", images=np.zeros((3000, 64, 64), np.uint8))  # 12 MB
    assert len(open_data(str(tmp_path / "a.npz")).all) == 3000
    monkeypatch.setattr(limits, "ROOT", laid_out(tmp_path / "root", {**V2, **files}))
    with pytest.raises(UserError, match="more than half of the memory that is free"):
        _ = open_data(str(tmp_path / "a.npz")).all


def test_archive_of_more_than_memory_is_refused_by_its_header(tmp_path: Path) -> None:
    import zipfile

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 30, 64, 64)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", head.getvalue())
    with pytest.raises(UserError, match="more than half of the memory that is free"):
        _ = open_data(str(tmp_path / "a.npz")).all


def test_kept_arrays_come_back(tmp_path: Path) -> None:
    keep(tmp_path / "deep/x.npz", {"a": np.arange(3)}, {"why": "é"})
    found = recall(tmp_path / "deep/x.npz")
    assert found is not None
    assert (found[0]["a"].tolist(), found[1]) == ([0, 1, 2], {"why": "é"})
    assert recall(tmp_path / "nothing") is None
