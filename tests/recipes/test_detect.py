"""`openmae detect`: what it learns and leaves, kills, several processes, and what it refuses."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openmae.train.run import read_metrics
from tests.commands import Run, detect, refused
from tests.distributed.by_hand import SHARDED, together
from tests.processes import run_openmae, started_openmae, steps_saved, wait_for
from tests.runs import Runs, copy


@pytest.fixture(scope="module")
def scenes(runs: Runs) -> Path:
    return runs.objects()


@pytest.fixture(scope="module")
def model(runs: Runs) -> Path:
    return runs.objects_encoder()


def test_it_learns_and_leaves_a_whole_run(runs: Runs, scenes: Path, tmp_path: Path, run: Run) -> None:
    out = copy(runs.detector(), tmp_path / "run")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    looks = [line["eval/mask_ap50"] for line in lines if "eval/mask_ap50" in line]
    assert len(looks) == 2
    assert looks[-1] > 0.5  # of five objects, so that one more or less counts for much
    found = json.loads((out / "results.json").read_text())[f"{scenes} (val)"]["clean"]
    assert found["figures"]["mask_ap50"] == pytest.approx(looks[-1], abs=1e-6)
    assert [one["name"] for one in found["objects"]] == ["disc", "square"]
    assert [one["objects"] for one in found["objects"]] == [3, 2]  # a square is a crowd
    assert set(found["pictures"]) == {"precision_recall", "sizes", "confusion", "outlines"}
    page = (out / "report.html").read_text()
    for said in ("Mask AP50", "found at all", "Precision over recall", "objects"):
        assert said in page
    # judged anew, the same
    code, printed, errors = run("evaluate", out, scenes, "--workers", "0", "--device", "cpu")
    assert code == 0, errors
    assert f"{100 * looks[-1]:.2f}%" in printed
    again = json.loads((out / "results.json").read_text())[f"{scenes} (val)"]["clean"]
    assert again["figures"] == pytest.approx(found["figures"])


@pytest.mark.parametrize(
    "flags",
    [
        "--no-masks --blocks 1 --decay steps",
        "--from-scratch --relative-positions on --vflip on --rotate90 on --ema-decay 0.9 --drop-path 0.2",
        "--resize fit --img-size 48 --keep-best on --labels 50% --blocks 0",
    ],
)
def test_every_option_trains(model: Path, scenes: Path, tmp_path: Path, run: Run, flags: str) -> None:
    out = tmp_path / "run"
    code, printed, errors = run(*detect(model, scenes, out, flags))
    assert code == 0, errors
    assert ("mask AP50" in printed) is ("no-masks" not in flags)
    assert "2 classes; learnt from" in printed
    assert "--finest-anchor 8: objects are" in printed
    assert ("learnt from 4 images" in printed) is ("50%" in flags)


@pytest.mark.slow  # the loop, the order and the checkpoints are segment's too, whose test is not
def test_a_killed_run_resumes_to_the_same_bits(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = "--epochs 3 --drop-path 0.2 --ema-decay 0.9 --checkpoint-minutes 0 --evaluations 2"
    assert run(*detect(model, scenes, whole, flags))[0] == 0
    asked = detect(model, scenes, killed, flags)
    with started_openmae([*asked, "--workers", "2"], tmp_path / "log", session=True) as process:
        wait_for(lambda: steps_saved(killed) >= 2, process)
        os.killpg(process.pid, signal.SIGKILL)
    again = run_openmae(asked)
    assert again.returncode == 0, again.stderr
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    keys = ("step", "loss", "lr", "grad_norm", "eval/mask_ap50", "eval/box_ap")
    lines = [[[line.get(key) for key in keys] for line in read_metrics(path)] for path in (whole, killed)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    "more",
    [pytest.param("", marks=pytest.mark.slow), pytest.param("--shard", marks=SHARDED)],
)
def test_two_processes_learn_together(model: Path, scenes: Path, tmp_path: Path, more: str) -> None:
    """Windows where class tokens are left out, and parameters that nothing asks."""
    out = tmp_path / "run"
    logs = together(2, detect(model, scenes, out, "--epochs 1 --relative-positions on", more), tmp_path)
    assert "mask AP50" in logs[0]
    assert "mask AP50" not in logs[1]
    assert all(torch.isfinite(value).all() for value in load_file(out / "model.safetensors").values())


def test_micro_batches_change_little(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    """Which proposals are learnt from, they do; the first step begins at the same loss all the same."""
    losses = []
    for name, flags in (("one", ""), ("other", "--micro-batch 2")):
        code, _, errors = run(*detect(model, scenes, tmp_path / name, "--epochs 1", flags))
        assert code == 0, errors
        losses.append(read_metrics(tmp_path / name)[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_what_it_refuses(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    refused(run(*detect("vit_tiny", scenes, tmp_path / "a")), "--from-scratch")
    refused(run(*detect(model, scenes, tmp_path / "b", "--most-objects 0")), "--most-objects", "1 or more")
    refused(run(*detect(model, scenes, tmp_path / "c", "--finest-anchor 0.5")), "--finest-anchor")
    refused(run("detect", "vit_tiny"), "openmae detect MODEL DATA --out RUN")
    refused(run(*detect(model, scenes, tmp_path / "e", "--img-size 16")), "--img-size of 32 x 32 or more")
    assert not list(tmp_path.glob("*/model.safetensors"))
