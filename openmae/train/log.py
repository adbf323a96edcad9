"""How far a run is, and what it leaves on the disk as it goes on: lines of the log, and checkpoints."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from rich.console import Console

from openmae.distributed.ranks import Ranks
from openmae.errors import NotWritten
from openmae.machine.memory import free_ram
from openmae.train.checkpoint import snapshot, snapshot_bytes
from openmae.train.learner import B, Learner, M
from openmae.train.run import RunFolder
from openmae.train.saving import Saver
from openmae.train.step import Taken

_MOST_OF_FREE = 0.5  # of the memory that is free when a checkpoint is copied


@dataclass
class Position:
    """How far the run is: saved with every checkpoint, so that a resumed run logs what an unbroken one would."""

    step: int = 0
    loss_sum: float = 0.0  # over the steps since the last line of the log
    loss_steps: int = 0
    dropped: int = 0
    dropped_in_a_row: int = 0
    norm: float = -1.0  # of the last step's gradient, -1 where it was not finite
    unlooked: int = 0  # whether what is to be looked at after the step comes after its checkpoint

    @property
    def mean_loss(self) -> float:
        """Since the last line of the log."""
        return self.loss_sum / max(1, self.loss_steps)

    def note(self, taken: Taken) -> None:
        """Counts a step; this waits for the device."""
        self.norm = taken.norm if math.isfinite(taken.norm) else -1.0
        if taken.is_dropped:
            self.dropped += 1
            self.dropped_in_a_row += 1
        else:
            self.loss_sum += taken.loss
            self.loss_steps += 1
            self.dropped_in_a_row = 0


class Log:
    """What a run leaves on the disk as it goes on: lines of the log, and checkpoints. The disk may refuse both."""

    def __init__(self, run: RunFolder, batch_size: int, keep: int, console: Console) -> None:
        self.run, self.batch_size, self.console = run, batch_size, console
        self.saver = Saver(run.checkpoints, keep, self.warn)
        self._refusal: str | None = None
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.saver.join()  # whatever ended the steps, a checkpoint that is being written is not given up

    def _begin(self) -> None:
        self.began, self.waited, self.samples = time.perf_counter(), 0.0, 0

    def warn(self, sentence: str) -> None:
        """Says it, in yellow."""
        self.console.print(f"warning: {sentence}", style="yellow", soft_wrap=True)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What is done within is no step, and its seconds are not in the rates."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.began += time.perf_counter() - began

    def count(self, taken: Taken) -> None:
        """Notes a step."""
        self.waited += taken.waited
        self.samples += self.batch_size

    def rates(self) -> tuple[float, float]:
        """(images/s, share of the time spent waiting for them) of the steps since the last line."""
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        return self.samples / elapsed, self.waited / elapsed

    def write(self, position: Position, lr: float, observed: dict[str, Any]) -> None:
        """Appends a line, and begins the next one."""
        rate, waiting = self.rates()
        is_measured = self.samples > 0  # not where a start begins with what its last step is looked at for
        line = {
            "step": position.step,
            "loss": position.mean_loss if position.loss_steps else None,
            "lr": lr,
            "grad_norm": position.norm if position.norm >= 0 else None,
            "images_per_second": round(rate, 2) if is_measured else None,
            "data_wait": round(waiting, 4) if is_measured else None,
            "dropped": position.dropped,
            "time": round(time.time(), 3),
        }
        self._try(lambda: self.run.log({**line, **observed}))
        position.loss_sum, position.loss_steps = 0.0, 0
        self._begin()

    def save(self, position: Position, learner: Learner[M, B], optimizer: torch.optim.Optimizer, wait: bool) -> None:
        """Begins a checkpoint. wait: until it is on the disk, as it does where memory is too short for a copy."""
        state = {name: value for name, value in asdict(position).items() if name != "step"}
        is_logged = not self._try(self.run.sync)
        has_room = snapshot_bytes(learner, optimizer) < _MOST_OF_FREE * free_ram()
        taken = snapshot(learner, optimizer, position.step, state, self.run.record(), copy=has_room)
        if not is_logged:  # a run that goes on from there would lack these lines
            self.saver.wait()
            self.saver.refuse(position.step, f"metrics.jsonl cannot be written ({self._refusal})")
            return
        self.saver.save(taken)
        if wait or not has_room:
            self.saver.wait()

    def check(self, position: Position, ranks: Ranks) -> None:
        """Raises NotWritten, on all ranks, where the end of the run is not on the disk."""
        if refusal := ranks.from_lead(self.saver.refusal):
            raise NotWritten(
                f"the run in {self.run.path} took all its {position.step} steps, but its last checkpoint is not on the "
                f"disk ({refusal}): free some space and run the same command again, which goes on from the last one"
            )

    def _try(self, write: Callable[[], None]) -> bool:
        """Whether the disk refused; it is said once."""
        try:
            write()
        except OSError as error:
            refusal = error.strerror or str(error)
            if refusal != self._refusal:
                self.warn(f"metrics.jsonl cannot be written: {refusal}; training goes on, and its lines wait")
            self._refusal = refusal
            return True
        self._refusal = None
        return False
