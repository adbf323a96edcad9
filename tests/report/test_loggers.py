"""Loggers, with the libraries that they are for: what each has of a run that was killed and went on, read back by its
own means; and libraries that are broken."""

import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmae.files.parsing import read_toml
from openmae.files.whole import write_file
from openmae.report.loggers import following
from openmae.report.loggers import tensorboard as events
from openmae.report.loggers.lines import Lines, figures_of
from openmae.report.loggers.logger import PACKAGES, LoggedRun
from openmae.report.loggers.sent import Sent, is_free
from openmae.report.loggers.table import final_rows
from openmae.train.run import read_metrics
from tests.commands import Run, pretrain, refused
from tests.processes import run_openmae
from tests.runs import Runs, copy

KILLED_AT = 5
PATIENT = """
import os, signal, sys, time
from pathlib import Path
from openmae.cli import main
from openmae.report.loggers import following
from openmae.report.loggers.sent import Sent
from openmae.train.run import RunFolder

following.READY_SECONDS = following.LAST_SECONDS = 300  # the machine may be slow
killed_at, out = int(sys.argv[1]), Path(sys.argv[2])
log, end = RunFolder.log, following.Followers.end

def logged(self, line):
    log(self, line)
    if line["step"] == killed_at:  # with nothing saved of this step, and all of it sent
        while any(Sent.read(out, name).step < killed_at for name in following.PACKAGES):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

def ended(self, how, seconds):
    for follower in self._followers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a terminal, a scheduler
            os.kill(follower.process.pid, number)
    return end(self, how, seconds)

RunFolder.log, following.Followers.end = logged, ended
sys.exit(main(sys.argv[3:]))
"""
FIGURES = {"loss", "lr", "dropped", "eval/knn_top1", "rankme"}


@pytest.fixture(scope="module")
def place(runs: Runs) -> Path:
    """A folder in which a run, `xray`, was trained under all loggers, killed after 5 of its 9 steps and gone on with.
    Made once like those of tests/runs.py, but where it stays: the stores of loggers name their own place."""
    there = runs.folder / "logged"

    def make(out: Path) -> None:
        _train(runs.data(), there)
        out.mkdir()

    runs.once("logged-once", make)
    return there


@pytest.fixture(scope="module")
def xray(place: Path) -> Path:
    return place / "xray"


def _train(data: Path, place: Path) -> None:
    place.mkdir()
    out = place / "xray"
    words = pretrain(
        data,
        out,
        "--epochs 2 --checkpoint-minutes 0 --pictures 2 --evaluations 2 --log tensorboard,wandb,mlflow,trackio",
    )
    environment = _environment(place)
    done = run_openmae([str(KILLED_AT), str(out), *words], environment=environment, code=PATIENT)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    done = run_openmae(["0", str(out), *words], environment=environment, code=PATIENT)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout.replace("warning: 36 images", ""), done.stdout
    (uploaded,) = (out / "logged/wandb").glob("offline-run-*")
    for where in (
        f"tensorboard: tensorboard --logdir {place}",
        f"wandb: wandb sync {uploaded}, which uploads it",
        f"mlflow: mlflow ui --backend-store-uri sqlite:///{place}/mlflow.db",
        "trackio: trackio show --project openmae",
    ):
        assert done.stdout.count(f"Logged to {where}\n") == 1, done.stdout


def _environment(place: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))},
        "WANDB_MODE": "offline",
        "WANDB_CONFIG_DIR": str(place / "config"),
        "WANDB_CACHE_DIR": str(place / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(place / "mlruns"),
        "TRACKIO_DIR": str(place / "trackio"),
        "HOME": str(place),
    }


def curves(run: Path) -> dict[str, dict[int, float]]:
    """Every figure of metrics.jsonl by its step."""
    found: dict[str, dict[int, float]] = {}
    for line in read_metrics(run):
        for name, value in figures_of(line).items():
            found.setdefault(name, {})[line["step"]] = value
    return found


def same(found: Mapping[str, list[tuple[int, float]]], run: Path) -> None:
    """Each curve is there, without a step that is doubled. What is measured of steps that were taken anew, speed, is
    that of the first time."""
    for name, curve in curves(run).items():
        assert Counter(step for step, _ in found[name]) == Counter(curve.keys()), name
        if name not in ("images_per_second", "data_wait"):
            assert dict(found[name]) == pytest.approx(curve, rel=1e-6), name


