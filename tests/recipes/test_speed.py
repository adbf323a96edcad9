"""What makes a run fast or small changes nothing else: light decoders, checkpointing, compiling, want of memory."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openmae.recipes.pretrain.build import architecture_of
from openmae.recipes.pretrain.settings import Pretrain
from openmae.train.compiling import missing_compiler
from openmae.train.cost import memory
from openmae.train.run import read_config, read_metrics
from tests.commands import TINY, Run, pretrain, refused
from tests.images import write_images


def pretrained(run: Run, data: Path, out: Path, *words: str) -> str:
    """What the run printed."""
    code, said, errors = run(*pretrain(data, out, "--epochs 4", *words))
    assert code == 0, errors
    return said


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out)]


def test_the_fast_recipe_trains_a_light_decoder(tmp_path: Path, data: Path, run: Run) -> None:
    pretrained(run, data, tmp_path / "fast", "--recipe", "fast")
    config = read_config(tmp_path / "fast")
    assert (config["decoder"], config["predict_fraction"]) == ("cross", 0.25)
    pretrained(run, data, tmp_path / "flags", "--decoder", "cross", "--predict-fraction", "0.25")
    assert losses(tmp_path / "fast") == losses(tmp_path / "flags")


def test_checkpointed_blocks_give_the_same_run(tmp_path: Path, data: Path, run: Run) -> None:
    pretrained(run, data, tmp_path / "plain")
    pretrained(run, data, tmp_path / "again", "--grad-checkpointing", "on")
    assert losses(tmp_path / "plain") == losses(tmp_path / "again")
    plain, again = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "again"))
    assert all(torch.equal(value, again[key]) for key, value in plain.items())


def test_a_profile_is_left_in_the_run_folder(tmp_path: Path, data: Path, run: Run) -> None:
    said = pretrained(run, data, tmp_path / "run", "--profile")
    assert "Where 5 steps went" in said
    assert (tmp_path / "run/profile/trace.json.gz").stat().st_size > 1000
    assert "profile" not in read_config(tmp_path / "run")
    pretrained(run, data, tmp_path / "plain")
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")


@pytest.mark.slow
def test_fine_tuning_can_save_memory_and_be_profiled(tmp_path: Path, data: Path, run: Run) -> None:
    words = (*TINY[:4], "--epochs", 3, "--batch-size", 8, "--precision", "fp32", "--workers", 0, "--drop-path", 0.5)
    for name, more in (("plain", ()), ("again", ("--grad-checkpointing", "on", "--profile"))):
        code, said, errors = run(
            "finetune", "vit_tiny", data, "--out", tmp_path / name, "--from-scratch", *words, "--device", "cpu", *more
        )
        assert code == 0, errors
    assert "Where 5 steps went" in said
    assert losses(tmp_path / "plain") == losses(tmp_path / "again")


def test_compiling_needs_a_compiler_and_steps_of_one_shape(
    tmp_path: Path, data: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = pretrain(data, tmp_path / "run", "--epochs 2 --compile on")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    refused(run(*words), "--compile on needs a C++ compiler, such as g++: install it, or leave --compile out")
    (tmp_path / "g++").write_text("")
    (tmp_path / "g++").chmod(0o755)
    assert missing_compiler(torch.device("cpu")) is None
    refused(run(*words, "--mask-schedule", "linear", "--mask-ratio-end", "0.9"), "--mask-schedule linear changes")


@pytest.mark.slow
def test_a_compiled_run_is_the_eager_one_and_starts_from_the_cache(tmp_path: Path, data: Path) -> None:
    def train(name: str, *words: str) -> set[Path]:
        """The compiled libraries that the cache holds after a run."""
        typed = pretrain(data, tmp_path / name, "--micro-batch 8 --epochs 10", *words)
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
        command = [sys.executable, "-m", "openmae.cli", *typed]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return set((tmp_path / "cache/openmae/compiled").rglob("*.so"))

    assert not train("eager")
    made = train("compiled", "--compile", "on")
    assert made
    assert train("again", "--compile", "on") == made
    eager, compiled = losses(tmp_path / "eager"), losses(tmp_path / "compiled")
    assert len(eager) == 45  # steps: 36 images are left of 40, ten times
    assert compiled == pytest.approx(eager, rel=1e-4)
    assert compiled != eager  # it was another program that computed them
    assert losses(tmp_path / "again") == compiled


@pytest.mark.slow
def test_a_machine_with_too_little_memory_still_trains_the_batch(tmp_path: Path) -> None:
    """A process that the system gives little more than half of the memory that its micro-batch needs."""
    data = write_images(tmp_path / "data", 16)
    sizes = ["--img-size", "64", "--patch-size", "4", "--embed-dim", "96", "--depth", "3", "--num-heads", "3"]
    sizes += ["--decoder-embed-dim", "96", "--decoder-depth", "3", "--decoder-num-heads", "3"]
    words = [
        *sizes,
        "--batch-size",
        "192",
        "--micro-batch",
        "192",
        "--epochs",
        "24",
        "--warmup-epochs",
        "0",
        "--evaluations",
        "0",
    ]
    words += ["--pictures", "1", "--precision", "fp32", "--device", "cpu", "--workers", "0"]
    settings = Pretrain(
        "data",
        model="vit_tiny",
        img_size=64,
        patch_size=4,
        in_chans=3,
        embed_dim=96,
        depth=3,
        num_heads=3,
        decoder_embed_dim=96,
        decoder_depth=3,
        decoder_num_heads=3,
        decoder="self",
    )
    needed = memory(architecture_of(settings), "fp32", 192).total

    def train(name: str, limit: int | None) -> subprocess.CompletedProcess[str]:
        def bound() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        out = tmp_path / name
        return subprocess.run(
            [sys.executable, "-m", "openmae.cli", "pretrain", str(data), "--out", str(out), *words],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=bound,
        )

    bare = subprocess.run(
        [sys.executable, "-c", "import openmae.recipes.pretrain.job as p, re; print(open('/proc/self/status').read())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    mapped = next(int(line.split()[1]) * 1024 for line in bare.splitlines() if line.startswith("VmSize"))
    bounded = train("bounded", mapped + int(0.6 * needed) + 2**29)  # room for threads and a checkpoint too
    assert bounded.returncode == 0, bounded.stdout + bounded.stderr
    assert "ran out of memory: " in bounded.stdout
    free = train("free", None)
    assert "ran out of memory" not in free.stdout
    assert losses(tmp_path / "bounded") == pytest.approx(losses(tmp_path / "free"), rel=1e-4)
    assert json.loads((tmp_path / "bounded/model.json").read_text())["provenance"]["step"] == 2
