"""Several real processes, started by torchrun, train as one does: the same samples, the same weights; and stop, go on
with other numbers of processes, and notice when one of them is gone."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from openmae import cli
from openmae.distributed import ranks
from openmae.distributed.heartbeat import Heart
from openmae.distributed.ranks import Ranks, joined, of_this_start
from openmae.errors import Interrupted, RankLost, UserError
from openmae.train.checkpoint import newest_checkpoint
from openmae.train.run import read_metrics
from tests.commands import finetune, pretrain
from tests.distributed.by_hand import SHARDED, SHARDS, by_hand, environment, together
from tests.images import picture, write_images
from tests.processes import Process, run_openmae, started_openmae, steps_saved, wait_for
from tests.train.tasks import Task

SHORT = "--epochs 6 --pictures 1 --evaluations 2 --batch-size 10 --micro-batch 4"
MINUTES = 600
"""Of a run that is given its time; as many as these are enough for SHORT's steps by the speed that is then said."""
ENOUGH_FOR_THESE = f"""
import os
import runpy
from openmae.recipes.training import job
from openmae.train.pace import Pace

really = job.measure


def measure(training, seconds, is_enough):  # the minutes are enough for 22 steps, and on rank 1 for more
    really(training, 0.01, is_enough)
    taken = is_enough.__self__.seconds(225, Pace(1, 1.0, 0.0))
    return Pace(1, {MINUTES} * 60 / taken * (1 + int(os.environ["RANK"])), 0.0)


job.measure = measure
runpy.run_module("openmae", run_name="__main__", alter_sys=True)
"""


SLOW_AND_SHARDED = (pytest.mark.slow, SHARDED)


def words(data: Path, out: Path, more: str = "") -> list[str]:
    return pretrain(data, out, SHORT, more)


def torchrun(processes: int, *command: str, options: str = "") -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, *options.split(), "-m", "openmae", *command]


