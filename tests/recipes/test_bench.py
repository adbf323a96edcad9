"""The benchmark of training steps: that what it measures is training, by all in the same way, whatever befalls them."""

import contextlib
import importlib
import json
import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from openmae.errors import UserError
from openmae.masking import Masking
from openmae.recipes.bench import rounds as bench_rounds
from openmae.recipes.bench.job import architecture_of, check_measured, contenders_of
from openmae.recipes.bench.peers import BUILDERS, file_peer, installed
from openmae.recipes.bench.rounds import PRODUCT, Booth, Contender, measure, table_of
from openmae.recipes.bench.settings import Bench
from openmae.recipes.bench.steps import LR, Ours, PlainStepper, Where, loss_in, timed
from openmae.recipes.bench.worker import Turn
from openmae.report.plots.bench import Result, Table, bench_picture, markdown
from openmae.train.cost import flops
from tests.commands import Run, refused
from tests.processes import run_openmae, started_openmae, wait_for
from tests.runs import Runs

CPU = Where("cpu", "fp32")
TINY = architecture_of("vit_tiny", 32, decoder_depth=1)
FLAGS = "--model vit_tiny --img-size 32 --decoder-depth 1 --micro-batch 2 --rounds 1 --precision fp32"
PEERS = """
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 8)

    def forward(self, images):
        print("a library that talks")
        return self.linear(images.flatten(1)).square().mean(), "prediction", "mask"

class Raising(Model):
    def forward(self, images):
        raise ValueError("the shapes\\n do not match")

def plain():
    return Model()

def raising():
    return Raising()

def number():
    return 3
"""
SLEEPER = """
import os, signal, time
from dataclasses import dataclass
import torch

@dataclass(frozen=True)
class Sleeper:
    seconds: float  # an image
    steps: int = 1000  # before it is killed
    most: int = 1000  # images that it can hold

    def start(self, where):
        return Sleeping(self.seconds, self.steps, self.most)

class Sleeping:
    base = None

    def __init__(self, seconds, steps, most):
        self.seconds, self.steps, self.most, self.amount = seconds, steps, most, 0.0

    def resize(self, micro_batch):
        if micro_batch > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.amount = micro_batch

    def step(self):
        self.steps -= 1
        if self.steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds * self.amount)

    def rest(self):
        pass
"""


MEASURED = """
import json, sys
from pathlib import Path
from openmae.cli import main
from openmae.recipes.bench import job, rounds

rounds.START, rounds.TURN_SECONDS, job.installed = "fork", 0.2, lambda: ["transformers"]
code = main(sys.argv[2:])
left = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
Path(sys.argv[1]).write_text(json.dumps({"code": code, "left": left}))
"""


def quiet(what: str, done: int, of: int) -> None:
    pass


def children() -> list[str]:
    """Processes that this one has started and that are still there, but for Python's own, which frees what is left, and
    the one that decodes apart, which a test before may have needed."""
    pids = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in pids]
    return [command for command in commands if not re.search("resource_tracker|fork_server|formats.server", command)]


def write_peers(folder: Path) -> Path:
    file = folder / "peers.py"
    file.write_text(PEERS)
    return file


@pytest.fixture(scope="module")
def measured(runs: Runs) -> tuple[int, str, Path]:
    """What the command says and keeps: exit code, output, folder. Its contenders are forked of a process that has
    imported what they need and trained nothing; that they can be started anew is tested below."""

    def make(out: Path) -> None:
        out.mkdir()
        peers = [f"{write_peers(out)}:{name}" for name in ("plain", "raising")]
        words = ["bench", *FLAGS.split(), "--peer", *peers, "--out", str(out / "out")]
        done = run_openmae([str(out / "after.json"), *words], code=MEASURED)
        (out / "said").write_text(done.stdout + done.stderr)

    place = runs.once("bench", make)
    return json.loads((place / "after.json").read_text())["code"], (place / "said").read_text(), place / "out"


def results(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "bench.json").read_text())
    return {result["contender"]: result for result in found["results"]}


