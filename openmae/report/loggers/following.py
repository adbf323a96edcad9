"""Loggers as a training sees them: processes that follow its run folder, which it starts, tells when it ends, and waits
for a few seconds at most."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from openmae.errors import Interrupted, UserError
from openmae.report.loggers.follower import UNSENT, Order
from openmae.report.loggers.logger import PACKAGES, Ending

READY_SECONDS = 20.0
"""In which a logger's library is imported before the training begins without waiting for it."""
LAST_SECONDS = 10.0
"""In which the rest is sent, after a training has ended."""
_NOTABLE_SECONDS = 1.0  # of waiting
_OF_RANKS = "RANK LOCAL_RANK GROUP_RANK ROLE_RANK WORLD_SIZE LOCAL_WORLD_SIZE ROLE_WORLD_SIZE MASTER_ADDR MASTER_PORT"


class Followers:
    """The followers of one run; a context manager, at whose end they are told how the training ended, and waited for.
    Nothing of them disturbs it."""

    def __init__(self, console: Console, aside: str = "; training goes on") -> None:
        """aside: what every warning ends with."""
        self._console, self._aside = console, aside
        self._followers: list[_Follower] = []
        self._lacking: list[str] = []  # that the system could not start
        self._run: Path | None = None

    def start(self, names: Sequence[str]) -> None:
        """Starts them; they import their libraries meanwhile. Raises UserError for one that is not installed."""
        missing = [PACKAGES[name] for name in names if not _is_installed(PACKAGES[name])]
        if missing:
            raise UserError(f"`log` needs {' and '.join(missing)}", f"pip install {' '.join(missing)}")
        for name in names:
            try:
                self._followers.append(_Follower(name, self._warn, self._say_where))
            except OSError as error:  # the system's limits
                self._lacking.append(name)
                self._warn(name, f"no process can be started for it ({error.strerror})")

    def agree(self) -> None:
        """Waits until they are ready, though not for long. Raises UserError where one cannot log, as without a
        login."""
        deadline = time.monotonic() + READY_SECONDS
        for follower in self._followers:
            if not follower.is_settled.wait(max(0.0, deadline - time.monotonic())):
                self._warn(follower.name, f"it has not started within {READY_SECONDS:.0f} s")
            if follower.refusal is not None:
                raise follower.refusal

    def follow(self, run: Path, identity: str, *, goes_on: bool) -> None:
        """Lets them begin. identity: tells runs apart that are begun in one folder one after the other; goes_on: the
        run is the one that was here before; otherwise a metrics.jsonl that is there is about to be replaced."""
        self._run = run
        stale = 0
        if not goes_on:
            with suppress(OSError):
                found = (run / "metrics.jsonl").stat()
                stale = found.st_ino if found.st_size else 0
        for follower in self._followers:
            follower.say(json.dumps(asdict(Order(str(run.resolve()), identity, goes_on, stale))))

    def end(self, how: Ending, seconds: float | None) -> list[str]:
        """Tells them, and waits until they are done, so many seconds at most; the names of those that are not."""
        for follower in self._followers:
            follower.say(how)
        began = time.monotonic()
        is_said = False
        while still := [one for one in self._followers if one.process.poll() is None]:
            waited = time.monotonic() - began
            if seconds is not None and waited > seconds:
                break
            if waited > _NOTABLE_SECONDS and not is_said:
                is_said = True
                for_so_long = "" if seconds is None else f", for up to {seconds:.0f} s"
                self._console.print(f"Sending the rest to {', '.join(one.name for one in still)}{for_so_long}")
            time.sleep(0.02)
        for follower in self._followers:
            follower.settle()
        return self._lacking + [one.name for one in self._followers if one in still or one.process.returncode]

    def kill(self) -> None:
        """Ends them as they are."""
        for follower in self._followers:
            follower.kill()

    def _warn(self, name: str, sentence: str) -> None:
        self._console.print(
            f"warning: {name}: {sentence}{self._aside}", style="yellow", highlight=False, soft_wrap=True
        )

    def _say_where(self, name: str, where: str) -> None:
        self._console.print(f"Logged to {name}: {where}", highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._run is not None:
                how: Ending = "complete" if kind is None else "failed"
                how = "interrupted" if isinstance(error, Interrupted) else how
                for name in self.end(how, LAST_SECONDS):
                    self._aside = ""
                    self._warn(name, f"not all was sent; openmae report {self._run} --log {name} sends the rest")
        finally:
            self.kill()


def _is_installed(package: str) -> bool:
    """A folder of that name that a logger has left here, such as wandb/, is no package."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


class _Follower:
    """One process. is_settled: it is ready, or never will be. refusal: why it cannot log."""

    def __init__(self, name: str, warn: Callable[[str, str], None], say_where: Callable[[str, str], None]) -> None:
        self.name, self._warn, self._say_where = name, warn, say_where
        self.is_settled = threading.Event()
        self.refusal: UserError | None = None
        self._is_over = False
        environment = {key: value for key, value in os.environ.items() if key not in _OF_RANKS.split()}
        # A session of its own: a Ctrl-C in the terminal is not for it. It imports from where we do.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "openmae.report.loggers.follower", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""},
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def say(self, line: str) -> None:
        """Drops it where the process is gone."""
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def settle(self) -> None:
        """What it has said last is heard."""
        if self.process.poll() is not None:
            self._listener.join(1.0)

    def kill(self) -> None:
        """With what it has started."""
        self._is_over = True
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError, AttributeError):
                pipe.close()  # type: ignore[union-attr]

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with suppress(OSError, ValueError):
            for line in self.process.stdout:
                self._hear(json.loads(line))
            if (code := self.process.wait()) not in (0, UNSENT) and not self._is_over:
                self._warn(self.name, f"its process ended (exit code {code})")
        self.is_settled.set()

    def _hear(self, said: dict[str, Any]) -> None:
        if "warning" in said:
            self._warn(self.name, said["warning"])
        elif "where" in said:
            self._say_where(self.name, said["where"])
        elif "refused" in said:
            self.refusal = UserError(*said["refused"])
            self.is_settled.set()
        elif "ready" in said:
            self.is_settled.set()
