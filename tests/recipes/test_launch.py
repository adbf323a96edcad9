"""Launched jobs, with real processes: by submitit's local executor, and in a Slurm of scripts."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openmae.cli import read_settings
from openmae.errors import RUN_AGAIN
from openmae.recipes.launch.job import launch
from openmae.recipes.launch.settings import Launch
from openmae.recipes.launch.task import MOST_FRUITLESS, LaunchedTraining
from tests.commands import Run, pretrain, refused
from tests.images import write_images
from tests.recipes.slurm import FakeSlurm, wait_for


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm(tmp_path / "fake-slurm")
    for name in ("PATH", "FAKE_SLURM"):
        monkeypatch.setenv(name, made.env[name])
    return made


def words_of(tmp_path: Path, epochs: int) -> list[str]:
    images = write_images(tmp_path / "images", 16)
    out = tmp_path / "run"
    return pretrain(images, out, f"--epochs {epochs}")


def ablation(images: Path, out: Path, epochs: int) -> list[str]:
    """Of two trainings."""
    tiny = (
        "--study mask-ratio --vary mask_ratio=0.5,0.75 --seeds 1 --workers 0 --device cpu --precision fp32 --set "
        "img_size=16 patch_size=4 embed_dim=24 depth=1 num_heads=2 decoder_embed_dim=16 decoder_depth=1 "
        "decoder_num_heads=2 batch_size=8"
    )
    return ["ablate", str(images), "--out", str(out), "--epochs", str(epochs), *tiny.split()]


def launched(settings: Launch, words: list[str]) -> Any:
    return launch(settings, words, lambda command: read_settings(command[0], list(command[1:])))


def steps(out: Path) -> list[int]:
    file = out / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def check_whole(out: Path, epochs: int) -> None:
    """A run of 16 images, 8 a step, 1 or 2 of which are set aside for pictures."""
    assert (out / "model.safetensors").exists()
    assert (out / "report.html").exists()
    found = steps(out)
    assert found == sorted(set(found))
    assert found[-1] >= epochs


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_local_job_trains_to_the_end(tmp_path: Path, processes: int) -> None:
    words = words_of(tmp_path, epochs=3)
    (job,) = launched(Launch("local", gpus=0, processes=processes, hours=0.1), words)
    job.wait()
    out = tmp_path / "run"
    logs = [(out / "slurm" / f"{job.job_id}_{task}_log.out").read_text() for task in range(processes)]
    check_whole(out, 3)
    for rank, log in enumerate(logs):
        assert f"global_rank={rank}({processes})" in log
        assert ("The encoder is in" in log) is (rank == 0)


@pytest.mark.slow
def test_a_slurm_job_saves_and_is_queued_again_when_its_time_is_over(
    tmp_path: Path, slurm: FakeSlurm, run: Run
) -> None:
    words = words_of(tmp_path, epochs=200)
    asked = (
        "--nodes 2 --gpus 1 --cpus 6 --memory 20.5 --hours 1.5 --partition gpu --qos low --set mail-type=END exclusive"
    )
    code, said, _ = run("launch", "slurm", *asked.split(), "--", *words)
    assert code == 0
    out = tmp_path / "run"
    for expected in (
        "Job 4711 is submitted: 2 machines with 1 process each",
        f"{out}/slurm/4711_0_log.out",
        "scancel 4711",
    ):
        assert expected in said
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", slurm.script.read_text(), re.MULTILINE))
    expected_options = {
        "nodes": "2", "ntasks-per-node": "1", "gpus-per-node": "1", "cpus-per-task": "6", "mem": "20992MB",
        "time": "90", "partition": "gpu", "qos": "low", "mail-type": "END", "exclusive": "", "requeue": "",
        "open-mode": "append", "signal": "USR2@180", "job-name": "openmae-run",
    }  # fmt: skip
    assert expected_options.items() <= options.items()

    job = slurm.start(slurm.script, nodes=2, tasks=2, cwd=tmp_path)
    wait_for(lambda: len(steps(out)) > 0, "steps")
    slurm.signal(signal.SIGUSR2)
    job.wait(60)
    log = (out / "slurm" / "4711_0_log.out").read_text()
    assert slurm.asked == ["requeue 4711"], log
    assert "which is saved" in log
    assert "The encoder is in" not in log

    job = slurm.start(slurm.script, nodes=2, tasks=2, cwd=tmp_path)
    assert job.wait(120) == 0
    log = (out / "slurm" / "4711_0_log.out").read_text()
    assert "Going on with the run" in log
    assert slurm.asked == ["requeue 4711"]
    check_whole(out, 200)


@pytest.mark.slow
def test_a_local_job_is_queued_again_when_it_is_preempted(tmp_path: Path) -> None:
    (job,) = launched(Launch("local", gpus=0, processes=2, hours=0.1), words_of(tmp_path, epochs=200))
    out = tmp_path / "run"
    wait_for(lambda: len(steps(out)) > 0, "steps")
    for pid in children(int(job.job_id)):
        os.kill(pid, signal.SIGUSR2)
    job.wait()
    log = (out / "slurm" / f"{job.job_id}_0_log.out").read_text()
    assert "Requeued job" in log
    assert "Going on with the run" in log
    check_whole(out, 200)


@pytest.mark.slow
def test_a_job_that_lost_a_process_is_queued_again(tmp_path: Path, slurm: FakeSlurm, run: Run) -> None:
    words = words_of(tmp_path, epochs=2000)
    assert run("launch", "slurm", "--nodes", 2, "--gpus", 1, "--", *words, "--checkpoint-minutes", "0.001")[0] == 0
    out = tmp_path / "run"
    job = slurm.start(slurm.script, nodes=2, tasks=2, cwd=tmp_path)
    wait_for(lambda: any((out / "checkpoints").glob("step-*")), "checkpoint")
    (training,) = children(slurm.tasks()[1])
    os.kill(training, signal.SIGKILL)
    job.wait(60)
    assert slurm.asked == ["requeue 4711"], (out / "slurm" / "4711_0_log.out").read_text()


@pytest.mark.slow
def test_the_parts_of_a_study_are_an_array_of_jobs(tmp_path: Path, slurm: FakeSlurm, run: Run, colours: Path) -> None:
    """One is preempted, is queued again, and goes on; the last one to end makes the table."""
    study = tmp_path / "study"
    words = ablation(colours, study, epochs=60)
    code, said, errors = run("launch", "slurm", "--parts", 2, "--gpus", 0, "--hours", 1, "--", *words)
    assert code == 0, errors
    for expected in ("Job 4711 is submitted: 2 parts, each 1 process", "4711_*_0_log.out", f"openmae report {study}"):
        assert expected in said
    assert "#SBATCH --array=0-1%2" in slurm.script.read_text()

    job = slurm.start(slurm.script, cwd=tmp_path, index=1)
    log = study / "slurm" / "4711_1_0_log.out"
    wait_for(lambda: job.poll() is not None or any(steps(run) for run in study.glob("*/seed-0")), "steps")
    assert job.poll() is None, log.read_text()
    slurm.signal(signal.SIGUSR2)
    job.wait(60)
    assert slurm.asked == ["requeue 4711_1"], log.read_text()
    assert not list(study.glob("parts/*/*.json"))

    both = [slurm.start(slurm.script, cwd=tmp_path, index=index) for index in (0, 1)]
    assert [job.wait(120) for job in both] == [0, 0], log.read_text()
    assert "Going on with the run" in log.read_text()
    found = json.loads((study / "results.json").read_text())
    assert found["complete"]
    assert [len(row["of"]["knn"]) for row in found["rows"]] == [1, 1]
    assert (study / "report.html").exists()
    assert slurm.asked == ["requeue 4711_1"]


@pytest.mark.slow
def test_the_parts_of_a_study_on_this_machine(tmp_path: Path, colours: Path) -> None:
    jobs = launched(Launch("local", gpus=0, parts=2, hours=0.1), ablation(colours, tmp_path / "study", epochs=2))
    for job in jobs:
        job.wait()
    assert json.loads((tmp_path / "study/results.json").read_text())["complete"]


@pytest.mark.slow
def test_a_pass_over_all_images_is_shared_on_this_machine(tmp_path: Path, data: Path, run: Run) -> None:
    out, alone = tmp_path / "stats.toml", tmp_path / "alone.toml"
    words = ["stats", str(data), "--out", str(out), "--workers", "0"]
    for job in launched(Launch("local", gpus=0, parts=2, hours=0.1), words):
        job.wait()
    said = [file.read_text() for file in sorted((tmp_path / "stats.toml-slurm").glob("*_0_log.out"))]
    assert ["Part" in text for text in said] == [True, True], said
    assert run(*words[:3], alone)[0] == 0
    assert out.read_bytes() == alone.read_bytes()


def test_each_part_of_an_array_is_another(tmp_path: Path, slurm: FakeSlurm, run: Run) -> None:
    """And is asked for a GPU, which it has to use; the script in the study's folder is no obstacle to the study."""
    from submitit.core.utils import DelayedSubmission

    words = ["ablate", "DATA", "--out", str(tmp_path / "study"), "--study", "target", "--set", "patch_size=4"]
    for _ in range(2):
        assert run("launch", "slurm", "--parts", 3, "--", *words)[0] == 0
    jobs = [tmp_path / f"study/slurm/4711_{number}_submitted.pkl" for number in range(3)]
    commands = [list(DelayedSubmission.load(job).function.command) for job in jobs]
    assert commands == [[*words, "--device", "cuda", "--part", f"{number}/3"] for number in (1, 2, 3)]
    for command in commands:
        assert read_settings(command[0], command[1:]).share[1] == 3
    script = slurm.script.read_text()
    assert "#SBATCH --gpus-per-node=1" in script
    assert "#SBATCH --job-name=openmae-study" in script
    shared = ["predict", "RUN", "DATA", "--out", str(tmp_path / "masks")]
    assert run("launch", "slurm", "--parts", 2, "--", *shared)[0] == 0
    tasks = [
        DelayedSubmission.load(tmp_path / f"masks-slurm/4711_{number}_submitted.pkl").function for number in (0, 1)
    ]
    assert [list(task.command)[-4:] for task in tasks] == [["--device", "cuda", "--part", f"{n}/2"] for n in (1, 2)]
    assert tasks[0].out == tmp_path / "masks/.predictions.csv.part"  # where a part shows that a start was of use
    assert "#SBATCH --requeue" in script