def test_who_is_measured_and_who_failed(measured: tuple[int, str, Path]) -> None:
    code, said, folder = measured
    assert code == 0
    found = json.loads((folder / "bench.json").read_text())
    assert {"openmae", "openmae, fast settings", "transformers", "peers.py:plain"} <= set(results(folder))
    reasons = {failed["contender"]: failed["reason"] for failed in found["failed"]}
    assert reasons == {"peers.py:raising": "ValueError: the shapes do not match"}
    for text in (said, (folder / "bench.md").read_text()):
        assert all(f"{name} failed: {reason}" in text for name, reason in reasons.items())
        assert "matrix product" in text
    assert "library that talks" not in said
    assert found["device"] == "cpu"
    assert found["torch"] == torch.__version__


def test_what_was_measured_before_is_kept(measured: tuple[int, str, Path], run: Run) -> None:
    before = (measured[2] / "bench.json").read_bytes()
    refused(run("bench", *FLAGS.split(), "--out", measured[2]), "holds an earlier benchmark", "choose another --out")
    assert (measured[2] / "bench.json").read_bytes() == before


def test_ours_has_to_be_measured(measured: tuple[int, str, Path]) -> None:
    """Of a table of others alone the exit code says so."""
    found = json.loads((measured[2] / "bench.json").read_text())["results"]
    tables = [
        Table("vit_tiny, fp32", None, [Result(**each) for each in found if each["contender"] != left_out], [], 1.0)
        for left_out in ("", "openmae")
    ]
    check_measured(tables[:1], "openmae")
    with pytest.raises(UserError, match="openmae itself could not be measured in vit_tiny, fp32"):
        check_measured(tables, "openmae")


def test_all_can_be_handed_to_a_process_that_is_started_anew() -> None:
    for contender in contenders_of(Bench(model="vit_tiny", img_size=32), torch.device("cpu")):
        assert pickle.loads(pickle.dumps(contender)) == contender


def test_no_process_is_left(measured: tuple[int, str, Path]) -> None:
    assert json.loads((measured[2].parent / "after.json").read_text())["left"] == []


def test_the_figures_agree_with_each_other(measured: tuple[int, str, Path]) -> None:
    found = results(measured[2])
    paper = architecture_of("vit_tiny", 32, decoder_depth=1)
    for name, result in found.items():
        assert (result["model"], result["img_size"], result["patch_size"]) == ("vit_tiny", 32, 16)
        assert (result["precision"], result["micro_batch"]) == ("fp32", 2)
        (seconds,), (raw,) = result["seconds"], result["raw_seconds"]
        assert min(raw) <= seconds <= max(raw)
        rate = result["images_per_second"]
        assert rate == pytest.approx(2 / seconds)
        assert result["quartiles"] == [rate, rate]
        assert result["ratio"] == pytest.approx(rate / found["transformers"]["images_per_second"])
        if name != "openmae, fast settings":
            assert result["tflops"] == pytest.approx(flops(paper).step * rate / 1e12)
        assert result["matmul_tflops"] == next(iter(found.values()))["matmul_tflops"] > 0
    fast = found["openmae, fast settings"]
    assert fast["tflops"] / fast["images_per_second"] < flops(paper).step / 1e12


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is Linux's to tell")
def test_peak_memory_holds_weights_gradients_and_averages(measured: tuple[int, str, Path]) -> None:
    with torch.device("meta"):
        bytes_ = 16 * sum(p.numel() for p in TINY.build().parameters())
    for name in ("openmae", "transformers"):
        peak = results(measured[2])[name]["peak_memory"]
        assert bytes_ * 0.95 < peak < bytes_ + 80e6


