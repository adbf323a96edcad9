"""The process that follows a run folder and sends what it finds to one logger, started by `following`.

It shares nothing with the training but a pipe: no lock, no GPU, no terminal, no signals. Whether its library raises,
hangs or prints is its own affair. It ends when it is told that the training has, and has sent all; a while after the
training was killed in any case.
"""

import hashlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from openmae.errors import UserError
from openmae.files.address import shown
from openmae.files.parsing import read_toml
from openmae.report.loggers.lines import Lines, figures_of
from openmae.report.loggers.logger import Ending, LoggedRun, Logger, Module, Row
from openmae.report.loggers.sent import FOLDER, Sent, log_file, take
from openmae.report.loggers.table import final_pictures, final_rows

POLL_SECONDS = 1.0
ALONE_SECONDS = 60.0
"""How long it may go on sending when the training is gone without a word."""
SILENT_SECONDS = 60.0
"""How long a library may take for one thing before that is said."""
UNSENT = 1
"""Exit code where not all was sent."""
_PIECE = 50  # lines, after which it is noted what was sent
_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0  # seconds before it is tried again


@dataclass(frozen=True)
class Order:
    """What is to be followed. identity: of the run; goes_on: whether that is the run that was followed here before,
    whatever its identity. stale: of a metrics.jsonl that is about to be replaced."""

    run: str
    identity: str
    goes_on: bool
    stale: int


class Told:
    """What whoever started this process says, by lines on standard input; and whether he still lives."""

    def __init__(self) -> None:
        self._parent, self._gone_at = os.getppid(), 0.0
        self._ended, self._how = threading.Event(), cast(Ending | None, None)
        self._first: list[Order | None] = []
        self._heard = threading.Event()
        self._words = os.fdopen(os.dup(0))
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)  # no library asks there
        threading.Thread(target=self._listen, daemon=True).start()

    def order(self, idle: Callable[[], None]) -> Order | None:
        """Waits for it; None where none will come. idle: called while it waits."""
        while not self._heard.wait(1.0):
            idle()
            if self.alone_seconds():
                return None
        return self._first[0]

    def how(self) -> Ending | None:
        """How the training has ended; None where it goes on."""
        if self.alone_seconds() and self._how is None:
            self._how = "failed"
            self._ended.set()
        return self._how

    def wait(self, seconds: float, idle: Callable[[], None]) -> None:
        """So long, or until the training ends. idle: called while it waits."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self.how() is None:
            self._ended.wait(min(left, 1.0))
            idle()

    def alone_seconds(self) -> float:
        """Since this process was left alone; 0 where it is not."""
        if os.getppid() != self._parent and not self._gone_at:
            self._gone_at = time.monotonic() - 1e-3
        return time.monotonic() - self._gone_at if self._gone_at else 0.0

    def _listen(self) -> None:
        order = self._words.readline()
        self._first.append(Order(**json.loads(order)) if order else None)
        self._heard.set()
        ending = self._words.readline().strip()
        self._how = cast(Ending, ending) if ending else "failed"
        self._ended.set()


class Teller:
    """Says things to whoever started this process: one JSON object a line. What is to be known once is said once."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        self._said: set[str] = set()

    def tell(self, key: str, value: Any) -> None:
        """Drops it where nobody listens any more."""
        with suppress(OSError):
            os.write(self._out, json.dumps({key: value}).encode() + b"\n")

    def warn(self, kind: str, sentence: str) -> None:
        """One warning of a kind."""
        if kind not in self._said:
            self._said.add(kind)
            self.tell("warning", shown(" ".join(sentence.split())))

    def where(self, logger: Logger) -> None:
        """Where to look, once."""
        if "where" not in self._said:
            self._said.add("where")
            with suppress(Exception):  # a library may have changed; it is logged all the same
                self.tell("where", shown(logger.where))


class Watch:
    """A thread that says when the library takes long, and ends this process when it was left alone for long."""

    def __init__(self, told: Told, teller: Teller) -> None:
        self._told, self._teller, self._busy_since = told, teller, time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def move(self) -> None:
        """The library has answered."""
        self._busy_since = time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(0.5)
            if self._told.alone_seconds() > ALONE_SECONDS:
                os.killpg(0, signal.SIGKILL)  # with what the library has started
            if time.monotonic() - self._busy_since > SILENT_SECONDS:
                self._teller.warn("silent", f"it has not answered for {SILENT_SECONDS:.0f} s")


