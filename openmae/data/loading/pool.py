"""Processes that do pieces of work, results in order, and nothing lost when one of them is killed.

torch's DataLoader ends the run when the kernel kills a worker, and moves each batch through /dev/shm, which
containers keep at 64 MB. Here every worker has a pipe of its own, so a kill cannot leave a lock behind; what it
had in hand is given to another one. Work is a function of its task alone, so doing it again changes nothing.
"""

import logging
import math
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import weakref
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from openmae.data.formats import apart
from openmae.data.sources.source import Source
from openmae.errors import BrokenImage, UserError
from openmae.machine.heap import give_back_freed_memory
from openmae.machine.memory import bound_growth, ram

_LOG = logging.getLogger("openmae")

Task = TypeVar("Task")
Result = TypeVar("Result")

START = "fork" if sys.platform == "linux" else "spawn"
"""How workers start. Forked ones share what the parent has read; elsewhere than on Linux, forking breaks system
libraries."""
DEADLY = 2  # workers that an image may kill before it is left out
STALLED_SECONDS = 300.0  # on one image, within one message, or stopped, after which a worker is taken for hung
POLL_SECONDS = 5.0  # between looks at whether the others still live
MOST_LOSSES = 5  # workers that die over a task before they touch an image of it
LEAST_BOUND = 2**32  # bytes a worker may grow by: an encoded image of 2 GiB, and what decoding it takes
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
AHEAD = 4  # tasks a worker is given before it is asked for the first result


class Hand:
    """Notes which image a worker has in hand, so that the one that kills it is known.

    kills: how many workers an image has ended. One that has ended any is decoded in a process of its own; all of the
    task are where `among_suspects`.
    """

    def __init__(
        self,
        noted: NDArray[np.int64] | None = None,
        kills: Mapping[int, int] | None = None,
        among_suspects: bool = False,
    ) -> None:
        self._noted, self._kills, self._among_suspects = noted, kills or {}, among_suspects
        self._deadly = frozenset(index for index, ended in self._kills.items() if ended >= DEADLY)
        self.taken: list[int] = []

    def read_each(self, source: Source, indices: Sequence[int]) -> Iterator[bytes | OSError | BrokenImage]:
        """As the source's own, without those that have killed DEADLY workers. The image that a source reads in its
        turn is known if that kills, but may take as long as it likes. What is too large for memory is broken."""
        done = 0
        self._note(-1, is_read=True)
        try:
            fetched = source.read_each([index for index in indices if index not in self._deadly])
            for index in indices:
                self._note(index, is_read=True)
                yield _deadly() if index in self._deadly else next(fetched)
                done += 1
        except MemoryError:
            if len(indices) == 1:
                yield BrokenImage("it does not fit into memory")
                return
            for index in indices[done:]:  # one at a time needs less, and shows which of them it is
                yield from self.read_each(source.singly, [index])

    def take(self, index: int) -> None:
        """To be called before image `index` is decoded. Raises BrokenImage where it has killed DEADLY workers."""
        if index in self._deadly:
            raise _deadly()
        if self._noted is not None:
            self.taken.append(index)
            self._noted[1] += 1
        self._note(index, is_read=False)
        apart.IN_HAND.is_suspect = index in self._kills
        apart.IN_HAND.is_among_suspects = self._among_suspects

    def _note(self, index: int, is_read: bool) -> None:
        if self._noted is not None:
            self._noted[0], self._noted[2] = index, is_read