@pytest.mark.slow
def test_a_cancelled_job_saves_and_is_not_queued_again(tmp_path: Path, slurm: FakeSlurm, run: Run) -> None:
    assert run("launch", "slurm", "--gpus", 1, "--", *words_of(tmp_path, epochs=2000))[0] == 0
    out = tmp_path / "run"
    job = slurm.start(slurm.script, nodes=1, tasks=1, cwd=tmp_path)
    wait_for(lambda: len(steps(out)) > 0, "steps")
    slurm.signal(signal.SIGTERM)
    wait_for(lambda: any((out / "checkpoints").glob("step-*")), "checkpoint")
    with pytest.raises(subprocess.TimeoutExpired):  # it waits for Slurm, which may be about to queue it again
        job.wait(5)
    slurm.signal(signal.SIGKILL)
    job.wait(60)
    assert slurm.asked == []


@pytest.mark.slow
def test_a_job_that_gets_nowhere_is_not_queued_for_ever(tmp_path: Path, slurm: FakeSlurm, run: Run) -> None:
    assert run("launch", "slurm", "--gpus", 1, "--", *words_of(tmp_path, epochs=2000))[0] == 0
    codes = []
    for _ in range(MOST_FRUITLESS):
        job = slurm.start(slurm.script, nodes=1, tasks=1, cwd=tmp_path)
        wait_for(lambda: len(children(slurm.tasks()[0])) == 1, "training")
        os.kill(children(slurm.tasks()[0])[0], signal.SIGKILL)
        codes.append(job.wait(60))
    assert codes[-1] == RUN_AGAIN
    assert slurm.asked == ["requeue 4711"] * (MOST_FRUITLESS - 1)
    assert "3 starts in a row ended without a new checkpoint" in (tmp_path / "run/slurm/4711_0_log.out").read_text()


