"""How much memory there is for this process."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openmae.machine import limits


def ram() -> int:
    """Bytes of memory that the machine has, or that this container or job may use of it."""
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**33
    limit, _ = limits.memory_limit()
    return has if limit is None else min(has, limit)


def free_ram() -> int:
    """Bytes of it that nothing uses, or that can be reclaimed at once."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (limits.ROOT / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    free = int(found[1]) * 1024 if found else ram()
    limit, used = limits.memory_limit()
    return free if limit is None else min(free, limit - used)


def bound_growth(most: int) -> None:
    """From now on this process can take `most` bytes more of memory of its own, files that it maps not counted; beyond
    that there is a MemoryError, or what a library makes of one. Does nothing where Linux is not."""
    if (taken := _taken()) is not None:
        before, _ = _allowed()
        _allow(taken + most if before < 0 else min(before, taken + most))


@contextmanager
def bounded_growth(most: int) -> Iterator[None]:
    """Within, as bound_growth says."""
    if _taken() is None:
        yield
        return
    before, _ = _allowed()
    bound_growth(most)
    try:
        yield
    finally:
        _allow(before)


def _allowed() -> tuple[int, int]:
    """How many bytes of memory of its own this process may have, and may be let have; -1 is any number."""
    import resource  # which is not everywhere

    return resource.getrlimit(resource.RLIMIT_DATA)


def _allow(size: int) -> None:
    import resource

    _, most = _allowed()
    resource.setrlimit(resource.RLIMIT_DATA, (size if most < 0 else most if size < 0 else min(size, most), most))


def _taken() -> int | None:
    """Bytes of memory of its own that this process has; None where nothing says so."""
    try:
        found = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
