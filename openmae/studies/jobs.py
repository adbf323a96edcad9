"""Several processes on this machine that share a study: each a `--part` of it, with its part of the cores and GPUs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Protocol, get_type_hints

import torch

from openmae.commandline.flags import flag
from openmae.commandline.refusal import has_place, is_switch
from openmae.console.words import several
from openmae.errors import RUN_AGAIN
from openmae.machine.cores import cores
from openmae.studies.study import Part, Share, Study

LOGS = "jobs"
_PAUSE = 0.5  # seconds, before it is looked again
_SAVING_SECONDS = 180
STARTED = "OPENMAE_ENDS_WITH_STDIN"
"""In the environment of a process whose standard input is open for as long as whoever started it is there."""


def words_of(settings: Any) -> list[str]:
    """The words that make these settings, of a dataclass that a command is asked; its defaults left out."""
    hints = get_type_hints(type(settings), include_extras=True)
    places: list[str] = []
    words: list[str] = []
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        if field.default is not MISSING and value == field.default:
            continue
        if has_place(hint):
            places.append(str(value))
        elif is_switch(hint):
            words.append(flag(field.name if value else f"no_{field.name}"))
        else:
            words += [flag(field.name), *map(str, value if isinstance(value, tuple) else [value])]
    return [*places, *words]


class Shares(Protocol):
    """Settings of a study that several processes may share."""

    # ruff: noqa: D102
    @property
    def jobs(self) -> int: ...
    @property
    def share(self) -> tuple[int, int] | None: ...


def work(study: Study, command: str, settings: Shares, parts: Sequence[Part], so_far: Callable[[], object]) -> None:
    """Does what is not done, in this process or in several. so_far: keeps what is found, at first and after each."""
    so_far()
    study.look(parts)
    if settings.jobs > 1 and not all(study.is_done(part.name) for part in parts):
        words = [command, *words_of(replace(settings, jobs=1))]  # type: ignore[type-var]  # a dataclass
        work_together(study, words, settings.jobs, parts, so_far)
        return
    share = None if settings.share is None else Share(*settings.share)
    study.do(parts, parts, share, so_far)


def work_together(
    study: Study, command: Sequence[str], jobs: int, whole: Sequence[Part], each: Callable[[], object]
) -> None:
    """Starts so many processes of the command, and says what they do until the last has ended; what they print is in
    STUDY/jobs. each: called when parts were done. They end with this one, be it stopped or killed."""
    logs = study.path / LOGS
    logs.mkdir(exist_ok=True)
    study.console.print(f"{several(jobs, 'process')} share the work; what each says is in {logs}/")
    running = [_start(command, number, jobs, logs / f"{number}.log") for number in range(1, jobs + 1)]
    said = ""
    try:
        while True:
            is_over = all(process.poll() is not None for process in running)
            progress = study.progress(whole)
            if (now := f"{progress.done} {progress.running}") != said:
                study.console.print(str(progress), soft_wrap=True)
                if not said or now.split()[0] != said.split()[0]:
                    each()
                said = now
            if is_over:
                return
            time.sleep(_PAUSE)
    finally:
        _end(running)


def _start(command: Sequence[str], number: int, jobs: int, log: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // jobs))}
    if gpus := torch.cuda.device_count():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        environment["CUDA_VISIBLE_DEVICES"] = seen.split(",")[(number - 1) % gpus]
    words = [sys.executable, "-m", "openmae", *command, "--part", f"{number}/{jobs}"]
    environment[STARTED] = "1"
    with log.open("ab") as file:  # nothing is written into the pipe: the system closes it when this process ends
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.PIPE, env=environment)


def end_with_starter() -> None:
    """In a process of `--jobs`, which is to save and end when the one that started it does, however that ends."""
    if os.environ.pop(STARTED, ""):  # of this process alone
        threading.Thread(target=_wait_for_end, name="starter", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SAVING_SECONDS)
    os._exit(RUN_AGAIN)


def _end(running: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Those that still run save and end."""
    for process in running:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + _SAVING_SECONDS
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
