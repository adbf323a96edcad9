"""Every command reads every folder of DATA once, where no listing of it is kept."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from openmae.cli import main
from tests.commands import TINY, Run
from tests.images import write_images

HERE = "--device cpu --workers 0".split()
QUICK = [*"--epochs 1 --batch-size 8 --micro-batch 8 --precision fp32 --evaluations 1".split(), *HERE]
BRIEF = [*TINY, *"--epochs 1 --pictures 1 --evaluations 1 --workers 0".split()]

EVERYTHING, BOTH = ("", "train", "val", "other"), ("train", "val")
COMMANDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "pretrain": (["pretrain", "DATA", "--out", "NEW", *BRIEF], BOTH),
    "finetune": (["finetune", "MODEL", "DATA", "--out", "NEW", *QUICK], BOTH),
    "knn": (["knn", "MODEL", "DATA", "--k", "3", *HERE], BOTH),
    "probe": (["probe", "MODEL", "DATA", *HERE], BOTH),
    "evaluate": (["evaluate", "CLASSIFIER", "DATA", *HERE], ("val",)),
    "evaluate all": (["evaluate", "CLASSIFIER", "DATA", "--split", "all", *HERE], EVERYTHING),
    "embed": (["embed", "MODEL", "DATA", "--out", "NEW.parquet", *HERE], EVERYTHING),
    "check": (["check", "DATA", "--workers", "0"], EVERYTHING),
    "stats": (["stats", "DATA", "--workers", "0"], ("train",)),
    "pack": (["pack", "DATA", "NEW", "--workers", "0"], BOTH),
    "plan": (["plan", "DATA", "--seconds", "0.1", *TINY], ("train",)),
    "reconstruct": (["reconstruct", "MODEL", "DATA", "--out", "NEW.png", "--device", "cpu"], ("val",)),
    "export": (["export", "MODEL", "--to", "safetensors", "--data", "DATA", "--out", "NEW.safetensors"], EVERYTHING),
}
"""Each with the folders of split/ that it has to look into."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain/ and split/, a model and a classifier."""
    place = tmp_path_factory.mktemp("once")
    plain = str(write_images(place / "plain", 24))
    for part, first, images in (("train", 0, 16), ("val", 16, 8), ("other", 24, 4)):
        write_images(place / "split" / part, images, first=first)
    assert main(["pretrain", plain, "--out", str(place / "model"), *BRIEF]) == 0
    assert main(["finetune", str(place / "model"), plain, "--out", str(place / "classifier"), *QUICK]) == 0
    return place


@pytest.mark.parametrize("data", ["plain", "split"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_reads_each_folder_once(
    command: str, data: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    words, parts = COMMANDS[command]
    folders = {place / data / part for part in (parts if data == "split" else ("",))}
    folders |= {folder / name for folder in folders for name in ("class0", "class1") if (folder / name).exists()}
    walked: Counter[Path] = Counter()
    real = os.scandir

    def scandir(folder: Any) -> Any:
        if not isinstance(folder, int) and (path := Path(os.fsdecode(folder))).is_relative_to(place / data):
            walked[path] += 1
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    given = {"DATA": place / data, "MODEL": place / "model", "CLASSIFIER": place / "classifier"}
    code, _, errors = run(*(str(given.get(word, word)).replace("NEW", str(tmp_path / "new")) for word in words))
    assert code == 0, errors
    assert walked == dict.fromkeys(folders, 1)
