"""The process that forks a process for each image that is decoded apart (apart.py). It decodes nothing itself, so that
it stays whole; what decoders need is imported once."""

import contextlib
import ctypes
import importlib
import io
import json
import os
import resource
import signal
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy import ma  # as it is used, it would be imported by each child
from numpy.typing import NDArray

from openmae.data.formats import decode
from openmae.errors import BrokenImage, UserError
from openmae.machine.memory import bound_growth

_NEEDED = {
    "PNG": ("imagecodecs",),
    "AVIF": ("imagecodecs",),
    "TIFF": ("imagecodecs", "tifffile"),
    "DICOM": ("imagecodecs", "pydicom.pixels"),
    "HEIC": ("pi_heif",),
}
"""By kind, what takes longer to import than to use."""
_WAITING_SECONDS = 300  # for one that does not compute
_DIE_WITH_PARENT = 1  # prctl(2)'s number


def serve(descriptor: int) -> None:
    """Answers (kind, file, reading, what is asked, seconds, bytes) by the number of the signal that ended the process
    which decoded it, or 0, and what that said: a line of JSON and the numbers that it tells of, or in JSON whether it
    is for the user, what, and advice."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # whoever asks decides
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        while True:
            kind, *task = pipe.recv()
            for name in _NEEDED.get(kind, ()):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
            with open(os.memfd_create("image"), "w+b", buffering=0) as file:  # noqa: PTH123
                child = os.fork()
                if child == 0:
                    _work(file, *task)
                _, status = os.waitpid(child, 0)
                file.seek(0)
                ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
                pipe.send_bytes(ended_by.to_bytes(1, "little"))
                pipe.send_bytes(b"" if ended_by else file.read())


def _work(file: io.FileIO, data: bytes, reading: Any, asked: Any, seconds: int, most: int) -> None:
    """The child's life: it writes an array, or what was raised, and leaves."""
    try:
        _die_with_parent()
        signal.alarm(_WAITING_SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        bound_growth(most)
        try:
            opened = decode.open_here(data, reading)
            found = np.zeros(0) if asked is None else opened.pixels(asked)
            _give(file, found)
        except (BrokenImage, UserError) as error:
            _say(file, isinstance(error, UserError), error.what, error.advice)
        except MemoryError:
            _say(file, False, "it does not fit into memory", "")
        except Exception as error:
            _say(file, False, str(error).replace("\n", " ") or type(error).__name__, "")
    finally:
        os._exit(0)


def _give(file: io.FileIO, found: NDArray[Any]) -> None:
    """Not as .npy, whose header Python's own parser reads: that has failed over a good image, with "AST constructor
    recursion depth mismatch"."""
    numbers = np.ascontiguousarray(ma.getdata(found))
    missing = ma.getmaskarray(found).tobytes() if isinstance(found, ma.MaskedArray) else b""
    about = {"dtype": numbers.dtype.str, "shape": found.shape, "missing": len(missing)}
    for part in (json.dumps(about).encode(), b"\n", numbers.tobytes(), missing):
        left = memoryview(part)
        while left:  # one call may take less than all
            left = left[file.write(left) :]


def _say(file: io.FileIO, of_user: bool, what: str, advice: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps([of_user, what, advice]).encode())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
