"""Contenders take turns, round after round, each in a process of its own, because a machine is never equally fast for
long: what is compared is measured within seconds of each other."""

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from statistics import median, quantiles
from typing import Any

import torch

from openmae.errors import UserError
from openmae.machine.device import memory_of
from openmae.model import Architecture
from openmae.recipes.bench.steps import Product, Where, Work
from openmae.recipes.bench.worker import Answer, Turn, serve
from openmae.report.plots.bench import Result, Table
from openmae.train.cost import flops, parameters

SayTurns = Callable[[str, int, int], None]
"""Hears what is being done, and how many turns of how many are over."""

TURN_SECONDS = 1.0  # a turn is as many steps as take this long
MOST_IMAGES = {"cpu": 64, "gpu": 512}  # of a micro-batch that is found
MOST_SECONDS = 8.0  # of a step on a CPU whose micro-batch is found
TOGETHER = 0.6  # of the memory, for the weights of all
START = "spawn"  # of processes: forked ones cannot use a GPU
_PATIENCE = 10.0  # seconds for a process to end by itself
_BYTES = 16  # a parameter: weight, gradient, two averages


@dataclass(frozen=True)
class Contender:
    """Who is measured.

    model, architecture: what it trains, from which operations are counted; None for the matrix product.
    compiled: tried last where the micro-batch is looked for, since each size takes it minutes.
    must_load: whether the command is refused where it cannot be built.
    """

    name: str
    work: Work
    model: str = ""
    architecture: Architecture | None = None
    compiled: bool = False
    must_load: bool = False

    @property
    def flops(self) -> int:
        """Operations that a training step needs for one image, forward and backward."""
        return flops(self.architecture).step if self.architecture else 0

    @property
    def bytes(self) -> int:
        """Of its weights, gradients and averages, at least."""
        return _BYTES * sum(parameters(self.architecture)) if self.architecture else 0


PRODUCT = Contender("matrix product", Product())