class SharedArray:
    """A zeroed array that this process and the workers it hands it to see alike."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        # Not through /dev/shm where that is too small: the standard library falls back to a file.
        self._memory = _context().RawArray("b", max(1, math.prod(shape) * self.dtype.itemsize))

    @property
    def array(self) -> NDArray[Any]:
        """The array itself; it cannot be handed on."""
        size = math.prod(self.shape)
        return np.frombuffer(self._memory, self.dtype, size).reshape(self.shape)


def ordered(
    work: Callable[[Task, Hand], Result],
    tasks: Iterable[Task],
    workers: int,
    ahead: int = AHEAD,
    whose: Callable[[Task], int] | None = None,
) -> Generator[Result, None, None]:
    """The results of `work` on each task, in order.

    workers: processes; 0 works in this one. Tasks (small ones) and results are pickled. Tasks
    are taken from the iterator at most `ahead` a worker before their results are asked for. whose: tasks of one number
    go to one worker, for what it keeps; else to whoever has least to do.
    Raises what `work` raises (UserError as it is, anything else as RuntimeError with the worker's traceback), and
    UserError where the workers die without having touched an image.
    """
    if workers == 0:
        hand = Hand()
        for task in tasks:
            yield work(task, hand)
        return
    crew = _Crew(work, workers, whose)
    try:
        yield from crew.results(iter(tasks), window=workers * ahead)
    finally:
        crew.dismiss()


@dataclass
class _Worker:
    """A process, our end of its pipe, what it noted, and the tasks that it has.

    noted: the image in hand or -1, the count of images decoded, whether the image is being read, beats of its heart.
    moved: the last two when they were last seen to change, so many seconds of looking ago.
    """

    process: Any
    pipe: Connection
    noted: NDArray[np.int64]
    given: deque[int] = field(default_factory=deque)
    moved: tuple[int, int] = (0, 0)
    still: float = 0.0


class _Crew(Generic[Task, Result]):
    """The workers of one `ordered`."""

    def __init__(
        self, work: Callable[[Task, Hand], Result], workers: int, whose: Callable[[Task], int] | None = None
    ) -> None:
        self.work, self.whose = work, whose
        self.kills: Counter[int] = Counter()  # how many workers an image has ended
        self.crashes: Counter[int] = Counter()  # workers that a task has crashed, whichever image they had in hand
        self.losses: Counter[int] = Counter()  # workers that died over a task, no image in hand
        self.tasks: dict[int, Task] = {}  # given and not done, by number
        self.done: dict[int, Result] = {}
        self.workers: list[_Worker] = []
        self.looked = time.monotonic()
        # At the interpreter's exit, before multiprocessing asks with a SIGTERM that they ignore, and waits.
        self.dismiss = Finalize(self, _dismiss, (self.workers,), exitpriority=0)
        for _ in range(workers):
            self.workers.append(self._hire())

    def results(self, tasks: Iterator[Task], window: int) -> Iterator[Result]:
        """In the order of the tasks, of which at most `window` are under way."""
        upcoming = enumerate(tasks)
        wanted = 0
        while True:
            while len(self.tasks) + len(self.done) < window and (numbered := next(upcoming, None)) is not None:
                number, self.tasks[number] = numbered
                self._give(number)
            if not self.tasks and not self.done:
                return
            while wanted not in self.done:
                self._collect()
            yield self.done.pop(wanted)
            wanted += 1

    def _hire(self) -> _Worker:
        context = _context()
        noted = context.RawArray("q", [-1, 0, 0, 0])
        ours, theirs = context.Pipe()
        _lose_patience(ours)
        _ours.add(ours)
        process = context.Process(target=_serve, args=(self.work, theirs, noted, os.getpid()), daemon=True)
        with _signals_wait():  # until it ignores them: one that comes before would end it with a traceback
            process.start()
        theirs.close()  # so that its death closes the pipe
        return _Worker(process, ours, np.frombuffer(noted, np.int64))

    def _give(self, number: int) -> None:
        if self.whose is None:
            worker = min(self.workers, key=lambda worker: len(worker.given))
        else:
            worker = self.workers[self.whose(self.tasks[number]) % len(self.workers)]
        if not worker.given:
            worker.still = 0.0
        worker.given.append(number)
        with suppress(OSError):  # it has died, which the next _collect notices
            worker.pipe.send((number, self.tasks[number], dict(self.kills), self.crashes[number] >= DEADLY))

    def _collect(self) -> None:
        """Waits until a worker has something to say, or has died, or hangs."""
        ready = set(wait([worker.pipe for worker in self.workers], timeout=POLL_SECONDS))
        # Time in which nobody looked does not count: we may have been stopped, they with us.
        passed, self.looked = min(POLL_SECONDS, time.monotonic() - self.looked), time.monotonic()
        for worker in list(self.workers):
            if worker.pipe in ready:
                self._hear(worker)
            elif not worker.process.is_alive() or self._hangs(worker, passed):
                self._replace(worker)

    def _hear(self, worker: _Worker) -> None:
        try:
            number, result, error, taken = worker.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # it died, or hangs in the middle of what it says
            self._replace(worker)
            return
        if error is not None:
            raise error
        for index in taken:  # it was not this image
            self.kills.pop(index, None)
        worker.given.remove(number)
        del self.tasks[number]
        self.done[number] = result

    def _replace(self, dead: _Worker) -> None:
        """A new worker, and what the dead one had goes to whoever has least to do."""
        dead.process.kill()  # it may hang, or have closed its pipe without dying
        dead.process.join()
        dead.pipe.close()
        index = int(dead.noted[0])
        _LOG.warning("a loader process died (exit code %s): another one does its work", dead.process.exitcode)
        has_crashed = apart.CAN and bool(dead.given) and -(dead.process.exitcode or 0) in _CRASHES
        if has_crashed:
            self.crashes[dead.given[0]] += 1
        if index >= 0:
            self.kills[index] += 1
            if has_crashed and self.crashes[dead.given[0]] == DEADLY:
                self.kills[index] = 1  # it may have been another image of the task: this one gets a try
        elif dead.given:
            self.losses[dead.given[0]] += 1
            if self.losses[dead.given[0]] >= MOST_LOSSES:
                raise UserError(
                    f"{MOST_LOSSES} loader processes died over the same work, with no image in hand (the last "
                    f"with exit code {dead.process.exitcode})",
                    "look for a lack of memory, or choose `workers=0`",
                )
        self.workers[self.workers.index(dead)] = self._hire()
        for number in dead.given:
            self._give(number)

    def _hangs(self, worker: _Worker, passed: float) -> bool:
        image, images, is_read, beats = worker.noted.tolist()
        # An image is to be decoded in time. Elsewhere, as where it fetches, patience is the source's, while it lives.
        is_decoding = image >= 0 and not is_read
        moved = (images, worker.moved[1] if is_decoding else beats)
        worker.still = worker.still + passed if worker.given and moved == worker.moved else 0.0
        worker.moved = moved
        return worker.still > STALLED_SECONDS


def _deadly() -> BrokenImage:
    return BrokenImage(f"reading it ended {DEADLY} processes (out of memory, a fault in the decoder, or no end to it)")


def _lose_patience(pipe: Connection) -> None:
    """Makes its `recv` raise OSError where a message does not go on: whoever sends it hangs or is stopped."""
    seconds = struct.pack("ll", math.ceil(STALLED_SECONDS), 0)  # C's timeval
    with socket.socket(fileno=os.dup(pipe.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)


_ours: "weakref.WeakSet[Connection]" = weakref.WeakSet()
"""This process's ends of the pipes to all its workers. A worker that held one of them, as a forked one does, would not
notice that this process is gone while it says something."""
# Signals that workers do not hear; not every system has all of them.
_UNHEARD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Within, and in processes that are started within, signals do not arrive."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _UNHEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _dismiss(workers: list[_Worker]) -> None:
    try:
        for worker in workers:
            worker.process.kill()
    finally:  # of all of them, also where a Ctrl-C comes meanwhile: whoever is left ignores it, and would be waited for
        for worker in workers:
            worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.pipe.close()


def _serve(work: Callable[[Task, Hand], Result], pipe: Connection, noted: Any, parent: int) -> None:
    """A worker's life."""
    # Ctrl-C and many schedulers signal the whole process group; the parent still needs results to end its step.
    signal.set_wakeup_fd(-1)  # of the parent's, who would take our signals for its own
    for number in _UNHEARD:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _UNHEARD)
    for end in list(_ours):
        end.close()
    apart.guarded()
    torch.set_num_threads(1)
    give_back_freed_memory()  # of one large image there are few
    bound_growth(max(LEAST_BOUND, ram() // 4))
    note = np.frombuffer(noted, np.int64)
    threading.Thread(target=_beat, args=(note, parent), daemon=True).start()
    try:
        while True:
            number, task, kills, among_suspects = pipe.recv()
            result: Result | None = None
            error: Exception | None = None
            hand = Hand(note, kills, among_suspects)
            try:
                result = work(task, hand)
            except UserError as refusal:
                error = refusal
            except Exception:
                error = RuntimeError(f"in a loader process:\n{traceback.format_exc()}")
            note[0] = -1
            pipe.send((number, result, error, hand.taken))
    except (EOFError, OSError):  # the parent has left
        return


def _beat(note: NDArray[np.int64], parent: int) -> None:
    """A worker's heart: it shows that the process is not stopped, and stops when the parent was killed, whatever the
    worker waits for."""
    while os.getppid() == parent:
        note[3] += 1
        time.sleep(POLL_SECONDS / 5)
    os._exit(0)


def _context() -> Any:
    return multiprocessing.get_context(START)
