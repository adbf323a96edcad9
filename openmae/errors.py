"""What a user can mend: reported as one sentence and exit code 2, never as a traceback."""


class UserError(Exception):
    """Bad input. The message is one sentence that says what is wrong and what to do about it."""


class Interrupted(Exception):
    """The user or the system asked the job to stop; what was done is saved, what was learnt up to `step`."""

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


class BrokenImage(Exception):
    """This file gives no image; the message says why."""
