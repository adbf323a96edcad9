"""Files and folders that are written whole or not at all, and locks that end with the process.

What is written goes aside first, beside its place and under a name that begins with a dot, and is moved there when it
is whole: a reader, or whoever comes after a kill at any moment, finds what was there before or all of what is new (of a
folder that replaces another, maybe nothing; see `whole_folder`), and never a part.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import IO, BinaryIO, Self

from openmae.errors import UserError
from openmae.files.left import clear, hold


class WholeFile:
    """A file that is written as `file` and takes the place of `path` by `finish`; a context manager, which leaves no
    trace of what was not finished. Everything raises OSError where the disk refuses.

    aside: where it is written; by default, under a name that no other process takes. synced: False where it may be
    lost with the machine's power, and whoever reads it would notice.
    """

    def __init__(self, path: Path, *, aside: Path | None = None, synced: bool = True) -> None:
        self.path, self._synced = path, synced
        if aside is None:
            clear(path)
        self._aside = aside or path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self.file: BinaryIO = self._aside.open("wb")
        if aside is None:
            hold(self.file.fileno())

    def close(self) -> None:
        """Nothing more is written; the disk has it all."""
        if not self.file.closed:
            self.file.flush()
            if self._synced:
                os.fsync(self.file.fileno())
            self.file.close()

    def finish(self) -> None:
        """Puts it in its place."""
        self.close()
        self._aside.replace(self.path)
        if self._synced:
            sync_folder(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk does not take what is in the buffer, which nobody wants
            self.file.close()
        self._aside.unlink(missing_ok=True)


Pieces = bytes | Iterable[bytes | memoryview]
"""What is written: whole, or one after the other, so that they are never in memory together."""


def write_file(path: Path, data: Pieces) -> None:
    """Writes a file that is complete or as it was before. Raises OSError."""
    with WholeFile(path) as whole:
        for piece in [data] if isinstance(data, bytes) else data:
            whole.file.write(piece)
        whole.finish()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to be filled with what the disk has, which then takes the place of `path`, if need be of the folder
    that is there; where that fails, it is gone. Of two folders one has to step aside first: a kill between these two
    renames leaves neither in its place. What a kill has left goes when it is written again. Raises OSError."""
    aside, before = (path.with_name(f".{path.name}{which}.part") for which in ("", ".before"))
    for left in (aside, before):
        shutil.rmtree(left, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        sync_folder(aside)
        if path.exists():  # a folder takes no full one's place; removed there, it would be half a folder for a while
            path.rename(before)
        try:
            aside.rename(path)
        except OSError:
            with suppress(FileNotFoundError):
                before.rename(path)
            raise
        sync_folder(path.parent)
    finally:
        for left in (aside, before):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A folder for what is to be moved to `path`, gone afterwards. No other has its name: in a container the next
    process has the same number. What a killed one left goes when the next one comes. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear(path)
    folder = Path(mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    held = os.open(folder, os.O_RDONLY)
    try:
        hold(held)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def write_synced(path: Path, data: Pieces) -> None:
    """Writes a file, of a folder that is not yet in its place, and waits until the disk has it. Raises OSError."""
    with path.open("wb") as file:
        for piece in [data] if isinstance(data, bytes) else data:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the folder's names. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(file: IO[str], *, waits: bool) -> None:
    """Raises OSError where another process has it and it is not waited for."""
    try:
        import fcntl
    except ImportError as error:
        raise UserError(
            "folders are locked by a call of Linux and macOS that this system lacks", "on Windows, run openmae in WSL"
        ) from error
    fcntl.lockf(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Waits until no other process has the file's lock, `.NAME.lock` beside it. Raises OSError."""
    with file.with_name(f".{file.name}.lock").open("a") as lock:
        _lock(lock, waits=True)
        yield


def take_lock(file: Path) -> IO[str] | None:
    """Takes the lock of a file, which is made where it is not there, until it is closed; None where another process
    has it. Raises OSError.

    It is a POSIX record lock, which ends with the process, however that ends, and which forked ones do not hold.
    """
    lock = file.open("a+")
    try:
        _lock(lock, waits=False)
        if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
            return lock
    except FileNotFoundError:  # whoever had it has just removed it
        pass
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            lock.close()
            raise
    lock.close()
    return None
