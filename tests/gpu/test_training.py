"""Trainings on a GPU: the same bits again, killed or not; memory that runs out; steps that nothing waits for."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from openmae.cli import main
from openmae.data.opening import open_data
from openmae.machine.device import fetching
from openmae.train import loop
from openmae.train.run import read_metrics
from openmae.train.step import Taken, take_step
from tests.commands import Run, detect, finetune, pretrain, segment
from tests.data.streams import rows, stream_of
from tests.gpu.device import DEVICE, FLAGS, MARKS, ON_GPU
from tests.processes import start_openmae, started_openmae, steps_saved
from tests.runs import Runs
from tests.train.tasks import Samples, Task, TooLarge

pytestmark = MARKS
LARGER = "--img-size 32 --embed-dim 64 --decoder-embed-dim 64 --depth 2 --batch-size 16 --micro-batch 16"


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(run)]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happens, saved after each step."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(killable(data, out)) == 0
    return out


def killable(data: Path, out: Path) -> list[str]:
    more = "--epochs 30 --precision bf16 --workers 2 --checkpoint-minutes 0 --evaluations 1 --pictures 1"
    return pretrain(data, out, LARGER, FLAGS, more)


def test_the_same_command_leaves_the_same_bits_also_where_it_was_killed(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    """Again from the start, in another process; killed in the middle, with the processes that load, and resumed."""
    out = tmp_path / "killed"
    with started_openmae(killable(data, out), tmp_path / "log", session=True) as process:
        while process.poll() is None and steps_saved(out) < 20:
            time.sleep(0.01)
        assert process.poll() is None, (tmp_path / "log").read_text()
        os.killpg(process.pid, signal.SIGKILL)
    assert start_openmae(killable(data, out), 1, 2).wait(timeout=300) == 0
    assert losses(out) == losses(whole)
    assert weights(out) == weights(whole)
    assert losses(out)[-1][1] < losses(out)[0][1]


@pytest.mark.parametrize("micro_batch", [5, 16])
def test_float32_and_a_batch_in_parts(data: Path, tmp_path: Path, micro_batch: int) -> None:
    found = []
    for name in ("one", "two"):
        words = pretrain(data, tmp_path / name, LARGER, FLAGS, f"--epochs 4 --micro-batch {micro_batch}")
        assert main([*words, "--decoder", "cross"]) == 0
        found.append(weights(tmp_path / name))
    assert found[0] == found[1]


def test_a_fine_tuning_repeats(data: Path, finished: Path, tmp_path: Path) -> None:
    """With mixing, branches left out, and an average of the weights."""
    found = []
    for name in ("one", "two"):
        more = (
            "--precision bf16 --drop-path 0.2 --mixup 0.8 --cutmix 1 --ema-decay 0.9 --batch-size 32 --micro-batch 32"
        )
        assert main(finetune(finished, data, tmp_path / name, FLAGS, more)) == 0
        found.append(weights(tmp_path / name))
    assert found[0] == found[1]


def test_compiled(data: Path, tmp_path: Path) -> None:
    """The loss but for rounding, and the same bits again from the cache of what was compiled."""
    runs = {name: tmp_path / name for name in ("eager", "one", "two")}
    for name, out in runs.items():
        words = pretrain(data, out, LARGER, FLAGS, f"--epochs 6 --compile {'off' if name == 'eager' else 'on'}")
        assert main(words) == 0
    assert weights(runs["one"]) == weights(runs["two"])
    for (_, one), (_, other) in zip(losses(runs["eager"]), losses(runs["one"]), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_other_trainings_end(runs: Runs, tmp_path: Path) -> None:
    """Some of what they compute has no order of adding that repeats on a GPU: they say so, and go on."""
    scenes, objects = (runs.scenes_encoder(), runs.scenes()), (runs.objects_encoder(), runs.objects())
    assert main(segment(*scenes, tmp_path / "segmenter", FLAGS)) == 0
    assert main(detect(*objects, tmp_path / "detector", FLAGS)) == 0


def test_a_step_that_is_not_finite_touches_nothing(tmp_path: Path) -> None:
    task = Task(poison=lambda step: step == 3, device=DEVICE)
    task.train(tmp_path / "run", 3)
    before = [p.detach().clone() for p in task.model.parameters()]
    assert task.train(tmp_path / "run", 4).dropped == 1
    assert all(torch.equal(one, other) for one, other in zip(before, task.model.parameters(), strict=True))
    task.poison = lambda step: False
    assert task.train(tmp_path / "run", 6).dropped_in_a_row == 0
    assert all(torch.isfinite(p).all() for p in task.model.parameters())


def test_where_memory_runs_out_micro_batches_are_halved(tmp_path: Path) -> None:
    """By a demand that no memory meets."""
    large, small = TooLarge(most=2, device=DEVICE), Task(micro_batch=2, device=DEVICE)
    large.train(tmp_path / "large", 5)
    small.train(tmp_path / "small", 5)
    assert large.begun == [(0, 8), (0, 4), (0, 2)]
    for one, other in zip(large.model.parameters(), small.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(not ON_GPU, reason="a CPU's memory has no such bound, and its system would kill the process")
def test_where_the_gpus_own_memory_runs_out(data: Path, tmp_path: Path, run: Run) -> None:
    """A step of a model, in the share of the memory that is left to this process."""
    words = "--img-size 224 --patch-size 16 --embed-dim 384 --depth 6 --num-heads 6"
    words += " --epochs 3.2 --batch-size 64 --workers 4 --evaluations 0 --pictures 0"  # 2 steps
    try:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(2**29 / torch.cuda.get_device_properties(DEVICE).total_memory)
        code, output, errors = run(*pretrain(data, tmp_path / "run", FLAGS, words, "--micro-batch 64"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert code == 0, errors
    assert "ran out of memory" in output
    assert read_metrics(tmp_path / "run")[-1]["step"] == 2


def test_nothing_in_a_step_waits(data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises an error where the CPU waits for the GPU; the first step, which makes ready, may. A CPU goes through
    the same steps."""
    watched: list[int] = []

    def taken(*given: Any, **named: Any) -> Taken:
        watched.append(1)
        if ON_GPU and len(watched) > 1:
            torch.cuda.set_sync_debug_mode("error")
        try:
            return take_step(*given, **named)
        finally:
            if ON_GPU:
                torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "take_step", taken)
    more = "--epochs 2 --precision bf16 --colour-jitter 0.2 --optimizer"
    for optimizer in ("adamw", "muon"):
        assert main(pretrain(data, tmp_path / optimizer, LARGER, FLAGS, more, optimizer)) == 0
    assert len(watched) > 6
    watched.clear()
    words = finetune(finished, data, tmp_path / "b", FLAGS, "--drop-path 0.2 --mixup 0.8 --ema-decay 0.9 --clip-grad 1")
    assert main(words) == 0
    assert len(watched) > 3


