"""Several processes that pack into one folder, each its own shards; one of them writes the index in the end."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from openmae.distributed.share import Share
from openmae.errors import UserError
from openmae.files.whole import locked, take_lock, write_file
from openmae.recipes.in_parts.claim import claimed

LOCK = ".lock"
_SHARED = ".shared"
_GATE = "shared"  # what is settled one process after the other: .shared.lock


@contextmanager
def packing(folder: Path, share: Share, settle: Callable[[], None]) -> Iterator[int]:
    """Keeps a second process from packing the same shards into the folder; gives among how many it is shared.

    settle: looks, while no other process does, whether what is there is of the same images. Raises UserError where
    another process is at it, or where it is shared otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _GATE):
        lock = _lock(folder, share)
        try:
            settle()
            of = _settled(folder, share)
        except BaseException:
            lock.close()
            raise
    with lock:
        yield of


@contextmanager
def put_together(folder: Path, share: Share, of: int, is_all_there: Callable[[], bool]) -> Iterator[bool]:
    """Whether this process is to write what tells of all shards: the one that all belong to, or the last one to end."""
    if share.is_whole:  # which has the lock already, and would give it up by taking it twice
        claim: AbstractContextManager[bool] = nullcontext(of == 1 or is_all_there())
    else:
        claim = claimed(folder, _GATE, LOCK, is_all_there)
    with claim as is_ours:
        yield is_ours
    if is_ours:
        (folder / _SHARED).unlink(missing_ok=True)


def _lock(folder: Path, share: Share) -> IO[str]:
    lock = take_lock(folder / LOCK)
    if lock is not None and not share.is_whole:
        lock.close()
        lock = take_lock(folder / f"{LOCK}-{share.number}")
    if lock is None:
        which = "" if share.is_whole else f"part {share} "
        raise UserError(f"another process packs {which}into {folder}", "wait for it, or choose another SHARDS")
    return lock


def _settled(folder: Path, share: Share) -> int:
    file = folder / _SHARED
    try:
        before = int(file.read_text())
    except (FileNotFoundError, ValueError):
        before = None
    if before is None and not share.is_whole:
        write_file(file, str(share.of).encode())
    elif before is not None and not share.is_whole and before != share.of:
        raise UserError(
            f"{folder} is shared among {before} processes, not {share.of}",
            f"give --part K/{before}, or choose another SHARDS",
        )
    return before or share.of