def run(command: list[str], code: int = 0) -> str:
    """What a command of any program printed, which ended with this code."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240, env=environment())
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return said


def alone(*words: str) -> str:
    """What a command of openmae printed, in one process."""
    done = run_openmae(words, environment=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def single(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("single") / "run"
    alone(*words(data, out))
    return out


def assert_close(one: Path, other: Path) -> None:
    """The same losses, figures, weights and averages, but for the rounding of other sums."""
    logs = [read_metrics(run) for run in (one, other)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        for name in ("rankme", "eval/knn_top1"):
            assert (name in a) is (name in b)
            assert a.get(name, 0) == pytest.approx(b.get(name, 0), rel=1e-3)
    found = [newest_checkpoint(run / "checkpoints")[0] for run in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].step == found[1].step
    for part in ("weights", "optimizer"):
        a, b = (getattr(checkpoint, part) for checkpoint in found)
        assert a.keys() == b.keys()
        for name, value in a.items():
            if part == "weights" and name.endswith("qkv.bias"):  # nothing depends on the keys' part: its gradient is
                q, _, v = b[name].chunk(3)  # rounding alone, which Adam makes steps of
                b[name] = torch.cat([q, value.chunk(3)[1], v])
            torch.testing.assert_close(
                value, b[name], atol=2e-6, rtol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
            )
    weights = [load_file(run / "model.safetensors") for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()


# ---------------------------------------------------------------- shares


@given(st.integers(1, 40), st.integers(0, 300), st.integers(1, 40))
def test_shares_are_all_of_it_in_order_and_even(size: int, count: int, unit: int) -> None:
    shares = [Ranks(rank, size).share(count, unit) for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(count))
    full = [len(share) // unit for share in shares]
    assert max(full) - min(full) <= 1 or count < unit * size
    assert all(share.start % unit == 0 for share in shares if share)


# ---------------------------------------------------------------- as one


@pytest.mark.parametrize(
    ("processes", "more"),
    [
        pytest.param(2, f"--log tensorboard --minutes {MINUTES}", id="2, of minutes"),
        pytest.param(4, "--micro-batch 2", id="4", marks=pytest.mark.slow),
        pytest.param(2, "--shard --grad-checkpointing on --micro-batch 3", id="sharded and checkpointed"),
        pytest.param(5, "--shard --workers 1", id="5 sharded", marks=pytest.mark.slow),
    ],
)
def test_several_train_as_one_does(data: Path, single: Path, tmp_path: Path, processes: int, more: str) -> None:
    command, code = words(data, tmp_path / "run", more), ""
    if "--minutes" in more:  # as many as are enough for these epochs
        told = [command.index("--epochs"), len(command) - 1 - command[::-1].index("--epochs")]
        command = [word for at, word in enumerate(command) if at not in told and at - 1 not in told]
        code = ENOUGH_FOR_THESE
    if "--shard" in more and not SHARDS:
        with by_hand(processes, command, tmp_path) as ended:
            codes = [process.wait(timeout=240) for process in ended]
        said = (tmp_path / "log0").read_text()
        assert codes == [2] * processes, said
        assert "--shard on CPUs needs torch 2.9 or newer" in said
        assert "Traceback" not in said
        return
    said, *others = together(processes, command, tmp_path, code)
    assert said.count("10 h 00 min are enough for 6.111 epochs of 36 images, 22 steps") == ("--minutes" in more)
    assert said.count(f"{processes} processes train together") == 1
    assert not any("together" in other for other in others)
    assert ("each with a part of the model" in said) is ("--shard" in more)
    start = json.loads((tmp_path / "run/environment.json").read_text())["starts"][-1]
    assert start["processes"] == processes
    assert len(read_metrics(single)) >= 20
    assert len([*tmp_path.glob("run/events.out.tfevents.*")]) == ("--log" in more)  # of the lead alone
    assert_close(single, tmp_path / "run")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param((4, ""), (1, ""), id="4 then 1", marks=pytest.mark.slow),
        pytest.param((2, ""), (2, "--shard"), id="2 then 2 sharded", marks=SLOW_AND_SHARDED),
        pytest.param((2, "--shard"), (3, ""), id="2 sharded then 3", marks=SLOW_AND_SHARDED),
        pytest.param((1, ""), (2, "--resume"), id="1 then 2"),
    ],
)
def test_a_run_goes_on_with_other_processes(
    data: Path, single: Path, tmp_path: Path, first: tuple[int, str], then: tuple[int, str]
) -> None:
    """The first ones are killed after some steps; who goes on takes the same batches, also where the run says which."""
    out = tmp_path / "run"
    command = words(data, out, f"--checkpoint-minutes 0 {first[1]}")
    log = tmp_path / "log"
    with started(torchrun(first[0], *command), log) if first[0] > 1 else started_openmae(command, log) as process:
        wait_for(lambda: steps_saved(out) > 3, process)
        ranks = ranks_of(process).values()
        for number in (process.pid, *ranks):  # torchrun's death would not end them
            os.kill(number, signal.SIGKILL)
        wait_for(lambda: not any(Path(f"/proc/{number}/fd").exists() for number in ranks))
    assert 3 < steps_saved(out) < read_metrics(single)[-1]["step"]
    resumed = ["pretrain", "--resume", "--out", str(out)]
    command = resumed if then[1] == "--resume" else words(data, out, then[1])
    said = run(torchrun(then[0], *command)) if then[0] > 1 else alone(*command)
    assert "Going on with the run" in said
    assert_close(single, out)


# ---------------------------------------------------------------- stops, kills, hangs


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, env=environment())
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ranks_of(process: Process | subprocess.Popen[bytes]) -> dict[int, int]:
    """Rank -> process, of those that torchrun has started."""
    found = {}
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        given = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank = next((int(entry.split(b"=")[1]) for entry in given if entry.startswith(b"RANK=")), None)
        if rank is not None:
            found[rank] = int(child)
    return found


LONG = "--epochs 4000 --pictures 0 --evaluations 0 --checkpoint-minutes 60"


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGUSR1, id="SIGUSR1", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_rank_saves_and_stops_all(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Without torchrun around them, so that each rank's own exit code is seen."""
    with by_hand(2, words(data, tmp_path / "run", LONG), tmp_path) as processes:
        wait_for(lambda: "step 1/" in (tmp_path / "log0").read_text(), processes[0])
        processes[1].send_signal(number)
        code = 130 if number == signal.SIGINT else 75
        assert [process.wait(timeout=60) for process in processes] == [code, code], (tmp_path / "log0").read_text()
    assert re.search(r"stopped at step \d+ of \d+, which is saved; the same command", (tmp_path / "log0").read_text())
    assert "stopped" not in (tmp_path / "log1").read_text()
    assert steps_saved(tmp_path / "run") > 0


