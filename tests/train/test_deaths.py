"""Starts that are killed at the same place again and again: real processes, and what the next one does about it."""

import json
import signal
from pathlib import Path

import pytest

from openmae.train.run import read_metrics
from tests.machine.groups import V2, laid_out
from tests.processes import run_openmae

CODE = (
    "import os, signal, sys\n"
    "from pathlib import Path\n"
    "from rich.console import Console\n"
    "from tests.train.tasks import Task\n"
    "def deadly(): os.kill(os.getpid(), signal.SIGKILL)\n"
    "def harmless(): return {'eval/figure': 0.5}\n"
    "looks = {int(step): globals()[how] for step, how in zip(sys.argv[2::2], sys.argv[3::2])}\n"
    "Task().train(Path(sys.argv[1]), 8, after=looks, console=Console(width=500))\n"
)


def start(run: Path, *looks: str) -> tuple[int, str]:
    done = run_openmae([str(run), *looks], code=CODE)
    return done.returncode, done.stdout + done.stderr


def test_what_kills_twice_at_the_same_step_is_left_out(tmp_path: Path) -> None:
    looks = ("3", "deadly", "6", "harmless")
    for _ in range(2):
        assert start(tmp_path / "run", *looks)[0] == -signal.SIGKILL
        assert [path.name for path in (tmp_path / "run/checkpoints").glob("step-*")] == ["step-00000003"]
    code, said = start(tmp_path / "run", *looks)
    assert code == 0
    assert "after step 3 is left out: 2 starts were killed there" in said
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "eval/figure" in line] == [6]
    assert start(tmp_path / "whole", "6", "harmless")[0] == 0
    one, other = (
        [[line[key] for key in ("step", "loss", "lr", "grad_norm")] for line in read_metrics(tmp_path / name)]
        for name in ("run", "whole")
    )
    assert one == other


def test_after_two_that_killed_no_other_is_tried(tmp_path: Path) -> None:
    looks = ("3", "deadly", "5", "deadly", "6", "deadly")
    for step in (3, 3, 5, 5):
        assert start(tmp_path / "run", *looks)[0] == -signal.SIGKILL
        assert json.loads((tmp_path / "run/.deaths.json").read_text())["step"] == step
    code, said = start(tmp_path / "run", *looks)
    assert code == 0
    assert "after step 6 is left out" in said


def test_a_kill_between_saving_and_looking_loses_no_figure(tmp_path: Path) -> None:
    assert start(tmp_path / "run", "8", "deadly")[0] == -signal.SIGKILL
    code, said = start(tmp_path / "run", "8", "harmless")
    assert (code, "left out" in said) == (0, False)
    assert read_metrics(tmp_path / "run")[-1]["eval/figure"] == 0.5
    assert not (tmp_path / "run/.deaths.json").exists()
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert start(tmp_path / "run", "8", "deadly")[0] == 0  # it has been looked at
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


GREEDY = (
    "import os, signal, sys\n"
    "from pathlib import Path\n"
    "from rich.console import Console\n"
    "from openmae.machine import limits\n"
    "from tests.train.tasks import Task\n"
    "limits.ROOT = Path(sys.argv[2])\n"
    "class Greedy(Task):\n"
    " def loss_of(self, model, batch):\n"
    "  if len(batch) > 2: os.kill(os.getpid(), signal.SIGKILL)\n"
    "  return Task.loss_of(model, batch)\n"
    "Greedy().train(Path(sys.argv[1]), 4, console=Console(width=500))\n"
)


@pytest.mark.parametrize("is_limited", [True, False])
def test_a_step_that_kills_is_taken_in_smaller_pieces_where_memory_is_limited(tmp_path: Path, is_limited: bool) -> None:
    """Elsewhere a kill may be anybody's, and the last bits of a run depend on the pieces."""
    group = {"sys/fs/cgroup/user.slice/memory.max": "3500000000\n"} if is_limited else {}
    words = [str(tmp_path / "run"), str(laid_out(tmp_path / "root", {**V2, **group}))]
    done = [run_openmae(words, code=GREEDY) for _ in range(5)]
    dead = -signal.SIGKILL  # of 8 at once, twice, and of 4
    assert [each.returncode for each in done] == [dead, dead, dead, dead, 0 if is_limited else dead]
    if is_limited:
        assert "killed in their first step" in done[2].stdout
        assert "2 images go through the model at once from here on" in done[4].stdout
        assert run_openmae(words, code=GREEDY).returncode == 0
