"""Being interrupted is one sentence: from a process's first moment to its last, and however often Ctrl-C is pressed."""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Collection
from types import FrameType
from typing import Any, Self

from openmae.errors import INTERRUPTED, RUN_AGAIN

GRACE = 2.0
"""Seconds in which a further Ctrl-C belongs to the first: a terminal and torchrun both pass it on."""

_OF_SCHEDULERS = ("SIGTERM", "SIGUSR1")


class Interrupts:
    """Within, a first Ctrl-C raises KeyboardInterrupt, in the main thread, and what cleans up after it is not disturbed
    by another one; after GRACE seconds one more leaves at once. A context manager, without effect in other threads."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._first: float | None = None
        self._is_lost = self._is_in_hook = False
        self._before: tuple[Any, Any] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear), sys.unraisablehook
            sys.unraisablehook = self._not_raised
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            handler, sys.unraisablehook = self._before
            signal.signal(signal.SIGINT, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._is_in_hook:  # whoever calls it would be the only one to hear
            return
        if self._first is None or self._is_lost:
            self._first, self._is_lost = time.monotonic(), False
            raise KeyboardInterrupt
        if time.monotonic() - self._first > GRACE:
            leave(INTERRUPTED, f"openmae {self._command}: stopped at once.")

    def _not_raised(self, found: "sys.UnraisableHookArgs") -> None:
        """An exception that came where Python cannot raise it, as in a generator that nobody needs any more."""
        self._is_in_hook = True
        if issubclass(found.exc_type, KeyboardInterrupt):
            self._is_lost = True
            threading.Thread(target=self._raise_it, daemon=True).start()
        elif self._before is not None:
            self._before[1](found)
        self._is_in_hook = False

    def _raise_it(self) -> None:
        while self._is_lost:
            _thread.interrupt_main()
            time.sleep(0.01)


def leave_when_asked(command: str, *, is_training: bool) -> None:
    """From now on, while there is nothing yet to clean up or to save, Ctrl-C leaves at once, and so do a scheduler's
    signals where the command is a training."""
    of_scheduler = "asked to stop before or after the steps: the same command goes on from the last checkpoint."
    _leave_on({"SIGINT"}, INTERRUPTED, f"openmae {command}: stopped.")
    if is_training:
        _leave_on(_OF_SCHEDULERS, RUN_AGAIN, f"openmae {command}: {of_scheduler}")


def leave_silently(code: int, *, is_training: bool) -> None:
    """From now on all is said and done, and who asks to stop need not wait."""
    with contextlib.suppress(OSError, ValueError):  # its reader has left, or it was closed
        sys.stdout.flush()
    _leave_on({"SIGINT", *(_OF_SCHEDULERS if is_training else ())}, code, "")


def _leave_on(names: Collection[str], code: int, sentence: str) -> None:
    for name in names:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: leave(code, sentence))


def leave(code: int, sentence: str) -> None:
    """Ends the process as it stands; its output too, for whose reader it might have to wait."""
    if sentence:
        with contextlib.suppress(OSError):
            os.write(2, f"{sentence}\n".encode(errors="backslashreplace"))
    os._exit(code)
