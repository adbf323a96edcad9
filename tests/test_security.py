"""What SECURITY.md promises: nothing from outside runs or writes where it should not, and no secret is kept."""

import base64
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.table import Table

from openmae.console.terminal import make_console
from openmae.console.words import on_one_line
from openmae.data.opening import open_data
from openmae.data.sources import remote
from openmae.errors import BrokenImage, UserError
from openmae.recipes.evaluate.keep import folder_name
from openmae.report.page.run import write_report
from openmae.train.checkpoint import newest_checkpoint
from tests.commands import TINY, Run, pretrain, refused, words
from tests.images import encoded, picture
from tests.mutations import bounded
from tests.processes import run_openmae
from tests.runs import copy
from tests.servers import PATIENT, Server, serve

SECRETS = ("hunter2", "s3cr3t", "S1GN")


# ---------------------------------------------------------------- pickles


class Trap:
    """Leaves a mark wherever it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def pickles(trap: Trap) -> dict[str, bytes]:
    """The trap as pickle, torch and numpy write it."""
    whole, array, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"model": trap}, whole)
    np.save(array, np.array([trap] * 3, object), allow_pickle=True)
    np.savez(archive, images=np.array([trap] * 3, object), allow_pickle=np.array(True))
    return {
        "pickle": pickle.dumps(trap),
        "torch": whole.getvalue(),
        "npy": array.getvalue(),
        "npz": archive.getvalue(),
    }


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickles(Trap(tmp_path / "mark"))["pickle"])
    assert (tmp_path / "mark").is_dir()


@pytest.mark.parametrize("kind", ["pickle", "torch", "npy", "npz"])
def test_no_pickle_runs(finished: Path, data: Path, tmp_path: Path, kind: str, run: Run) -> None:
    mark = tmp_path / "mark"
    bad = pickles(Trap(mark))[kind]
    for name in ("a.pth", "a.pt", "a.bin", "a.ckpt", "a.safetensors"):
        (tmp_path / name).write_bytes(bad)
        refused(run("knn", tmp_path / name, data), str(tmp_path / name))
    for name in ("a.npy", "a.npz", "a.parquet", "a.tar", "a.csv"):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(UserError):
            _ = open_data(str(tmp_path / name)).all
    (tmp_path / "images").mkdir()
    for name in ("a.npy", "b.png", "c.dcm", "d.tif"):
        (tmp_path / "images" / name).write_bytes(bad)
    refused(run("stats", tmp_path / "images", "--workers", 0), "none of")
    other = copy(finished, tmp_path / "run")
    *older, newest = sorted((other / "checkpoints").glob("step-*"))
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"):
        shutil.rmtree(other / "checkpoints")
        copy(finished / "checkpoints", other / "checkpoints")
        for one in older:
            shutil.rmtree(one)
        (newest / name).write_bytes(bad)
        if name != "checksums.json":
            sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in newest.iterdir()}
            (newest / "checksums.json").write_text(json.dumps(sums))
        found, complaints = newest_checkpoint(other / "checkpoints")
        assert found is None
        assert len(complaints) == 1
    for name in ("results.json", "evaluations.json", "model.json", "environment.json", "config.toml"):
        before = (other / name).read_bytes() if (other / name).exists() else None
        (other / name).write_bytes(bad)
        refused(run("report", other), name)
        (other / name).unlink() if before is None else (other / name).write_bytes(before)
    out = tmp_path / "f.npy"
    (tmp_path / "f.csv").touch()
    about = {"encoder": "", "layer": 1, "pool": "mean", "precision": "fp32"}
    (tmp_path / "f.json").write_text(json.dumps(about))
    out.write_bytes(bad)
    refused(run("embed", finished, data, "--out", out, "--workers", 0), "another")
    assert not mark.exists()


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_sharded_checkpoints_of_torch_are_refused(data: Path, tmp_path: Path, name: str, run: Run) -> None:
    trap = Trap(tmp_path / "mark")
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / name).write_bytes(pickles(trap)["pickle"])
    refused(run("knn", folder, data), "is a sharded checkpoint of torch.distributed", "give a run folder")
    refused(run("finetune", folder, data, "--out", tmp_path / "r"), "is a sharded checkpoint")
    if name.endswith("distcp"):
        refused(run("knn", folder / name, data), "is a sharded checkpoint")
    assert not trap.mark.exists()


def test_nothing_in_the_package_unpickles_or_runs_words() -> None:
    """By the text of the source: torch.load (but of weights alone, in one place), pickle.load, allow_pickle=True,
    shells, eval."""
    forbidden = re.compile(
        r"torch\.load|pickle\.loads?\(|allow_pickle=True|os\.system|os\.popen|shell=True|(?<![\w.])(?:eval|exec)\("
        r"|import joblib|joblib\."
    )
    package = Path(__file__).parents[1] / "openmae"
    found = [
        f"{file.name}: {line.strip()}"
        for file in package.rglob("*.py")
        for line in file.read_text().splitlines()
        if forbidden.search(line)
    ]
    assert [line for line in found if "weights_only=True" not in line] == []
    assert len(found) == 1, found


# ---------------------------------------------------------------- archives and names


def crafted_tar(file: Path) -> None:
    """Members with names that lead elsewhere, links, a device and a pipe, among images."""
    with tarfile.open(file, "w") as archive:
        for name in ("../../escape.png", "/tmp/openmae-escape.png", "a/../../b.png", "..png", "c.png", "d.png"):
            data = encoded(picture(len(name)), "PNG")
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("zero.png", tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.devmajor, entry.devminor = kind, "../../../etc/passwd", 1, 5
            archive.addfile(entry)
        entry = tarfile.TarInfo("pipe.png")
        entry.type = tarfile.FIFOTYPE
        archive.addfile(entry)


def below(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def test_a_crafted_archive_writes_nothing_outside_its_folder(finished: Path, tmp_path: Path, run: Run) -> None:
    place = tmp_path / "a/b/c"
    place.mkdir(parents=True)
    crafted_tar(place / "in.tar")
    source = open_data(str(place / "in.tar")).all
    assert len(source) == 5  # `..png` is hidden, and links and devices are no images
    assert all(isinstance(data, bytes) for data in source.read_many(range(5)))
    before = below(tmp_path)
    assert run("pack", place / "in.tar", place / "out", "--workers", 0)[0] == 0
    assert run("embed", finished, place / "in.tar", "--out", place / "f.npy", "--duplicates", "--workers", 0)[0] == 0
    assert run("check", place / "in.tar", "--out", place / "check.csv", "--workers", 0)[0] in (0, 1, 2)
    new = below(tmp_path) - before
    ours = re.compile(r"a/b/c/(out(/.*)?|f\.(npy|csv|json)|f-duplicates\.(csv|png)|check\.csv)")
    assert all(ours.fullmatch(name) for name in new), new
    assert not Path("/tmp/openmae-escape.png").exists()
    with tarfile.open(place / "out/0000.tar") as archive:
        assert all(re.fullmatch(r"\d{9}\.png", member.name) for member in archive.getmembers())


def test_results_of_data_with_a_strange_name_stay_in_the_run(tmp_path: Path) -> None:
    for name in ("../../x", "/", "..", "a/..", "https://h/..?x=/../..", "-rf", ".", "\0", "x" * 500, "CON/"):
        folder = folder_name(name)
        assert re.fullmatch(r"[\w.][\w.-]*", folder, re.ASCII)
        assert len(folder) < 60
        assert (tmp_path / folder).resolve().parent == tmp_path


def test_pictures_of_a_report_come_from_its_run(finished: Path, tmp_path: Path) -> None:
    run = copy(finished, tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(encoded(picture(1), "PNG"))
    (run / "link.png").symlink_to(tmp_path / "secret.png")
    names = ("../secret.png", str(tmp_path / "secret.png"), "link.png", "results/../../secret.png")
    results = {name: {"clean": {"images": 1, "pictures": {"scatter": name}}} for name in names}
    (run / "results.json").write_text(json.dumps(results))
    page = write_report(run).read_bytes()
    assert base64.b64encode((tmp_path / "secret.png").read_bytes()) not in page


def test_an_index_that_leads_out_of_its_folder_is_refused(shards: Path, tmp_path: Path, run: Run) -> None:
    copy(shards, tmp_path / "s")
    for url in ("../0000.tar", "/etc/passwd", "a/../../b.tar", "https://elsewhere/0000.tar"):
        described = json.loads((tmp_path / "s/index.json").read_bytes())
        described["shardlist"][0]["url"] = url
        (tmp_path / "s/index.json").write_text(json.dumps(described))
        refused(run("stats", tmp_path / "s", "--workers", 0), "lies outside of its folder")


@pytest.mark.parametrize("size", [b"size=-1536", b"size=-1", b"size=%d" % 2**70])
def test_a_header_that_leads_back_to_itself_ends_the_reading(tmp_path: Path, size: bytes) -> None:
    record = b"%d %b\n" % (len(size) + 4, size)
    header, entry = tarfile.TarInfo("pax"), tarfile.TarInfo("a.png")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    (tmp_path / "a.tar").write_bytes(header.tobuf() + record.ljust(512, b"\0") + entry.tobuf() + bytes(2048))
    with bounded(), pytest.raises(UserError, match=r"a file of .* bytes at byte"):
        _ = open_data(str(tmp_path / "a.tar")).all


def test_an_image_of_gigabytes_in_a_shard_is_not_read(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("big.png")
    entry.size = 3 << 30
    (tmp_path / "a.tar").write_bytes(entry.tobuf())
    os.truncate(tmp_path / "a.tar", 512 + entry.size + 1024)  # a sparse file
    (found,) = open_data(str(tmp_path / "a.tar")).all.read_many([0])
    assert isinstance(found, BrokenImage)
    assert "more than an image has" in str(found)


# ---------------------------------------------------------------- secrets


@pytest.fixture
def www(shards: Path, tmp_path: Path) -> Path:
    """What a server has: shards without an index, as others' are."""
    own = copy(shards, tmp_path / "www/shards")
    for name in ("index.json", "index.npz"):
        (own / name).unlink()
    return tmp_path / "www"


