"""What the tasks of a launched job do: each watches over one of the processes that train together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from openmae.errors import RUN_AGAIN
from openmae.machine.cores import cores

if TYPE_CHECKING:
    from submitit import JobEnvironment
    from submitit.helpers import DelayedSubmission

MOST_FRUITLESS = 3
"""Starts in a row that ended by themselves without a new checkpoint, after which the job is not queued again."""
_HOLD_SECONDS = 600
_KEPT = ("checkpoints/step-*", "parts/**/*.json", "*.npz")
_AGAIN = (signal.SIGUSR1, signal.SIGUSR2)


@dataclass
class LaunchedTraining:
    """What each task of a job runs: one of the processes that train together, watched over.

    A child, so that this one can always hear a signal, and so that the job goes on also where the training's process
    leaves at once. fruitless: starts in a row, before this one, that led to nothing. parts: jobs that share the work,
    of which this is one.
    """

    command: tuple[str, ...]
    out: Path
    fruitless: int = 0
    parts: int = 1

    def __call__(self) -> None:
        """Trains. Returns at the end of the run; otherwise leaves by SystemExit, after the first task has put the job
        back into the queue where that makes sense."""
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        job = JobEnvironment()
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if job.num_nodes == 1:  # the machine's own name may lead nowhere
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        if job.cluster == "local":  # Slurm gives each task its cores, this machine would give all of them to each
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // (job.num_tasks * self.parts))))
        saved = _kept(self.out)
        child = _Child()
        code = child.run([sys.executable, "-u", "-m", "openmae", *self.command])
        if code == 0:
            return
        if code > 0 and code != RUN_AGAIN:
            raise SystemExit(code)
        if job.global_rank > 0:
            raise SystemExit(0)  # quietly: srun may end all tasks when one fails, and the first one has work to do
        self._go_on(job, child, has_saved=_kept(self.out) != saved)
        raise SystemExit(RUN_AGAIN)

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit starts when the job's turn comes again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _go_on(self, job: "JobEnvironment", child: "_Child", has_saved: bool) -> None:
        """Queues the job again and leaves, by submitit's own handler; returns where that would make no sense."""
        if signal.SIGTERM in child.heard and job.cluster == "slurm":
            # Cancelled, or preempted. Slurm knows, and queues a preempted job again, but only if it is still there.
            until = time.monotonic() + _HOLD_SECONDS
            while not child.is_to_go_on and time.monotonic() < until:
                time.sleep(1)
        if child.heard and not child.is_to_go_on:
            return
        if has_saved:
            self.fruitless = 0
        elif not child.heard:
            self.fruitless += 1
        if self.fruitless >= MOST_FRUITLESS:
            print(
                f"openmae launch: {self.fruitless} starts in a row ended without a new checkpoint: the job is not "
                "queued again; mend what is said above and launch it again.",
                file=sys.stderr,
                flush=True,
            )
            return
        number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
        signal.signal(number, child.before[number])
        signal.raise_signal(number)


class _Child:
    """A process that is asked to stop, once, when this one is.

    heard: the signals so far. before: who heard them before.
    """

    def __init__(self) -> None:
        self.heard: set[int] = set()
        self.before: dict[int, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._is_told = False

    @property
    def is_to_go_on(self) -> bool:
        """Whether a signal came that says so: SIGTERM and SIGINT may mean the end."""
        return not self.heard.isdisjoint(_AGAIN)

    def run(self, words: Sequence[str]) -> int:
        """Its exit code, below 0 where a signal ended it."""
        for number in (signal.SIGINT, signal.SIGTERM, *_AGAIN):
            self.before[number] = signal.signal(number, self._hear)
        # In a group of its own: some clusters send signals to whole groups, and a second one would end it unsaved.
        with subprocess.Popen(words, process_group=0) as self._process:
            self._pass_on()
            return self._process.wait()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard.add(number)
        self._pass_on()

    def _pass_on(self) -> None:
        if self.heard and self._process is not None and not self._is_told:
            self._is_told = True
            self._process.send_signal(signal.SIGINT if signal.SIGINT in self.heard else signal.SIGTERM)


def _kept(out: Path) -> frozenset[str]:
    """Checkpoints, and the parts that are done of what jobs share; by whichever of them."""
    return frozenset(str(path) for kept in _KEPT for path in out.rglob(kept))
