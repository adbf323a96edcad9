"""Every command that gives a model images says so where they are not of the scale that it learnt from."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from openmae.errors import UserError
from openmae.evaluate.embedding import embed
from openmae.weights.native import KEY
from tests.commands import Run, finetune, pretrain, refused
from tests.runs import copy

DARK = {"mean": [0.02] * 3, "std": [0.005] * 3}  # 12 bits in 16, say


def learnt_from(statistics: dict[str, list[float]], run: Path, place: Path) -> Path:
    """The run as if its images had had these figures."""
    file = copy(run, place) / "model.safetensors"
    weights = load_file(file)
    with safe_open(file, "pt") as opened:
        info = json.loads(opened.metadata()[KEY])
    info["statistics"] |= statistics
    save_file(weights, file, {KEY: json.dumps(info)})
    return place


@pytest.mark.parametrize(
    ("command", "run_name"),
    [
        ("knn MODEL DATA --workers 0", "finished"),
        ("probe MODEL DATA --workers 0", "finished"),
        ("embed MODEL DATA --out OUT/vectors.npy --workers 0", "finished"),
        ("reconstruct MODEL DATA --out OUT/picture.png", "finished"),
        ("export MODEL --to safetensors --out OUT/model.safetensors --data DATA", "finished"),
        ("finetune MODEL DATA --out OUT/run --epochs 1 --workers 0", "finished"),
        ("evaluate MODEL DATA --workers 0", "classes"),
    ],
)
def test_images_of_another_scale_are_refused(
    command: str, run_name: str, request: pytest.FixtureRequest, data: Path, tmp_path: Path, run: Run
) -> None:
    model = learnt_from(DARK, request.getfixturevalue(run_name), tmp_path / "model")
    places = {"MODEL": str(model), "DATA": str(data), "OUT": str(tmp_path)}
    typed = [places.get(word, word.replace("OUT", str(tmp_path))) for word in command.split()]
    refused(run(*typed), f"not what {model} learnt from", "of 255 are expected", "instead of 0 and 1")


def test_odd_images_are_said_and_used(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    model = learnt_from({"mean": [0.1] * 3, "std": [0.08] * 3}, finished, tmp_path / "model")
    code, said, errors = run("knn", str(model), str(data), "--workers", "0", "--no-baselines")
    assert code == 0, errors
    assert f"not quite what {model} learnt from" in said
    code, said, _ = run("knn", str(copy(finished, tmp_path / "same")), str(data), "--workers", "0", "--no-baselines")
    assert code == 0
    assert "warning" not in said


def test_a_mean_in_levels_is_refused_before_anything_is_trained(data: Path, tmp_path: Path, run: Run) -> None:
    words = pretrain(data, tmp_path / "run", "--mean 123.7 116.3 103.5 --std 58.4 57.1 57.4")
    refused(run(*words), "--mean 123.7 116.3 103.5", "in levels of 0 to 255", "--mean 0.4851 0.4561 0.4059 --std 0.229")
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_images_of_two_scales_are_said_by_check_stats_pretrain_and_finetune(tmp_path: Path, run: Run) -> None:
    generator = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "mixed" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = generator.integers(60, 200, (16, 16)).astype(np.uint8)
        if number < 4:
            Image.fromarray(image).save(folder / f"{number}.png")
        else:
            np.save(folder / f"{number}.npy", image.astype(np.float32))
    mixed = str(tmp_path / "mixed")
    for words in (
        ["check", mixed, "--workers", "0"],
        ["stats", mixed, "--workers", "0"],
        pretrain(mixed, tmp_path / "run"),
        finetune(tmp_path / "run", mixed, tmp_path / "fine", "--epochs 1"),
    ):
        code, said, errors = run(*words)
        assert code == (words[0] == "check"), errors
        assert "the images are of two scales, 8 and 16 bits scaled to 0..1: " in said, words[0]


def test_python_refuses_them_too(finished: Path, data: Path, tmp_path: Path) -> None:
    model = learnt_from(DARK, finished, tmp_path / "model")
    with pytest.raises(UserError, match=r"not what .* learnt from"):
        embed(model, str(data))
