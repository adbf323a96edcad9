"""The loop and its optimizer against plain torch; steps that are not finite; checkpoints; real kills."""

import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from openmae.distributed.ranks import ALONE
from openmae.errors import Interrupted, UserError
from openmae.model import create_model
from openmae.train.checkpoint import newest_checkpoint, snapshot, write_checkpoint
from openmae.train.learner import Learner
from openmae.train.loop import MOST_DROPPED_IN_A_ROW, Plan, Position, Training, fit
from openmae.train.optimizers import WarmupCosine, adamw
from openmae.train.profile import RECORDED
from openmae.train.run import RunFolder, read_metrics
from tests.commands import pretrain

QUIET = Console(quiet=True)


def no_loss(model: nn.Module, batch: Any) -> Tensor:
    raise AssertionError("nothing is trained")


@dataclass
class Samples:
    """Rows of a fixed matrix: the smallest thing that the loop takes for a batch."""

    rows: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> "Samples":
        return self


class Task:
    """Linear regression whose stream, like the real one, is a function of the step."""

    ranks = ALONE

    def __init__(self, micro_batch: int = 8, poison: Callable[[int], bool] = lambda step: False) -> None:
        self.micro_batch, self.poison = micro_batch, poison
        self.data = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 1))

    def batches_from(self, step: int, micro_batch: int) -> Iterator[Samples]:
        while True:
            part = self.ranks.share(8)
            indices = torch.arange(8 * step + part.start, 8 * step + part.stop) % 64
            for part in indices.split(micro_batch):
                rows = self.data[part].clone()
                if self.poison(step):
                    rows[0, 0] = torch.nan
                yield Samples(rows, part)
            step += 1

    @staticmethod
    def loss_of(model: nn.Module, batch: Samples) -> Tensor:
        return (model(batch.rows[:, :5]) - batch.rows[:, 5:]).square().mean()

    def train(
        self,
        folder: Path,
        steps: int,
        clip_grad: float | None = None,
        profile: bool = False,
        console: Console = QUIET,
    ) -> Position:
        plan = Plan(
            steps,
            8,
            self.micro_batch,
            lambda step: 0.01 * (1 + step),
            inf if clip_grad is None else clip_grad,
            checkpoint_seconds=1e9,
            log_every=2,
            profile=profile,
        )
        with RunFolder(folder, leads=self.ranks.leads) as run:
            if self.ranks.leads:
                run.settle({"task": "regression"}, "data", ())
            return fit(
                Training(
                    Learner(self.model, self.loss_of, self.ranks),
                    adamw(self.model, (0.9, 0.95), 0.05),
                    self.batches_from,
                    lambda index: f"image{index}",
                    plan,
                    run,
                    torch.device("cpu"),
                    console,
                    after={},
                )
            )


# ---------------------------------------------------------------- the optimizer


def test_only_matrices_decay() -> None:
    model = create_model("vit_tiny", img_size=16, patch_size=4, depth=2, decoder="cross", decoder_layers=2)
    groups = adamw(model, (0.9, 0.95), 0.05).param_groups
    decayed, free = sorted(groups, key=lambda group: group["weight_decay"], reverse=True)
    names = {parameter: name for name, parameter in model.named_parameters()}
    in_decayed = {names[p] for p in decayed["params"]}
    in_free = {names[p] for p in free["params"]}
    assert in_decayed | in_free == set(names.values())
    assert all(name.endswith("weight") and "norm" not in name for name in in_decayed)
    assert {"encoder.class_token", "decoder.mask_token", "decoder.mix", "encoder.norm.weight"} <= in_free
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)


