"""The loop against plain torch; micro-batches, memory that runs out, steps that are not finite, Ctrl-C."""

import io
import signal
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from openmae.errors import Interrupted, UserError
from openmae.train import log, saving
from openmae.train.checkpoint import Checkpoint, newest_checkpoint, write_checkpoint
from openmae.train.loop import MOST_DROPPED_IN_A_ROW, Schedule
from openmae.train.run import read_metrics
from tests.train.tasks import Samples, Task, TooLarge


@pytest.mark.parametrize("clip_grad", [None, 0.1])
def test_the_loop_is_plain_torch(tmp_path: Path, clip_grad: float | None) -> None:
    ours, theirs = Task(), Task()
    ours.train(tmp_path / "run", 6, clip_grad)
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs.model[0].weight, theirs.model[2].weight], "weight_decay": 0.05},
            {"params": [theirs.model[0].bias, theirs.model[2].bias], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    batches = theirs.batches_from(0, 8)
    losses = []
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + step)
        optimizer.zero_grad()
        loss = theirs.loss_of(theirs.model, next(batches))
        loss.backward()
        if clip_grad is not None:
            nn.utils.clip_grad_norm_(theirs.model.parameters(), clip_grad)
        optimizer.step()
        losses.append(loss.item())
    for one, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    logged = read_metrics(tmp_path / "run")
    assert [line["step"] for line in logged] == [2, 4, 6]
    assert [line["loss"] for line in logged] == pytest.approx([sum(losses[i : i + 2]) / 2 for i in (0, 2, 4)], rel=1e-5)


