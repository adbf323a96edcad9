"""What a logger has been sent of a run: RUN/logged/NAME.json."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from openmae.files.parsing import read_json
from openmae.files.whole import take_lock, write_file

FOLDER = "logged"
"""In a run folder: what each logger was sent, what it said, and files of its own."""


@dataclass
class Sent:
    """What was sent, up to a step.

    identity: of the run, as whoever trains it tells runs apart; "" where nobody has told. result: a digest of the
    table and pictures of the end, "" where they were not sent. kept: what the logger remembers.
    """

    identity: str = ""
    step: int = -1
    result: str = ""
    kept: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path, name: str) -> Self:
        """Nothing, where nothing was sent, or the file is damaged: then all is sent anew, as a new run."""
        try:
            found = read_json(_file(run, name).read_bytes())
            return cls(str(found["identity"]), int(found["step"]), str(found["result"]), dict(found["kept"]))
        except (OSError, ValueError, TypeError, LookupError):
            return cls()

    def write(self, run: Path, name: str) -> None:
        """Raises OSError."""
        write_file(_file(run, name), json.dumps(asdict(self), indent=1).encode())


def log_file(run: Path, name: str) -> Path:
    """What a logger's library prints."""
    return run / FOLDER / f"{name}.log"


def take(run: Path, name: str) -> IO[str] | None:
    """The right to send to a logger, until it is closed; None where another process has it. Raises OSError."""
    return take_lock(run / FOLDER / f"{name}.lock")


def is_free(run: Path, name: str) -> bool:
    """Whether no process sends to this logger."""
    if not (run / FOLDER / f"{name}.lock").exists():
        return True
    lock = take(run, name)
    if lock is not None:
        lock.close()
    return lock is not None


def _file(run: Path, name: str) -> Path:
    return run / FOLDER / f"{name}.json"