@pytest.mark.parametrize(
    ("how", "who"),
    [
        ("killed", 1),
        pytest.param("hung", 1, marks=pytest.mark.slow),
        pytest.param("hung", 0, marks=pytest.mark.slow),
        pytest.param("killed", 0, marks=pytest.mark.slow),
    ],
)
def test_who_is_gone_is_named_and_the_others_stop(data: Path, tmp_path: Path, how: str, who: int) -> None:
    others = [rank for rank in range(3) if rank != who]
    with by_hand(3, words(data, tmp_path / "run", f"{LONG} --timeout-minutes 0.1"), tmp_path) as processes:
        wait_for(lambda: "step 1/" in (tmp_path / "log0").read_text(), processes[0])
        processes[who].send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        began = time.monotonic()
        codes = [processes[rank].wait(timeout=120) for rank in others]
        took = time.monotonic() - began
    said = [(tmp_path / f"log{rank}").read_text() for rank in others]
    assert codes == [75, 75], said
    assert took < 100
    if who == 0:  # it also keeps what the others look at: torchrun does, where it runs
        assert "rank 0" in said[0], said
    else:
        assert f"rank {who} (process {processes[who].pid} on " in said[0], said
    assert all("run the same command again" in text for text in said), said
    assert not any("Traceback" in text for text in said), said


@pytest.mark.slow
def test_torchrun_starts_again_and_the_run_goes_on(data: Path, single: Path, tmp_path: Path) -> None:
    """A rank is killed; torchrun ends the others, starts all anew, and the run ends as if nothing had happened."""
    out = tmp_path / "run"
    command = torchrun(2, *words(data, out, "--checkpoint-minutes 0"), options="--max-restarts=2")
    with started(command, tmp_path / "log") as process:
        wait_for(lambda: steps_saved(out) > 3, process)
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        assert process.wait(timeout=120) == 0, (tmp_path / "log").read_text()
    assert "Going on with the run" in (tmp_path / "log").read_text()
    assert_close(single, out)


# ---------------------------------------------------------------- fine-tuning and measuring


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("--batch-size 64 --mixup 0.8 --drop-path 0.2 --ema-decay 0.9", id="mixed and averaged"),
        pytest.param("--batch-size 24 --mixup 0 --cutmix 0 --shard", id="sharded", marks=SLOW_AND_SHARDED),
    ],
)
def test_fine_tuning_by_several_is_as_by_one(data: Path, single: Path, tmp_path: Path, more: str) -> None:
    one, two = (
        finetune(single, data, tmp_path / name, "--epochs 5 --evaluations 2 --blr 0.002 --micro-batch 64", more)
        for name in ("one", "two")
    )
    alone(*one)
    together(2, two, tmp_path)
    assert_close(tmp_path / "one", tmp_path / "two")
    told = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    figures = [next(iter(one.values()))["clean"]["figures"] for one in told]
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More images than fit in a batch, not a multiple of the ranks, one of them broken."""
    folder = write_images(tmp_path_factory.mktemp("many") / "many", 811, classes=3)
    (folder / "class1/400.jpg").write_bytes(b"broken")
    return folder


@pytest.mark.slow
def test_knn_and_probe_by_several_are_as_by_one(many: Path, single: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 3):
        model = tmp_path / f"by{processes}"
        shutil.copytree(single, model)
        for command in ("knn", "probe"):
            words = [command, str(model), str(many), "--device", "cpu", "--workers", "0", "--precision", "fp32"]
            said = "".join([alone(*words)] if processes == 1 else together(processes, words, tmp_path))
            assert said.count("cannot be read and are left out") == 1
        found.append(json.loads((model / "evaluations.json").read_text()))
    for one, other in zip(*found, strict=True):
        assert one["train_images"] + one["val_images"] == 810
        assert {**one, "time": None} == {**other, "time": None}


ONE_RANK = """
import json, sys
from pathlib import Path
from openmae.distributed.ranks import joined

from tests.commands import finetune, pretrain
from tests.distributed.by_hand import by_hand, environment, together
from tests.processes import Process, run_openmae, started_openmae, steps_saved, wait_for
from tests.train.tasks import Task, TooLarge

what, folder = sys.argv[1], Path(sys.argv[2])
with joined("cpu", 60) as ranks:
    task = TooLarge(most=2 if ranks.rank == 1 else 8) if what == "memory" else Task(micro_batch=3)
    task.ranks = ranks
    if what == "loss":
        task.poison = lambda step: step in (3, 4) and ranks.rank == 1
    if what == "gradient" and ranks.rank == 1:
        calls = []
        def spoil(gradient):
            calls.append(1)
            return gradient * float("inf") if len(calls) == 4 else gradient
        task.model[0].bias.register_hook(spoil)
    position = task.train(folder, 6)
    print(json.dumps([ranks.rank, position.dropped, getattr(task, "sizes", [])]))
