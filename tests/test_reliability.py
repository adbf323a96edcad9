"""What happens around a run and must have no effect on it, or end it as promised: docs/reliability.md."""

import os
import pty
import signal
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from openmae.cli import main
from openmae.errors import RUN_AGAIN, UserError
from openmae.recipes.finetune import job as finetune
from openmae.recipes.pretrain import job as pretrain
from openmae.recipes.training import room
from openmae.train import stop
from openmae.train.run import read_metrics
from tests.commands import pretrain as pretraining
from tests.distributed.by_hand import by_hand
from tests.processes import run_openmae, start_openmae, steps_saved, wait_for

QUICK = "--epochs 6 --workers 1 --pictures 1 --evaluations 1 --checkpoint-minutes 0"


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(pretraining(data, out, QUICK)) == 0
    return out


def assert_same(one: Path, other: Path) -> None:
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    losses = [[(line["step"], line["loss"]) for line in read_metrics(run)] for run in (one, other)]
    assert losses[0] == losses[1]
    assert (other / "report.html").exists()


def test_the_reader_of_its_output_leaves(data: Path, whole: Path, tmp_path: Path) -> None:
    """As `openmae pretrain ... | head -1`."""
    (ours, output), (errors, theirs) = os.pipe(), os.pipe()
    process = start_openmae(pretraining(data, tmp_path / "run", QUICK), output, theirs)
    os.close(output)
    os.close(theirs)
    with open(ours) as said:  # noqa: PTH123
        assert "images in" in said.readline()
    os.close(errors)
    assert process.wait(timeout=120) == 0
    assert_same(whole, tmp_path / "run")


def test_the_terminal_closes(data: Path, whole: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = start_openmae(pretraining(data, tmp_path / "run", QUICK), theirs, stdin=theirs, terminal=True)
    os.close(theirs)
    shown = b""
    while b"step " not in shown:  # it trains
        shown += os.read(ours, 4096)
    os.close(ours)  # SIGHUP, and an error for whatever is written from now on
    assert process.wait(timeout=120) == 0
    assert_same(whole, tmp_path / "run")


CHANGED = """
import os, sys, time
what = sys.argv.pop(1)
from openmae.cli import main
if what == "clock":
    real, jumps = time.time, iter(range(10**9))
    time.time = lambda: real() + (-1) ** next(jumps) * 86400 * 365
if what == "disk":
    sync = os.fsync
    os.fsync = lambda descriptor: (time.sleep(0.2), sync(descriptor))[1]
if what == "deadline":
    import openmae.train.stop
    openmae.train.stop.DEADLINE = 3.0
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("what", ["clock", pytest.param("disk", marks=pytest.mark.slow)])
def test_the_clock_jumps_and_the_disk_is_slow(data: Path, whole: Path, tmp_path: Path, what: str) -> None:
    """Years to and fro; a fifth of a second for each write that has to be on the disk itself."""
    done = run_openmae([what, *pretraining(data, tmp_path / "run", QUICK)], code=CHANGED)
    assert done.returncode == 0, done.stderr
    assert_same(whole, tmp_path / "run")


@pytest.mark.parametrize("how", ["again", pytest.param("deadline", marks=pytest.mark.slow)])
def test_what_cannot_be_saved_does_not_keep_a_process(data: Path, tmp_path: Path, how: str) -> None:
    """One rank hangs, so the other cannot end its step: a second signal, or the deadline, ends it all the same."""
    words = pretraining(data, tmp_path / "run", QUICK, "--epochs 4000 --workers 0")
    what = "deadline" if how == "deadline" else "nothing"
    with by_hand(2, [what, *words], tmp_path, CHANGED) as processes:
        wait_for(lambda: steps_saved(tmp_path / "run") > 0, processes[0])
        processes[1].send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        processes[0].send_signal(signal.SIGTERM)
        if how == "again":
            time.sleep(2.5)
            assert processes[0].poll() is None
            processes[0].send_signal(signal.SIGTERM)
        assert processes[0].wait(timeout=60) == 75
    said = (tmp_path / "log0").read_text()
    assert ("asked twice to stop" if how == "again" else "not saved within 3 s") in said
    assert "goes on from the last checkpoint" in said


@pytest.mark.parametrize(
    ("keep", "averages", "floats"),
    [
        pytest.param(1, 2, 12 + 2 * (12 + 2 * 10), id="one and the next"),
        pytest.param(5, 2, 12 + 6 * (12 + 2 * 10), id="five"),
        pytest.param(2, 1, 12 + 3 * (12 + 10), id="lars"),
    ],
)
def test_room_is_asked_for_as_many_checkpoints_as_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, averages: int, floats: int
) -> None:
    """Of what learns the averages too: 10 of 12 weights here."""
    model = torch.nn.Linear(5, 2)
    model.bias.requires_grad_(False)
    free = 4 * floats
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    room.check_room(tmp_path, model, keep, averages)
    free -= 1
    with pytest.raises(UserError, match=f"--keep {keep}.*free some") as refusal:
        room.check_room(tmp_path, model, keep, averages)
    assert ("lower --keep" in str(refusal.value)) is (keep > 1)


def test_as_many_checkpoints_are_kept_as_asked(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(pretraining(data, out, QUICK, "--keep 4 --epochs 2 --workers 0")) == 0
    kept = sorted(path.name for path in (out / "checkpoints").iterdir())
    last = read_metrics(out)[-1]["step"]
    assert kept == [f"step-{step:08d}" for step in range(last - 3, last + 1)]


def test_its_output_is_closed_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by >&- or by some schedulers: Python has no standard output then."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)

    def begun(kind: object, settings: object, console: Console) -> Any:
        console.print("begun")
        return nullcontext(SimpleNamespace(training=None))

    monkeypatch.setattr(pretrain, "begun", begun)
    monkeypatch.setattr(pretrain, "fit", lambda training: None)
    assert main(["pretrain", "data", "--out", "run"]) == 0
    assert main(["pretrain", "--nosuch"]) == 2
    for stream in (sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.parametrize(("job", "kind"), [(pretrain, "PRETRAIN"), (finetune, "FINETUNE")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_signal_while_images_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: ModuleType, kind: str, number: signal.Signals
) -> None:
    """Listing may take hours, and nothing is to be saved: it leaves at once, and a scheduler is told to start again."""
    left: list[int] = []
    before = signal.getsignal(number)

    def opened(*_: object) -> None:
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        os.kill(os.getpid(), number)
        end = time.monotonic() + 10
        while not left and time.monotonic() < end:
            time.sleep(0.001)
        raise UserError("it went on")

    monkeypatch.setattr(stop, "leave", lambda code, why: left.append(code))
    monkeypatch.setattr(job, kind, replace(getattr(job, kind), open=opened))
    places = ["data"] if job is pretrain else ["model", "data"]
    assert main([kind.lower(), *places, "--out", str(tmp_path)]) == 2
    assert left == [RUN_AGAIN]
    assert signal.getsignal(number) == before