def test_the_picture_shows_all_that_was_measured(measured: tuple[int, str, Path]) -> None:
    text = (measured[2] / "bench.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert all(f">{name}<" in text for name in results(measured[2]))


def test_a_peer_that_cannot_be_loaded_is_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "models.py"
    file.write_text("import a_package_that_is_not_there")
    said = ("--peer models.py:mae cannot be built", "ModuleNotFoundError")
    refused(run("bench", *FLAGS.split(), "--peer", f"{file}:mae"), *said)
    refused(run("bench", *FLAGS.split(), "--peer", f"{file}"), "models.py:mae_base")
    refused(run("bench", *FLAGS.split(), "--peer", f"{tmp_path}/none.py:model"), "there is no file")
    assert children() == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--img-size 100", ("multiple of the patch_size",)),
        ("--img-size 0", ("--img-size is 0",)),
        ("--rounds 0", ("--rounds is 0",)),
        ("--micro-batch -1", ("--micro-batch is -1",)),
        ("--mask-ratio 1", ("mask_ratio is 1",)),
        ("--decoder-depth 0", ("decoder_depth is 0",)),
        ("--precision fp16", ("--precision is fp16",)),
        ("--precision", ("--precision is without a value",)),
        ("--img-size 100000000", ("more than 4,194,304 patches",)),
        ("--out /proc/bench", ("/proc/bench cannot be written", "choose another --out")),
    ],
)
def test_settings_out_of_range_are_refused(run: Run, flags: str, words: tuple[str, ...]) -> None:
    refused(run("bench", *flags.split()), *words)


def test_compiling_without_a_compiler_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    refused(run("bench", "--compile", "--device", "cpu"), "--compile needs a C++ compiler")


def test_a_file_has_to_give_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "peers", raising=False)
    file = write_peers(tmp_path)
    with pytest.raises(TypeError, match=r"number\(\) gives int, no torch.nn.Module"):
        file_peer(f"{file}:number", 3, (32, 32)).start(CPU)
    with pytest.raises(AttributeError, match="missing"):
        file_peer(f"{file}:missing", 3, (32, 32)).start(CPU)
    monkeypatch.delitem(sys.modules, "peers")


# ---------------------------------------------------------------- the steps


def test_a_step_trains() -> None:
    """All parts of ours learn, and so does any other model; both by the same optimizer at the same rate."""
    fast = replace(TINY, decoder="cross", masking=Masking(predict_fraction=0.25))
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1))
    jobs: list[Any] = [Ours(kind).start(CPU) for kind in (TINY, fast)]
    jobs.append(PlainStepper(nn.Sequential(tiny, nn.Flatten(0), Mean()), False, CPU, 3, (32, 32)))
    for job in jobs:
        job.resize(2)
        parameters = [p for group in job.optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in parameters]
        job.step()
        assert all(not torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
        assert job.amount == 2
        assert {group["lr"] for group in job.optimizer.param_groups} == {LR}


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().mean()


@pytest.mark.parametrize("output", [{"loss": torch.zeros(())}, torch.zeros(3), (), None])
def test_what_gives_no_loss_is_told_so(output: object) -> None:
    class Other(nn.Linear):
        def forward(self, _: torch.Tensor) -> Any:
            return output

    job = PlainStepper(Other(1, 1), False, CPU, 3, (8, 8))
    job.resize(1)
    with pytest.raises(TypeError, match="gives no loss"):
        job.step()


@pytest.mark.parametrize("name", installed())  # those of transformers at least
def test_a_peer_has_the_same_size(name: str) -> None:
    """What learns: in lightly one more token, in birder positions."""
    ours, peer = TINY.build(), BUILDERS[name](TINY)
    learning = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, peer)]
    more = {"lightly": TINY.embed_dim, "birder": 5 * TINY.embed_dim}
    assert learning[1] - learning[0] == more.get(name, 0)
    assert peer.training
    assert not any(part.p for part in peer.modules() if isinstance(part, nn.Dropout))
    loss = loss_in(peer(torch.randn(8, 3, 32, 32)))
    assert 0.5 < loss.item() < 4  # of targets of deviation 1


def test_the_ways_of_attention_are_measured_apart() -> None:
    ways = {name: BUILDERS[name](TINY).config._attn_implementation for name in installed() if "transformers" in name}
    assert ways == {"transformers": "sdpa", "transformers, eager attention": "eager"}


# ---------------------------------------------------------------- the turns

