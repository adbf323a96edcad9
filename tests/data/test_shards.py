"""Tar shards: their index, foreign ones without index, on servers that fail, and what is damaged."""

import asyncio
import io
import json
import multiprocessing
import os
import pickle
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from urllib.parse import unquote

import boto3
import numpy as np
import pytest
import yarl
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from webdataset.tariterators import group_by_keys, tar_file_expander

from openmae.data.held_out import split_for
from openmae.data.opening import open_data
from openmae.data.shards.index import Shard, read_index, write_index
from openmae.data.shards.listing import expand, open_shards
from openmae.data.shards.samples import EVERY, scan, split_name
from openmae.data.shards.source import ShardSource
from openmae.data.sources import remote
from openmae.data.sources.redirects import why_not
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Names, Source
from openmae.data.tasks import Task, answers, task_of
from openmae.errors import BrokenImage, UserError
from tests.images import picture
from tests.servers import PATIENT, Server, serve

QUICK = remote.Patience(tries=5, stall=0.5, total=4.0, pause=0.02)  # where a server is waited for in vain


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for every test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "openmae"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves tmp_path to a client that soon asks again."""
    monkeypatch.setattr(remote, "PATIENCE", PATIENT)
    monkeypatch.setattr(remote, "servers", {})
    with serve(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 endpoint, which the environment names, with a bucket `images`."""
    running = ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "someone")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="images")
        yield f"http://{host}:{port}"
    running.stop()


def write_tar(file: Path, members: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=kind) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def age(*files: Path) -> None:
    """Makes them old enough for a listing to be kept."""
    for file in files:
        os.utime(file, (1e9, 1e9))


def contents(source: Source) -> list[tuple[str, bytes]]:
    data = source.read_many(range(len(source)))
    assert not [entry for entry in data if isinstance(entry, Exception)]
    return [(source.name(i), bytes(entry)) for i, entry in enumerate(data)]  # type: ignore[arg-type]


def numbered(first: int, count: int) -> dict[str, bytes]:
    """A shard's members: images with .cls labels 0, 1, 0, 1, ..."""
    members = {}
    for i in range(first, first + count):
        members[f"{i:04d}.jpg"] = bytes([i % 256]) * (100 + i)
        members[f"{i:04d}.cls"] = str(i % 2).encode()
    return members


def write_packed(folder: Path, shards: int = 2, each: int = 3) -> Path:
    """Shards with an index, as `openmae pack` leaves them."""
    described, names, rows = [], [], []
    for number in range(shards):
        file = write_tar(folder / f"{number:06d}.tar", numbered(number * each, each))
        described.append(Shard(file.name, each, file.stat().st_size))
        with tarfile.open(file) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    data = tar.extractfile(member).read()  # type: ignore[union-attr]
                    label = int(member.name[:4]) % 2
                    rows.append((number, member.offset_data, member.size, label, zlib.crc32(data)))
                    names.append(f"class{label}/was.called.{member.name}")
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    write_index(
        folder,
        tuple(described),
        Names.of(names),
        shard=columns[0],
        offset=columns[1],
        size=columns[2],
        label=columns[3],
        crc32=columns[4],
        class_names=("cat", "dog"),
        about={"short_side": 256},
    )
    return folder


