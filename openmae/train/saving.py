"""Checkpoints written while training goes on, by a thread; and what happens where the disk does not take them."""

import threading
from collections.abc import Callable
from pathlib import Path

from openmae.train.checkpoint import Checkpoint, write_checkpoint


class Saver:
    """Writes one checkpoint at a time.

    say: hears a sentence where the disk refuses one; what was saved before is untouched, and training goes on.
    """

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None]) -> None:
        self.folder, self.keep, self.say = folder, keep, say
        self.saved = -1
        """The step of the newest checkpoint that this one wrote, -1 before the first."""
        self.refusal: str | None = None
        """Why the last one that was tried is not on the disk."""
        self._thread: threading.Thread | None = None
        self._raised: BaseException | None = None

    def save(self, checkpoint: Checkpoint | None) -> None:
        """Begins to write it, once the one before is done; None is nothing to do."""
        self.wait()
        if checkpoint is not None:
            self._thread = threading.Thread(target=self._write, args=(checkpoint,), name="saver")
            self._thread.start()

    def wait(self) -> None:
        """Until what was begun is on the disk, or refused by it. Raises what is no refusal of the disk's."""
        self.join()
        if self._raised is not None:
            raise self._raised

    def join(self) -> None:
        """Until nothing is being written any more."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def refuse(self, step: int, reason: str) -> None:
        """Says, and notes, that there is no checkpoint of a step."""
        self.refusal = reason
        self.say(f"no checkpoint of step {step}: {reason}; training goes on, and what was saved before is untouched")

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            write_checkpoint(self.folder, checkpoint, self.keep)
            self.saved, self.refusal = checkpoint.step, None
        except OSError as error:
            self.refuse(checkpoint.step, error.strerror or str(error))
        except BaseException as error:
            self._raised = error
