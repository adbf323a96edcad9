"""Real processes that run openmae, without the seconds in which Python and torch start: tests/fork_server.py forks
them. They are killed, stopped and signalled, and end, as those of `python -m openmae` do, which some tests start too.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

PYTHON = [sys.executable, "-m", "openmae"]
SMALL_FILES = """
import resource, sys
from openmae.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(main(sys.argv[2:]))
"""
"""BYTES WORDS: no file may grow beyond them, as where a disk or a quota is full."""


class Process:
    """The part of subprocess.Popen that tests use."""

    def __init__(self, pid: int, end: int, words: Sequence[str]) -> None:
        self.pid, self.returncode, self._end, self._words = pid, None, end, words
        self.returncode: int | None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; of what a signal ended, its number below zero. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired([*self._words], timeout or 0)
            with open(self._end) as pipe:  # noqa: PTH123
                self.returncode = int(pipe.read())
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, or None where it has not ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


Stream = int | IO[str] | IO[bytes]


def start_openmae(
    words: Sequence[str],
    stdout: Stream,
    stderr: Stream | None = None,
    *,
    stdin: Stream | None = None,
    environment: Mapping[str, str] | None = None,
    session: bool = False,
    terminal: bool = False,
    code: str = "",
) -> Process:
    """`python -m openmae WORDS`, or `python -c CODE WORDS`.

    stderr: by default with stdout; stdin: by default empty. session: as start_new_session; terminal: stdin is its
    controlling one.
    """
    with Path(os.devnull).open() as nothing:
        streams = [nothing if stdin is None else stdin, stdout, stdout if stderr is None else stderr]
        places = [one if isinstance(one, int) else one.fileno() for one in streams]
        end, told = os.pipe()
        asked = {
            "words": list(words), "code": code, "session": session or terminal, "terminal": terminal,
            "environment": dict(os.environ if environment is None else environment), "folder": str(Path.cwd()),
        }  # fmt: skip
        server = _server()
        socket.send_fds(server, [json.dumps(asked).encode()], [*places, told])
        os.close(told)
        return Process(int(server.recv(100)), end, words)


def run_openmae(
    words: Sequence[str], *, timeout: float = 240, environment: Mapping[str, str] | None = None, code: str = ""
) -> subprocess.CompletedProcess[str]:
    """It, ended, with what it printed."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = start_openmae(words, output, errors, environment=environment, code=code)
        try:
            returncode = process.wait(timeout)
        finally:
            process.kill()
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(list(words), returncode, output.read(), errors.read())


@contextlib.contextmanager
def started_openmae(words: Sequence[str], log: Path, *, session: bool = False, code: str = "") -> Iterator[Process]:
    """It, with what it prints in `log`; killed where it has not ended when the block does."""
    with log.open("a") as file:
        process = start_openmae(words, file, session=session, code=code)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def wait_for(condition: Callable[[], object], process: "Process | subprocess.Popen[bytes] | None" = None) -> None:
    """Raises AssertionError where it does not become true, or the process ends before."""
    deadline = time.monotonic() + 600  # what hangs; a busy machine takes minutes to start several processes
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_saved(run: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")), default=0)


@functools.cache
def _server() -> socket.socket:
    """To ask it: one for all processes of a test run, started by the first that needs it, which waits for its end."""
    place = f"\0openmae-forks-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"  # a name, and no file
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while ours.connect_ex(place) != 0:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            try:
                listening.bind(place)
            except OSError:  # another process was first, and is about to listen
                continue
            listening.listen()
            command = [sys.executable, "-m", "tests.fork_server", str(listening.fileno())]
            folder = Path(__file__).parents[1]
            server = subprocess.Popen(command, pass_fds=[listening.fileno()], cwd=folder, start_new_session=True)
            atexit.register(server.wait, 600)
    atexit.register(ours.close)  # before
    return ours
