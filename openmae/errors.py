"""What a user can mend: reported as one sentence and exit code 2, never as a traceback; and the other exit codes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

RUN_AGAIN = 75
"""Exit code (EX_TEMPFAIL of sysexits.h) of a run that stopped before its end, was asked to or lost a process, and whose
last checkpoint the same command goes on from."""
NOT_WRITTEN = 74
"""Exit code (EX_IOERR) of a run that trained to its end and could not write all of what it leaves."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell reports it."""


class _InTwoParts(Exception):
    """What is wrong, and what to do about it (empty where nobody can do anything, or `what` says it); its str is both,
    `what: advice`. Rooms below recipes name a setting as Python does, in backquotes: `in_chans`, `device='cpu'`; the
    command line says --in-chans and --device cpu (commandline/flags.py)."""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what, advice)  # both, so that it can be pickled
        self.what, self.advice = what, advice

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}" if self.advice else self.what


class UserError(_InTwoParts):
    """Bad input. It is empty where another process says it."""


class BadValue(_InTwoParts, ValueError):
    """A value that a function does not take."""


def of_user(error: ValueError) -> UserError:
    """The same, where the value is the user's."""
    return UserError(error.what, error.advice) if isinstance(error, BadValue) else UserError(str(error))


@contextmanager
def said_once() -> Iterator[None]:
    """Within, what is wrong is wrong for all processes of a machine: the first of them says it for the others."""
    try:
        yield
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise UserError("") from error
        raise


class Interrupted(Exception):
    """The user or the system asked the job to stop; what was done is saved, what was learnt up to `step`."""

    def __init__(self, message: str, step: int = 0, code: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.step, self.code = step, code


class RankLost(Exception):
    """Another process of this run is gone or does not answer; the message says which."""

    def __str__(self) -> str:
        """With what becomes of the run: torchrun has so many starts left, or the user starts it again."""
        began, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
        then = "torchrun starts them again" if began < most else "run the same command again"
        return f"{super().__str__()}: all stop; {then}"


class NotWritten(Exception):
    """The job is done, and the disk did not take all of it; the message says what is missing and what to do."""


class BrokenImage(_InTwoParts):
    """This file gives no image."""


class TooLarge(BrokenImage):
    """It has more pixels than are decoded."""


class NothingThere(BrokenImage):
    """All of its pixels are no-data."""


class UnfitImage(BrokenImage):
    """It gives one, but not to these settings; the advice is to choose others."""
