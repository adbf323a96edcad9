"""Which decoder this process is in, noted where a crash leaves it: the next start then knows of it.

Loader processes need none, for another process sees how they end.
"""

import atexit
import contextlib
import faulthandler
import mmap
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_KIND, _TRACE = ".kind", ".trace"


@dataclass
class Witness:
    """kind: a byte in a file, 1 more than the number of the kind that is being decoded, or 0. trace: what faulthandler
    writes where the process crashes, and not where it is killed."""

    place: Path
    kind: mmap.mmap
    trace: IO[bytes]

    @contextlib.contextmanager
    def sees(self, kind: int) -> Iterator[None]:
        """Within, an image of this kind is decoded."""
        self.kind[0] = kind + 1
        try:
            yield
        finally:
            self.kind[0] = 0

    def leave(self) -> None:
        """To be called by a process that was forked, whose witness this is not."""
        faulthandler.disable()
        self.trace.close()

    def _end(self, process: int) -> None:
        if os.getpid() == process:
            self.leave()
            for ending in (_KIND, _TRACE):
                self.place.with_suffix(ending).unlink(missing_ok=True)


def begin(folder: Path) -> Witness | None:
    """One in `folder`, until this process ends; None where that cannot be written, or somebody else uses
    faulthandler."""
    if faulthandler.is_enabled():
        return None
    place = folder / f"{_prefix()}{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place.with_suffix(_KIND).write_bytes(b"\0")
        with place.with_suffix(_KIND).open("r+b") as file:
            kind = mmap.mmap(file.fileno(), 1)
        trace = place.with_suffix(_TRACE).open("wb")
    except (OSError, ValueError):
        return None
    faulthandler.enable(trace)
    found = Witness(place, kind, trace)
    atexit.register(found._end, os.getpid())
    return found


def testimony(folder: Path) -> Iterator[int]:
    """The kinds whose decoders crashed processes of this machine that have ended. What they left is taken away."""
    for file in folder.glob(f"{_prefix()}*{_KIND}"):
        if (Path("/proc") / file.stem.removeprefix(_prefix())).exists():
            continue
        with contextlib.suppress(OSError):
            kind, has_crashed = file.read_bytes()[:1], bool(file.with_suffix(_TRACE).read_bytes())
            file.unlink()
            file.with_suffix(_TRACE).unlink()
            if has_crashed and kind > b"\0":
                yield kind[0] - 1


def _prefix() -> str:
    return f"{socket.gethostname().replace('.', '-')}-"
