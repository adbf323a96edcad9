"""What a container or a scheduler's job may use of the machine: Linux's control groups, versions 1 and 2."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
_MOST_LIMIT = 2**60  # version 1 says "no limit" by a number near 2**63


def memory_limit(root: Path | None = None) -> tuple[int | None, int]:
    """(bytes that the control groups allow this process, bytes that count against it and cannot be reclaimed at once);
    None where nothing limits it. root: where /proc and /sys are."""
    least: tuple[int | None, int] = (None, 0)
    for folder, names in _groups(root or ROOT, "memory"):
        limit = _number(folder / names["limit"])
        if limit is None or limit >= _MOST_LIMIT or (least[0] is not None and limit >= least[0]):
            continue
        try:
            idle = re.search(rf"^{names['idle']} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        except OSError:
            idle = None
        used = _number(folder / names["used"]) or 0
        least = (limit, max(0, used - (int(idle[1]) if idle else 0)))
    return least


def cpu_quota(root: Path | None = None) -> float | None:
    """Cores' worth of time that the control groups allow this process; None where nothing limits it."""
    found = []
    for folder, names in _groups(root or ROOT, "cpu"):
        if "quota" in names:
            quota, period = _number(folder / names["quota"]), _number(folder / names["period"])
        else:
            quota, period = _pair(folder / "cpu.max")
        if quota is not None and period and quota > 0:
            found.append(quota / period)
    return min(found, default=None)


_FILES = {  # by version and controller
    (1, "memory"): {
        "limit": "memory.limit_in_bytes",
        "used": "memory.usage_in_bytes",
        "idle": "total_inactive_file",
    },
    (2, "memory"): {"limit": "memory.max", "used": "memory.current", "idle": "inactive_file"},
    (1, "cpu"): {"quota": "cpu.cfs_quota_us", "period": "cpu.cfs_period_us"},
    (2, "cpu"): {},
}


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """This process's group and those around it, all of which bind, as folders with what their files are called. In a
    container the path may be the host's, of which only the end of the walk up is there."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    system = root / "sys/fs/cgroup"
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            mounts, version = (system, system / "unified"), 2
        elif controller in controllers.split(","):
            mounts, version = (system / controllers, system / controller), 1
        else:
            continue
        inside = Path(path.lstrip("/"))
        for mount in dict.fromkeys(mounts):
            for folder in (inside, *inside.parents):
                yield mount / folder, _FILES[version, controller]


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if re.fullmatch(r"-?\d+", text) else None  # "max" is none


def _pair(file: Path) -> tuple[int | None, int | None]:
    """`200000 100000`, or `max 100000`."""
    try:
        words = file.read_text().split()
    except OSError:
        return None, None
    quota, period = (int(word) if word.isdecimal() else None for word in (*words, "", "")[:2])
    return quota, period