FORKED = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded:DeprecationWarning"
)  # Python 3.12 on; nothing of threads is used


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Contender]]:
    """Makes contenders whose steps take as long as they are told to, importable by their processes: forked, since they
    need nothing that takes two seconds to be imported."""
    monkeypatch.setattr(bench_rounds, "START", "fork")
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("sleeper")
    yield lambda *given: Contender(f"sleeper {given}", module.Sleeper(*given), "", TINY)
    del sys.modules["sleeper"]


@FORKED
def test_what_does_not_fit_together_takes_turns_one_by_one(
    sleeper: Callable[..., Contender], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a micro-batch is found: the largest whose step is short enough."""
    monkeypatch.setattr(bench_rounds, "TOGETHER", 0)
    monkeypatch.setattr(bench_rounds, "MOST_SECONDS", 0.39)
    monkeypatch.setattr(bench_rounds, "TURN_SECONDS", 0.5)
    seen = []
    micro_batch, (booth,) = measure([sleeper(0.05)], CPU, None, 1, lambda *said: seen.append((*said, len(children()))))
    assert micro_batch == 4
    assert booth.failed is None
    (turn,) = booth.turns
    assert turn.amount == 4
    assert 2 <= len(turn.seconds) <= 3  # as many as take half a second, on a machine that may be busy
    assert all(seconds >= 0.2 for seconds in turn.seconds)
    assert [said[3] for said in seen] == [0] * len(seen)  # between turns nobody is there


@FORKED
def test_the_micro_batch_of_a_gpu_is_what_all_can_hold(sleeper: Callable[..., Contender]) -> None:
    """Without one: memory that runs out, in processes that say so as torch does."""
    booths = [Booth(sleeper(0.0001, 1000, most), CPU) for most in (100, 40)]
    for each in booths:
        each.open()
    try:
        assert bench_rounds.find_micro_batch(booths, "cuda", stay=True) == 32
    finally:
        for each in booths:
            each.close()
    assert [each.failed for each in booths] == [None, None]


@FORKED
def test_turns_go_to_and_fro_and_who_is_killed_is_not_waited_for(
    sleeper: Callable[..., Contender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_rounds, "TURN_SECONDS", 0.2)
    order: list[str] = []
    contenders = [sleeper(0.1), sleeper(0.15, 6), sleeper(0.2)]
    _, booths = measure(contenders, CPU, 1, 3, lambda what, done, of: order.append(what))
    names = [contender.name for contender in contenders]
    assert order[-9:] == [*names, *names[::-1], *names]
    table = table_of("", 1, booths, names[2])
    assert [result.contender for result in table.results] == names[::2]
    assert [result.ratio for result in table.results] == [pytest.approx(2, rel=0.1), 1]
    ((failed, reason),) = table.failed
    assert failed == names[1]
    assert "SIGKILL" in reason
    assert len(booths[1].turns) == 1
    assert children() == []


WAITING = """
import sys
sys.path[:0] = sys.argv[1:2]
from sleeper import Sleeper
from openmae.recipes.bench.steps import Where
from openmae.recipes.bench import rounds
from openmae.recipes.bench.rounds import Contender, measure
rounds.START = "fork"

if __name__ == "__main__":
    try:
        contenders = [Contender(seconds, Sleeper(float(seconds))) for seconds in sys.argv[2:]]
        measure(contenders, Where("cpu", "fp32"), 1, 1, lambda *said: print(*said, flush=True))
    except KeyboardInterrupt:
        print("stopped")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_end_with_the_command(tmp_path: Path) -> None:
    """On Ctrl-C, which a terminal sends to all of them, and where it is killed; one works all the while."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    both = [(tmp_path / name, seconds) for name, seconds in (("interrupted", ("600", "1")), ("killed", ("600",)))]
    with contextlib.ExitStack() as stack:
        interrupted, killed = (
            stack.enter_context(started_openmae([str(tmp_path), *seconds], log, session=True, code=WAITING))
            for log, seconds in both
        )
        for (log, _), process in zip(both, (interrupted, killed), strict=True):
            wait_for(lambda log=log: "warming up" in log.read_text(), process)
        os.killpg(interrupted.pid, signal.SIGINT)
        killed.kill()
        assert interrupted.wait(60) == 0
        assert both[0][0].read_text().endswith("\nstopped\n")
        wait_for(lambda: not session(interrupted.pid) + session(killed.pid))


def session(leader: int) -> list[str]:
    """Processes of a session that are still there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, *numbers = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(numbers[2]) == leader and state != "Z":
                found.append((folder / "cmdline").read_text())
    return found


# ---------------------------------------------------------------- what came of it


def booth(name: str, seconds: list[list[float]], **given: Any) -> Booth:
    turns = [Turn(tuple(each), 4, 10**9 + number) for number, each in enumerate(seconds)]
    return Booth(Contender(name, Ours(TINY), "vit_tiny", TINY), CPU, turns=turns, **given)


def drifting() -> list[Booth]:
    """The machine is half as fast in the second round, and a step of the first one stumbled."""
    ours = booth("openmae", [[1, 1, 9], [2, 2], [1]])
    other = booth("transformers", [[2, 2, 2], [4, 4], [1.5]])
    product = Booth(PRODUCT, CPU, turns=[Turn((1.0,), each, None) for each in (1e12, 3e12, 2e12)])
    return [ours, other, booth("lightly", [[1]], failed="out of memory"), product]


def test_ratios_are_of_the_same_round() -> None:
    table = table_of("a table", 4, drifting(), "transformers")
    ours, other = table.results
    assert (ours.images_per_second, ours.quartiles) == (4, (3, 4))
    assert (ours.ratio, ours.ratio_range) == (2, (1.5, 2))
    assert (other.ratio, other.ratio_range) == (1, (1, 1))
    assert (other.images_per_second, other.quartiles) == (2, (1.5, pytest.approx(7 / 3)))
    assert (ours.seconds, ours.peak_memory) == ([1, 2, 1], 10**9 + 2)
    assert table.matmul_tflops == ours.matmul_tflops == 2
    assert table.failed == [("lightly", "out of memory")]
    assert ours.tflops == pytest.approx(flops(TINY).step * 4 / 1e12)


def test_ratios_are_to_ours_where_the_reference_failed() -> None:
    booths = drifting()
    booths[1].failed = "RuntimeError"
    table = table_of("a table", 4, booths, "transformers")
    assert table.reference == "openmae"
    assert [result.contender for result in table.results] == ["openmae"]
    for each in booths:
        each.failed = "RuntimeError"
    assert table_of("a table", 4, booths, "transformers").results == []


def test_the_table_as_text() -> None:
    lines = markdown(table_of("a table", 4, drifting(), "transformers")).splitlines()
    assert lines[0] == "### a table"
    assert lines[2].startswith("| contender | images/s | times transformers (range) |")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:8]]
    assert cells[0][:3] == ["openmae", "4.00", "2.00 (1.50 to 2.00)"]
    assert cells[0][5] == "1.00 GB"
    assert cells[2] == ["lightly", "failed", "-", "-", "-", "-"]
    assert cells[3] == ["matrix product", "-", "-", "2.00", "100%", "-"]
    assert lines[-1] == "lightly failed: out of memory."


def test_the_picture_of_what_could_not_be_measured() -> None:
    table = table_of("a table", 4, drifting(), "transformers")
    without = [replace(result, peak_memory=None) for result in table.results]
    for shown, has_memory in ((table, True), (replace(table, results=without), False)):
        text = bench_picture([shown])
        ElementTree.fromstring(text)
        assert ("peak memory" in text) is has_memory
    assert bench_picture([]) == bench_picture([Table("none", None, [], [], None)]) == ""


def test_a_turn_is_timed_step_by_step() -> None:
    pauses = iter((0.03, 0.06, 0.01))
    seconds = timed(lambda: time.sleep(next(pauses)), 3, "cpu")
    assert [least <= found < least + 0.1 for found, least in zip(seconds, (0.03, 0.06, 0.01), strict=True)] == [
        True
    ] * 3
