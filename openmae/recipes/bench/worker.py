"""A contender's own process: it builds what it measures, and takes steps of it when it is told to."""

import gc
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from openmae.commandline.flags import with_flags
from openmae.machine.device import is_out_of_memory
from openmae.machine.heap import give_back_freed_memory, keep_freed_memory
from openmae.recipes.bench.steps import Stepper, Where, Work, resident, timed

_WATCH_SECONDS = 0.5
_MOST_REASON = 300  # characters


@dataclass(frozen=True)
class Turn:
    """seconds: of each step. amount: what a step gets done. peak_memory: bytes, None where it cannot be measured."""

    seconds: tuple[float, ...]
    amount: float
    peak_memory: int | None


class _Runner:
    """Answers what it is asked; see bench_rounds.py for the order."""

    def __init__(self, stepper: Stepper, where: Where) -> None:
        self.stepper, self.device, self.steps = stepper, where.device, 1
        self.can_reset_peak = False

    def fit(self, micro_batch: int) -> float:
        """Seconds of one step with so many images; infinity where memory does not hold it."""
        seconds = math.inf
        try:
            self.stepper.resize(micro_batch)
            seconds = timed(self.stepper.step, 1, self.device)[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self._make_room()
        return seconds

    def warm_up(self, micro_batch: int, turn_seconds: float) -> None:
        """Two steps (a compiler works in the first one), whose second says how many a turn of that length takes."""
        self.stepper.resize(micro_batch)
        _, seconds = (timed(self.stepper.step, 1, self.device)[0] for _ in range(2))
        self.steps = max(1, math.ceil(turn_seconds / seconds))
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError):  # not Linux, or not allowed
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: man 5 proc
            self.can_reset_peak = True
        self._make_room()

    def turn(self) -> Turn:
        """A turn's steps. One more comes before them, since memory has to be fetched anew."""
        timed(self.stepper.step, 1, self.device)
        seconds = timed(self.stepper.step, self.steps, self.device)
        peak = self._peak()
        self._make_room()
        return Turn(seconds, self.stepper.amount, peak)

    def _peak(self) -> int | None:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        peak = resident("VmHWM") if self.device == "cpu" and self.can_reset_peak else None
        return None if peak is None or self.stepper.base is None else peak - self.stepper.base

    def _make_room(self) -> None:
        """For the next contender: what is left in memory is the weights and the optimizer's averages."""
        self.stepper.rest()
        gc.collect()  # what a step that failed has left
        if self.device == "cuda":
            torch.cuda.empty_cache()
        give_back_freed_memory()
        keep_freed_memory()  # in the next turn again


# ---------------------------------------------------------------- the process


@dataclass(frozen=True)
class Answer:
    """value: what was asked for; failed: why there is none, in a few words."""

    value: Any = None
    failed: str | None = None


def serve(work: Work, where: Where, pipe: Connection, parent: int) -> None:
    """The process's life: says that it has built its contender, then answers until the pipe is closed or the parent
    has died."""
    os.setsid()  # with whatever it starts, so that all of it can be ended together
    quiet = os.open(os.devnull, os.O_WRONLY)  # what libraries print would tear the parent's progress
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    keep_freed_memory()  # as our training does; all contenders alike
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()  # a step may be long
    runner: list[_Runner] = []

    def build() -> None:
        torch.manual_seed(0)
        runner.append(_Runner(work.start(where), where))

    with suppress(EOFError, OSError):  # the parent has left
        pipe.send(_answer(build))
        while True:
            what, *given = pipe.recv()
            pipe.send(_answer(getattr(runner[0], what), *given))


def _answer(function: Callable[..., Any], *given: Any) -> Answer:
    try:
        return Answer(function(*given))
    except BaseException as error:  # SystemExit of a peer's code too
        return Answer(failed="out of memory" if is_out_of_memory(error) else _reason(error))


def _reason(error: BaseException) -> str:
    """ValueError: what is wrong, on one line that is not long."""
    said = " ".join(with_flags(str(error)).split())
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return text if len(text) <= _MOST_REASON else f"{text[: _MOST_REASON - 3]}..."


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