@pytest.mark.parametrize("micro_batch", [4, 3, 1])
def test_micro_batches_add_up_to_the_batch(tmp_path: Path, micro_batch: int) -> None:
    whole, parts = Task(), Task(micro_batch)
    whole.train(tmp_path / "whole", 5)
    parts.train(tmp_path / "parts", 5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_where_memory_runs_out_micro_batches_are_halved_and_the_batch_stays(tmp_path: Path) -> None:
    large, small = TooLarge(most=2), Task(micro_batch=2)
    large.train(tmp_path / "large", 5)
    small.train(tmp_path / "small", 5)
    assert large.begun == [(0, 8), (0, 4), (0, 2)]
    assert large.sizes == [2] * 20
    for one, other in zip(large.model.parameters(), small.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_a_gpu_cannot_repeat_is_said_and_computed_all_the_same(tmp_path: Path) -> None:
    """What torch raises then comes before anything has moved."""
    fickle, plain, said = Task(), Task(), Console(record=True, file=io.StringIO())
    refusals = [RuntimeError("roi_align_backward does not have a deterministic implementation. More of it.")]

    def loss_of(model: nn.Module, batch: Samples) -> Tensor:
        loss = Task.loss_of(model, batch)
        if refusals:
            loss.backward()
            raise refusals.pop()
        return loss

    fickle.loss_of = loss_of  # type: ignore[method-assign]
    fickle.train(tmp_path / "fickle", 3, console=said)
    plain.train(tmp_path / "plain", 3)
    assert "cannot add up in the same order each time (roi_align_backward)" in said.export_text()
    for one, other in zip(fickle.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_where_not_even_one_sample_fits_torchs_error_comes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="allocate memory"):
        TooLarge(most=0).train(tmp_path / "run", 5)


def test_micro_batches_stay_multiples_of_the_least_one() -> None:
    schedule = Schedule(1, 96, 96, lambda step: 0.1, inf, 1e9, 1, least_micro_batch=32)
    assert [schedule.halved(micro_batch) for micro_batch in (96, 64, 32)] == [32, 32, 0]


def test_a_step_that_is_not_finite_touches_nothing(tmp_path: Path) -> None:
    task, clean = Task(poison=lambda step: step == 3), Task()
    task.train(tmp_path / "run", 3)
    clean.train(tmp_path / "clean", 3)
    before = [p.detach().clone() for p in task.model.parameters()]
    position = task.train(tmp_path / "run", 4)
    assert position.dropped == 1
    assert all(torch.equal(one, other) for one, other in zip(before, task.model.parameters(), strict=True))
    ours, _ = newest_checkpoint(tmp_path / "run/checkpoints")
    theirs, _ = newest_checkpoint(tmp_path / "clean/checkpoints")
    assert ours is not None
    assert theirs is not None
    assert all(torch.equal(value, ours.optimizer[key]) for key, value in theirs.optimizer.items())
    assert read_metrics(tmp_path / "run")[-1]["dropped"] == 1
    task.poison = lambda step: False
    assert task.train(tmp_path / "run", 6).dropped_in_a_row == 0
    assert all(torch.isfinite(p).all() for p in task.model.parameters())


def test_infinite_gradient_of_a_finite_loss_is_dropped(tmp_path: Path) -> None:
    task = Task()

    def loss_of(model: nn.Module, batch: Samples) -> Tensor:
        loss = Task.loss_of(model, batch)
        return loss + (model[0].bias[0] * 0).abs().sqrt()  # type: ignore[index, no-any-return]  # infinite slope at 0

    task.loss_of = loss_of  # type: ignore[method-assign]
    before = [p.detach().clone() for p in task.model.parameters()]
    with pytest.raises(UserError, match=r"not finite in 3 steps in a row \(to step 3\)"):  # all of them
        task.train(tmp_path / "run", 3)
    assert all(torch.equal(one, other) for one, other in zip(before, task.model.parameters(), strict=True))


def test_looks_and_waiting_for_the_disk_are_no_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: a second a step, an hour a look, a minute a checkpoint."""
    now = [0.0]
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: now[0], time=lambda: now[0]))

    def passes(seconds: float) -> None:
        now[0] += seconds

    class Slow(Task):
        @staticmethod
        def loss_of(model: nn.Module, batch: Samples) -> Tensor:
            passes(1.0)
            return Task.loss_of(model, batch)

    def look() -> dict[str, Any]:
        passes(3600.0)
        return {"eval/x": 1.0}

    written = saving.Saver.save
    monkeypatch.setattr(saving.Saver, "save", lambda *args: (passes(60.0), written(*args)))
    Slow().train(tmp_path / "run", 6, after={4: look, 6: look})
    assert [line["images_per_second"] for line in read_metrics(tmp_path / "run")] == [8.0, 8.0, 8.0]


def test_several_in_a_row_stop_the_run_and_name_the_files(tmp_path: Path) -> None:
    task = Task(poison=lambda step: step >= 2)
    with pytest.raises(UserError, match=r"not finite in 5 steps in a row \(to step 7\).*image16, image17.*`blr`"):
        task.train(tmp_path / "run", 50)
    names = (tmp_path / "run/not_finite.txt").read_text().split()
    assert names == [f"image{i % 64}" for i in range(16, 16 + 8 * MOST_DROPPED_IN_A_ROW)]


def test_ctrl_c_ends_the_step_and_saves(tmp_path: Path) -> None:
    interrupted, whole = Task(), Task()
    original = interrupted.batches_from

    def batches_from(step: int, micro_batch: int) -> Iterator[Samples]:
        for batch in original(step, micro_batch):
            if len(batch.indices) and int(batch.indices[0]) == 24:  # during step 3
                signal.raise_signal(signal.SIGINT)
            yield batch

    interrupted.batches_from = batches_from  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="stopped at step 4 of 7, which is saved"):
        interrupted.train(tmp_path / "run", 7)
    interrupted.batches_from = original  # type: ignore[method-assign]
    interrupted.train(tmp_path / "run", 7)
    whole.train(tmp_path / "whole", 7)
    assert all(torch.equal(a, b) for a, b in zip(interrupted.model.parameters(), whole.model.parameters(), strict=True))
    keys = ("step", "loss", "lr", "grad_norm", "dropped")
    both = [[[line[key] for key in keys] for line in read_metrics(tmp_path / name)] for name in ("run", "whole")]
    assert both[0] == both[1]


def test_a_checkpoint_that_is_being_written_outlives_what_ends_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
        time.sleep(0.1)
        return write_checkpoint(folder, checkpoint, keep)

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    with pytest.raises(UserError, match="not finite"):
        Task(poison=lambda step: step > 0).train(tmp_path / "run", 20, checkpoint_seconds=0)
    newest, _ = newest_checkpoint(tmp_path / "run/checkpoints")
    assert newest is not None
    assert newest.step == MOST_DROPPED_IN_A_ROW


def test_where_memory_has_no_room_for_a_copy_the_weights_themselves_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, free in (("plenty", 10**12), ("short", 0)):
        monkeypatch.setattr(log, "free_ram", lambda free=free: free)
        Task().train(tmp_path / name, 4, checkpoint_seconds=0)
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("checkpoints/*/*.safetensors")}
        for name in ("plenty", "short")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 2
