"""Files from anywhere, damaged at random and by malice: they are read, refused in one sentence, or seen to be damaged;
never another error, never a hang, never much memory. `make test-slow` tries thousands of each."""

import contextlib
import hashlib
import io
import json
import random
import shutil
import struct
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tomli_w
import torch
from rich.console import Console

from openmae.cli import main
from openmae.data.annotated import open_annotated
from openmae.data.held_out import split_for
from openmae.data.opening import open_data
from openmae.data.tasks import answers, task_of
from openmae.errors import BrokenImage, UserError
from openmae.machine.device import choose_device
from openmae.recipes.finetune import job as finetune
from openmae.recipes.pretrain import job as pretrain
from openmae.recipes.training.kind import JobKind
from openmae.report.page.run import write_report
from openmae.train.learner import Learner
from openmae.train.loop import resume
from openmae.train.optimizers import adamw
from openmae.train.run import RunFolder
from openmae.weights import load_model
from tests.data import annotated
from tests.images import picture
from tests.mutations import damaged, tried, with_wrong_values, wrong_lines, wrong_values
from tests.runs import copy
from tests.train.tasks import no_loss

pytestmark = pytest.mark.filterwarnings("ignore")  # of a value that overflows in a file made to do so

FEW, MANY = range(12), range(1_000_000, 1_001_000)
SEEDS = [
    pytest.param(FEW, id="few"),
    pytest.param(MANY, id="many", marks=pytest.mark.slow),
]
KINDS = ("csv", "table.parquet", "images.parquet", "npy", "npz", "tar", "index.json", "index.npz")


# ---------------------------------------------------------------- weights and checkpoints


