"""Which of several processes puts together what all of them have found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from openmae.files.whole import locked, take_lock


@contextmanager
def claimed(folder: Path, gate: str, lock: str, is_all_there: Callable[[], bool]) -> Iterator[bool]:
    """Whether all is there and no other process has the lock of this name, which is held within. That is settled one
    process after the other, by the gate, so that of several that end at once the last one finds all."""
    try:
        with locked(folder / gate):
            taken = take_lock(folder / lock) if is_all_there() else None
    except FileNotFoundError:  # the folder: another one has just put all together
        taken = None
    with taken or nullcontext():
        yield taken is not None
