"""Where the time of a training step goes: a trace for Perfetto and a table of the top costs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, schedule

from openmae.train.run import RunFolder

SKIPPED, RECORDED = 3, 5  # steps: the first wait for processes and memory
_ROWS = 20


class Profiler:
    """What the loop tells of its steps; does nothing where nothing is recorded."""

    def __init__(self) -> None:
        self.recorder: Any = None
        self.taken = 0

    def step(self) -> None:
        """A step was taken."""
        self.taken += 1
        if self.recorder is not None:
            self.recorder.step()


@contextmanager
def profiled(run: RunFolder, wanted: bool, console: Console) -> Iterator[Profiler]:
    """Records RECORDED steps after the first SKIPPED, where wanted: RUN/profile/trace.json.gz, which opens in
    ui.perfetto.dev, and RUN/profile/top.txt, which is printed too. Says so where a run takes fewer steps."""
    profiler = Profiler()
    if not wanted or not run.leads:
        yield profiler
        return
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its own lines are for its makers
    folder = run.path / "profile"
    folder.mkdir(exist_ok=True)

    def write(recorder: Any) -> None:
        if profiler.taken < SKIPPED + RECORDED:  # torch calls it at the end of a shorter run too
            return
        recorder.export_chrome_trace(str(folder / "trace.json.gz"))
        table = top_costs(recorder.key_averages())
        (folder / "top.txt").write_text(table, encoding="utf-8")
        console.print(
            f"{table}Open {folder / 'trace.json.gz'} in https://ui.perfetto.dev to see the steps in time.",
            soft_wrap=True,
        )

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    everywhere = _ExperimentalConfig(profile_all_threads=True)  # of lanes too
    plan = schedule(wait=SKIPPED - 1, warmup=1, active=RECORDED, repeat=1)
    with profile(
        activities=activities, schedule=plan, on_trace_ready=write, experimental_config=everywhere
    ) as recorder:
        profiler.recorder = recorder
        yield profiler
    if profiler.taken < SKIPPED + RECORDED:
        console.print(
            f"No profile was written: it takes {SKIPPED + RECORDED} steps in one start", style="yellow", soft_wrap=True
        )


def top_costs(events: Any) -> str:
    """The operations that took most time of their own, by torch's names, as lines of text.

    events: what torch.profiler's `key_averages()` gives over RECORDED steps.
    """
    on_gpu = any(event.self_device_time_total for event in events)

    def own(event: Any) -> float:  # microseconds
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    shown = [event for event in events if own(event) and not event.key.startswith("ProfilerStep")]
    total = sum(map(own, shown)) or 1.0
    rows = [
        f"{own(event) / total:>6.1%} {own(event) / 1000 / RECORDED:>10.2f} {event.count / RECORDED:>8.0f}  {event.key}"
        for event in sorted(shown, key=own, reverse=True)[:_ROWS]
    ]
    where = "GPU" if on_gpu else "CPU"
    head = f"Where {RECORDED} steps went, time of each operation itself on the {where}:"
    return "\n".join([head, f"{'share':>6} {'ms a step':>10} {'calls':>8}  operation", *rows]) + "\n"
