"""`openmae segment`: what it learns and leaves, kills, several processes, and what it refuses."""

import json
import os
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import openmae
from openmae.evaluate.segmentation import segmented
from openmae.train.run import read_metrics
from openmae.weights import load_model
from tests.commands import Run, refused, segment
from tests.distributed.by_hand import SHARDED, together
from tests.processes import run_openmae, started_openmae, steps_saved, wait_for
from tests.runs import Runs, done


@pytest.fixture(scope="module")
def scenes(runs: Runs) -> Path:
    return runs.scenes()


@pytest.fixture(scope="module")
def model(runs: Runs) -> Path:
    return runs.scenes_encoder()


def test_it_learns_and_leaves_a_whole_run(runs: Runs, scenes: Path) -> None:
    out = runs.segmenter()
    found = json.loads((out / "results.json").read_text())[f"{scenes} (val)"]["clean"]
    assert found["figures"]["miou"] > 0.7
    assert 0 < found["errors"]["miou"] < 0.2
    assert [one["name"] for one in found["overlaps"]] == ["ground", "disc", "square"]
    page = (out / "report.html").read_text()
    assert "Each class" in page
    assert "mostly taken for" in page
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    looks = [line["eval/miou"] for line in lines if "eval/miou" in line]
    assert len(looks) == 2
    assert looks[-1] == pytest.approx(found["figures"]["miou"], abs=1e-6)
    # its figure is that of its weights on the files, counted here
    loaded = load_model(out)
    hits = np.zeros((3, 2))
    for file in sorted((scenes / "val" / "images").iterdir()):
        image = np.asarray(Image.open(file))
        right = np.asarray(Image.open(scenes / "val" / "masks" / file.name))
        said = segmented(loaded.model, loaded.statistics, image, torch.device("cpu"))  # type: ignore[arg-type]
        for label in range(3):
            has, says, asked = right == label, said == label, right != 255
            hits[label] += (has & says).sum(), ((has | says) & asked).sum()
    assert (hits[:, 0] / hits[:, 1]).mean() == pytest.approx(found["figures"]["miou"], abs=1e-9)


@pytest.mark.parametrize(
    "flags",
    [
        "--recipe paper --img-size 16 --blocks 1 --batch-size 4",
        "--from-scratch --blocks all --drop-path 0.2 --vflip on --rotate90 on --ema-decay 0.9",
        "--labels 50% --blocks 0 --img-size 32 --scale 0.5 2 --resize fit --keep-best on --patience 1 --evaluations 2",
    ],
)
def test_every_option_trains_and_loads(model: Path, scenes: Path, tmp_path: Path, run: Run, flags: str) -> None:
    out = tmp_path / "run"
    code, printed, errors = run(*segment(model, scenes, out, flags))
    assert code == 0, errors
    for place in (out, out / "best") if "best" in flags else (out,):
        loaded = openmae.load(place)
        side = 32 if "32" in flags else 16
        assert loaded(torch.zeros(2, 3, side, side)).shape == (2, 3, side, side)
    before, after = load_file(model / "model.safetensors"), load_file(out / "model.safetensors")
    same = torch.equal(before["encoder.blocks.0.mlp.0.weight"], after["backbone.encoder.blocks.0.mlp.0.weight"])
    assert same is ("from-scratch" not in flags)
    learnt = 6 if "50%" in flags else 12
    assert f"3 classes; learnt from {learnt} images, judged by 6 others" in printed
    found = json.loads((out / "results.json").read_text())[f"{scenes} (val)"]["clean"]
    assert f"mIoU {100 * found['figures']['miou']:.1f}" in printed
    config = tomllib.loads((out / "config.toml").read_text())
    published = "paper" in flags
    assert [config[name] for name in ("head", "auxiliary", "dropout", "decay", "layer_decay")] == (
        ["upernet", 0.4, 0.1, "linear", 0.65] if published else ["linear", 0, 0, "cosine", config["layer_decay"]]
    )
    at_1024 = config["blr"] / 256 * (1024 * config["batch_size"]) ** 0.5
    assert published or at_1024 == pytest.approx(0.16 if config["blocks"] == "0" else 0.016)
    rates = [line["lr"] for line in read_metrics(out)]
    if published:  # the same way down at each step
        assert rates[-1] - rates[-2] == pytest.approx(rates[-2] - rates[-3])


AS_ONE = "--drop-path 0.3 --dropout 0.2 --ema-decay 0.9 --blr 0.01"


@pytest.fixture(scope="module")
def single(runs: Runs, model: Path, scenes: Path) -> Path:
    """By one process, in batches that go through the model at once."""
    return runs.once("segmented-by-one", lambda out: done(segment(model, scenes, out, AS_ONE)))


@pytest.mark.parametrize(
    ("processes", "more"),
    [
        (1, "--micro-batch 1 --workers 2"),
        pytest.param(2, "", marks=pytest.mark.slow),
        pytest.param(2, "--shard", marks=(SHARDED, pytest.mark.slow)),  # detect's is not
    ],
)
def test_how_it_is_shared_out_changes_nothing(
    single: Path, model: Path, scenes: Path, tmp_path: Path, run: Run, processes: int, more: str
) -> None:
    asked = segment(model, scenes, tmp_path / "run", AS_ONE, more)
    if processes == 1:
        assert run(*asked)[0] == 0
    else:
        said, other = together(processes, asked, tmp_path)
        assert "On the val images: mIoU" in said
        assert "mIoU" not in other
    found = [load_file(place / "model.safetensors") for place in (single, tmp_path / "run")]
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-5, rtol=1e-3)
    miou = [read_metrics(place)[-1]["eval/miou"] for place in (single, tmp_path / "run")]
    assert miou[0] == pytest.approx(miou[1], abs=2e-3)


def test_a_killed_run_resumes_to_the_same_bits(model: Path, scenes: Path, tmp_path: Path, run: Run) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = "--epochs 12 --drop-path 0.2 --ema-decay 0.9 --checkpoint-minutes 0 --evaluations 3"
    assert run(*segment(model, scenes, whole, flags))[0] == 0
    asked = segment(model, scenes, killed, flags)
    with started_openmae([*asked, "--workers", "2"], tmp_path / "log", session=True) as process:
        wait_for(lambda: steps_saved(killed) >= 16, process)
        os.killpg(process.pid, signal.SIGKILL)
    again = run_openmae(asked)
    assert again.returncode == 0, again.stderr
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    keys = ("step", "loss", "lr", "grad_norm", "eval/miou")
    lines = [[[line.get(key) for key in keys] for line in read_metrics(path)] for path in (whole, killed)]
    assert lines[0] == lines[1]


def test_flags_that_do_not_go_together(scenes: Path, tmp_path: Path, run: Run) -> None:
    refused(run(*segment("vit_tiny", scenes, tmp_path / "a")), "--from-scratch")
    refused(run(*segment("vit_tiny", scenes, tmp_path / "b", "--patience 2 --keep-best off")), "--keep-best off")
    refused(run(*segment("vit_tiny", scenes, tmp_path / "c", "--from-scratch --scale 2 1")), "--scale")
    refused(run("segment", "vit_tiny"), "openmae segment MODEL DATA --out RUN")
