"""The run folder: nobody's work is written over, one process at a time, and a disk that is full."""

import errno
import io
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from openmae.cli import main
from openmae.errors import NOT_WRITTEN, UserError
from openmae.train import saving
from openmae.train.run import RunFolder, read_metrics
from tests.commands import Run, pretrain, refused
from tests.processes import PYTHON, SMALL_FILES, start_openmae, started_openmae, wait_for
from tests.runs import copy
from tests.train.tasks import Task


def test_a_finished_run_without_its_checkpoints_does_not_begin_anew(
    finished: Path, data: Path, tmp_path: Path, run: Run
) -> None:
    moved = copy(finished, tmp_path / "run")
    shutil.rmtree(moved / "checkpoints")
    before = (moved / "model.safetensors").read_bytes()
    refused(run(*pretrain(data, moved)), "a finished run whose checkpoints are gone, and would begin anew")
    assert (moved / "model.safetensors").read_bytes() == before
    (moved / "model.safetensors").unlink()
    assert run(*pretrain(data, moved))[0] == 0


def test_damaged_checkpoints_do_not_begin_the_run_anew(finished: Path, tmp_path: Path, run: Run) -> None:
    damaged = copy(finished, tmp_path / "run")
    for weights in damaged.glob("checkpoints/*/model.safetensors"):
        weights.write_bytes(b"damaged")
    before = (damaged / "metrics.jsonl").read_bytes()
    for _ in range(2):
        refused(run("pretrain", "--resume", "--out", damaged), "every checkpoint", "is damaged", "another --out")
    assert (damaged / "metrics.jsonl").read_bytes() == before


def test_a_run_whose_checkpoints_are_elsewhere_does_not_begin_anew(data: Path, tmp_path: Path, run: Run) -> None:
    """As where they were moved to another disk, which is not mounted."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.toml").touch()
    (tmp_path / "r/checkpoints").symlink_to("/nowhere")
    refused(run(*pretrain(data, tmp_path / "r")), "a link that leads nowhere", "give another --out")


def test_a_start_that_learnt_nothing_does_not_bind_its_folder(data: Path, tmp_path: Path, run: Run) -> None:
    mixed = copy(data, tmp_path / "mixed")
    (mixed / "class0/bad.png").write_bytes(b"")
    words = pretrain(mixed, tmp_path / "r")
    refused(run(*words, "--max-broken", "0"), "cannot be used")
    (mixed / "class0/bad.png").unlink()
    code, _, errors = run(*words, "--mask-ratio", "0.5")
    assert code == 0, errors
    assert not (tmp_path / "r/broken.txt").exists()


def test_a_run_of_other_settings_is_not_touched(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    other = copy(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    words = pretrain(data, other, "--depth 2 --epochs 3 --mask-ratio 0.5")
    refused(run(*words), "mask_ratio = 0.75, not 0.5", "choose another --out")
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before


def test_a_folder_of_something_else_is_not_touched(data: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    refused(run(*pretrain(data, tmp_path)), "is not empty and is not a run")
    refused(run(*pretrain(data, tmp_path / "thesis.txt")), "is a file")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_folder_that_cannot_be_written(data: Path, run: Run) -> None:
    refused(run(*pretrain(data, "/proc/openmae-run")), "cannot be written", "choose another --out")


def test_a_refused_start_leaves_no_folder(data: Path, tmp_path: Path, run: Run) -> None:
    refused(run(*pretrain(tmp_path / "none", tmp_path / "new")), "none")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    refused(run(*pretrain(tmp_path / "none", tmp_path / "mine")), "none")
    assert (tmp_path / "mine").exists()


def test_two_runs_in_one_folder(data: Path, tmp_path: Path, run: Run) -> None:
    words = pretrain(data, tmp_path / "r", "--epochs 2000")
    log = tmp_path / "log"
    with started_openmae([*words, "--workers", "1"], log) as first:
        wait_for(lambda: "step 1/" in log.read_text(), first)
        refused(run(*words), "another process trains in", "choose another --out")
        assert first.poll() is None
        first.terminate()
        assert first.wait(timeout=60) == 75
    # The first one saved on SIGTERM, and its lock went with it.
    assert list((tmp_path / "r/checkpoints").glob("step-*"))
    with RunFolder(tmp_path / "r"):
        pass


def test_a_run_folder_that_is_removed_meanwhile(tmp_path: Path) -> None:
    """What was written to it from then on would neither be a run nor let one begin."""
    with RunFolder(tmp_path / "r") as folder:
        folder.log({"step": 1})
        folder.sync()
        shutil.rmtree(folder.path)
        folder.log({"step": 2})
        with pytest.raises(UserError, match="was removed while it was trained in"):
            folder.sync()


# ---------------------------------------------------------------- a folder that was changed


def resumed(run: Path, fingerprint: str = "data") -> str:
    """What is said where `Task`'s run goes on."""
    console = Console(file=io.StringIO(), width=500)
    with RunFolder(run) as folder:
        complaints = folder.settle({"task": "regression"}, fingerprint, ())
    Task().train(run, 6, console=console)
    return "\n".join([*complaints, console.file.getvalue()])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    Task().train(run, 4)
    assert "damaged" not in resumed(copy(run, run.with_name("untouched")))
    return run


