"""Parts of a batch at the same time: the bits of one after the other, in real runs too, no more at once than said."""

import os
import signal
import threading
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from openmae.data.formats.channels import PixelFormat
from openmae.data.opening import open_data
from openmae.data.views.statistics import Statistics
from openmae.evaluate.features import centred_images, extract, extract_each, pooled
from openmae.machine.kinds import Precision
from openmae.machine.lanes import MOST_LANES, ONE, Lanes
from openmae.model import MaskedAutoencoder, ViT, create_model
from openmae.recipes.baseline.job import train
from openmae.recipes.bench.steps import OurStepper, Where, random_batches
from openmae.recipes.finetune.learning import suits_lanes
from openmae.recipes.pretrain.settings import Pretrain
from openmae.train.learner import Learner
from openmae.train.loop import Schedule
from openmae.train.optimizers import adamw
from openmae.train.step import take_step
from tests.commands import Run, finetune, pretrain
from tests.images import write_images
from tests.processes import run_openmae, started_openmae, steps_saved, wait_for
from tests.train.tasks import CPU, Task, TooLarge

TWO_THREADS = """
import sys, torch
torch.set_num_threads(2)
from openmae.cli import main
sys.exit(main(sys.argv[1:]))
"""


@given(st.integers(1, 64), st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 2, 32]))
def test_no_more_at_once_than_said_and_few_cores_idle(threads: int, micro_batch: int, share: int, least: int) -> None:
    micro_batch = max(least, micro_batch // least * least)
    all_lanes = Lanes.among(threads)
    lanes = all_lanes.of(micro_batch, least)
    for some, most in ((all_lanes, MOST_LANES), (lanes, min(all_lanes.count, micro_batch // least))):
        assert 1 <= some.count <= most
        assert some.threads >= 1
    assert threads - all_lanes.count * all_lanes.threads <= threads % MOST_LANES
    part = lanes.part(micro_batch, share, least)
    assert part % least == 0
    assert part > 0
    if micro_batch < share:
        assert lanes.count * part <= micro_batch
    else:
        assert lanes.count * (part - least) < share <= lanes.count * part


def model_of(checkpointed: bool) -> MaskedAutoencoder:
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    sizes |= {f"decoder_{name}": value for name, value in sizes.items()}
    model = create_model("vit_tiny", img_size=32, patch_size=8, **sizes)
    model.initialize(torch.Generator().manual_seed(0))
    model.checkpoint_blocks(checkpointed)
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_steps_are_those_of_one_after_the_other(precision: Precision, checkpointed: bool) -> None:
    """Two lanes and five micro-batches a step, the last of them alone; one parameter that no loss asks for."""
    models, told = [model_of(checkpointed) for _ in range(2)], []
    for model, lanes in zip(models, (ONE, Lanes(2)), strict=True):
        model.unasked = nn.Parameter(torch.ones(3))
        learner = Learner(model, lambda model, batch: model(batch.images, batch.visible, batch.queries).loss)
        optimizer, batches = adamw(model, (0.9, 0.95), 0.05), cycle(random_batches(model, 3, 4))
        told.append(
            [
                take_step(
                    learner,
                    batches,
                    optimizer,
                    batch_size=15,
                    device=CPU,
                    precision=precision,
                    clip_grad=0.1,
                    lanes=lanes,
                ).numbers
                for _ in range(4)
            ]
        )
        assert model.unasked.grad is None
    assert told[0] == told[1]
    assert told[0][0] != told[0][-1]
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def seen_lanes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """(lanes, threads of each, losses) of the passes to come."""
    seen, backward = [], Lanes.backward

    def watched(self: Lanes, losses: list, parameters: list) -> list:
        seen.append((self.count, self.threads, len(losses)))
        return backward(self, losses, parameters)

    monkeypatch.setattr(Lanes, "backward", watched)
    return seen


@pytest.mark.usefixtures("threads")
def test_runs_on_two_threads_are_those_of_smaller_micro_batches_on_one(
    finished: Path, colours: Path, data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 images at once, 4 a lane."""

    def command(words: Callable[..., list[str]], *given: object) -> Callable[[Path, int], None]:
        def trained(out: Path, micro_batch: int) -> None:
            code, _, errors = run(*words(*given[:-1], out, given[-1], f"--micro-batch {micro_batch}"))
            assert code == 0, errors

        return trained

    def method(name: str) -> Callable[[Path, int], None]:
        tiny: dict[str, Any] = {
            "img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2, "batch_size": 8, "epochs": 2,
            "precision": "fp32", "device": "cpu", "workers": 0, "evaluations": 0,
        }  # fmt: skip

        def trained(out: Path, micro_batch: int) -> None:
            asked = Pretrain(str(data), out, micro_batch=micro_batch, **tiny)
            train(asked, name, Console(quiet=True))

        return trained

    seen = seen_lanes(monkeypatch)
    for name, trained in (
        ("pretrain", command(pretrain, data, "--epochs 3 --pictures 1")),
        ("finetune", command(finetune, finished, colours, "--batch-size 8 --drop-path 0.1")),
        *((one, method(one)) for one in ("dae", "dino")),
    ):
        torch.set_num_threads(2)
        trained(tmp_path / f"two-{name}", 8)
        assert seen, name
        assert set(seen) == {(2, 1, 2)}
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        seen.clear()
        trained(tmp_path / f"one-{name}", 4)
        assert not seen
        two, one = (sorted((tmp_path / f"{which}-{name}").rglob("model.safetensors")) for which in ("two", "one"))
        assert len(two) == len(one) > 1  # of the checkpoint too, with all that the method keeps
        for mine, other in zip(two, one, strict=True):
            assert mine.read_bytes() == other.read_bytes(), mine
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


@pytest.mark.usefixtures("threads")
def test_large_images_are_fine_tuned_on_all_cores_at_once() -> None:
    def suits(side: int, at_once: int) -> bool:
        with torch.device("meta"):
            encoder = ViT((side, side), (8, 8), 3, 128, 1, 4)
        schedule = Schedule(1, 64, at_once, lambda step: 0.0, 1.0, 1.0, 1, precision="bf16")
        return suits_lanes(encoder, schedule)

    assert suits(64, 64)
    assert suits(256, 8)
    assert not suits(256, 16)


@pytest.mark.usefixtures("threads")
def test_where_a_lane_runs_out_of_memory_all_take_less(tmp_path: Path) -> None:
    large, small = TooLarge(most=1), Task(micro_batch=1)
    large.lanes = Lanes(2)
    large.train(tmp_path / "large", 5)
    small.train(tmp_path / "small", 5)
    assert large.begun == [(0, 4), (0, 2), (0, 1)]  # a lane; of 8, 4, 2 at once
    assert large.sizes == [1] * 40
    for one, other in zip(large.model.parameters(), small.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("threads")
def test_a_profile_is_of_all_lanes(tmp_path: Path) -> None:
    task = Task()
    task.lanes = Lanes(2)
    task.train(tmp_path / "run", 12, profile=True)
    rows = [line.split() for line in (tmp_path / "run/profile/top.txt").read_text().splitlines()[2:]]
    calls = {row[3]: int(row[2]) for row in rows}
    assert calls["forward"] == calls["backward"] == 2, rows


@pytest.mark.usefixtures("threads")
def test_benchmarks_take_the_steps_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_lanes(monkeypatch)
    stepper = OurStepper(model_of(False), False, Where("cpu", "fp32"))
    stepper.resize(5)
    stepper.step()
    stepper.resize(1)
    stepper.step()
    assert seen == [(2, 1, 2)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_are_those_of_smaller_batches_on_one_thread(precision: Precision, tmp_path: Path) -> None:
    """Nine images are five and four; one alone has all threads."""
    encoder, source = model_of(False).encoder.eval(), open_data(str(write_images(tmp_path, 9))).all
    grey = Statistics((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), PixelFormat(3))
    function, images = pooled(encoder, grey, "mean", precision=precision), centred_images(encoder, grey, source)
    seen = []

    def watched(batch: torch.Tensor) -> torch.Tensor:
        seen.append((len(batch), torch.get_num_threads(), torch.is_grad_enabled()))
        return function(batch)

    found, indices = extract_each(images, [watched, lambda batch: batch.float().mean((2, 3))], CPU, 0)
    assert sorted(seen) == [(4, 1, False), (5, 1, False)]
    extract(images.part(range(1)), watched, CPU, 0)
    assert seen[2:] == [(1, 2, False)]
    torch.set_num_threads(1)
    pixels = torch.cat([batch for batch, _ in images.batches(9, 0)])
    with torch.inference_mode():
        assert torch.equal(found[0], torch.cat([function(part) for part in pixels.split(5)]))
    assert torch.equal(found[1], pixels.float().mean((2, 3)))
    assert indices.tolist() == list(range(9))


@pytest.mark.slow
def test_a_run_in_lanes_that_is_killed_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = "--epochs 14 --checkpoint-minutes 0 --pictures 1 --micro-batch 8"
    done = run_openmae(pretrain(data, whole, flags), code=TWO_THREADS)
    assert done.returncode == 0, done.stderr
    for _ in range(3):
        before = steps_saved(killed)
        with started_openmae(pretrain(data, killed, flags), tmp_path / "log", session=True, code=TWO_THREADS) as one:
            wait_for(lambda before=before: steps_saved(killed) > before, one)
            os.killpg(one.pid, signal.SIGKILL)
    done = run_openmae(pretrain(data, killed, flags), code=TWO_THREADS)
    assert done.returncode == 0, done.stderr
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
