"""Runs whose processes are killed, or get a signal, end as if nothing had happened: real ones."""

import json
import os
import random
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from openmae.cli import main
from openmae.train.checkpoint import newest_checkpoint
from openmae.train.run import read_metrics
from tests.commands import pretrain
from tests.processes import PYTHON, run_openmae, start_openmae, started_openmae, steps_saved, wait_for

SAVING = "--epochs 14 --pictures 2 --evaluations 2 --checkpoint-minutes 0"  # 63 steps, a checkpoint after each


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(pretrain(data, out, SAVING)) == 0
    assert len(read_metrics(out)) > 60
    return out


def kill(words: list[str], out: Path, kills: int, seed: int) -> int:
    """Starts the command again and again, killing it (and its workers) at random moments; how often it could."""
    draws = random.Random(seed)
    for killed in range(kills):
        before = steps_saved(out)
        with started_openmae(words, out.parent / f"{out.name}.log", session=True) as process:
            # It trains, so that the kill hits training and saving, not the start.
            while process.poll() is None and steps_saved(out) <= before:
                time.sleep(0.01)
            time.sleep(draws.uniform(0, 0.15))
            if process.poll() is not None:
                return killed
            os.killpg(process.pid, signal.SIGKILL)
    return kills


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    keys = ("step", "loss", "lr", "grad_norm", "dropped")
    lines = [[[line[key] for key in keys] for line in read_metrics(run)] for run in (one, other)]
    assert lines[0] == lines[1]
    assert all(a[0] < b[0] for a, b in pairwise(lines[0]))
    a, b = (newest_checkpoint(run / "checkpoints")[0] for run in (one, other))
    assert a is not None
    assert b is not None
    assert all(torch.equal(a.optimizer[key], b.optimizer[key]) for key in a.optimizer)
    for picture in (one / "pictures").iterdir():
        assert picture.read_bytes() == (other / "pictures" / picture.name).read_bytes()


def test_a_killed_run_resumes_to_the_same_bits(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words = pretrain(data, out, SAVING, "--workers 2")
    assert kill(words, out, kills=3, seed=0) >= 2
    subprocess.run([*PYTHON, *words], check=True, capture_output=True, timeout=300)  # with other hashes of all words
    assert len(json.loads((out / "environment.json").read_text())["starts"]) >= 3
    assert_same_run(whole, out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_to_the_whole_process_group_saves(data: Path, tmp_path: Path, number: int, code: int) -> None:
    """As a terminal's Ctrl-C does: the loader's processes get it too."""
    out, log = tmp_path / "run", tmp_path / "log"
    words = pretrain(data, out, "--epochs 3000 --workers 2 --pictures 2 --checkpoint-minutes 60")
    with started_openmae(words, log, session=True) as process:
        wait_for(lambda: "step 1/" in log.read_text(), process)
        os.killpg(process.pid, number)
        assert process.wait(timeout=60) == code, log.read_text()
    assert "which is saved" in log.read_text()
    assert steps_saved(out) > 0


def test_a_killed_loader_process_changes_nothing(data: Path, whole: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        process = start_openmae(pretrain(data, tmp_path / "killed", SAVING, "--workers 1"), file)
    wait_for(lambda: "step 1/" in log.read_text(), process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert "a loader process died (exit code -9)" in log.read_text()
    assert_same_run(whole, tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "optimizer"), [(0, "adamw"), (2, "muon")])
def test_twenty_five_kills_leave_the_same_bits(data: Path, tmp_path: Path, workers: int, optimizer: str) -> None:
    long = f"--epochs 150 --pictures 2 --checkpoint-minutes 0 --optimizer {optimizer}"
    assert main(pretrain(data, tmp_path / "whole", long)) == 0
    words = pretrain(data, tmp_path / "killed", long, f"--workers {workers}")
    assert kill(words, tmp_path / "killed", kills=25, seed=workers) == 25
    assert run_openmae(words).returncode == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
