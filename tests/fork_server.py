"""`python -m tests.fork_server FD`: has imported what trainings import, and becomes, forked, each process asked for.

The processes of a test run connect to the listening socket FD, and tests/processes.py asks: JSON, with the three
standard streams and a pipe along. The new process's number goes back, and when it has ended its exit code goes into the
pipe. What is left of those that somebody asked for is killed when he is gone; when all are, the server ends.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as openmae.cli has it before torch is imported
os.environ.setdefault("GOMP_SPINCOUNT", "300")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import sklearn.metrics  # noqa: F401 - where labels are judged
import torch._dynamo  # noqa: F401 - with the first optimizer, by torch

import openmae.recipes.detect.job
import openmae.recipes.embed.job
import openmae.recipes.finetune.job
import openmae.recipes.pretrain.job
import openmae.recipes.segment.job  # noqa: F401


def serve(listening: socket.socket) -> dict[str, Any] | None:
    """What to be, in a process that is new; None in the server itself, in the end."""
    ended, wake = os.pipe()
    for end in (ended, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pipes: dict[int, int] = {}  # process -> where its end is told
    asking: dict[socket.socket, list[int]] = {listening.accept()[0]: []}  # who -> processes
    while asking or select.select([listening], [], [], 0)[0]:
        ready, _, _ = select.select([listening, ended, *asking], [], [])
        if ended in ready:
            os.read(ended, 4096)
            tell_ends(pipes)
        if listening in ready:
            asking[listening.accept()[0]] = []
        for one in [one for one in asking if one in ready]:
            text, places, _, _ = socket.recv_fds(one, 2**20, 4)
            if not text:
                for pid in {*asking.pop(one)} & {*pipes}:
                    os.kill(pid, signal.SIGKILL)
                one.close()
                continue
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for place in (listening.detach(), *(each.detach() for each in asking), ended, wake, *pipes.values()):
                    os.close(place)
                return {**json.loads(text), "places": places}
            pipes[pid] = places.pop()
            for place in places:
                os.close(place)
            asking[one].append(pid)
            one.send(str(pid).encode())
    return None


def tell_ends(pipes: dict[int, int]) -> None:
    for pid in list(pipes):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with contextlib.suppress(BrokenPipeError), open(pipes.pop(pid), "w") as pipe:  # noqa: PTH123
                pipe.write(str(os.waitstatus_to_exitcode(status)))


def become(what: dict[str, Any]) -> None:
    """As Python begins: streams, environment, folder, words; then the code, or openmae."""
    *streams, told = what["places"]
    os.close(told)
    for number, place in enumerate(streams):
        os.dup2(place, number)
        os.close(place)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", 1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    if what["session"]:
        os.setsid()
    if what["terminal"]:
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(what["environment"])
    os.chdir(what["folder"])
    triton: Any = sys.modules.get("triton._C.libtriton")
    if triton is not None and type(triton.ir.location).__module__ == "nanobind":  # which says what is left at the end
        atexit.register(gc.unfreeze)  # it takes a second
    if what["code"]:
        sys.argv = ["-c", *what["words"]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(what["code"], "<string>", "exec"), vars(main))
    else:
        sys.argv = ["openmae", *what["words"]]
        runpy.run_module("openmae", run_name="__main__", alter_sys=True)


def leave(code: int) -> None:
    """As Python ends, but that it does not take itself apart: the process would copy most of the server's memory for
    that, two thirds of a second. It does where what was printed cannot be written, and says so."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    gc.freeze()
    what = serve(socket.socket(fileno=int(sys.argv[1])))
    if what is not None:
        try:
            become(what)
        except SystemExit as ended:
            if ended.code is None or isinstance(ended.code, int):
                leave(ended.code or 0)
            raise
        leave(0)