def children(pid: int) -> list[int]:
    parents = {int(p.name): p for p in Path("/proc").iterdir() if p.name.isdecimal()}
    found = []
    for child, place in parents.items():
        try:
            stat = (place / "stat").read_text()
        except OSError:  # it has ended
            continue
        if int(stat.rsplit(")", 1)[1].split()[1]) == pid:
            found.append(child)
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("slurm pretrain DATA --out RUN", ["comes after --"]),
        ("slurm --", ["there is nothing to launch", "pretrain, finetune, probe, ablate, compare, embed, "]),
        ("slurm -- knn RUN DATA", ["'knn' cannot be launched"]),
        ("slurm -- pretrain DATA", ["add --out RUN"]),
        ("slurm -- pretrain DATA --out RUN --batchsize 8", ["no flag --batchsize", "did you mean --batch-size?"]),
        ("slurm -- pretrain DATA --out RUN --batch-size many", ["--batch-size is many", "whole number"]),
        ("slurm -- pretrain DATA --out RUN --mask-ratio 75", ["75", "mask"]),
        ("slurm -- probe RUN DATA", ["--recipe paper"]),
        ("slurm --gpus 2 -- finetune vit_tiny DATA --out RUN --blocks all,1", ["one process, and this starts 2"]),
        ("slurm --gpu 8 -- pretrain DATA --out RUN", ["no flag --gpu", "--gpus"]),
        ("slurm --nodes 0 -- pretrain DATA --out RUN", ["--nodes is 0", "1 or more"]),
        ("slurm --parts 0 -- ablate DATA --out S --study target", ["--parts is 0", "1 or more"]),
        (
            "slurm --parts 8 -- pretrain DATA --out RUN",
            ["pretrain has none", "ablate, compare, embed"],
        ),
        ("slurm --gpus 8 -- ablate DATA --out S --study target", ["this starts 8", "--parts 8 --gpus 1"]),
        ("slurm --parts 8 -- ablate DATA --out S --study target --part 1/2", ["ablate has --part"]),
        ("slurm --parts 8 -- compare DATA --out S --jobs 2", ["--parts is 8, and compare has --jobs 2"]),
        ("slurm --parts 8 -- ablate DATA --out . --study target", ["not empty and is not a study"]),
        ("slurm --gpus 8 -- embed RUN DATA --out f.parquet", ["this starts 8", "--parts 8, and --gpus 1"]),
        ("slurm --parts 8 -- pack DATA SHARDS", ["pack uses no GPU", "--gpus 0"]),
        ("slurm --parts 8 --gpus 0 -- stats DATA", ["add --out FILE"]),
        ("slurm --parts 8 -- embed RUN DATA --out f.parquet --part 1/2", ["embed has --part"]),
        ("slurm --hours 0 -- pretrain DATA --out RUN", ["--hours is 0", "above 0"]),
        ("slurm --gpus 2 --processes 2 -- pretrain DATA --out RUN", ["--processes 2 with --gpus 2"]),
        ("slurm --set mail-type=END signal=INT@5 -- pretrain DATA --out RUN", ["--set signal", "itself"]),
        ("local --nodes 2 -- pretrain DATA --out RUN", ["this machine alone"]),
        ("local --gpus 800 -- pretrain DATA --out RUN", ["--gpus is 800 and this machine has", "--gpus 0"]),
        ("cloud -- pretrain DATA --out RUN", ["'cloud'"]),
    ],
)
def test_what_makes_no_job_is_refused(
    words: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: FakeSlurm, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("launch", *words.split()), *said)
    assert not slurm.script.exists()


