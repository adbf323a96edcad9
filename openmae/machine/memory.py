"""How much memory there is."""

import os

from openmae.machine.limits import memory_limit


def ram() -> int:
    """Bytes of memory that the machine has, or that this container or job may use of it."""
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**33
    limit, _ = memory_limit()
    return has if limit is None else min(has, limit)


def memory_bytes() -> int:
    """What the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