@dataclass(frozen=True)
class _Session:
    """One try: all of a run to one logger, from where the last one got."""

    name: str
    module: Module
    order: Order
    told: Told
    teller: Teller
    watch: Watch

    @property
    def run(self) -> Path:
        return Path(self.order.run)

    def follow(self) -> None:
        """Returns when the training has ended and all is sent. Raises whatever the library raises, and OSError."""
        sent = self._sent()
        if self.told.how() == "complete" and sent.result and sent.result == _digest(*self._final()):
            return
        config = read_toml((self.run / "config.toml").read_text())
        logger = self.module.open_run(LoggedRun(self.run, config, partial(self.teller.warn, "files")), sent.kept)
        self.teller.where(logger)
        if logger.reached is not None:
            sent.step = logger.reached
        lines = Lines(self.run / "metrics.jsonl", self.order.stale)
        while True:
            how = self.told.how()  # before the lines, of which then none is missed
            self._send(lines.new(), logger, sent)
            if how is not None:
                break
            self.told.wait(POLL_SECONDS, self.watch.move)
        lines.close()
        self._end(how, logger, sent)

    def _sent(self) -> Sent:
        """So far, to this run."""
        sent = Sent.read(self.run, self.name)
        if self.order.identity:
            if not self.order.goes_on and sent.identity != self.order.identity:
                sent = Sent()
            sent.identity = self.order.identity
        return sent

    def _send(self, lines: Sequence[dict[str, Any]], logger: Logger, sent: Sent) -> None:
        for at in range(0, max(1, len(lines)), _PIECE):
            for line in lines[at : at + _PIECE]:
                if (step := line["step"]) > sent.step:
                    logger.line(step, float(line.get("time") or time.time()), figures_of(line), self._pictures(step))
                    sent.step = step
            logger.flush()
            self.watch.move()
            if lines or not (self.run / FOLDER / f"{self.name}.json").exists():
                sent.write(self.run, self.name)

    def _pictures(self, step: int) -> dict[str, Path]:
        file = self.run / "pictures" / f"step-{step:08d}.png"
        return {"reconstructions": file} if file.exists() else {}

    def _final(self) -> tuple[list[Row], dict[str, Path]]:
        return final_rows(self.run), final_pictures(self.run)

    def _end(self, how: Ending, logger: Logger, sent: Sent) -> None:
        if how == "complete":
            rows, pictures = self._final()
            if (digest := _digest(rows, pictures)) != sent.result:
                logger.result(sent.step, rows, pictures)
                sent.result = digest
        logger.close(how)
        sent.write(self.run, self.name)


def _digest(rows: Sequence[Row], pictures: dict[str, Path]) -> str:
    found = hashlib.sha256(json.dumps(rows).encode())
    for name, file in pictures.items():
        found.update(name.encode() + file.read_bytes())
    return found.hexdigest()


def _persist(session: _Session) -> bool:
    """Follows a run to its end, whatever fails meanwhile; whether all was sent."""
    pause = _FIRST_PAUSE
    while True:
        was_over = session.told.how() is not None
        try:
            session.follow()
            return True
        except Exception as error:
            session.teller.warn("failed", f"{_said(error)}; it is tried again")
            _print(error)
        if was_over:
            return False
        session.told.wait(pause, session.watch.move)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _said(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}".rstrip(": .")


def _print(error: BaseException) -> None:
    sys.excepthook(type(error), error, error.__traceback__)
    sys.stderr.flush()


def _checked(name: str, teller: Teller) -> Module | None:
    """The logger's file, with its library imported; None where nothing can be logged, which is said."""
    module = cast(Module, importlib.import_module(f"openmae.report.loggers.{name}"))
    try:
        module.check()
        return module
    except UserError as error:
        teller.tell("refused", [error.what, error.advice])
    except Exception as error:
        teller.warn("failed", f"it cannot be used here ({_said(error)})")
    return None


def main(name: str) -> int:
    """Follows; returns the exit code: 0 where all was sent, UNSENT where not."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(10)  # the training first
    teller, told = Teller(), Told()
    _print_to(os.devnull)
    watch = Watch(told, teller)
    module = _checked(name, teller)
    if module is None:
        return UNSENT
    teller.tell("ready", True)
    order = told.order(watch.move)
    if order is None:
        return 0
    watch.move()
    try:
        (Path(order.run) / FOLDER).mkdir(exist_ok=True)
        _print_to(log_file(Path(order.run), name))
        with _alone(Path(order.run), name, watch):
            return 0 if _persist(_Session(name, module, order, told, teller, watch)) else UNSENT
    except OSError as error:
        teller.warn("failed", f"nothing can be kept of what it is sent ({_said(error)})")
        return UNSENT


def _alone(run: Path, name: str, watch: Watch) -> IO[str]:
    """Waits until a follower that an earlier start has left has sent what it had; an open lock."""
    while (lock := take(run, name)) is None:
        watch.move()
        time.sleep(0.2)
    return lock


def _print_to(file: str | Path) -> None:
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    os._exit(code)  # whatever threads the library has left