def test_what_a_step_found_is_there_before_what_comes_after_it() -> None:
    """The GPU is busy for a second more when its numbers are read. A CPU has nothing to be busy with."""
    values = torch.arange(3.0, device=DEVICE) * 2
    fetched = fetching(values)
    if ON_GPU:
        torch.cuda._sleep(2 * 10**9)
    assert fetched().tolist() == [0, 2, 4]
    assert not ON_GPU or not torch.cuda.current_stream().query()


def test_steps_add_up_in_the_same_order(tmp_path: Path) -> None:
    """On a GPU they ask torch for that, and nothing after them is asked for it. A CPU needs not be asked."""
    asked: list[bool] = []

    class Asking(Task):
        @staticmethod
        def loss_of(model: nn.Module, batch: Samples) -> Tensor:
            asked.append(torch.are_deterministic_algorithms_enabled())
            return Task.loss_of(model, batch)

    Asking(device=DEVICE).train(tmp_path / "run", 2)
    assert asked == [ON_GPU, ON_GPU]
    assert not torch.are_deterministic_algorithms_enabled()


def test_batches_from_page_locked_memory(data: Path) -> None:
    """As they are without it, also where the GPU copies them later than the memory is used again. A rehearsal has no
    such memory."""
    stream, count = stream_of(open_data(str(data)).all, batch_size=12, steps=30), 30
    plain = [batch.images.clone() for batch in stream.batches(0, 12, 0)]
    if ON_GPU:
        torch.cuda._sleep(10**9)
    copied = []
    for batch in stream.batches(0, 12, 2, pin=ON_GPU):
        assert batch.images.is_pinned() == ON_GPU
        there = batch.to(DEVICE)
        copied.append(there.images)
    assert len(copied) == count
    assert all(torch.equal(one, other.cpu()) for one, other in zip(plain, copied, strict=True))
    assert rows(stream.batches(0, 12, 0)) == rows(stream.batches(0, 12, 1, pin=ON_GPU))


def test_a_profile_is_of_the_device(tmp_path: Path) -> None:
    Task(device=DEVICE).train(tmp_path / "run", 9, profile=True)
    assert f"on the {'GPU' if ON_GPU else 'CPU'}:" in (tmp_path / "run/profile/top.txt").read_text()