# ---------------------------------------------------------------- headers

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@given(
    st.lists(st.tuples(st.integers(0, 130), st.integers(0, 1500), st.sampled_from(["jpg", "cls", "txt", "x.png"]))),
    st.sampled_from(FORMATS),
    st.sampled_from([512, 700, 4096]),
)
def test_members_lie_where_tarfile_finds_them(members: list[tuple[int, int, str]], kind: int, block: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, (depth, size, extension) in enumerate(members):
            info = tarfile.TarInfo(
                "./" + "d/" * depth + f"ä{number}.{extension}"
                if kind != tarfile.USTAR_FORMAT
                else f"{'d/' * 20}{number}.{extension}"
            )
            info.size = size
            tar.addfile(info, io.BytesIO(bytes([number % 256]) * size))
    data = file.getvalue()
    found = scan(lambda offset, length: data[offset : offset + length], len(data), block)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [m for m in tar if m.name.endswith((".jpg", ".png"))]
    assert found.damage == ""
    assert found.names == [m.name.removeprefix("./") for m in expected]
    assert list(zip(found.offsets, found.sizes, strict=True)) == [(m.offset_data, m.size) for m in expected]


@given(st.integers(0, 6000), st.integers(0, 255))
def test_damaged_headers_end_the_list_and_nothing_else(at: int, value: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in numbered(0, 2).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = bytearray(file.getvalue())
    data[at % len(data)] = value
    for damaged in (bytes(data), bytes(data[: at % len(data)])):
        found = scan(lambda offset, length, damaged=damaged: damaged[offset : offset + length], len(damaged), 512)
        assert len(found.names) <= 2


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_sizes_that_eleven_octal_digits_do_not_tell(kind: int) -> None:
    info = tarfile.TarInfo("big.jpg")
    info.size = 9 << 30
    header = info.tobuf(kind)
    found = scan(lambda offset, length: header[offset : offset + length], 10 << 30, 512)
    assert (found.names, found.sizes) == (["big.jpg"], [9 << 30])


def test_samples_are_webdatasets(tmp_path: Path) -> None:
    members = numbered(0, 4) | {"notes.txt": b"x", "d.e/0007.png": b"png", "d.e/0007.json": b'{"label": 3}'}
    file = write_tar(tmp_path / "a.tar", members)
    source = open_data(str(file)).all
    with file.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": str(file), "stream": stream}])))
    found = [sample.get("jpg", sample.get("png")) for sample in samples if {"jpg", "png"} & set(sample)]
    assert [data for _, data in contents(source)] == found
    assert source.class_names == ("0", "1", "3")
    assert source.labels.tolist() == [0, 1, 0, 1, 2]


def theirs(file: Path, key: str = "jpg;png") -> list[tuple[str, bytes]]:
    """(key, image) of the samples that WebDataset finds."""
    with file.open("rb") as stream:
        samples = list(group_by_keys(tar_file_expander([{"url": str(file), "stream": stream}])))
    images = [(sample["__key__"], [sample[one] for one in key.split(";") if one in sample]) for sample in samples]
    return [(name, found[0]) for name, found in images if found]


def ours(file: Path, key: str | None = None) -> list[tuple[str, bytes]]:
    source = open_shards(str(file), [str(file)], key)
    return [(split_name(name)[0], data) for name, data in contents(source)]


NAMES = st.from_regex(
    r"(\./|a/|b\.c/|__meta__/|\.hidden/)?(a|B|x_0)(\.5_1)?(\.seg)?\.(jpg|png|PNG|cls|txt|dat)", fullmatch=True
)


@given(st.lists(NAMES, min_size=1, max_size=12))
def test_keys_and_samples_are_webdatasets(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    """Where the files of a sample follow each other and each has its own name, as its reader asks."""
    named = {split_name(name.removeprefix("./")): name for name in names}  # of two alike it knows none
    members = {name: name.encode() for (key, _), name in sorted(named.items()) if key}
    file = write_tar(tmp_path_factory.mktemp("tar") / "a.tar", members)
    for key in ("jpg;png", "seg.png"):
        expected = [(name.removeprefix("./"), data) for name, data in theirs(file, key)]
        assert (ours(file, key) if expected else []) == expected


def test_which_file_is_the_image_is_asked_where_there_are_several(tmp_path: Path) -> None:
    names = ["a.jpg", "b.left.png", "b.right.png", ".c.jpg", "._d.jpg", "e.png", "e.jpg", "f.dat", "G.JPG"]
    file = write_tar(tmp_path / "a.tar", {name: name.encode() for name in names})
    with pytest.raises(
        UserError, match=r"2 of 5 samples of .*a.tar have several images \(b has left.png, right.png: .*"
    ):
        _ = open_data(str(file)).all
    with pytest.raises(UserError, match=r"`image_key='left.png'`, or make each .* its own, `image_key='each'`"):
        _ = open_data(str(file)).all
    assert [name for name, _ in ours(file, "jpg;left.png")] == ["a", "b", "e", "G"]
    assert [data.decode() for _, data in ours(file, EVERY)] == [n for n in names if n[0] != "." and n != "f.dat"]
    assert ours(file, "dat") == [("f", b"f.dat")]


def test_names_with_dots_lose_no_sample(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(8):
        members |= {f"scan_0.{number}.png": bytes([number]), f"scan_0.{number}.cls": str(number % 2).encode()}
    file = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(
        UserError, match=r"1 of 1 samples .* \(scan_0 has 0.png, 1.png, 2.png, ...: files of one name up"
    ):
        _ = open_data(str(file)).all
    source = open_shards(str(file), [str(file)], EVERY)
    assert [data[0] for _, data in contents(source)] == list(range(8))
    assert source.labels.tolist() == [0, 1] * 4


def test_files_of_a_sample_that_lie_apart_are_put_together(tmp_path: Path) -> None:
    members = {f"{i}.png": bytes([i]) for i in range(4)} | {f"{i}.cls": str(i % 2).encode() for i in range(4)}
    source = open_data(str(write_tar(tmp_path / "a.tar", members))).all
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert isinstance(source, ShardSource)
    assert source.index.notes[0].startswith("The files of 4 of 4 samples lie apart and are put together")


def test_two_samples_of_one_name_are_two(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as tar:
        for number in range(4):
            for ending, content in (("png", bytes([number])), ("cls", str(number).encode())):
                info = tarfile.TarInfo(f"{number % 2}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    source = open_data(str(file)).all
    assert [data for _, data in contents(source)] == [data for _, data in theirs(file)] == [b"\0", b"\1", b"\2", b"\3"]
    assert source.labels.tolist() == [0, 1, 2, 3]
    assert source.index.notes == ("2 of 4 samples have the name of an earlier one",)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("ending", "texts", "task", "expected"),
    [
        ("cls", ["3", " 12\n", "3"], "classification", [0, 1, 0]),
        ("cls", ["cat", "dog", "cat"], "classification", [0, 1, 0]),
        ("cls", ["0.5", "-1", "2"], "regression", [[0.5], [-1], [2]]),
        ("cls", ["[1, 3]", "[3]", "[]"], "multi-label", [[1, 1], [0, 1], [0, 0]]),
        ("json", ['{"label": 0.25}', '{"label": 7}', '{"label": 0.25}'], "regression", [[0.25], [7], [0.25]]),
        (
            "json",
            ['{"label": ["b", "a"]}', '{"label": "a"}', '{"labels": []}'],
            "multi-label",
            [[1, 1], [1, 0], [0, 0]],
        ),
        ("json", ['{"label": [0, 1, 1]}', '{"label": [1, 0, 1]}', '{"label": [0, 0, 0]}'], "multi-label", None),
        ("json", ['{"label": "b"}', '{"cls": "a"}', '{"label": null, "cls": "b"}'], "classification", [1, 0, 1]),
        ("json", ["4", "[4]", "5"], "classification", [0, 0, 1]),
        ("txt", ["0.5", "0.25", "1.5"], "regression", [[0.5], [0.25], [1.5]]),
        ("txt", ["cat", "cat", "dog", "dog"], "classification", [0, 0, 1, 1]),
    ],
)
def test_labels_of_every_kind(
    tmp_path: Path, ending: str, texts: list[str], task: Task, expected: list[object]
) -> None:
    members: dict[str, bytes] = {}
    for number, text in enumerate(texts):
        members |= {f"{number}.{ending}": text.encode(), f"{number}.png": b"png"}
    source = open_data(str(write_tar(tmp_path / "a.tar", members))).all
    assert task_of(source) == task
    assert answers(source, task).values.tolist() == (expected or [[0, 1, 1], [1, 0, 1], [0, 0, 0]])


def test_captions_are_no_labels(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(6):
        members |= {f"{number}.png": b"png", f"{number}.txt": f"a photograph of {number} birds".encode()}
    with pytest.raises(UserError, match="has no labels"):
        _ = open_data(str(write_tar(tmp_path / "a.tar", members))).all.labels


def test_samples_without_an_image_are_said(tmp_path: Path) -> None:
    members = {"a.png": b"a", "b.jpe2": b"b", "b.cls": b"1", "c.jpe2": b"c", "c.cls": b"0", "noend": b"x"}
    index = open_data(str(write_tar(tmp_path / "a.tar", members))).all.index  # type: ignore[attr-defined]
    assert index.notes == (
        "2 of 3 samples have no image and are left out (they have cls, jpe2); `image_key` names the file that is one",
    )
    age(tmp_path / "a.tar")
    assert open_data(str(tmp_path / "a.tar")).all.index.notes == index.notes  # type: ignore[attr-defined]
    again = open_data(str(tmp_path / "a.tar")).all  # kept
    assert again.index.notes == index.notes  # type: ignore[attr-defined]


def test_listed_classes_are_names_and_packed_ones_stay_what_they_were(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", {"1.png": b"a", "1.cls": b"1", "2.png": b"b", "2.cls": b"0"})
    (tmp_path / "classes.txt").write_text("2.5\n1;0\n")
    source = open_data(str(file)).all
    assert (source.label_kind, task_of(source), source.class_names) == ("listed", "classification", ("2.5", "1;0"))
    assert answers(source, "classification").names == ("2.5", "1;0")


@pytest.mark.parametrize(
    ("pattern", "count", "first", "last"),
    [
        ("a/{0000..0012}.tar", 13, "a/0000.tar", "a/0012.tar"),
        ("{8..11}.tar", 4, "8.tar", "11.tar"),
        ("{train,val}-{0..1}.tar", 4, "train-0.tar", "val-1.tar"),
        ("{3..1}-{01..00}.tar", 6, "3-01.tar", "1-00.tar"),
        ("plain.tar", 1, "plain.tar", "plain.tar"),
        ("a{b}.tar", 1, "a{b}.tar", "a{b}.tar"),
    ],
)
def test_patterns_expand_as_in_a_shell(pattern: str, count: int, first: str, last: str) -> None:
    found = expand(pattern)
    assert (len(found), found[0], found[-1]) == (count, first, last)


@pytest.mark.parametrize("pattern", ["{0..99999999999}.tar", "{0..9999}/{0..9999}.tar"])
def test_more_shards_than_there_are_anywhere_are_refused_at_once(pattern: str) -> None:
    with pytest.raises(UserError, match="give at most 1,000,000"):
        expand(pattern)


# ---------------------------------------------------------------- local shards


def test_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "packed")
    source = open_data(str(folder)).all
    assert isinstance(source, ShardSource)
    assert (len(source), source.class_names, source.labels.tolist()) == (6, ("cat", "dog"), [0, 1, 0, 1, 0, 1])
    assert source.name(4) == "class0/was.called.0004.jpg"
    assert [data for _, data in contents(source)] == [bytes([i]) * (100 + i) for i in range(6)]
    listed = json.loads((folder / "index.json").read_text())
    assert [(s["url"], s["nsamples"]) for s in listed["shardlist"]] == [("000000.tar", 3), ("000001.tar", 3)]
    assert (listed["__kind__"], listed["wids_version"], listed["about"]) == (
        "wids-shard-index-v1",
        1,
        {"short_side": 256},
    )
    assert read_index(folder).fingerprint == source.fingerprint == listed["fingerprint"]


def test_pattern_chooses_shards_of_the_index(tmp_path: Path) -> None:
    folder = write_packed(tmp_path, shards=3)
    some = open_data(f"{folder}/{{000002,000000}}.tar").all
    assert [name[-8:-4] for name, _ in contents(some)] == ["0006", "0007", "0008", "0000", "0001", "0002"]
    assert some.class_names == ("cat", "dog")  # which only the index tells
    assert contents(open_data(f"{folder}/{{000000..000002}}.tar").all) == contents(open_data(str(folder)).all)


def test_foreign_shards_are_scanned_once(tmp_path: Path, cache: Path) -> None:
    files = [write_tar(tmp_path / f"{i}.tar", numbered(i * 3, 3)) for i in range(2)]
    (tmp_path / "classes.txt").write_text("cat\ndog\n\n")
    age(*files)
    first = open_data(str(tmp_path)).all
    assert (first.class_names, first.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1, 0, 1])
    (kept,) = cache.glob("shards-*")
    before = contents(first)
    files[0].write_bytes(files[0].read_bytes().replace(b"0000.jpg", b"XXXX.jpg"))  # same size; header damaged
    age(files[0])
    assert contents(open_data(str(tmp_path)).all) == before  # was not scanned
    kept.write_bytes(kept.read_bytes()[:-100])
    assert len(open_data(str(tmp_path)).all) == 3  # the first shard's headers do not hold any more
    write_tar(files[0], numbered(0, 5))
    assert len(open_data(str(tmp_path)).all) == 8
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    assert open_data(str(tmp_path)).all.class_names == ("one", "two")


def test_splits_in_folders_and_in_file_names(tmp_path: Path) -> None:
    write_packed(tmp_path / "folders/train", each=4)
    write_packed(tmp_path / "folders/val")
    write_tar(tmp_path / "names/train-0000.tar", numbered(0, 4))
    write_tar(tmp_path / "names/validation-0000.tar", numbered(4, 2))
    for data, lengths in ((tmp_path / "folders", (8, 6)), (tmp_path / "names", (4, 2))):
        assert open_data(str(data)).has_splits
        assert tuple(len(part) for part in split_for(open_data(str(data)), "classification", 0)[1:]) == lengths
        everything = open_data(str(data)).all
        assert len(everything) == sum(lengths)
        assert set(everything.labels.tolist()) == {0, 1}
        assert contents(everything)[-1] == contents(open_data(str(data)).val)[-1]


def test_more_shards_than_descriptors(tmp_path: Path) -> None:
    write_packed(tmp_path, shards=150, each=2)
    source = open_data(str(tmp_path)).all
    before = descriptors()
    contents(source)
    assert descriptors() - before < 100
    del source
    assert descriptors() <= before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_processes_read_at_the_same_time(tmp_path: Path) -> None:
    source = open_data(str(write_packed(tmp_path, each=40))).all
    expected = source.read_many([0, 79])
    for way in ("fork", "spawn"):
        with multiprocessing.get_context(way).Pool(2) as pool:
            assert pool.map(methodcaller("read_many", [0, 79]), [source] * 8) == [expected] * 8


# ---------------------------------------------------------------- damaged shards


def test_shard_that_is_cut_off(tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "packed", each=5)
    foreign = write_tar(tmp_path / "foreign/0.tar", numbered(0, 5))
    for file, data in ((packed / "000000.tar", packed), (foreign, foreign)):
        whole = file.read_bytes()
        file.write_bytes(whole[: whole.index(b"0003.jpg") + 512 + 50])  # in the middle of the fourth image
        source = open_data(str(data)).all
        found = source.read_many(range(5 if data is packed else 4))
        assert found[:3] == [bytes([i]) * (100 + i) for i in range(3)]
        lost = "2 of its 5" if data is packed else "1 of its 4"
        assert all(isinstance(entry, BrokenImage) and lost in str(entry) for entry in found[3:])
    assert "cut off" in open_data(str(foreign)).all.index.damage[0]  # type: ignore[attr-defined]


def test_wrong_bytes_are_noticed_by_their_checksum(tmp_path: Path) -> None:
    file = write_packed(tmp_path) / "000000.tar"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"\1" * 101, b"\1" * 50 + b"\2" + b"\1" * 50))
    source = open_data(str(tmp_path)).all
    with pytest.raises(BrokenImage, match="checksum"):
        source.read(1)
    assert source.read(0) == b"\0" * 100


def test_shard_that_vanishes(tmp_path: Path) -> None:
    source = open_data(str(write_packed(tmp_path))).all
    (tmp_path / "000001.tar").unlink()
    found = source.read_many([0, 5])
    assert found[0] == b"\0" * 100
    assert isinstance(found[1], FileNotFoundError)


def test_index_that_is_damaged_is_refused(tmp_path: Path) -> None:
    arrays = write_packed(tmp_path) / "index.npz"
    data = arrays.read_bytes()
    for damaged in (data[:-200], data.replace(b"class0", b"class9"), b""):
        arrays.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            _ = open_data(str(tmp_path)).all


def test_index_of_uneven_arrays_is_refused(tmp_path: Path) -> None:
    zero = np.zeros(2, np.int64)
    columns = {"shard": zero, "offset": zero, "size": zero, "crc32": zero}
    write_index(tmp_path, (Shard("0.tar", 2, 0),), Names.of(["a", "b"]), label=zero[:1], **columns)
    with pytest.raises(UserError, match="different lengths"):
        read_index(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no tar" * 1000, b"\0" * 1024])
def test_what_is_no_tar(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match="holds no images"):
        _ = open_data(str(tmp_path / "a.tar")).all
    with pytest.raises(UserError, match="check that all shards are there"):
        _ = open_data(f"{tmp_path}/{{0..1}}.tar").all


# ---------------------------------------------------------------- remote shards


def test_http_and_s3_give_what_the_folder_gives(tmp_path: Path, server: Server, s3: str) -> None:
    packed = write_packed(tmp_path / "packed", each=20)
    foreign = tmp_path / "foreign"
    for i in range(2):
        write_tar(foreign / f"{i}.tar", numbered(i * 20, 20))
    (foreign / "classes.txt").write_text("cat\ndog")
    client = boto3.client("s3")
    for file in (*packed.iterdir(), *foreign.iterdir()):
        client.upload_file(str(file), "images", str(file.relative_to(tmp_path)))
    for folder, patterns in ((packed, ["", "/{000000..000001}.tar"]), (foreign, ["", "/{0..1}.tar"])):
        local = open_data(str(folder)).all
        for place in (f"{server.url}/{folder.name}", f"s3://images/{folder.name}"):
            for pattern in patterns:
                source = open_data(place + pattern).all
                assert contents(source) == contents(local)
                assert source.class_names == ("cat", "dog")
                assert source.labels.tolist() == local.labels.tolist()
                assert source.fingerprint == local.fingerprint
    with pytest.raises(FileNotFoundError):
        remote.fetch_file("s3://images/nothing")
    apart = open_data(f"{server.url}/packed").all
    before = len(server.requests)
    assert apart.read_many(range(0, 40, 2)) == open_data(str(packed)).all.read_many(range(0, 40, 2))
    assert len(server.requests) - before == 20
    assert server.most_at_once > 4  # images are fetched at the same time


def test_images_that_follow_each_other_are_one_request(tmp_path: Path, server: Server) -> None:
    source = open_data((write_packed(tmp_path, each=20), server.url)[1]).all
    expected = contents(open_data(str(tmp_path)).all)
    server.requests.clear()
    assert source.read_many([3, 19, 4, 20, 5, 39]) == [expected[i][1] for i in (3, 19, 4, 20, 5, 39)]
    assert sorted(server.requests) == ["/000000.tar"] * 2 + ["/000001.tar"] * 2


@pytest.mark.parametrize("way", ["shorter", "removed", "another", "cut answers"])
def test_shard_that_changes_while_it_is_read(
    tmp_path: Path, server: Server, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is read at once, the images that are still there are read, and each of the others says why it is not."""
    monkeypatch.setattr(remote, "PATIENCE", QUICK)
    source = open_data((write_packed(tmp_path, shards=1, each=20), server.url)[1]).all
    expected = contents(open_data(str(tmp_path)).all)
    file = tmp_path / "000000.tar"
    whole = file.read_bytes()
    if way == "shorter":
        file.write_bytes(whole[: whole.index(b"0012.jpg") + 512 + 50])
    elif way == "removed":
        file.unlink()
    elif way == "another":
        file.write_bytes(whole[:512] + whole[512:].replace(bytes([7]) * 107, bytes([8]) * 107))
    else:
        server.fail = lambda number, path: "short"
    found = source.read_many(range(20))
    lost = {"shorter": range(12, 20), "another": [7]}.get(way, range(20))
    assert [i for i, data in enumerate(found) if isinstance(data, Exception)] == [*lost]
    assert all(data == expected[i][1] for i, data in enumerate(found) if i not in lost)
    said = {"shorter": "gave|416", "removed": "no such file", "another": "checksum", "cut answers": "gave|tr(y|ies)"}[
        way
    ]
    assert all(re.search(said, str(found[i])) for i in lost)


def test_an_index_that_lies_asks_for_no_more_than_there_is(tmp_path: Path, server: Server) -> None:
    """Places that overlap, go backwards, or lie far apart: every image is checked by itself."""
    write_packed(tmp_path, shards=1, each=20)
    index = read_index(tmp_path)
    expected = contents(open_data(str(tmp_path)).all)
    offset, size = index.offset.copy(), index.size.copy()
    offset[5], size[6], offset[7] = offset[4], size[6] + 700, 0
    remade = replace(
        index, offset=offset, size=size, shards=(replace(index.shards[0], url=f"{server.url}/000000.tar"),)
    )
    found = ShardSource("it", remade).read_many(range(20))
    assert [i for i, data in enumerate(found) if isinstance(data, BrokenImage) and "checksum" in str(data)] == [5, 6, 7]
    assert all(found[i] == expected[i][1] for i in range(20) if i not in (5, 6, 7))


@pytest.mark.parametrize("failure", ["503", "429", "500", "stall", "cut", "short", "reset"])
def test_server_that_fails_for_a_while_is_asked_again(
    tmp_path: Path, server: Server, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if failure == "stall":
        monkeypatch.setattr(remote, "PATIENCE", QUICK)
    write_packed(tmp_path)
    expected = contents(open_data(str(tmp_path)).all)
    tries: dict[str, int] = {}

    def fail(number: int, path: str) -> str:
        tries[path] = tries.get(path, 0) + 1
        return failure if tries[path] <= 2 else ""

    server.fail = fail
    assert contents(open_data(server.url).all) == expected
    assert len(server.requests) > 6


def test_server_that_fails_for_good_is_given_up(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_packed(tmp_path, shards=3, each=20)
    source = open_data(server.url).all
    before = len(server.requests)
    server.fail = lambda number, path: "503" if "000000" in path else ""
    found = source.read_many([1, 25])
    assert isinstance(found[0], OSError)
    assert "503" in str(found[0])
    assert found[1] == bytes([25]) * 125
    assert len(server.requests) - before == QUICK.tries + 1
    monkeypatch.setattr(remote, "PATIENCE", replace(QUICK, total=1.5))
    monkeypatch.setattr(remote, "servers", {})
    server.fail = lambda number, path: "drip"  # which no single wait tells from a server that is well
    given_up = source.read_many(range(60))
    assert all(isinstance(entry, OSError) for entry in given_up)


def test_s3_that_is_not_there(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE", PATIENT)
    with pytest.raises(UserError, match=r"no \.tar files"):
        _ = open_data("s3://images/nothing").all
    with pytest.raises(UserError, match="check that all shards are there"):
        _ = open_data("s3://no-such-bucket/0.tar").all
    monkeypatch.setattr(remote, "servers", {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"5 tries\); check the address, AWS_ENDPOINT_URL and the network"):
        _ = open_data("s3://images/0.tar").all
    monkeypatch.setattr(remote, "servers", {})
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match="without credentials: set AWS_ACCESS_KEY_ID"):
        _ = open_data("s3://images/0.tar").all


@pytest.fixture
def old_bucket(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Packed shards in a bucket, opened by somebody."""
    write_packed(tmp_path / "bucket")
    environment = {"ENDPOINT_URL": server.url, "ACCESS_KEY_ID": "old", "SECRET_ACCESS_KEY": "x"}
    for name, value in {**environment, "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    source = open_data("s3://bucket").all
    assert contents(source) == contents(open_data(str(tmp_path / "bucket")).all)
    return source


def test_credentials_that_were_renewed_are_taken(
    old_bucket: Source, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch."""
    assert "Credential=old/" in server.signed[-1]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "new")
    server.fail = lambda number, path: "S3 ExpiredToken" if "=old/" in server.signed[number] else ""
    assert old_bucket.read_many(range(6)) == [bytes([i]) * (100 + i) for i in range(6)]
    assert "Credential=new/" in server.signed[-1]


@pytest.mark.parametrize(
    ("code", "said", "tries"),
    [
        ("ExpiredToken", "the credentials have expired .*: renew them, and run the same command again", PATIENT.tries),
        ("RequestTimeTooSkewed", "this machine's clock is wrong .*: set it, as by NTP", 1),
    ],
)
def test_what_a_bucket_refuses_to_everybody_ends_the_command(
    old_bucket: Source, server: Server, code: str, said: str, tries: int
) -> None:
    """No image of it is taken for a broken one."""
    before = len(server.requests)
    server.fail = lambda number, path: f"S3 {code}"
    with pytest.raises(UserError, match=said):
        old_bucket.read_many([0])
    assert len(server.requests) - before == tries


def test_a_folder_that_is_listed_otherwise_is_another_set(tmp_path: Path, server: Server) -> None:
    """A run that began with all of it does not go on with less: it looks at the fingerprint."""
    for name in ("0", "1"):
        write_tar(tmp_path / f"s/{name}.tar", numbered(4 * int(name), 4))
    first = open_data(f"{server.url}/s").all
    (tmp_path / "s/1.tar").rename(tmp_path / "s/hidden")
    second = open_data(f"{server.url}/s").all
    assert (len(first), len(second)) == (8, 4)
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("failure", "reason"),
    [("404", "no such file"), ("403", "answered 403"), ("no ranges", "does not give parts .*: download the shards")],
)
def test_answers_that_will_not_change_are_not_asked_for_again(
    tmp_path: Path, server: Server, failure: str, reason: str
) -> None:
    source = (write_packed(tmp_path), open_data(server.url).all)[1]
    before = len(server.requests)
    server.fail = lambda number, path: failure
    with pytest.raises((OSError, UserError), match=reason):
        source.read(0)
    assert len(server.requests) == before + 1


def test_server_without_ranges(tmp_path: Path, server: Server) -> None:
    write_tar(tmp_path / "0.tar", numbered(0, 4))
    write_packed(tmp_path / "packed")
    server.fail = lambda number, path: "no ranges"
    for data in ("0.tar", "packed"):
        with pytest.raises(UserError, match=r"does not give parts .*: download the shards and give their"):
            _ = open_data(f"{server.url}/{data}").all


def test_what_a_server_packs_though_asked_not_to_is_refused(tmp_path: Path, server: Server) -> None:
    write_tar(tmp_path / "0.tar", numbered(0, 4))
    source = open_data(f"{server.url}/0.tar").all
    server.fail = lambda number, path: "gzip"
    (found,) = source.read_many([0])
    assert isinstance(found, OSError)
    assert "packed (gzip), though it was asked not to" in str(found)
    with pytest.raises(UserError, match=r"packed \(gzip\)"):
        _ = open_data(f"{server.url}/0.tar?again").all


def test_a_server_sends_on_within_itself_and_not_into_this_machine(tmp_path: Path, server: Server) -> None:
    write_tar(tmp_path / "0.tar", numbered(0, 4))
    expected = contents(open_data(str(tmp_path)).all)
    server.fail = lambda number, path: "" if "there" in path else f"/0.tar?there={number}"
    assert contents(open_data(f"{server.url}/elsewhere.tar").all) == expected
    with serve(tmp_path) as other:
        for place, reason in (
            (f"{other.url}/0.tar", "that is in this machine"),
            (other.url.replace("127.0.0.1", "localhost") + "/0.tar", "that is in this machine"),
            ("http://169.254.169.254/latest/0.tar", "that is in this machine"),
            ("file:///etc/passwd", "that is no web address"),
            (f"{server.url}/0.tar", "sends on more than 10 times"),
        ):
            server.fail = lambda number, path, place=place: place  # type: ignore[misc]
            with pytest.raises(UserError, match=reason):
                _ = open_data(f"{server.url}/a.tar").all
        assert other.requests == []


@pytest.mark.parametrize(
    ("origin", "target", "reason"),
    [
        ("https://8.8.8.8/a", "https://1.1.1.1/a", ""),
        ("http://8.8.8.8/a", "https://1.1.1.1:8443/a", ""),
        ("https://8.8.8.8/a", "http://1.1.1.1/a", "that is not encrypted"),
        ("https://8.8.8.8/a", "https://10.0.0.1/a", "that is in a private network"),
        ("http://10.0.0.2/a", "http://10.0.0.1/a", ""),
        ("http://10.0.0.2/a", "http://[::ffff:127.0.0.1]/a", "that is in this machine"),
        ("http://8.8.8.8/a", "http://0/a", "that is in this machine"),
        ("http://8.8.8.8/a", "http://2130706433/a", "that is in this machine"),
        ("http://8.8.8.8/a", "http://8.8.8.8/b", ""),
    ],
)
def test_where_a_request_is_sent_on_to(origin: str, target: str, reason: str) -> None:
    assert asyncio.run(why_not(yarl.URL(origin), yarl.URL(target))) == reason


def test_a_listing_names_whatever_files_are_called(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    links = (
        '"it\'s.tar"',
        "'f&#39;g.tar'",
        "b.tar",
        '"/my%20data/c%5B1%5D.tar"',
        '"/my data/d.tar#x"',
        '"e&amp;f.tar?y"',
    )
    (folder / "index.html").write_text("".join(f"<a href={link}>here</a>" for link in links))
    for place in ("my data", "my%20data"):
        names = remote.list_folder(f"{server.url}/{place}", ".tar")
        expected = ["b.tar", "c[1].tar", "d.tar", "e&f.tar", "f'g.tar", "it's.tar"]
        assert sorted(unquote(name).rpartition("/")[2] for name in names) == expected


def test_shards_whose_changes_a_server_does_not_tell_are_listed_anew(tmp_path: Path, server: Server) -> None:
    """Others of the same size, as shards mostly are."""
    server.tells_versions = False
    file = tmp_path / "s/0.tar"
    for labels in (b"01", b"10"):
        write_tar(file, {"0.jpg": b"x", "0.cls": labels[:1], "1.jpg": b"x", "1.cls": labels[1:]})
        assert open_data(f"{server.url}/s/0.tar").all.labels.tolist() == [int(one) for one in labels.decode()]


def test_a_listing_names_files_of_its_own_folder_alone(tmp_path: Path, server: Server) -> None:
    (tmp_path / "a").mkdir()
    links = ("0.tar", "/a/1.tar?x=1", f"{server.url}/a/2.tar", "http://127.0.0.1:1/a/3.tar", "../4.tar", "b/5.tar")
    (tmp_path / "a/index.html").write_text("".join(f'<p><A class=x HREF="{link}">here</a>' for link in links))
    names = remote.list_folder(f"{server.url}/a", ".tar")
    assert names == [f"{server.url}/a/{number}.tar" for number in range(3)]


def test_remote_index_is_fetched_once(tmp_path: Path, server: Server, cache: Path) -> None:
    write_packed(tmp_path)
    _ = open_data(server.url).all
    first = server.requests.count("/index.npz")
    expected = contents(open_data(server.url).all)
    assert server.requests.count("/index.npz") == first > 0
    (kept,) = cache.glob("index-*")
    kept.write_bytes(b"")
    assert contents(open_data(server.url).all) == expected
    kept.unlink()
    arrays = tmp_path / "index.npz"
    arrays.write_bytes(arrays.read_bytes().replace(b"class0", b"class9"))  # as of another time than index.json
    with pytest.raises(UserError, match=r"is not the one that index\.json belongs to"):
        _ = open_data(server.url).all


def test_foreign_remote_shards_are_scanned_once(tmp_path: Path, server: Server) -> None:
    write_tar(tmp_path / "0.tar", numbered(0, 4))
    expected = contents(open_data(f"{server.url}/0.tar").all)
    before = len(server.requests)
    source = open_data(f"{server.url}/0.tar").all
    assert len(server.requests) - before == 3  # index.json, classes.txt, and the size and tag of the shard
    assert contents(source) == expected
    write_tar(tmp_path / "0.tar", numbered(0, 5))
    assert len(open_data(f"{server.url}/0.tar").all) == 5


def test_splits_of_remote_shards(tmp_path: Path, server: Server) -> None:
    for name, count in (("train", 4), ("val", 2), ("site2", 6)):
        write_tar(tmp_path / f"s/{name}/0.tar", numbered(0, count))
    for asked, taken, counts in (
        (None, "train/ for train, val/ for val", (4, 2)),
        ("train,site2", "train/ for train, site2/ for val", (4, 6)),
        ("none", "", (6, 6)),
    ):
        data = open_data(f"{server.url}/s", Selection(splits=asked))
        assert (data.taken, (len(data.train), len(data.val))) == (taken, counts)
        assert [note.what for note in data.notes] == ([f"Splits: {taken}"] if "site2" in taken else [])


def test_remote_shards_in_other_processes(tmp_path: Path, server: Server) -> None:
    write_packed(tmp_path)
    source = open_data(server.url).all
    expected = source.read_many([0, 5])  # makes connections, which a forked process must not use
    pickle.loads(pickle.dumps(source))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(methodcaller("read_many", [0, 5]), [source] * 4).get(timeout=120) == [expected] * 4


def test_remote_that_is_not_there(tmp_path: Path, server: Server) -> None:
    for data, reason in (
        (f"{server.url}/nothing", "has no index.json"),
        (f"{server.url}/{{0..1}}.tar", "no such file"),
        ("ftp://x/a.tar", "give http"),
        ("http://127.0.0.1:1/a.tar", "cannot be read"),
    ):
        with pytest.raises(UserError, match=reason):
            _ = open_data(data).all


def test_an_image_key_is_for_samples_that_others_made(tmp_path: Path) -> None:
    members = {f"{i}.{kind}.png": f"{i} {kind}".encode() for i in range(3) for kind in ("img", "mask")}
    foreign = write_tar(tmp_path / "foreign.tar", members)
    chosen = open_data(str(foreign), Selection(image_key="img.png")).all
    assert [data for _, data in contents(chosen)] == [b"0 img", b"1 img", b"2 img"]
    same = open_data(str(foreign), Selection(image_key=".jpg; .IMG.png")).all
    assert contents(same) == contents(chosen)
    with pytest.raises(UserError, match=r"`image_key=jpg` names no file of .*: .* \(they have img.png, mask.png\)"):
        _ = open_data(str(foreign), Selection(image_key="jpg")).all
    packed = write_packed(tmp_path / "packed")
    for data, said in (
        (packed, "was packed, with one image a sample"),
        (folder_of(tmp_path), "for tar shards and parquet, not"),
    ):
        with pytest.raises(UserError, match=f"`image_key`.*{said}"):
            _ = open_data(str(data), Selection(image_key="img.png")).all


def folder_of(place: Path) -> Path:
    (place / "images").mkdir()
    picture(0).save(place / "images/0.png")
    return place / "images"


def test_images_of_one_sample_are_never_divided(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(30):
        for kind in ("img", "mask"):
            members[f"{number:02d}.{kind}.png"] = f"{number} {kind}".encode()
        members[f"{number:02d}.cls"] = str(number % 3).encode()
    data = open_data(str(write_tar(tmp_path / "a.tar", members)), Selection(image_key=EVERY))
    for again in (data, open_data(str(tmp_path / "a.tar"), Selection(image_key=EVERY))):
        for task in ("classification", "regression"):
            _, train, val = split_for(again, task, 0)  # type: ignore[arg-type]
            keys = [{source.name(i)[:2] for i in range(len(source))} for source in (train, val)]
            assert not keys[0] & keys[1]
            assert (len(train), len(val)) == (48, 12)
    few = {name: data for name, data in members.items() if name[:2] in ("00", "01", "02")}
    with pytest.raises(UserError, match=r"class '0' .* lie in one group, so they cannot be both learnt and judged"):
        split_for(open_data(str(write_tar(tmp_path / "b.tar", few)), Selection(image_key=EVERY)), None, 0)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_are_the_files_that_they_stand_for(tmp_path: Path, kind: int) -> None:
    """As GNU tar packs two names of one file, and links where nobody says --dereference."""
    folder = "a-folder-whose-name-is-long/" * 4 if kind != tarfile.USTAR_FORMAT else "b/"
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        for name, content in (
            (f"{folder}1.png", b"one"),
            (f"{folder}1.cls", b"cat"),
            ("9.png", b"9"),
            ("9.cls", b"dog"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        links = {"2.png": f"{folder}1.png", "2.cls": f"./{folder}1.cls", f"{folder}3.png": "1.png", "4.png": "lost.png"}
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE if target == "1.png" else tarfile.LNKTYPE
            info.linkname = target
            tar.addfile(info)
    source = open_data(str(tmp_path / "a.tar")).all
    assert [(name.rpartition("/")[2], data) for name, data in contents(source)] == [
        ("1.png", b"one"),
        ("9.png", b"9"),
        ("2.png", b"one"),
        ("3.png", b"one"),
    ]
    assert isinstance(source, ShardSource)
    numbers = source.numbers
    assert numbers is not None
    assert (source.classes, numbers.tolist()) == (("cat", "dog"), [0, 1, 0, -1])
    assert source.notes[0].startswith("1 of 5 samples have no image and are left out (they have png)")