def with_secrets(server: Server) -> str:
    return server.url.replace("://", "://ann:hunter2@") + "/shards/{0000..0000}.tar?token=s3cr3t&X-Amz-Signature=S1GN"


def assert_without_secrets(run: Path, *texts: str) -> None:
    for file in run.rglob("*"):
        for secret in SECRETS if file.is_file() else ():
            assert secret.encode() not in file.read_bytes(), f"{file} tells a secret"
    for text in texts:
        assert not any(secret in text for secret in SECRETS), text


def test_no_secret_is_kept_or_printed(www: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    monkeypatch.setattr(remote, "PATIENCE", PATIENT)
    with serve(www) as server:
        url = with_secrets(server)
        words = pretrain(url, runs / "first")
        monkeypatch.setattr(sys, "argv", ["openmae", *map(str, words)])  # what environment.json keeps
        first = run(*words, "--epochs", 2)
        assert first[0] == 0, first
        assert any("token=s3cr3t" in request for request in server.requests)  # the server was asked with them
        again = run(*words, "--epochs", 2)
        assert "is complete" in again[1]
        resumed = run("pretrain", "--resume", "--out", runs / "first", "--workers", 0)
        assert resumed[0] == 0  # this process still knows them
        embedded = run("embed", runs / "first", url, "--out", runs / "f.npy", "--workers", 0)
        assert embedded[0] == 0, embedded
        known = run("knn", runs / "first", url, "--workers", 0)
        stats = run("stats", url, "--out", runs / "stats.toml", "--workers", 0)
        assert stats[0] == 0, stats
        gone = run("stats", url.replace("/shards/", "/none/"), "--workers", 0)
        refused(gone, "***@", "token=***")
        server.fail = lambda number, path: "403"
        denied = run("stats", url, "--workers", 0)
        refused(denied, "***@", "token=***")
    down = run("stats", url.replace("/shards/", "/down/"), "--workers", 0)
    refused(down, "***@")  # of the index beside the shards, which has no token, unless a kept connection answers
    config = (runs / "first/config.toml").read_text()
    assert "***@" in config
    assert "token=***&X-Amz-Signature=***" in config
    said = [
        text for result in (first, again, resumed, embedded, known, stats, gone, denied, down) for text in result[1:]
    ]
    assert_without_secrets(runs, *said)
    assert_without_secrets(Path(os.environ["XDG_CACHE_HOME"]))


def test_resuming_needs_the_secrets_again(www: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with serve(www) as server:
        url = with_secrets(server)
        assert run(*pretrain(url, out, "--epochs 2"))[0] == 0
        resume = words("pretrain --resume --workers 0 --out", out)
        other = run_openmae(resume)  # another process, which has not heard of them
        refused((other.returncode, other.stdout, other.stderr), "give DATA again")
        other = run_openmae([*resume, url.replace("S1GN", "other")])
        assert other.returncode == 0
        assert "is complete" in other.stdout


def test_a_config_file_may_hold_secrets_that_are_not_copied(www: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    with serve(www) as server:
        (tmp_path / "my.toml").write_text(f'data = "{with_secrets(server)}"\nepochs = 2\n')
        result = run("pretrain", "--config", tmp_path / "my.toml", "--out", out, *TINY, "--workers", 0)
    assert result[0] == 0, result
    assert_without_secrets(out, *result[1:])


def test_remembered_secrets_reach_a_process_that_is_spawned(www: Path, tmp_path: Path) -> None:
    with serve(www) as server:
        (tmp_path / "source").write_bytes(pickle.dumps(open_data(with_secrets(server)).all))
        read = "import pickle, sys; print(len(pickle.load(open(sys.argv[1], 'rb')).read(0)))"
        assert int(run_openmae([str(tmp_path / "source")], code=read).stdout) > 100


ESCAPES = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp"


def test_names_send_a_terminal_no_commands(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither what is printed nor a complaint, nor the list of broken files, on a terminal or not."""
    (tmp_path / ESCAPES).mkdir()
    (tmp_path / ESCAPES / f"{ESCAPES}.png").write_bytes(b"none")
    for word in ("stats", "check"):
        _, output, errors = run(word, tmp_path / ESCAPES)
        assert "\\x1b]0;owned" in output + errors
        assert not set("\x1b\x07\x9b\u202e") & set(output + errors)
    assert on_one_line(f"{ESCAPES}\r\n\t\udcff") == "a\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202egnp \\udcff"
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = make_console()
    console.print(ESCAPES, style="red")
    table = Table(ESCAPES)
    table.add_row(ESCAPES)
    console.print(table)
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)  # rich's own colours
    assert shown.count("\\x1b]0;owned") == 3
    assert not set("\x1b\x07\x9b\u202e") & set(shown)