@given(st.data())
@settings(max_examples=8)
def test_a_changed_byte_of_the_log_is_said_and_its_other_lines_stay(trained: Path, draws: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        run = copy(trained, Path(place) / "run")
        before = (run / "metrics.jsonl").read_bytes()
        at = draws.draw(st.integers(0, len(before) - 1))
        changed = before[:at] + bytes([before[at] ^ draws.draw(st.integers(1, 255))]) + before[at + 1 :]
        (run / "metrics.jsonl").write_bytes(changed)
        assert "metrics.jsonl is damaged (it has changed since the checkpoint was saved)" in resumed(run)
        assert (run / "damaged-metrics.jsonl").read_bytes() == changed
        assert [line["step"] for line in read_metrics(run)][-1] == 6
        assert len(set(before.splitlines()) - set((run / "metrics.jsonl").read_bytes().splitlines())) <= 2
        assert "damaged" not in resumed(run)  # it is said once


def test_a_log_that_is_gone_or_cut(trained: Path, tmp_path: Path) -> None:
    for name, text in (("cut", (trained / "metrics.jsonl").read_bytes()[:-5]), ("gone", None)):
        run = copy(trained, tmp_path / name)
        (run / "metrics.jsonl").unlink()
        if text is not None:
            (run / "metrics.jsonl").write_bytes(text)
        assert "metrics.jsonl is damaged" in resumed(run)


def test_a_run_of_an_older_version_says_nothing_of_its_log(trained: Path, tmp_path: Path) -> None:
    run = copy(trained, tmp_path / "run")
    for checkpoint in run.glob("checkpoints/step-*"):
        (checkpoint / "run.json").unlink()
        sums = json.loads((checkpoint / "checksums.json").read_text())
        (checkpoint / "checksums.json").write_text(json.dumps({k: v for k, v in sums.items() if k != "run.json"}))
    before = (run / "metrics.jsonl").read_bytes()
    assert "damaged" not in resumed(run)
    assert (run / "metrics.jsonl").read_bytes().startswith(before)


@given(st.data())
@settings(max_examples=8)
def test_no_damage_of_environment_json_blocks_a_run(trained: Path, draws: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        run = copy(trained, Path(place) / "run")
        before = (run / "environment.json").read_bytes()
        at = draws.draw(st.integers(0, len(before) - 1))
        changed = before[:at] + bytes([before[at] ^ draws.draw(st.integers(1, 255))]) + before[at + 1 :]
        (run / "environment.json").write_bytes(changed)
        assert "6 of 6" not in resumed(run)
        with pytest.raises(UserError, match="the images have changed"):
            resumed(run, "others")


@pytest.mark.parametrize("damage", ["{", "", "[]", '{"starts": 3}', '{"starts": [{"data_fingerprint": "others"}]}'])
def test_what_the_images_were_is_known_without_environment_json(trained: Path, tmp_path: Path, damage: str) -> None:
    run = copy(trained, tmp_path / "run")
    (run / "environment.json").write_text(damage)
    assert "environment.json is damaged" in resumed(run)
    assert json.loads((run / "environment.json").read_text())["starts"][0]["data_fingerprint"] == "data"
    with pytest.raises(UserError, match="the images have changed"):
        resumed(run, "others")


# ---------------------------------------------------------------- a disk that is full


@pytest.mark.parametrize(
    "bytes_left", [pytest.param(3000, marks=pytest.mark.slow), 40_000, pytest.param(130_000, marks=pytest.mark.slow)]
)
def test_a_write_that_the_system_refuses(data: Path, tmp_path: Path, bytes_left: int) -> None:
    """The system's bound on the size of a file stands in for a full disk: the write fails as it does there, at
    the log, at a checkpoint or at a picture; ENOSPC itself needs a disk of one's own (make test-slow)."""
    words, others = (pretrain(data, tmp_path / name, "--epochs 12 --checkpoint-minutes 0") for name in ("r", "whole"))
    # What it prints goes through pipes, which hold all of it: no files.
    (output, its_output), (errors, its_errors) = os.pipe(), os.pipe()
    process = start_openmae([str(bytes_left), *words], its_output, its_errors, code=SMALL_FILES)
    os.close(its_output)
    os.close(its_errors)
    code = process.wait(timeout=240)
    with open(output) as one, open(errors) as other:  # noqa: PTH123
        said, failed = one.read(), other.read()
    assert code == 74, failed  # trained to the end, and could not write all of it
    assert "warning: " in said
    assert "step 54/54" in said
    assert len(failed.splitlines()) == 1, failed
    assert "run the same command again" in failed
    assert not list((tmp_path / "r").rglob("*.part"))
    assert main(words) == main(others) == 0
    assert (tmp_path / "r/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk of its own needs root")
def test_a_really_full_disk(data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    try:
        words = [*PYTHON, *pretrain(data, disk / "r", "--epochs 3 --checkpoint-minutes 0")]
        filler = disk / "filler"
        filler.write_bytes(b"x" * (6 * 1024 * 1024 - 800_000))  # room to begin, not to end
        full = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
        assert full.returncode == 74, full.stderr
        assert "no checkpoint of step" in full.stdout
        assert "run the same command again" in full.stderr
        assert list((disk / "r/checkpoints").glob("step-*"))
        filler.unlink()
        again = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
        assert again.returncode == 0, again.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_run_whose_only_checkpoint_was_refused_goes_on(
    data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full at its end: it has no weights yet that would make it look finished."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    words = pretrain(data, tmp_path / "r", "--epochs 1")
    with monkeypatch.context() as full:
        full.setattr(saving, "write_checkpoint", refuse)
        code, _, errors = run(*words)
    assert code == NOT_WRITTEN
    assert "run the same command again" in errors
    (tmp_path / "r/checkpoints/.step-00000001.part").mkdir(parents=True)  # and as after a kill while it is written
    code, _, errors = run(*words, "--mask-ratio", 0.5)
    assert code == 0, errors