# ---------------------------------------------------------------- each logger has it all, once


def test_tensorboard_has_the_run(xray: Path) -> None:
    assert set(curves(xray)) >= FIGURES
    found = _events(xray)
    same({name: [(event.step, event.value) for event in found.Scalars(name)] for name in curves(xray)}, xray)
    assert [event.step for event in found.Images("reconstructions")] == [4, 9]
    pictures = [event.encoded_image_string for event in found.Images("reconstructions")]
    assert pictures == [file.read_bytes() for file in sorted(xray.glob("pictures/*.png"))]
    asked, link, results = (_text(found, name) for name in ("settings", "run folder", "results"))
    for name, value in read_toml((xray / "config.toml").read_text()).items():
        assert f"| {name} | {value} |" in asked
    assert xray.resolve().as_uri() in link
    assert f"| training | loss | {read_metrics(xray)[-1]['loss']:.6g} |" in results


def _events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


def _text(found: Any, name: str) -> str:
    (event,) = found.Tensors(name)
    return str(event.tensor_proto.string_val[0].decode())


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_mlflow_has_the_run(place: Path, xray: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name == "openmae"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("xray", "FINISHED")
    history = {name: client.get_metric_history(found.info.run_id, name) for name in curves(xray)}
    same({name: [(metric.step, metric.value) for metric in metrics] for name, metrics in history.items()}, xray)
    config = read_toml((xray / "config.toml").read_text())
    assert found.data.params == {name: str(value) for name, value in config.items()}
    assert found.data.tags["run_folder"] == str(xray.resolve())
    files = Path(found.info.artifact_uri)
    assert (files / "config.toml").read_bytes() == (xray / "config.toml").read_bytes()
    for picture in xray.glob("pictures/*.png"):
        assert (files / "reconstructions" / picture.name).read_bytes() == picture.read_bytes()
    table = json.loads((files / "results.json").read_text())
    assert ["training", "loss", read_metrics(xray)[-1]["loss"]] in table["data"]


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_wandb_has_the_run(xray: Path) -> None:
    (folder,) = xray.glob("logged/wandb/offline-run-*")  # the first start's is replaced by a whole one
    records = list(_wandb_records(next(folder.glob("*.wandb"))))
    (run,) = [record.run for record in records if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config.items() >= read_toml((xray / "config.toml").read_text()).items()
    assert config["run_folder"] == str(xray.resolve())
    assert (run.project, run.display_name, run.run_group) == ("openmae", "xray", "logged")
    history: dict[str, list[tuple[int, Any]]] = {}
    for record in records:
        if record.HasField("history"):
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                history.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    same({name: [(step, value) for step, value in history[name] if value is not None] for name in curves(xray)}, xray)
    assert [step for step, _ in history["reconstructions/path"]] == [4, 9]
    for step, path in history["reconstructions/path"]:
        assert (folder / "files" / path).read_bytes() == (xray / f"pictures/step-{step:08d}.png").read_bytes()
    ((_, path),) = history["results/path"]
    rows = json.loads((folder / "files" / path).read_text())["data"]
    assert ["training", "loss", read_metrics(xray)[-1]["loss"]] in rows


def _wandb_records(file: Path) -> Iterator[Any]:
    """Those of a .wandb file: LevelDB's log format (blocks of 32 KiB; checksum, length, kind before each piece)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, whole, at = file.read_bytes(), b"", 7  # after the file's header
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or last
            yield Record.FromString(whole)
            whole = b""


def test_trackio_has_the_run(place: Path, xray: Path) -> None:
    with sqlite3.connect(place / "trackio" / "openmae.db") as database:
        lines = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
        ((config,),) = database.execute("SELECT config FROM configs").fetchall()
    assert {name for name, _, _ in lines} == {"xray"}
    found: dict[str, list[tuple[int, Any]]] = {}
    for _, step, metrics in lines:
        for name, value in json.loads(metrics).items():
            found.setdefault(name, []).append((step, value))
    same(found, xray)
    assert [step for step, _ in found["reconstructions"]] == [4, 9]
    for (_, shown), picture in zip(found["reconstructions"], sorted(xray.glob("pictures/*.png")), strict=True):
        kept = next((place / "trackio").rglob(Path(shown["file_path"]).name))
        assert kept.read_bytes() == picture.read_bytes()
    ((_, table),) = found["results"]
    assert {"of": "training", "figure": "loss", "value": read_metrics(xray)[-1]["loss"]} in table["_value"]
    asked = json.loads(config)
    assert asked.items() >= read_toml((xray / "config.toml").read_text()).items()
    assert asked["run_folder"] == xray.resolve().as_uri()


def test_followers_end_and_nothing_of_theirs_is_secret(place: Path, xray: Path) -> None:
    assert all(is_free(xray, name) for name in PACKAGES)
    assert {Sent.read(xray, name).step for name in PACKAGES} == {9}
    assert read_toml((xray / "config.toml").read_text())["log"] == "tensorboard,wandb,mlflow,trackio"


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_mlflow_keeps_figures_where_files_cannot_go(
    place: Path, xray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    from openmae.report.loggers import mlflow as module

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    (tmp_path / "file").touch()
    client = MlflowClient()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", client.create_experiment("closed", f"{tmp_path}/file/artifacts"))
    said: list[str] = []
    kept: dict[str, Any] = {}
    for _ in range(2):  # the second time as after a kill that kept no note
        opened = module.open_run(LoggedRun(xray, {"seed": 0}, said.append), kept)
        opened.line(7, 5.0, {"eval/top-1 (%)": 0.5}, {"reconstructions": next(xray.glob("pictures/*.png"))})
        opened.close("interrupted")
    assert all(one.startswith("pictures and tables are not taken (") for one in said)
    assert said
    ((metric),) = client.get_metric_history(kept["id"], "eval/top-1 ___")
    assert (metric.step, metric.value, metric.timestamp) == (7, 0.5, 5000)
    assert client.get_run(kept["id"]).info.status == "KILLED"


# ---------------------------------------------------------------- loggers that fail

BROKEN = """
import os, sys
from pathlib import Path
from openmae.cli import main
from openmae.report.loggers import following

following.READY_SECONDS, following.LAST_SECONDS = 1, 1
sys.path.insert(0, sys.argv[1])
agree = following.Followers.agree

def agreed(self):
    for follower in self._followers:
        if follower.name != "trackio":
            assert follower.is_settled.wait(300)  # the machine may be slow
    agree(self)

following.Followers.agree = agreed
sys.exit(main(sys.argv[2:]))
"""
FAKES = {
    "tensorboard": "raise RuntimeError('this library is broken')",
    "mlflow": "import os; os._exit(3)",
    "trackio": "import time; time.sleep(1000)",
    "wandb": """
import time
class Settings:
    mode = 'offline'
    def __init__(self, **_): pass
class Run:
    settings, dir, resumed, step = Settings, '/nowhere/at/all', False, 0
    def log(self, *_, **__): time.sleep(1000)
class Image:
    def __init__(self, *_): pass
Table = Image
def setup(): return Run
def init(**_): return Run()
""",
}


def test_what_loggers_do_does_not_touch_the_training(data: Path, finished: Path, tmp_path: Path) -> None:
    """One raises, one ends its process, one never imports and one never returns."""
    for name, code in FAKES.items():
        (tmp_path / "fakes" / name).mkdir(parents=True)
        (tmp_path / "fakes" / name / "__init__.py").write_text(code)
    words = pretrain(data, tmp_path / "first", "--depth 2 --epochs 3", "--log", ",".join(FAKES))
    done = run_openmae([str(tmp_path / "fakes"), *words], code=BROKEN)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert (tmp_path / "first/model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    assert [line["loss"] for line in read_metrics(tmp_path / "first")] == [
        line["loss"] for line in read_metrics(finished)
    ]
    said = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    for name, first in {
        "tensorboard": "it cannot be used here (RuntimeError: this library is broken); training goes on",
        "mlflow": "its process ended",
        "trackio": "it has not started within 1 s; training goes on",
        "wandb": "not all was sent",
    }.items():
        about = [line.removeprefix(f"warning: {name}: ") for line in said if line.startswith(f"warning: {name}: ")]
        assert about[0].startswith(first), said
        assert about[-1].endswith(f"openmae report {tmp_path}/first --log {name} sends the rest")
        assert len(about) == (1 if name == "wandb" else 2)


def test_loggers_that_cannot_be_used_are_refused_before_anything_begins(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(following, "READY_SECONDS", 300)  # the machine may be slow
    refused(run(*pretrain(data, out, "--log tensorbord")), "--log", "tensorbord", "tensorboard, wandb, mlflow, trackio")
    monkeypatch.setitem(sys.modules, "trackio", None)
    refused(run(*pretrain(data, out, "--log tensorboard,trackio")), "--log needs trackio", "pip install trackio")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    refused(run(*pretrain(data, out, "--log wandb")), "--log wandb needs a login", "WANDB_MODE=offline")
    assert not out.exists()


# ---------------------------------------------------------------- afterwards


def test_a_finished_run_is_sent_afterwards_and_once(run: Run, classes: Path, tmp_path: Path) -> None:
    out = copy(classes, tmp_path / "run")
    for _ in range(2):
        code, said, errors = run("report", out, "--log", "tensorboard")
        assert code == 0, errors
        assert f"Sent to tensorboard: all of {out}" in said
    found = _events(out)
    same({name: [(event.step, event.value) for event in found.Scalars(name)] for name in curves(out)}, out)
    results = json.loads((out / "results.json").read_text())
    ((name, entry),) = results.items()
    assert f"| {name} | top1 | {entry['clean']['figures']['top1']:.6g} |" in _text(found, "results")
    pictures = [file for file in out.glob("results/*/*") if file.suffix == ".jpg"]
    assert pictures
    for file in pictures:
        (event,) = found.Images(f"results/{file.parent.name}/{file.stem}")
        assert event.encoded_image_string == file.read_bytes()
    refused(run("report", out, "--log", "nowhere"), "--log", "nowhere")


def test_the_table_has_what_the_features_know(evaluated: Path) -> None:
    found = [of for of, figure, _ in final_rows(evaluated) if figure == "top1"]
    assert any(of.startswith("knn, raw pixels") for of in found), found
    assert len(found) == len(set(found))


def test_what_a_killed_start_wrote_beyond_its_notes_is_not_doubled(tmp_path: Path) -> None:
    logged = LoggedRun(tmp_path, {"seed": 0}, pytest.fail)
    kept: dict[str, Any] = {}
    for steps, notes_from in (((1, 2, 3, 4, 5), 3), ((4, 5, 6), 6)):
        opened = events.open_run(logged, dict(kept))
        for step in steps:
            opened.line(step, 0.0, {"loss": float(step)}, {})
        opened.flush()
        kept = {**opened._kept, "step": notes_from}
    assert [event.step for event in _events(tmp_path).Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_another_run_that_is_begun_in_the_folder_is_another_one(tmp_path: Path) -> None:
    logged = LoggedRun(tmp_path, {"seed": 0}, pytest.fail)
    for loss in (1.0, 2.0):
        opened = events.open_run(logged, {})
        opened.line(1, 0.0, {"loss": loss}, {})
        opened.close("complete")
    assert [event.value for event in _events(tmp_path).Scalars("loss")] == [2.0]


@settings(max_examples=30)
@given(pieces=st.lists(st.lists(st.integers(0, 99), max_size=3), max_size=6), cut=st.integers(0, 40))
def test_lines_are_read_as_they_grow(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[list[int]], cut: int
) -> None:
    """In whatever pieces they come, and a line that is not whole yet is waited for."""
    file = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    lines, found = Lines(file), []
    text = b"".join(json.dumps({"step": step, "loss": step / 7}).encode() + b"\n" for piece in pieces for step in piece)
    for part in (text[:cut], text[cut:]):
        with file.open("ab") as appended:
            appended.write(part)
        found += lines.new()
    lines.close()
    assert [line["step"] for line in found] == [step for piece in pieces for step in piece]


def test_lines_of_a_rewound_file_begin_anew_and_a_stale_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n')
    stale = Lines(file, file.stat().st_ino)
    lines = Lines(file)
    assert [line["step"] for line in lines.new()] == [1, 2]
    assert stale.new() == []
    write_file(file, b'{"step": 1}\n')
    assert [line["step"] for line in lines.new()] == [1]
    assert [line["step"] for line in stale.new()] == [1]
    for one in (lines, stale):
        one.close()
