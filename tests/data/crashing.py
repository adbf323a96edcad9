"""Decoders that crash, hang and grow, for files that end with a word of it, here and in the server's processes."""

import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats import decode
from openmae.data.formats.header import OpenedImage, Wanted

_AS_IT_IS_OPENED = b"crashes as it is opened"
_CORRUPTED: list[bool] = []
_opened = decode.open_here


def install() -> None:
    """In a process that runs nothing else."""
    decode.open_here = open_here


def open_here(data: bytes, *words: Any) -> OpenedImage:
    """As the real one, but for what MARKS name."""
    if data.endswith(_AS_IT_IS_OPENED) or _CORRUPTED:
        _die()
    what = next((do for mark, do in MARKS.items() if data.endswith(mark)), None)
    image = _opened(data, *words)
    return image if what is None else replace(image, pixels=what)


def _crash(_: Wanted) -> NDArray[Any]:
    _die()
    raise AssertionError


def _fault(_: Wanted) -> NDArray[Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def _be_killed(_: Wanted) -> NDArray[Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _die() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # not the one that writes tracebacks
    os.kill(os.getpid(), signal.SIGSEGV)


def _corrupt(_: Wanted) -> NDArray[Any]:
    _CORRUPTED.append(True)  # which whatever is opened next crashes with
    return np.zeros((24, 20, 3), np.uint8)


def _hang(_: Wanted) -> NDArray[Any]:
    while True:
        pass


def _grow(_: Wanted) -> NDArray[Any]:
    taken = []
    while True:
        taken.append(np.ones(2**25, np.uint8))


MARKS = {
    b"crashes": _crash,
    b"hangs": _hang,
    b"grows": _grow,
    b"corrupts": _corrupt,
    b"faults": _fault,
    b"is killed": _be_killed,
}
"""What decoding a file does that ends so."""