def wrong_header(draws: random.Random, data: bytes, inner: bool) -> bytes:
    """A safetensors file whose header is well-formed and wrong: its own entries, or the model.json inside it."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if inner:
        info = with_wrong_values(draws, json.loads(header["__metadata__"]["openmae"]))
        header["__metadata__"]["openmae"] = json.dumps(info)
    else:
        header = with_wrong_values(draws, header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", ["bytes", "header", "model"])
def test_weights(finished: Path, classes: Path, tmp_path: Path, kind: str, seeds: range) -> None:
    originals = [(run / "model.safetensors").read_bytes() for run in (finished, classes)]

    def case(draws: random.Random) -> bool:
        whole = draws.choice(originals)
        data = damaged(draws, whole) if kind == "bytes" else wrong_header(draws, whole, inner=kind == "model")
        (tmp_path / "model.safetensors").write_bytes(data)
        loaded = load_model(tmp_path / "model.safetensors")
        if loaded.encoder.positions.shape[0] <= 4096:
            loaded.encoder(torch.zeros(1, loaded.encoder.in_chans, *loaded.encoder.img_size))
        return True

    tried(seeds, case)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("crafted", [False, True])
def test_checkpoints(finished: Path, tmp_path: Path, crafted: bool, seeds: range) -> None:
    """crafted: the checksums are right, so whoever wrote it knew how."""
    *_, original = sorted((finished / "checkpoints").glob("step-*"))
    whole = {file.name: file.read_bytes() for file in original.iterdir()}

    def case(draws: random.Random) -> bool:
        name = draws.choice(sorted(whole))
        data = whole[name]
        if name.endswith("json") and draws.random() < 0.7:
            changed = wrong_values(draws, data)
        elif name.endswith("safetensors") and draws.random() < 0.5:
            changed = wrong_header(draws, data, inner=False)
        else:
            changed = damaged(draws, data)
        files = {**whole, name: changed}
        if crafted and name != "checksums.json":
            digests = {name: hashlib.sha256(files[name]).hexdigest() for name in files if name != "checksums.json"}
            files["checksums.json"] = json.dumps(digests).encode()
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        folder = tmp_path / "run/checkpoints" / original.name
        folder.mkdir(parents=True)
        (tmp_path / "run/config.toml").touch()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        model = load_model(finished).autoencoder
        learner = Learner(model, no_loss)
        with RunFolder(tmp_path / "run") as run:
            position = resume(learner, adamw(model, (0.9, 0.95), 0.05), run, Console(quiet=True))
        assert crafted or changed == data or name == "checksums.json", "the damage was not seen"
        assert position.step > 0
        return True

    tried(seeds, case)


# ---------------------------------------------------------------- config files


@contextmanager
def checked(kind: JobKind[Any, Any, Any, Any], settings: Any, console: Console) -> Iterator[SimpleNamespace]:
    """A run whose settings are checked and whose images are not opened."""
    choose_device(settings.device)
    yield SimpleNamespace(training=None, job=SimpleNamespace(figures={}))


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_config_files(
    finished: Path,
    classes: Path,
    tmp_path: Path,
    command: str,
    seeds: range,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for job in (pretrain, finetune):
        monkeypatch.setattr(job, "begun", checked)
        monkeypatch.setattr(job, "fit", lambda training: None)
    text = ((finished if command == "pretrain" else classes) / "config.toml").read_bytes()

    def case(draws: random.Random) -> bool:
        changed = text
        if draws.random() < 0.6:
            try:
                changed = tomli_w.dumps(with_wrong_values(draws, tomllib.loads(text.decode()))).encode()
            except (TypeError, ValueError, AttributeError, RecursionError):  # what TOML cannot say
                changed = damaged(draws, text)
        else:
            changed = damaged(draws, text)
        (tmp_path / "a.toml").write_bytes(changed)
        code = main([command, "--config", str(tmp_path / "a.toml"), "--out", str(tmp_path / "run")])
        errors = capsys.readouterr().err
        assert code in (0, 2)
        assert errors.count("\n") == (code == 2), errors
        return code == 0

    tried(seeds, case)


# ---------------------------------------------------------------- what reports are made of

SWEEP = {
    blocks: {"figures": {"top1": 0.5, "loss": 1.5}, "parameters": 100, "seconds": 3.5} for blocks in ("0", "0.5", "all")
}
REPORTED = (
    "metrics.jsonl",
    "evaluations.json",
    "results.json",
    "model.json",
    "environment.json",
    "config.toml",
    "sweep.json",
    "broken.txt",
    "picture.png",
)


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("name", REPORTED)
def test_reports(evaluated: Path, classes: Path, tmp_path: Path, name: str, seeds: range) -> None:
    run = tmp_path / "run"
    run.mkdir()
    place = run / ("pictures/step-00000001.png" if name == "picture.png" else name)
    place.parent.mkdir(exist_ok=True)
    if name == "metrics.jsonl":
        seeds = seeds[: len(seeds) // 4]  # seven figures are drawn of each
    if name != "sweep.json":
        (run / "config.toml").write_bytes((classes / "config.toml").read_bytes())
    made = {
        "sweep.json": json.dumps(SWEEP).encode(),
        "broken.txt": b"a.png\tit is cut off\nb.png\tthe file is empty\n",
        "evaluations.json": (evaluated / "evaluations.json").read_bytes(),
    }
    if name == "picture.png":
        data = next((evaluated / "pictures").glob("*.png")).read_bytes()
    else:
        data = made.get(name) or (classes / name).read_bytes()
    change = {".json": wrong_values, ".jsonl": wrong_lines}.get(place.suffix, damaged)

    def case(draws: random.Random) -> bool:
        changed = (change if draws.random() < 0.7 else damaged)(draws, data)
        place.write_bytes(changed)
        write_report(run)
        return True

    tried(seeds, case)


# ---------------------------------------------------------------- tables, arrays, archives


def read_all(data: str) -> None:
    """What commands do with DATA before they use an image's pixels. Raises UserError."""
    opened = open_data(data)
    source = opened.all
    count = len(source)
    found = source.read_many(range(min(count, 8)))
    assert all(isinstance(one, bytes | OSError | BrokenImage) for one in found)
    _ = source.fingerprint, source.name(0), source.name(count - 1)
    with contextlib.suppress(UserError):  # labels are not needed
        answers(source, task_of(source))
        split_for(opened, None, 0)


def encoded_arrays(folder: Path) -> Iterator[tuple[str, Callable[[random.Random], bytes]]]:
    """Of each kind of file, how a damaged one is made."""
    photos = [np.asarray(picture(number)) for number in range(12)]
    files = []
    for number in range(12):
        file = io.BytesIO()
        picture(number).save(file, "PNG")
        files.append(file.getvalue())
        (folder / f"{number}.png").write_bytes(file.getvalue())
    labels = ["cat", "dog", "cow"] * 4
    rows = "".join(f"{number}.png,{label},{'val' if number > 7 else 'train'}\n" for number, label in enumerate(labels))
    yield "csv", lambda draws: damaged(draws, f"path,label,split\n{rows}".encode())

    def parquet(columns: dict[str, list[Any]]) -> bytes:
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        return file.getvalue()

    def wrong_parquet(draws: random.Random, columns: dict[str, list[Any]]) -> bytes:
        if draws.random() < 0.6:
            return damaged(draws, parquet(columns))
        try:  # columns of other types than are looked for
            return parquet(with_wrong_values(draws, columns))
        except (
            pyarrow.ArrowException,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
        ):  # pyarrow cannot hold that
            return damaged(draws, parquet(columns))

    table: dict[str, list[Any]] = {"path": [f"{number}.png" for number in range(12)], "label": labels}
    yield "table.parquet", lambda draws: wrong_parquet(draws, table)
    images: dict[str, list[Any]] = {
        "image": [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(files)],
        "label": labels,
    }
    yield "images.parquet", lambda draws: wrong_parquet(draws, images)
    yield "npy", lambda draws: wrong_npy(draws, np.stack(photos))
    arrays = {"images": np.stack(photos), "labels": np.arange(12) % 3}
    yield "npz", lambda draws: wrong_npz(draws, arrays)