"""


def train_task(what: str, folder: Path) -> list[list[Any]]:
    """What each of two ranks says: its number, the steps dropped, the sizes of its micro-batches."""
    logs = together(2, [what, str(folder / "run")], folder, ONE_RANK)
    return [json.loads(line) for log in logs for line in log.splitlines() if line.startswith("[")]


def newest(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    found, _ = newest_checkpoint(folder / "checkpoints")
    assert found is not None
    return found.weights, found.optimizer


@pytest.mark.parametrize(
    ("what", "dropped"), [("loss", 2), pytest.param("gradient", 1, marks=pytest.mark.slow)], ids=["loss", "gradient"]
)
def test_what_is_not_finite_on_one_rank_is_dropped_by_all(tmp_path: Path, what: str, dropped: int) -> None:
    assert [told[1] for told in train_task(what, tmp_path)] == [dropped, dropped]
    weights, averages = newest(tmp_path / "run")
    assert all(value.isfinite().all() for value in (*weights.values(), *averages.values()))
    assert {value.item() for name, value in averages.items() if name.endswith(":step")} == {6 - dropped}


def test_where_one_rank_runs_out_of_memory_all_take_smaller_micro_batches(tmp_path: Path) -> None:
    told = train_task("memory", tmp_path)
    assert [set(sizes[1:]) for _, _, sizes in told] == [{2}, {2}]  # what the first one holds was tried before
    small = Task(micro_batch=2)
    small.train(tmp_path / "one", 6)
    for ours, theirs in zip(newest(tmp_path / "run"), newest(tmp_path / "one"), strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-5)


def test_too_many_broken_files_of_one_rank_end_the_run_in_its_words(tmp_path: Path) -> None:
    """They break after the run has begun, when only the loaders find them."""
    broken = tmp_path / "data"
    broken.mkdir()
    for number in range(60):  # too large to be kept decoded in memory
        picture(number, (90, 90)).save(broken / f"{number:03d}.jpg")
    with by_hand(2, words(broken, tmp_path / "run", LONG), tmp_path) as processes:
        wait_for(lambda: "step 1/" in (tmp_path / "log0").read_text(), processes[0])
        for file in sorted(broken.rglob("*.*"))[::3]:
            os.truncate(file, 10)
        assert [process.wait(timeout=60) for process in processes] == [2, 2]
    said = "".join((tmp_path / f"log{rank}").read_text() for rank in (0, 1))
    assert "files cannot be used, more than --max-broken 0.01 allows" in said
    assert "is gone" not in said


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("pretrain DATA --out RUN --modle vit_tiny", "there is no flag --modle"),
        ("pretrain DATA --out RUN --mask-ratio 2", "mask_ratio is 2"),
        ("finetune RUN DATA --out OTHER --epochs -1", "--epochs is -1"),
        ("knn RUN DATA --k 0", "--k is 0"),
        ("probe RUN DATA --recipe paper", "add --out RUN"),
        ("doctor --timeout 0", "--timeout is 0"),
        ("evaluate RUN DATA", "openmae evaluate: this is for one process, and WORLD_SIZE is 16"),
        ("launch local -- pretrain DATA --out RUN", "openmae launch: this is for one process"),
    ],
)
def test_what_is_wrong_before_they_meet_is_said_by_the_first_of_a_machine(
    command: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "_exit", lambda code: None)  # with which one of several leaves
    monkeypatch.setenv("WORLD_SIZE", "16")
    for rank, says in ((8, True), (9, False)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank - 8))
        assert cli.main(command.split()) == 2
        assert (sentence in capsys.readouterr().err) is says


@pytest.mark.parametrize(
    ("rank", "error", "waits"),
    [
        (0, Interrupted("stopped"), False),
        (1, Interrupted("stopped"), True),
        (0, UserError(""), True),
        (1, UserError("broken"), False),
    ],
)
def test_who_has_nothing_to_say_leaves_after_who_has(
    rank: int, error: Exception, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun, which sees the first one leave, ends the others at once."""
    slept: list[float] = []
    monkeypatch.setattr(ranks, "rendezvous", lambda *_, **__: iter([(None, 0, 2)]))
    monkeypatch.setattr(ranks, "of_this_start", lambda *_: None)
    monkeypatch.setattr(ranks.dist, "init_process_group", Mock())
    monkeypatch.setattr(ranks.dist, "destroy_process_group", Mock())
    monkeypatch.setattr(ranks, "Heart", Mock())
    monkeypatch.setattr(ranks.time, "sleep", slept.append)
    for name, value in {"RANK": rank, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(type(error)), ranks.joined("cpu", 60):
        raise error
    assert bool(slept) is waits


class Second(Ranks):
    """The second of two, the first of which has complained of nothing of its own."""

    def gather(self, value: Any) -> list[Any]:
        return [UserError(""), value]


def test_a_complaint_goes_through_to_the_end() -> None:
    """The rank that knows what is wrong says it, also where all gather round twice."""
    ranks = Second(1, 2)
    with pytest.raises(UserError, match=r"^no such folder: make it$"), ranks.together():
        raise UserError("no such folder", "make it")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ("WORLD_SIZE=2 RANK=2", "RANK is 2 and WORLD_SIZE 2"),
        ("WORLD_SIZE=0 RANK=0", "RANK is 0 and WORLD_SIZE 0"),
        ("WORLD_SIZE=99999999999999999999 RANK=0", "WORLD_SIZE is 99999999999999999999 in"),
        ("WORLD_SIZE=2", "RANK is not set"),
    ],
)
def test_an_environment_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch, variables: str, said: str) -> None:
    for variable in variables.split():
        monkeypatch.setenv(*variable.split("="))
    with pytest.raises(UserError, match=f"^{said}"), joined("cpu", 1.0):
        pass


