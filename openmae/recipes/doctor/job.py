"""Can this machine train? Looks, measures for some seconds, and says what to mend.

    openmae doctor --out runs --data your/images

Every line has a verdict, the figure that was measured, and, where it is not ok, what to do. Under torchrun the exchange
is measured between its own processes, on one machine or several; rank 0 prints. What is looked at: docs/doctor.md.
"""

import json
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial

from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.errors import UserError, said_once
from openmae.recipes.doctor.diagnosis import Diagnosis, Verdict
from openmae.recipes.doctor.settings import Doctor
from openmae.version import __version__

# Nothing here imports torch: that it cannot be imported is the first thing to find.

_STYLES: dict[Verdict, str] = {"ok": "green", "warn": "bold yellow", "bad": "bold red"}
_NAME_WIDTH = 11

_Check = Callable[[], Sequence[Diagnosis]]


def run(settings: Doctor) -> int:
    """Looks, prints, returns the exit code. Raises UserError."""
    _check(settings)
    if (rank := _rank()) > 0:  # rank 0 speaks for all; a failure here would have torchrun end it before it has
        for diagnosis in _exchange(settings):
            if diagnosis.verdict == "bad":
                print(f"openmae doctor, on rank {rank}: {diagnosis.said}.", file=sys.stderr)
        return 0
    console = None if settings.json else _console()
    diagnoses: list[Diagnosis] = []
    for diagnosis in _diagnoses(settings):
        diagnoses.append(diagnosis)
        if console is not None:
            _show(diagnosis, console)
    counts = Counter(diagnosis.verdict for diagnosis in diagnoses)
    if console is None:
        found = {
            "openmae": __version__,
            "can_train": not counts["bad"],
            "findings": [asdict(diagnosis) for diagnosis in diagnoses],
        }
        print(json.dumps(found, indent=1))
    elif counts["bad"]:
        console.print(f"\nThis machine cannot train as it is: {counts['bad']} bad, {counts['warn']} to heed.")
    else:
        heed = f": {counts['warn']} to heed" if counts["warn"] else ""
        console.print(f"\nThis machine can train{heed}.")
    return _code(diagnoses)


@said_once()
def _check(settings: Doctor) -> None:
    """Raises UserError for what means nothing."""
    if not (settings.timeout > 0 and math.isfinite(settings.timeout)):
        raise UserError(f"--timeout is {settings.timeout:g}", "give a number of seconds above 0")
    if settings.processes is not None and settings.processes < 1:
        raise UserError(f"--processes is {settings.processes}", "give 1 or more")


def _rank() -> int:
    """This process among those that torchrun started; 0 where it was started alone."""
    number = os.environ.get("RANK", "")
    return int(number) if number.isdecimal() and os.environ.get("WORLD_SIZE", "1") != "1" else 0


def _code(diagnoses: Sequence[Diagnosis]) -> int:
    return int(any(diagnosis.verdict == "bad" for diagnosis in diagnoses))


# ---------------------------------------------------------------- the checks, each by itself


def _diagnoses(settings: Doctor) -> Iterator[Diagnosis]:
    """Each when it is known. What raises or hangs is a diagnosis too."""
    yield from within(settings.timeout, "packages", _software)
    if "torch" not in sys.modules:  # whose import the check has tried
        return
    among_ranks = os.environ.get("WORLD_SIZE", "1") != "1"
    if among_ranks:  # at once, since the others wait
        yield from _exchange(settings)
    for name, check in _of_this_machine(settings).items():
        yield from within(settings.timeout, name, check)
    if not among_ranks:
        yield from _exchange(settings)


def _software() -> Sequence[Diagnosis]:
    from openmae.recipes.doctor.software import software

    return software()


def _of_this_machine(settings: Doctor) -> dict[str, _Check]:
    from openmae.recipes.doctor.decoding import decoding
    from openmae.recipes.doctor.devices import bfloat16, devices
    from openmae.recipes.doctor.disk import disk
    from openmae.recipes.doctor.memory import cores, memory

    return {
        "device": devices,
        "cores": cores,
        "memory": memory,
        "bf16": bfloat16,
        "disk": partial(disk, settings.out),
        "decoding": partial(decoding, settings.data, settings.selection),
    }


def _exchange(settings: Doctor) -> Sequence[Diagnosis]:
    """Has a timeout of its own, and in this thread Ctrl-C ends the processes too."""

    def check() -> Sequence[Diagnosis]:
        from openmae.recipes.doctor.exchange import exchange

        return exchange(settings.processes, settings.timeout)

    return _isolated("exchange", check)


def within(seconds: float, name: str, check: _Check) -> Sequence[Diagnosis]:
    """What the check finds; one diagnosis where it raises, or does not end: a dead file system never answers."""
    found: list[Diagnosis] = []

    def work() -> None:
        found.extend(_isolated(name, check))

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        remedy = "see whether the disks and devices answer (df, nvidia-smi), or give a longer --timeout"
        return [Diagnosis(name, "bad", f"the check did not end within {seconds:g} s", remedy)]
    return found


def _isolated(name: str, check: _Check) -> Sequence[Diagnosis]:
    try:
        return check()
    except UserError as error:
        return [Diagnosis(name, "bad", with_flags(error.what), with_flags(error.advice) or None)]
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        remedy = "run it again; if that changes nothing, please report this line, with the command"
        return [Diagnosis(name, "warn", f"it could not be checked ({type(error).__name__}: {first})", remedy)]


# ---------------------------------------------------------------- saying


def _console() -> Console:
    try:
        from openmae.console.terminal import make_console
    except Exception:  # without torch
        return Console(highlight=False, markup=False, emoji=False, width=10_000)
    return make_console()


def _show(diagnosis: Diagnosis, console: Console) -> None:
    console.print(f"{diagnosis.verdict:<6}", style=_STYLES[diagnosis.verdict], end="")
    console.print(f"{diagnosis.name:<{_NAME_WIDTH}}{diagnosis.said}", soft_wrap=True)
    if diagnosis.remedy is not None:
        console.print(f"      {'':<{_NAME_WIDTH}}-> {diagnosis.remedy}", soft_wrap=True)
