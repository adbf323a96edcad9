"""How many cores there are for this process."""

import os

from openmae.machine.limits import cpu_quota


def cores() -> int:
    """Those that this process may run on, or as many as their time is allowed to it for."""
    quota = cpu_quota()
    return allowed_cores() if quota is None else min(allowed_cores(), max(1, int(quota)))


def allowed_cores() -> int:
    """Those that this process may run on, for however much of the time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else all_cores()


def all_cores() -> int:
    """Those of the machine."""
    return os.cpu_count() or 1