@dataclass
class Booth:
    """A contender and, while there is one, its process."""

    contender: Contender
    where: Where
    failed: str | None = None
    turns: list[Turn] = field(default_factory=list)
    process: Any = None
    pipe: Connection | None = None
    is_built: bool = False
    is_busy: bool = False

    def open(self) -> None:
        """Starts the process, which begins to build."""
        context: Any = multiprocessing.get_context(START)
        self.pipe, theirs = context.Pipe()
        work = (self.contender.work, self.where, theirs, os.getpid())
        self.process = context.Process(target=serve, args=work, daemon=True)
        with _no_interrupts():
            self.process.start()
        theirs.close()  # so that its death closes the pipe
        self.is_built, self.is_busy = False, True

    def ask(self, *questions: tuple[Any, ...], stay: bool) -> Any:
        """The answer to the last of these questions, each a method of the worker's runner and its arguments; None
        where the contender fails, or has. stay: whether the process does."""
        if self.failed is None and self.process is None:
            self.open()
        if self.failed is None and not self.is_built:
            self.is_built = True
            self._hear()
        value = None
        for question in questions:
            if self.failed is None:
                assert self.pipe is not None
                try:
                    self.pipe.send(question)
                except OSError:
                    self._note_death()
                else:
                    value = self._hear()
        if self.failed is not None or not stay:
            self.close()
        return None if self.failed is not None else value

    def close(self) -> None:
        """Ends the process. An idle one that has compiled ends by itself, which ends the compiler's processes too."""
        if self.process is not None and self.pipe is not None:
            self.pipe.close()
            self.process.join(_PATIENCE if self.contender.compiled and not self.is_busy else 0)
            with suppress(ProcessLookupError):  # it has ended, or has not begun
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.join()
            self.process.close()
        self.process = self.pipe = None

    def _hear(self) -> Any:
        assert self.pipe is not None
        self.is_busy = True  # also where this is interrupted
        try:
            wait([self.pipe, self.process.sentinel])
            if not self.pipe.poll():
                raise EOFError
            answer: Answer = self.pipe.recv()
        except (EOFError, OSError):
            self._note_death()
            return None
        self.is_busy = False
        self.failed = answer.failed
        return answer.value

    def _note_death(self) -> None:
        self.process.join(_PATIENCE)
        code = self.process.exitcode
        self.failed = f"its process ended (exit code {code})"
        if code is not None and code < 0:
            why = ", as a system without free memory does" if code == -signal.SIGKILL else ""
            self.failed = f"its process was killed ({signal.Signals(-code).name}{why})"


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """A process that is started within never hears Ctrl-C, which the terminal sends to all: its parent ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------- measuring


def measure(
    contenders: Sequence[Contender], where: Where, micro_batch: int | None, rounds: int, say: SayTurns
) -> tuple[int, list[Booth]]:
    """The micro-batch, found where none is given, and each contender's turns, one a round, or why it failed.

    Where the weights of all do not fit into memory together, a contender's process is started for each of its turns.
    Raises UserError where one that must load does not.
    """
    booths = [Booth(contender, where) for contender in contenders]
    stay = sum(contender.bytes for contender in contenders) <= TOGETHER * memory_of(torch.device(where.device))
    of = rounds * len(booths)
    try:
        say("building", 0, of)
        _build(booths, stay)
        if micro_batch is None:
            say("looking for the micro-batch", 0, of)
            micro_batch = find_micro_batch(booths, where.device, stay)
        warm_up = ("warm_up", micro_batch, TURN_SECONDS)
        if stay:
            for booth in booths:
                say(f"warming up {booth.contender.name}", 0, of)
                booth.ask(warm_up, stay=True)
        for number in range(rounds):
            for at, booth in enumerate(booths if number % 2 == 0 else reversed(booths)):
                say(booth.contender.name, number * len(booths) + at, of)
                turn = booth.ask(("turn",), stay=True) if stay else booth.ask(warm_up, ("turn",), stay=False)
                if turn is not None:
                    booth.turns.append(turn)
        return micro_batch, booths
    finally:
        for booth in booths:
            booth.close()


def _build(booths: Sequence[Booth], stay: bool) -> None:
    """Each once: those that must load, then the others, at the same time where all stay."""
    for must in (True, False):
        group = [booth for booth in booths if booth.contender.must_load is must]
        if stay:
            for booth in group:
                booth.open()
        for booth in group:
            booth.ask(stay=stay)
            if booth.failed is not None and must:
                raise UserError(f"--peer {booth.contender.name} cannot be built: {booth.failed}")


def find_micro_batch(booths: Sequence[Booth], device: str, stay: bool) -> int:
    """A power of two. On a GPU the largest with which each contender can take a step; on a CPU the largest whose step
    takes no longer than MOST_SECONDS, of the contender that has most to do."""
    if device != "cpu":
        size = MOST_IMAGES["gpu"]
        for booth in sorted(booths, key=lambda booth: booth.contender.compiled):
            while (seconds := booth.ask(("fit", size), stay=stay)) == math.inf and size > 1:
                size //= 2
            if seconds == math.inf:
                booth.failed = "out of memory with one image"
                booth.close()
        return size
    for booth in sorted(booths, key=lambda booth: (booth.contender.compiled, -booth.contender.flops)):
        size = 1
        if booth.ask(("fit", size), stay=True) is None:  # it failed, or warmed up
            continue
        while size < MOST_IMAGES["cpu"]:
            seconds = booth.ask(("fit", 2 * size), stay=True)
            if seconds is None or seconds > MOST_SECONDS:
                break
            size *= 2
        if not stay:
            booth.close()
        return size
    return 1


# ---------------------------------------------------------------- what came of it


def table_of(title: str, micro_batch: int, booths: Sequence[Booth], reference: str) -> Table:
    """The figures of those that took all their turns, and the reasons of those that did not.

    reference: the name of the contender that ratios are to; where it failed, the first one that did not.
    """
    done = [booth for booth in booths if booth.failed is None]
    trained = [booth for booth in done if booth.contender.architecture is not None]
    product = next((booth for booth in done if booth.contender.architecture is None), None)
    matmul = None if product is None else median(_rates(product)) / 1e12
    base = next((booth for booth in trained if booth.contender.name == reference), trained[0] if trained else None)
    return Table(
        title,
        None if base is None else base.contender.name,
        [_result(booth, micro_batch, base, matmul) for booth in trained if base is not None],
        [(booth.contender.name, booth.failed) for booth in booths if booth.failed is not None],
        matmul,
    )


def _rates(booth: Booth) -> list[float]:
    """Images, or operations, a second in each round: of the median of the turn's steps."""
    return [turn.amount / median(turn.seconds) for turn in booth.turns]


def _result(booth: Booth, micro_batch: int, base: Booth, matmul: float | None) -> Result:
    contender = booth.contender
    assert contender.architecture is not None
    rates = _rates(booth)
    ratios = [own / other for own, other in zip(rates, _rates(base), strict=True)]
    peaks = [turn.peak_memory for turn in booth.turns]
    known = [peak for peak in peaks if peak is not None]
    low, _, high = quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else rates * 3
    return Result(
        contender=contender.name,
        model=contender.model,
        img_size=contender.architecture.img_size[0],
        patch_size=contender.architecture.patch_size[0],
        precision=booth.where.precision,
        micro_batch=micro_batch,
        images_per_second=median(rates),
        quartiles=(low, high),
        ratio=median(ratios),
        ratio_range=(min(ratios), max(ratios)),
        tflops=contender.flops * median(rates) / 1e12,
        matmul_tflops=matmul,
        peak_memory=max(known) if len(known) == len(peaks) else None,
        seconds=[median(turn.seconds) for turn in booth.turns],
        raw_seconds=[list(turn.seconds) for turn in booth.turns],
    )
