"""What a run ran on."""

import functools
import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from openmae.files.address import shown
from openmae.machine.cores import all_cores


def environment() -> dict[str, Any]:
    """Time, command, versions, commit, hardware."""
    packages = ("openmae", "torch", "numpy", "pillow", "simplejpeg")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["openmae", *map(shown, sys.argv[1:])],
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "commit": _commit(),
        "source": source(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": all_cores(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


_MAKE_NO_FIGURE = {"cli.py", "commandline", "console", "python", "report", "web"}


def code() -> dict[str, str]:
    """What tells this code from another one: its version, its commit where it has one, and its source."""
    found = {"openmae": metadata.version("openmae"), "commit": _commit(), "source": source()}
    return {name: value for name, value in found.items() if value is not None}


@functools.cache
def source() -> str:
    """Of the code that decides what a run ends with, a digest of its files, wherever they are installed: another commit
    may have the same, and a change that nobody has committed has another."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    files = ((file.relative_to(package), file) for file in package.rglob("*.py"))
    for place, file in sorted(files):
        if place.parts[0] not in _MAKE_NO_FIGURE:
            text = file.read_bytes()
            digest.update(b"%b\0%d\n" % (place.as_posix().encode(), len(text)) + text)
    return digest.hexdigest()[:16]


def _commit() -> str | None:
    """The commit of the source tree that runs, where it is one; `+` marks uncommitted changes."""
    here = Path(__file__).parent
    git = ["git", "--no-optional-locks", "-C", str(here)]  # or one killed meanwhile leaves its lock
    try:
        tracked = subprocess.run([*git, "ls-files", __file__], capture_output=True, text=True, check=True, timeout=10)
        if not tracked.stdout.strip():
            return None
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], check=False, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
