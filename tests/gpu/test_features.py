"""What is measured of a frozen model on a GPU is what a CPU finds."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run
from tests.gpu.device import DEVICE, FLAGS, MARKS
from tests.runs import copy

pytestmark = MARKS


@pytest.mark.parametrize("command", ["knn", "probe"])
def test_features_are_worth_as_much(finished: Path, colours: Path, tmp_path: Path, run: Run, command: str) -> None:
    """In float32, on 24 images: at most one is judged otherwise."""
    found = []
    for device in (DEVICE.type, "cpu"):
        model = copy(finished, tmp_path / f"{device}-{len(found)}")
        words = (command, model, colours, "--workers", "0", "--device", device, "--no-baselines", "--precision", "fp32")
        code, _, errors = run(*words)
        assert code == 0, errors
        found.append(figures(model))
    assert len(found[0]) == len(found[1]) > 0
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, abs=1 / 24 + 1e-6)


def figures(model: Path) -> list[float]:
    kept: Any = json.loads((model / "evaluations.json").read_text())
    return [line["top1"] for line in kept if line["kind"] in ("knn", "linear")]


def test_other_commands_end(finished: Path, classes: Path, data: Path, tmp_path: Path, run: Run) -> None:
    device = FLAGS.split()
    image = next(data.rglob("*.png"))
    for words in (
        ("embed", finished, data, "--out", tmp_path / "features.npy", "--workers", "0"),
        ("reconstruct", finished, image, "--out", tmp_path / "picture.png"),
        ("predict", classes, data, "--out", tmp_path / "predictions.csv", "--workers", "0"),
        ("evaluate", copy(classes, tmp_path / "classes"), data, "--workers", "0"),
    ):
        code, _, errors = run(*words, *device)
        assert code == 0, (words, errors)


def test_the_doctor_sees_the_device(run: Run, brief_doctor: None) -> None:
    code, output, _ = run("doctor")
    assert code in (0, 1)  # a machine may have other faults
    line = next(line for line in output.splitlines() if " device" in line)
    assert ("no GPU" in line) == (DEVICE.type == "cpu"), output
