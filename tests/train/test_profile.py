"""Where the time of some steps went, as a trace and a table."""

import gzip
import io
import json
from collections import Counter
from pathlib import Path

import torch
from rich.console import Console

from openmae.train.checkpoint import newest_checkpoint
from openmae.train.profile import RECORDED
from tests.train.tasks import Task


def test_profile_is_a_trace_and_a_table(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    Task().train(tmp_path / "run", 12, profile=True, console=console)
    with gzip.open(tmp_path / "run/profile/trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    named = Counter(event.get("name") for event in events if event.get("cat") == "user_annotation")
    assert [named[name] for name in ("forward", "backward", "wait for images")] == [RECORDED] * 3
    table = (tmp_path / "run/profile/top.txt").read_text()
    names = {event.get("name") for event in events}
    assert "aten::addmm" in names  # of the task's layers; whether it is among the longest, a busy machine decides
    assert {row[28:] for row in table.splitlines()[2:]} <= names
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
