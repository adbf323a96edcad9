"""Runs of other methods: ordinary run folders, gone on with exactly; what is refused."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import openmae
from openmae.baselines.method import Collapsed
from openmae.errors import UserError
from openmae.heads import Classifier, Encoder
from openmae.recipes.baseline.job import train
from openmae.recipes.pretrain.settings import Pretrain
from openmae.train.run import read_config, read_metrics
from openmae.weights import load_model
from tests.commands import Run, pretrain
from tests.images import write_images
from tests.processes import PYTHON, steps_saved, wait_for


def baseline(data: Path, out: Path, method: str, **changes: Any) -> None:
    tiny: dict[str, Any] = {
        "img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2, "batch_size": 8, "micro_batch": 5,
        "epochs": 2, "precision": "fp32", "device": "cpu", "workers": 0, "evaluations": 0, "checkpoint_minutes": 0,
        "keep": 100,
    }  # fmt: skip
    train(Pretrain(str(data), out, **{**tiny, **changes}), method, Console(quiet=True))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


@pytest.mark.parametrize("method", ["simclr", "byol", "dino", "beit"])
def test_a_run_that_was_killed_ends_with_the_same_bits(data: Path, tmp_path: Path, method: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    steps = 27 if method == "dino" else 9  # its last layer rests for a tenth of them
    baseline(data, whole, method, epochs=steps / 4.5)
    assert read_config(whole)["method"] == method
    assert {"environment.json", "report.html", "metrics.jsonl"} <= {path.name for path in whole.iterdir()}
    lines = read_metrics(whole)
    assert len(lines) == read_config(whole)["steps"] == steps
    model = openmae.load(whole)
    assert isinstance(model, Encoder)
    assert model.encode(torch.zeros(1, 3, 16, 16)).shape == (1, 17, 24)
    shutil.copytree(whole, broken)
    for checkpoint in (broken / "checkpoints").iterdir():  # as if it had been killed then
        if checkpoint.name > "step-00000003":
            shutil.rmtree(checkpoint)
    baseline(data, broken, method, epochs=steps / 4.5, workers=1)
    assert [line["loss"] for line in read_metrics(broken)] == [line["loss"] for line in lines]
    ours, theirs = weights(whole), weights(broken)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    if method == "dino":
        first, second, later = (load_file(_checkpoint(whole, step)) for step in (1, 2, 4))
        assert torch.equal(first["head.last.weight"], second["head.last.weight"])
        assert not torch.equal(second["head.last.weight"], later["head.last.weight"])
        assert not torch.equal(first["head.layers.0.weight"], second["head.layers.0.weight"])
    kept, again = (
        load_file(_checkpoint(run, steps)) for run in (whole, broken)
    )  # with teacher, centre, what is watched
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def _checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"


KILLED = """
from pathlib import Path
from rich.console import Console
from openmae.recipes.baseline.job import train
from openmae.recipes.pretrain.settings import Pretrain
train(Pretrain({data!r}, Path({out!r}), img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=2, batch_size=8,
    epochs=40, precision="fp32", device="cpu", workers=1, evaluations=2, checkpoint_minutes=0), "byol", Console())
"""


@pytest.mark.slow
def test_a_real_kill_changes_no_bit(data: Path, tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("whole", "killed")}
    words = {name: [PYTHON[0], "-c", KILLED.format(data=str(data), out=str(run))] for name, run in runs.items()}
    subprocess.run(words["whole"], check=True, capture_output=True, timeout=600)
    for least in (5, 40):
        with subprocess.Popen(words["killed"], start_new_session=True, stdout=subprocess.DEVNULL) as process:
            wait_for(lambda least=least: steps_saved(runs["killed"]) > least, process)
            os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(words["killed"], check=True, capture_output=True, timeout=600)
    ours, theirs = (load_file(_checkpoint(run, 180)) for run in runs.values())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_supervised_leaves_a_classifier_which_is_known_to_have_seen_labels(
    data: Path, tmp_path: Path, run: Run
) -> None:
    baseline(data, tmp_path / "run", "supervised", evaluations=1)
    loaded = load_model(str(tmp_path / "run"))
    assert isinstance(loaded.model, Classifier)
    assert loaded.encoder_saw_labels
    assert loaded.info["class_names"] == ["class0", "class1"]
    assert "eval/knn_top1" in read_metrics(tmp_path / "run")[-1]


def test_what_it_leaves_is_judged_and_fine_tuned_as_any_run(data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    baseline(data, out, "dae", evaluations=1)
    assert read_metrics(out)[-1]["rankme"] > 1
    assert run("knn", out, data, "--workers", "0")[0] == 0
    code, _, errors = run(
        "finetune", out, data, "--out", tmp_path / "tuned", "--epochs", "1", "--device", "cpu", "--workers", "0"
    )
    assert code == 0, errors


def test_the_first_weights_are_those_of_a_pre_training(data: Path, tmp_path: Path, run: Run) -> None:
    baseline(data, tmp_path / "byol", "byol", blr=1e-12, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    pretrained = pretrain(data, tmp_path / "mae", "--blr 1e-12 --evaluations 0 --pictures 0")
    assert run(*pretrained)[0] == 0
    ours, theirs = weights(tmp_path / "byol"), weights(tmp_path / "mae")
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-9)


def test_a_collapse_ends_the_run_with_its_reason(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openmae.baselines.dino.LEAST_KNOWN", 100.0)
    for _ in range(2):  # also where it is started again
        with pytest.raises(Collapsed, match="DINO has collapsed"):
            baseline(data, tmp_path / "run", "dino")
    assert {"config.toml", "metrics.jsonl"} <= {path.name for path in (tmp_path / "run").iterdir()}


def test_what_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for method, changes, said in (
        ("simcrl", {}, "no method is called 'simcrl': did you mean simclr"),
        ("simclr", {"from_": str(data)}, "begins with fresh weights"),
        ("simclr", {"repeat_aug": 2}, "has its own views"),
        ("simclr", {"shard": True}, "one process"),
    ):
        with pytest.raises(UserError, match=said):
            baseline(data, out, method, **changes)
    assert not out.exists()
    flat = write_images(tmp_path / "images", 12, classes=1) / "class0"
    with pytest.raises(UserError, match="labels"):
        baseline(flat, out, "supervised")
    baseline(data, out, "simclr", epochs=1)
    with pytest.raises(UserError, match="holds a run with"):
        baseline(data, out, "mocov3", epochs=1)
