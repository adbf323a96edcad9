"""What killed processes have left of what they wrote aside: it goes when the same is written again."""

import functools
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

_NEW_SECONDS = 10.0  # in which somebody may have made it and not shown yet that he lives
_ASIDE = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.part", re.DOTALL)


def hold(descriptor: int) -> None:
    """Shows others that whoever writes this file or folder lives, where the system can."""
    with suppress(OSError):
        _lock(descriptor)


def clear(path: Path) -> None:
    """Removes `.NAME.xxxxxxxx.part` beside `path`, files and folders that nobody holds."""
    for left in left_in(path.parent).pop(path.name, ()):
        with suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY)
            try:
                _lock(descriptor)
                if time.time() - os.fstat(descriptor).st_mtime < _NEW_SECONDS:
                    continue
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()
            finally:
                os.close(descriptor)


@functools.cache  # a folder of many files is not listed for each of them
def left_in(folder: Path) -> dict[str, list[Path]]:
    """What lay in a folder when it was first asked for, by what it was to become."""
    found: dict[str, list[Path]] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if named := _ASIDE.fullmatch(entry.name):
                found.setdefault(named["name"], []).append(Path(entry.path))
    return found


def _lock(descriptor: int) -> None:
    """Raises OSError where another process has it, or nothing can be locked here."""
    try:
        import fcntl
    except ImportError as error:
        raise OSError("no locks") from error
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