def wrong_npy(draws: random.Random, array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """An array's file with its bytes damaged, or its header written anew with something else in it."""
    file = io.BytesIO()
    np.save(file, array)
    data = file.getvalue()
    if draws.random() < 0.4:
        return damaged(draws, data)
    length = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + length]
    if draws.random() < 0.5:
        shape = draws.choice(
            ("(9,)", "()", "(-1, 4, 4)", "(0, 4, 4)", f"({2**62}, 4, 4)", f"({10**30}, 9, 9)", "[9, 4]")
        )
        kind = draws.choice(("|u1", "<f8", "|O", "<U5", "|V8", "<M8[s]", "", "()", "<c16", ">u2", "|b1", "<U0"))
        header = f"{{'descr': {kind!r}, 'fortran_order': {draws.choice((True, False, 5))}, 'shape': {shape}}}".encode()
    elif draws.random() < 0.2:
        header = draws.choice(
            (b"-" * 9000 + b"1", b"(" * 9000, b"{" * 100, b"'" * 5000, b"{1: 2, 'a': 3}", b"1L", b"\\")
        )
    else:
        header = damaged(draws, header)
    version = draws.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0"))
    size = len(header).to_bytes(2 if version == b"\1\0" else 4, "little") if len(header) < 2**16 else b"\xff\xff"
    return b"\x93NUMPY" + version + size + header + data[10 + length :]


def wrong_npz(draws: random.Random, arrays: dict[str, np.ndarray]) -> bytes:  # type: ignore[type-arg]
    """An archive with its bytes damaged, or a whole one whose members are, or with another name or array."""
    file = io.BytesIO()
    if draws.random() < 0.4:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return damaged(draws, file.getvalue())
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    wrong = draws.choice(list(arrays))
    others = (
        np.zeros(()),
        np.zeros((12, 0)),
        np.array([None] * 12),
        np.array(["\udfff"] * 12),
        np.zeros((12, 2)),
        "abc",
    )
    with zipfile.ZipFile(file, "w", draws.choice(kinds)) as archive:
        for name, array in arrays.items():
            if name == wrong and draws.random() < 0.3:
                inner = io.BytesIO()
                np.save(inner, draws.choice(others))  # type: ignore[arg-type]
                archive.writestr(f"{name}.npy", inner.getvalue())
            elif name == wrong:
                called = draws.choice((name, name, f"train_{name}", "../x", "-"))
                archive.writestr(f"{called}{draws.choice(('.npy', '.npy', ''))}", wrong_npy(draws, array))
            else:
                inner = io.BytesIO()
                np.save(inner, array)
                archive.writestr(f"{name}.npy", inner.getvalue())
    return file.getvalue() if draws.random() < 0.8 else damaged(draws, file.getvalue())


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_tables(shards: Path, tmp_path: Path, kind: str, seeds: range) -> None:
    if kind in ("tar", "index.json", "index.npz"):
        file = copy(shards, tmp_path / "shards") / ("0000.tar" if kind == "tar" else kind)
        whole = file.read_bytes()
        place = file if kind == "tar" else file.parent
        if kind == "tar":  # without the index, its headers are read
            (file.parent / "index.json").unlink()
        make: Callable[[random.Random], bytes] = {
            "tar": lambda draws: wrong_tar(draws, whole),
            "index.json": lambda draws: (wrong_values if draws.random() < 0.7 else damaged)(draws, whole),
            "index.npz": lambda draws: wrong_index(draws, whole),
        }[kind]
    else:
        place = file = tmp_path / f"a.{kind.rpartition('.')[2]}"
        make = dict(encoded_arrays(tmp_path))[kind]

    def case(draws: random.Random) -> bool:
        data = make(draws)
        file.write_bytes(data)
        if kind == "index.npz":  # which index.json knows the size of
            described = json.loads((place / "index.json").read_bytes())
            described["index"]["filesize"] = len(data)
            (place / "index.json").write_text(json.dumps(described))
        read_all(str(place))
        return True

    tried(seeds, case)


