"""`openmae quickstart`: its steps, and that no val pixel is trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openmae.randomness import generator
from openmae.recipes import quickstart
from tests.commands import Run


def test_quickstart_does_its_steps(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "CROPS", {"train": 3, "val": 2})
    code, output, errors = run("quickstart", "--out", tmp_path / "q", "--epochs", "2")
    assert code == 0, errors
    assert all(f"\n{number}. " in f"\n{output}" for number in (1, 2, 3, 4))
    assert "openmae pretrain your/images --out runs/first" in output
    Image.open(tmp_path / "q/reconstruction.png").verify()
    kept = json.loads((tmp_path / "q/run/evaluations.json").read_text())
    assert len(kept) == 8  # pixels, histograms, untrained, pre-trained: by kNN and linear
    assert {e["classes"] for e in kept} == {19}


def test_quickstart_crops_share_no_pixel_between_splits() -> None:
    places = np.arange(400 * 640).reshape(400, 640)
    seen = {}
    for split in ("train", "val"):
        found = quickstart.crops(np.stack([places] * 3, -1), split, 300, generator(0, "bundled crops"))
        assert all(crop.shape == (64, 64, 3) for crop in found)
        seen[split] = set(np.concatenate([crop[..., 0].reshape(-1) for crop in found]).tolist())
    assert seen["train"]
    assert seen["val"]
    assert not seen["train"] & seen["val"]


@pytest.mark.slow
def test_quickstart_shows_that_pre_training_worked(tmp_path: Path, run: Run) -> None:
    assert run("quickstart", "--out", tmp_path / "q")[0] == 0
    kept = json.loads((tmp_path / "q/run/evaluations.json").read_text())
    top1 = {(e["kind"], e["features"]): e["top1"] for e in kept}
    assert top1["knn", "pre-trained"] > top1["knn", "untrained"] + 0.08
    assert top1["linear", "pre-trained"] > top1["linear", "untrained"] + 0.03
    assert top1["knn", "pre-trained"] > top1["knn", "raw pixels"] + 0.3
