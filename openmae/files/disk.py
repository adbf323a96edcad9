"""What a disk refuses, as one sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openmae.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def room_on_disk(out: Path) -> Iterator[None]:
    """Turns a full disk into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"the disk that holds {out} is full",
            "free some space and run the same command again; what was saved before is untouched",
        ) from error


def check_out(out: Path, *suffixes: str, setting: str = "out") -> None:
    """Makes the folder of `out`. Raises UserError, before anything long begins, where the result could not be written
    to it. setting: that names it."""
    if out.suffix.lower() not in suffixes:
        raise UserError(f"`{setting}` is {out}", f"give a file that ends in {' or '.join(suffixes)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out.parent} cannot be made ({error.strerror})", f"choose another `{setting}`") from error
    if out.is_dir():
        raise UserError(f"`{setting}` is {out}, which is a folder", "give a file")


@contextmanager
def writing_results(place: Path) -> Iterator[None]:
    """Turns the system's refusal to write results to a run into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"results cannot be written to {place} ({error.strerror})", "make room, or choose a run that can be written"
        ) from error
