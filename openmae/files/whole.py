"""Files that are written whole or not at all, and locks that end with the process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_file(path: Path, data: bytes) -> None:
    """Writes a file that is complete or absent: aside, synced, renamed. Raises OSError, leaving what was there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write_synced(aside, data)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Waits until no other process has the file's lock, `.NAME.lock` beside it; it ends with the process, however that
    ends. Raises OSError."""
    with file.with_name(f".{file.name}.lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until the disk has it. Raises OSError."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the folder's names. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
