"""Ctrl-C, and schedulers' signals, at any moment of a process: one sentence, and the exit code that is promised."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openmae.commandline.interrupts import Interrupts
from tests.processes import run_openmae, wait_for

INTERRUPT = "signal.raise_signal(signal.SIGINT)"
ASKED = "signal.raise_signal(signal.SIGTERM)"


def test_the_first_one_interrupts_and_the_next_do_not_disturb_who_cleans_up() -> None:
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with Interrupts("pack"):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


def interrupted(code: str, command: str = "stats") -> tuple[int, str]:
    """Exit code and standard error of a command that does this."""
    begin = "import signal, sys\nfrom openmae.commandline import interrupts\nfrom openmae import cli\n"
    run = f"cli._run = lambda *_: work()\nsys.exit(cli.main([{command!r}]))\n"
    done = run_openmae([], code=f"{begin}{code}\n{run}")
    return done.returncode, done.stderr


def test_one_more_after_a_while_waits_for_nobody() -> None:
    code = f"interrupts.GRACE = 0\ndef work():\n try: {INTERRUPT}\n finally:\n  while True: {INTERRUPT}"
    assert interrupted(code) == (130, "openmae stats: stopped at once.\n")


def test_a_scheduler_ends_what_goes_on_later_as_ctrl_c_does() -> None:
    code = f"interrupts.GRACE = 0\ndef work():\n try: {ASKED}\n finally: print('saved', file=sys.stderr)"
    said = "saved\nopenmae embed: stopped; the same command goes on where it was.\n"
    assert interrupted(code, "embed") == (75, said)
    assert interrupted(code, "stats") == (-signal.SIGTERM, "")


@pytest.mark.parametrize(
    "place",
    [
        "def __del__(self):\n  SIGNAL",
        "def __init__(self):\n  import weakref\n  self.callback = weakref.finalize(self, lambda: SIGNAL)",
    ],
)
def test_one_where_python_cannot_raise_it_is_none_the_less_heard(place: str) -> None:
    code = f"class Left:\n {place}\ndef work():\n Left()\n while True: pass".replace("SIGNAL", INTERRUPT)
    assert interrupted(code) == (130, "openmae stats: stopped.\n")


def test_one_in_a_generator_that_nobody_needs_any_more() -> None:
    code = f"def some():\n try: yield\n finally: {INTERRUPT}\ndef work():\n next(some())\n while True: pass"
    assert interrupted(code) == (130, "openmae stats: stopped.\n")


@pytest.mark.parametrize(
    ("command", "number", "code", "said"),
    [
        ("pack", signal.SIGINT, 130, "openmae pack: stopped."),
        ("pretrain", signal.SIGINT, 130, "openmae pretrain: stopped."),
        ("finetune", signal.SIGTERM, 75, "the same command goes on from the last checkpoint, or begins anew"),
        ("predict", signal.SIGTERM, 75, "openmae predict: stopped; the same command goes on where it was."),
    ],
)
def test_while_python_imports(tmp_path: Path, command: str, number: int, code: int, said: str) -> None:
    log = tmp_path / "log"
    words = [sys.executable, "-X", "importtime", "-m", "openmae", command]
    with log.open("w") as file, subprocess.Popen(words, stdout=file, stderr=file) as process:
        wait_for(lambda: "openmae.commandline.flags" in log.read_text(), process)
        os.kill(process.pid, number)
        assert process.wait(60) == code
    assert said in log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()