def test_a_start_finds_nothing_of_the_one_before() -> None:
    """torchrun keeps its store: a rank would meet dead ones there, or hear of a complaint that was mended."""
    store = dist.HashStore()
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            late = pool.submit(lambda: time.sleep(0.02) or of_this_start(store, 0, 3, 5.0))
            others = [pool.submit(of_this_start, store, rank, 3, 5.0) for rank in (1, 2)]
            stores = [one.result() for one in (late, *others)]
        assert not any(one.check(["complaint"]) for one in stores)
        stores[2].set("complaint", "")
        assert all(one.check(["complaint"]) for one in stores)
    with pytest.raises(RankLost, match=r"\(rank 1, rank 2 did not come\)"):
        of_this_start(store, 0, 3, 0.1)
    with pytest.raises(RankLost, match=r"\(rank 0 did not come\)"):
        of_this_start(store, 1, 3, 0.1)


@pytest.mark.parametrize("complained", [False, True])
def test_an_exchange_of_torchs_own_that_breaks_off(monkeypatch: pytest.MonkeyPatch, complained: bool) -> None:
    """As DDP's, when it begins, where another rank leaves meanwhile."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(ranks, "rendezvous", lambda *_, **__: iter([(None, 0, 2)]))
    monkeypatch.setattr(ranks, "of_this_start", lambda *_: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    for name in ("__init__", "start", "stop", "complain"):
        monkeypatch.setattr(Heart, name, lambda *_: None)
    monkeypatch.setattr(Heart, "somebody_complained", lambda _: complained)
    monkeypatch.setattr(Heart, "who_is_lost", lambda _: "rank 1 is gone")
    with (
        pytest.raises(UserError if complained else RankLost, match="^$" if complained else "rank 1"),
        joined("cpu", 1.0),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer")
    with pytest.raises(RuntimeError, match="a bug"), joined("cpu", 1.0):
        raise RuntimeError("a bug")


@pytest.mark.slow
def test_bad_input_is_said_once_by_all(data: Path, tmp_path: Path) -> None:
    said = run(torchrun(2, *words(data, tmp_path / "run", "--batch-size 1")), code=1)  # torchrun's own
    assert said.count("--batch-size 1 leaves some of the 2 processes without an image") == 1
    assert "exitcode  : 2" in said
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy/other.txt").touch()
    said = run(torchrun(2, *words(data, tmp_path / "busy")), code=1)
    assert said.count("is not empty and is not a run") == 1
    assert "Traceback" not in said[: said.index("failed (exitcode: 2)")]


@pytest.mark.parametrize(("count", "most", "said"), [("0", "3", "torchrun starts them"), ("3", "3", "same command")])
def test_who_starts_the_run_again(monkeypatch: pytest.MonkeyPatch, count: str, most: str, said: str) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", most)
    assert said in str(RankLost("rank 1 is gone"))


@pytest.mark.slow
def test_bad_input_of_a_probe_is_said_once(data: Path, tmp_path: Path) -> None:
    for command in ("knn", "probe"):
        said = run(torchrun(2, command, str(tmp_path / "nowhere"), str(data)), code=1)
        assert said.count("nowhere does not exist") == 1
        assert "exitcode  : 2" in said
