"""How much memory there is for this process."""

import os
import re

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
