"""What pretrain measures as training goes on: the figures, and that training does not feel it."""

import json
import shutil
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

from openmae.console.terminal import make_console
from openmae.data.formats.channels import PixelFormat
from openmae.data.opening import open_data
from openmae.data.views.statistics import Statistics
from openmae.distributed.ranks import ALONE
from openmae.model import create_model
from openmae.recipes.pretrain import watch as module
from openmae.recipes.pretrain.watch import Watch
from openmae.recipes.training.kind import Here
from openmae.recipes.training.schedule import Course
from openmae.report.plots.curves import curves
from openmae.train.loop import Schedule
from openmae.train.run import RunFolder, read_metrics
from tests.commands import Run, pretrain
from tests.images import picture, write_images
from tests.runs import copy

SHORT = "--epochs 3 --pictures 0 --evaluations 4"


def test_figures_are_those_of_the_command_and_training_does_not_feel_them(
    colours: Path, tmp_path: Path, run: Run
) -> None:
    for name, more in (("none", "--evaluations 0"), ("four", "")):
        code, _, errors = run(*pretrain(colours, tmp_path / name, SHORT, more))
        assert code == 0, errors
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("none", "four")]
    assert weights[0] == weights[1]
    assert not any("rankme" in line for line in read_metrics(tmp_path / "none"))
    lines = read_metrics(tmp_path / "four")
    measured = [line for line in lines if "rankme" in line]
    assert [line["step"] for line in measured] == [2, 4, 7, 9]
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("none", "four")]
    assert losses[0] == losses[1]
    assert run("knn", tmp_path / "four", colours, "--workers", "0", "--no-baselines", "--precision", "fp32")[0] == 0
    (kept,) = json.loads((tmp_path / "four/evaluations.json").read_text())
    assert measured[-1]["eval/knn_top1"] == pytest.approx(kept["top1"])
    assert measured[-1]["rankme"] == pytest.approx(kept["rankme"], abs=0.01)
    drawn = curves(lines)
    assert "Evaluations during training" in drawn
    assert "Effective rank of the features (RankMe)" in drawn
    assert "(RankMe)" in (tmp_path / "four/report.html").read_text()


def test_a_resumed_run_measures_the_same(colours: Path, tmp_path: Path, run: Run) -> None:
    words = pretrain(colours, tmp_path / "r", SHORT, "--checkpoint-minutes 0")
    assert run(*words)[0] == 0
    before = read_metrics(tmp_path / "r")
    shutil.rmtree(max((tmp_path / "r/checkpoints").glob("step-*")))
    assert run(*words)[0] == 0
    kept = ("step", "loss", "rankme", "eval/knn_top1")
    assert [[line.get(k) for k in kept] for line in read_metrics(tmp_path / "r")] == [
        [line.get(k) for k in kept] for line in before
    ]
    assert run(*words, "--evaluations", "2")[0] == 0  # may differ between the starts of a run


def test_without_labels_of_use_the_reason_is_said_once_and_rankme_stays(tmp_path: Path, run: Run) -> None:
    cases = {
        "flat": "has no labels",
        "single": "two classes or more",
        "table.csv": "labels are for multi-label",
    }
    for number in range(12):
        for place in ("flat", "single/cats"):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            picture(number).save(tmp_path / place / f"{number}.png")
    rows = [f"flat/{number}.png,{'a;b' if number % 2 else 'b'}" for number in range(12)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    for name, reason in cases.items():
        code, output, errors = run(*pretrain(tmp_path / name, tmp_path / f"r-{name}", SHORT))
        assert code == 0, errors
        assert output.count("No kNN figure during training") == 1
        assert reason in output
        line = read_metrics(tmp_path / f"r-{name}")[-1]
        assert 1 <= line["rankme"] <= 24
        assert "eval/knn_top1" not in line


def test_images_that_cannot_be_read_do_not_end_the_run(colours: Path, tmp_path: Path, run: Run) -> None:
    data = copy(colours, tmp_path / "data")
    for path in (data / "val").rglob("*.*"):
        path.write_bytes(b"no image")
    code, output, errors = run(*pretrain(data, tmp_path / "r", SHORT, "--evaluations 1"))
    assert code == 0, errors
    assert "the features are not measured: none of the 24 images" in output


def test_the_sample_is_bounded_the_same_every_time_and_asks_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FEWEST", 12)
    monkeypatch.setattr(module, "MOST_QUERIES", 5)
    source = open_data(str(write_images(tmp_path / "d", 40))).all
    model = create_model("vit_tiny", img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2).train()
    grey = Statistics((0.5,) * 3, (0.25,) * 3, PixelFormat(3))

    def watch(passes: int, seed: int = 0) -> Watch:
        with RunFolder(tmp_path / "run") as folder:
            here = Here(folder, torch.device("cpu"), 0, make_console(), ALONE)
        schedule = Schedule(1, 8, 8, lambda step: 0.0, inf, checkpoint_seconds=1e9, log_every=1)
        return Watch(model.encoder, grey, (source, None), passes, Course("data", seed, schedule, False, 0.0), here)

    def names(some: Watch) -> list[set[str]]:
        return [{part.name(i) for i in range(len(part))} for part in some.sources]

    assert [len(part) for part in names(watch(0))] == [8, 4]
    assert [len(part) for part in names(watch(10**6))] == [35, 5]
    assert not set.intersection(*names(watch(10**6)))
    assert names(watch(0)) == names(watch(0)) != names(watch(0, seed=1))
    torch.manual_seed(3)
    looked = watch(10**6)
    state = torch.get_rng_state()
    first = looked(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert np.isfinite(first["rankme"])
    shutil.rmtree(tmp_path / "d")  # small images are read once
    assert looked(model) == first