def test_schedule_is_transformers() -> None:
    from transformers import get_cosine_schedule_with_warmup

    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = get_cosine_schedule_with_warmup(optimizer, 7, 50)
    for step in range(50):
        assert WarmupCosine(50, 7, 0.3)(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


# ---------------------------------------------------------------- the loop


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


class TooLarge(Task):
    """Asks for more memory than any machine has where more than `most` samples come at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes, self.begun = most, list[int](), list[tuple[int, int]]()

    def batches_from(self, step: int, micro_batch: int) -> Iterator[Samples]:
        self.begun.append((step, micro_batch))
        return super().batches_from(step, micro_batch)

    def loss_of(self, model: nn.Module, batch: Samples) -> Tensor:  # type: ignore[override]
        if len(batch) > self.most:
            loss = Task.loss_of(model, batch)
            loss.backward()  # part of a gradient is there when memory ends
            torch.empty(2**55)
        self.sizes.append(len(batch))
        return Task.loss_of(model, batch)


def test_where_memory_runs_out_micro_batches_are_halved_and_the_batch_stays(tmp_path: Path) -> None:
    large, small = TooLarge(most=2), Task(micro_batch=2)
    large.train(tmp_path / "large", 5)
    small.train(tmp_path / "small", 5)
    assert large.begun == [(0, 8), (0, 4), (0, 2)]
    assert large.sizes == [2] * 20
    for one, other in zip(large.model.parameters(), small.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_where_not_even_one_sample_fits_torchs_error_comes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="allocate memory"):
        TooLarge(most=0).train(tmp_path / "run", 5)


def test_micro_batches_stay_multiples_of_the_least_one() -> None:
    plan = Plan(1, 96, 96, lambda step: 0.1, inf, 1e9, 1, least_micro_batch=32)
    assert [plan.halved(micro_batch) for micro_batch in (96, 64, 32)] == [32, 32, 0]


def test_profile_is_a_trace_and_a_table(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    Task().train(tmp_path / "run", 12, profile=True, console=console)
    with gzip.open(tmp_path / "run/profile/trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    named = Counter(event.get("name") for event in events if event.get("cat") == "user_annotation")
    assert [named[name] for name in ("forward", "backward", "wait for images")] == [RECORDED] * 3
    table = (tmp_path / "run/profile/top.txt").read_text()
    assert "aten::addmm" in table
    shares = [float(row.split("%")[0]) for row in table.splitlines()[2:]]
    assert shares == sorted(shares, reverse=True)
    assert 50 < sum(shares) <= 100.1
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert table in said
    assert "perfetto" in said
    plain = Task()
    plain.train(tmp_path / "plain", 12)
    recorded, _ = newest_checkpoint(tmp_path / "run/checkpoints")
    unrecorded, _ = newest_checkpoint(tmp_path / "plain/checkpoints")
    assert recorded is not None
    assert unrecorded is not None
    assert all(torch.equal(value, recorded.optimizer[key]) for key, value in unrecorded.optimizer.items())


def test_a_run_too_short_to_be_profiled_says_so(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    Task().train(tmp_path / "run", 5, profile=True, console=console)
    assert "takes 8 steps" in console.file.getvalue()  # type: ignore[attr-defined]


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
    assert task.train(tmp_path / "run", 3).dropped == 3
    assert all(torch.equal(one, other) for one, other in zip(before, task.model.parameters(), strict=True))


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


# ---------------------------------------------------------------- checkpoints


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import torch
from openmae.train import checkpoint as c
from openmae.train.learner import Learner

folder = Path(sys.argv[1])

def setup(value):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.nn.init.constant_(model.weight, value)
    return model, optimizer

def save(step):
    c.write_checkpoint(folder, c.snapshot(Learner(model, None), optimizer, step, {}))

model, optimizer = setup(1.0)
save(1)
torch.nn.init.constant_(model.weight, 2.0)
for point in range(100):  # kill before, and after, the point-th touch of the disk
    child = os.fork()
    if child == 0:
        count = iter(range(1000))
        def deadly(original):
            def call(*args, **kwargs):
                if next(count) == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)
            return call
        for name in ("open", "write", "fsync", "rename", "mkdir", "rmdir", "unlink", "close"):
            setattr(os, name, deadly(getattr(os, name)))
        c.write_synced = deadly(c.write_synced)
        save(2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found, complaints = c.newest_checkpoint(folder)
    assert not complaints, complaints
    assert found.weights["weight"].unique().item() == found.step, found
    print(point, found.step, flush=True)
    if status == 0:
        break
    import shutil
    shutil.rmtree(folder / "step-00000002", ignore_errors=True)
else:
    sys.exit("never finished")
"""


def test_a_kill_at_any_touch_of_the_disk_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) > 10  # points at which it was killed
    assert {step for _, step in found} == {"1", "2"}
    assert found[0][1] == "1"


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "empty", "no checksums", "bad json"])
def test_damage_is_noticed_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for step in (1, 2, 3):
        taken = snapshot(Learner(model, no_loss), optimizer, step, {"loss_sum": 0.5})
        assert taken is not None
        write_checkpoint(tmp_path, taken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    weights = tmp_path / "step-00000003/model.safetensors"
    data = bytearray(weights.read_bytes())
    match damage:
        case "flip":
            data[-3] ^= 4
            weights.write_bytes(data)
        case "truncate":
            weights.write_bytes(data[:-8])
        case "empty":
            weights.write_bytes(b"")
        case "missing":
            weights.unlink()
        case "no checksums":
            (tmp_path / "step-00000003/checksums.json").unlink()
        case "bad json":
            (tmp_path / "step-00000003/checksums.json").write_text("{")
    found, complaints = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 2
    assert len(complaints) == 1
    assert "step-00000003 is damaged" in complaints[0]


# ---------------------------------------------------------------- real processes


def command(data: Path, out: Path, workers: int, epochs: int) -> list[str]:
    rest = f"--workers {workers} --epochs {epochs} --pictures 2 --checkpoint-minutes 0"
    return [sys.executable, "-m", "openmae", *pretrain(data, out, rest)]


def run_with_kills(data: Path, out: Path, workers: int, epochs: int, kills: int, seed: int) -> int:
    """Starts the command again and again, killing it (and its workers) at random moments, then lets it end."""
    draws = random.Random(seed)
    killed = 0
    while killed < kills:
        with (out.parent / f"{out.name}.log").open("a") as log:
            process = subprocess.Popen(
                command(data, out, workers, epochs), stdout=log, stderr=log, start_new_session=True
            )
        steps_before = steps_done(out)
        # Wait until it trains, so that the kill hits training and saving, not Python's start.
        while process.poll() is None and steps_done(out) <= steps_before:
            time.sleep(0.01)
        time.sleep(draws.uniform(0, 0.15))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
    subprocess.run(command(data, out, workers, epochs), check=True, capture_output=True, timeout=300)
    return killed


def steps_done(out: Path) -> int:
    return max((int(p.name.removeprefix("step-")) for p in out.glob("checkpoints/step-*")), default=0)


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    keys = ("step", "loss", "lr", "grad_norm", "dropped")
    lines = [[[line[key] for key in keys] for line in read_metrics(run)] for run in (one, other)]
    assert lines[0] == lines[1]
    assert all(a[0] < b[0] for a, b in pairwise(lines[0]))
    a, b = (newest_checkpoint(run / "checkpoints")[0] for run in (one, other))
    assert a is not None
    assert b is not None
    assert all(torch.equal(a.optimizer[key], b.optimizer[key]) for key in a.optimizer)
    for picture in (one / "pictures").iterdir():
        assert picture.read_bytes() == (other / "pictures" / picture.name).read_bytes()


def test_a_killed_run_resumes_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    subprocess.run(command(data, whole, 0, 20), check=True, capture_output=True, timeout=300)
    assert len(read_metrics(whole)) > 80
    killed = tmp_path / "killed"
    assert run_with_kills(data, killed, 2, 20, kills=3, seed=0) >= 2
    starts = json.loads((killed / "environment.json").read_text())["starts"]
    assert len(starts) >= 3
    assert_same_run(whole, killed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_to_the_whole_process_group_saves(data: Path, tmp_path: Path, number: int, code: int) -> None:
    """As a terminal's Ctrl-C does: the loader's processes get it too."""
    out = tmp_path / "run"
    words = [*command(data, out, 2, 3000), "--checkpoint-minutes", "60"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    while "step 1/" not in (tmp_path / "log").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == code, (tmp_path / "log").read_text()
    assert "which is saved" in (tmp_path / "log").read_text()
    assert steps_done(out) > 0


def test_a_killed_loader_process_changes_nothing(data: Path, tmp_path: Path) -> None:
    subprocess.run(command(data, tmp_path / "whole", 0, 60), check=True, capture_output=True, timeout=300)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command(data, tmp_path / "killed", 1, 60), stdout=log, stderr=log)
    while "step 1/" not in (tmp_path / "log").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert "a loader process died (exit code -9)" in (tmp_path / "log").read_text()
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_five_kills_leave_the_same_bits(data: Path, tmp_path: Path, workers: int) -> None:
    subprocess.run(command(data, tmp_path / "whole", 0, 150), check=True, capture_output=True, timeout=600)
    assert run_with_kills(data, tmp_path / "killed", workers, 150, kills=25, seed=workers) == 25
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