def wrong_tar(draws: random.Random, data: bytes) -> bytes:
    """A tar file with its bytes damaged; with headers whose checksums fit their damage; with a pax header added."""
    changed = bytearray(damaged(draws, data) if draws.random() < 0.4 else data)
    if draws.random() < 0.5:
        records = (
            b"size=-512",
            b"size=-1536",
            b"size=%d" % 2**70,
            b"size=x",
            b"path=../../x.png",
            b"path=\0",
            b"=",
            b"",
        )
        record = draws.choice(records)
        text = b"%d %b\n" % (len(record) + 3 + (len(record) > 6), record)
        header = bytearray(data[:512])
        header[124:136] = b"%011o\0" % draws.choice((len(text), len(text), 0, 2**20, 1))
        header[156:157] = draws.choice((b"x", b"x", b"L", b"K", b"g"))
        at = draws.choice((0, 0, 512, 1024))
        changed[at:at] = with_checksum(header) + text + bytes(-len(text) % 512)
    for at in range(0, len(changed) - 512, 512):
        if draws.random() < 0.05:
            header = changed[at : at + 512]
            header[124:136] = draws.choice(
                (b"%011o\0" % draws.randrange(2**33), b"\x80" + draws.randbytes(11), b"-0000000001\0")
            )
            header[156:157] = draws.choice((b"0", b"1", b"2", b"3", b"5", b"x", b"L", b"\0"))
            changed[at : at + 512] = with_checksum(header)
    return bytes(changed)


def with_checksum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def wrong_index(draws: random.Random, data: bytes) -> bytes:
    """An index whose bytes are damaged; or with an array that says something else, and the right checksums."""
    if draws.random() < 0.4:
        return damaged(draws, data)
    with np.load(io.BytesIO(data)) as stored:
        arrays = dict(stored)
    name = draws.choice(list(arrays))
    array = arrays[name].copy()
    kind = draws.randrange(5)
    if kind == 0:
        array.reshape(-1)[draws.randrange(array.size)] = draws.choice((0, 1, 255, np.iinfo(array.dtype).max))
    elif kind == 1 and array.dtype.kind == "i":
        array.reshape(-1)[draws.randrange(array.size)] = draws.choice((-1, -5, np.iinfo(array.dtype).min))
    elif kind == 2:
        array = array[: draws.randrange(array.size)]
    elif kind == 3:
        array = array.astype(draws.choice(("float64", "uint8", "U3", "bool", "complex64")))
    else:
        array = array.reshape(-1, 1) if draws.random() < 0.5 else array.reshape(-1)[0]
    file = io.BytesIO()
    np.savez(file, **{**arrays, name: array})  # type: ignore[arg-type]
    return file.getvalue()


# ---------------------------------------------------------------- annotations

ANNOTATED = {
    "coco": (annotated.coco_by_split, "annotations/instances_train.json"),
    "run lengths": (annotated.coco_one_file, "labels.json"),
    "yolo": (annotated.yolo_polygons, "labels/train/0.txt"),
    "yaml": (annotated.yolo_polygons, "data.yaml"),
    "xml": (annotated.voc, "Annotations/train_0.xml"),
    "classes": (annotated.semantic_colours, "classes.csv"),
    "png": (annotated.semantic_palette, "train/masks/0.png"),
    "tiff": (annotated.numbered_tiff, "labels/train/0.tif"),
}


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("kind", ANNOTATED)
def test_annotations(tmp_path: Path, kind: str, seeds: range) -> None:
    write, name = ANNOTATED[kind]
    write(tmp_path)
    file = tmp_path / name
    whole = file.read_bytes()

    def case(draws: random.Random) -> bool:
        is_json = file.suffix == ".json" and draws.random() < 0.8
        file.write_bytes(wrong_values(draws, whole) if is_json else damaged(draws, whole))
        opened = open_annotated(str(tmp_path), None)
        right = opened.all.right
        for index in range(len(right)):
            with contextlib.suppress(BrokenImage, OSError):
                size = right.own_size(index) or (60, 80)
                _ = right.mask(index, size) if right.kind == "classes" else right.objects(index, size)
        return True

    tried(seeds, case)
