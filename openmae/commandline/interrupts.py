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

TRAININGS = ("quickstart", "pretrain", "finetune")
"""Commands that hear schedulers by themselves, once there are steps to save."""
RESUMABLE = ("ablate", "adapt", "compare", "embed", "pack", "predict")
"""Commands that a scheduler's signal ends as Ctrl-C does, for they go on where they were."""
GOES_ON = "the same command goes on where it was"


class Interrupts:
    """Within, a first Ctrl-C raises KeyboardInterrupt, in the main thread, and what cleans up after it is not disturbed
    by another one; after GRACE seconds one more leaves at once. In commands that are resumable a scheduler's signals do
    so too. A context manager, without effect in other threads.

    code: the exit code that was asked for, 0 where nobody has asked."""

    def __init__(self, command: str) -> None:
        self._command, self.code = command, 0
        self._first: float | None = None
        self._is_lost = self._is_in_hook = False
        self._before: tuple[dict[int, Any], Any] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            names = ("SIGINT", *(_OF_SCHEDULERS if self._command in RESUMABLE else ()))
            heard = [getattr(signal, name) for name in names if hasattr(signal, name)]
            self._before = {number: signal.signal(number, self._hear) for number in heard}, sys.unraisablehook
            sys.unraisablehook = self._not_raised
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            handlers, sys.unraisablehook = self._before
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._is_in_hook:  # whoever calls it would be the only one to hear
            return
        if self._first is None or self._is_lost:
            self._first, self._is_lost = time.monotonic(), False
            self.code = self.code or (INTERRUPTED if number == signal.SIGINT else RUN_AGAIN)
            raise KeyboardInterrupt
        if time.monotonic() - self._first > GRACE:
            leave(self.code, f"openmae {self._command}: stopped at once.")

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


def leave_when_asked(command: str) -> None:
    """From now on, while there is nothing yet to clean up or to save, Ctrl-C leaves at once, and so do a scheduler's
    signals where the command goes on when it is run again."""
    _leave_on({"SIGINT"}, INTERRUPTED, f"openmae {command}: stopped.")
    if command in TRAININGS:
        said = (
            "asked to stop before or after the steps: the same command goes on from the last checkpoint, or begins "
            "anew where there is none yet."
        )
        _leave_on(_OF_SCHEDULERS, RUN_AGAIN, f"openmae {command}: {said}")
    if command in RESUMABLE:
        _leave_on(_OF_SCHEDULERS, RUN_AGAIN, f"openmae {command}: stopped; {GOES_ON}.")


def leave_silently(command: str, code: int) -> None:
    """From now on all is said and done, and who asks to stop need not wait."""
    with contextlib.suppress(OSError, ValueError):  # its reader has left, or it was closed
        sys.stdout.flush()
    _leave_on({"SIGINT", *(_OF_SCHEDULERS if command in TRAININGS + RESUMABLE else ())}, code, "")


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