@pytest.mark.parametrize(
    ("gpus", "device", "given"), [(1, [], ["--device", "cuda"]), (1, ["--device", "cpu"], []), (0, [], [])]
)
def test_a_job_with_gpus_does_not_train_without(
    gpus: int, device: list[str], given: list[str], tmp_path: Path, slurm: FakeSlurm, run: Run
) -> None:
    """A machine whose GPU torch does not find would train on its CPU for days."""
    from submitit.core.utils import DelayedSubmission

    words = ["pretrain", "DATA", "--out", str(tmp_path / "run"), *device]
    assert run("launch", "slurm", "--gpus", gpus, "--", *words)[0] == 0
    (job,) = (tmp_path / "run/slurm").glob("*submitted.pkl")
    assert list(DelayedSubmission.load(job).function.command) == [*words, *given]


def test_what_stands_in_the_way_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--", "pretrain", "DATA", "--out", "RUN")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(run("launch", "slurm", *words), "no sbatch and srun here", "launch local")
    assert not (tmp_path / "RUN").exists()
    slurm = FakeSlurm(tmp_path / "fake-slurm")
    for name in ("PATH", "FAKE_SLURM"):
        monkeypatch.setenv(name, slurm.env[name] if name != "PATH" else f"{slurm.programs}:/usr/bin:/bin")
    (slurm.folder / "refuses").touch()
    refused(run("launch", "slurm", *words), "sbatch refused the job", "invalid partition")
    (slurm.folder / "refuses").unlink()
    assert run("launch", "slurm", *words)[0] == 0  # the folder of a failed launch is no obstacle
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").touch()
    refused(run("launch", "slurm", *words[:-1], "other"), "not empty and is not a run")
    monkeypatch.setitem(sys.modules, "submitit", None)
    refused(run("launch", "slurm", *words), "pip install submitit")


@pytest.mark.parametrize("flag", ["--partition", "--account", "--set", "--out"])
def test_a_line_end_reaches_no_shell(tmp_path: Path, slurm: FakeSlurm, run: Run, flag: str) -> None:
    """It would end the comment of the script in which it stands, and the rest would be run."""
    evil = "x=$(touch owned)\n"
    out = tmp_path / (evil if flag == "--out" else "run")
    words = [] if flag == "--out" else [flag, evil]
    refused(run("launch", "slurm", *words, "--", "pretrain", "data", "--out", out), flag, "a line end")
    assert not slurm.script.exists()


def test_a_job_that_was_queued_before_the_modules_moved_is_found() -> None:
    """As the code before the move (commit 521679a) pickled it."""
    queued = (
        b"ccopy_reg\n_reconstructor\np0\n(copenmae.recipes.launch_task\nTraining\np1\nc__builtin__\nobject\np2\nNtp3\nRp4\n"
        b"(dp5\nVcommand\np6\n(Vpretrain\np7\nVdata\np8\nV--out\np9\nVrun\np10\ntp11\nsVout\np12\ncpathlib\nPosixPath\np13\n"
        b"(g10\ntp14\nRp15\nsVfruitless\np16\nI2\nsb."
    )
    assert pickle.loads(queued) == LaunchedTraining(("pretrain", "data", "--out", "run"), Path("run"), 2)
