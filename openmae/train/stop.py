"""Being asked to stop: Ctrl-C, and the signals by which schedulers announce that a machine is taken away."""

import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any, Self

from openmae.errors import INTERRUPTED, RUN_AGAIN

DEADLINE = 120.0
"""Seconds from the first signal to the end, whatever is still unsaved then."""
GRACE = 2.0
"""Seconds in which further signals belong to the first: a terminal and torchrun both pass on a Ctrl-C."""
_CODES: dict[int, int] = {
    getattr(signal, name): code
    for name, code in (("SIGINT", INTERRUPTED), ("SIGTERM", RUN_AGAIN), ("SIGUSR1", RUN_AGAIN))
    if hasattr(signal, name)  # which not every system has
}


class Stop:
    """Notes a first SIGINT, SIGTERM or SIGUSR1, so that the step at hand can end and be saved; a second one leaves at
    once. That the terminal closes has no effect. A context manager.

    at_once: there is no step to save, so the first SIGTERM or SIGUSR1 already leaves at once, and Ctrl-C is Python's.
    Within it, another one may note them for a while.
    In a process that is not a command's own, as a notebook's kernel, a second Ctrl-C is Python's and ends no process.

    A thread hears them, for the main one may be inside a library that waits for another machine.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self._codes = {number: code for number, code in _CODES.items() if not (at_once and code == INTERRUPTED)}
        self.code = 0
        """The exit code that was asked for; 0 while nobody has asked."""
        self._before: dict[int, Any] = {}
        self._first: float | None = None  # Ctrl-C that was noted
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._fd_before = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            ours, theirs = self._ends = socket.socketpair()
            theirs.setblocking(False)
            self._fd_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            for number in self._codes:
                self._before[number] = signal.signal(number, self._note)
            if hasattr(signal, "SIGHUP"):
                self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
            threading.Thread(target=self._listen, args=(ours,), name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._ends is not None:
            signal.set_wakeup_fd(self._fd_before)
            self._ends[1].close()  # ends the thread

    @property
    def _is_anothers(self) -> bool:
        """Whether the process is not ours to end on Ctrl-C: whoever runs it hears that as Python does."""
        return self._before.get(signal.SIGINT) is signal.default_int_handler

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._is_anothers:
            if self._first is not None and time.monotonic() - self._first > GRACE:
                raise KeyboardInterrupt
            self._first = self._first or time.monotonic()
        self.code = self.code or self._codes[number]  # at once, where the main thread is in Python

    def _listen(self, ours: socket.socket) -> None:
        with ours:
            first = 0.0
            mine = self._codes.keys() - ({signal.SIGINT} if self._is_anothers else set())
            try:
                while heard := ours.recv(64):
                    self.code = self.code or next((self._codes[number] for number in heard if number in self._codes), 0)
                    if mine.isdisjoint(heard):
                        continue
                    if self._at_once:
                        leave(RUN_AGAIN, "asked to stop before or after the steps")
                    if not first:
                        first = time.monotonic()
                    elif time.monotonic() - first > GRACE:
                        leave(self.code, "asked twice to stop")
                    ours.settimeout(max(0.1, first + DEADLINE - time.monotonic()))
            except TimeoutError:
                leave(self.code, f"not saved within {DEADLINE:.0f} s")


def leave(code: int, why: str) -> None:
    """Ends the process as it stands: a write under way leaves what was there before."""
    how = "the same command goes on from the last checkpoint, or begins anew where there is none yet"
    print(f"openmae: {why}: stopped at once; {how}.", file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)
