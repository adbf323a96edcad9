"""What a decoder does to its process, a fault, a hang or memory without end, it does to a process of its own.

Forking one for each image costs some milliseconds, so it is done where there is a reason: for an image that has ended
a loader process, and from then on for all images of its kind, for what corrupts memory does not always end a process
at once. Which kinds have crashed is known to all processes that are forked later, and kept in the cache between
starts, until another version of a decoder is installed.
"""

import contextlib
import ctypes
import hashlib
import io
import json
import logging
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.errors import BrokenImage, UserError
from openmae.files.cache import cache_folder
from openmae.machine.memory import bound_growth

KINDS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "NPY", "WEBP", "AVIF", "HEIC", "DICOM")
SECONDS = 60  # of computing, for one image
MOST_BYTES = 2**32  # that decoding one may take
FOLDER = "crashed"  # in the cache
_WAITING_SECONDS = 300  # for one that does not compute
_LOG = logging.getLogger("openmae")
_DECODERS = ("imagecodecs", "pi-heif", "pillow", "pydicom", "simplejpeg", "tifffile")
_CAN = sys.platform == "linux"
_DIE_WITH_PARENT = 1  # prctl(2)'s number
_crashed = mmap.mmap(-1, len(KINDS))  # by kind; forked processes share it


@dataclass
class _InHand:
    """The image that this process decodes next: whether it has ended another process."""

    is_suspect: bool = False


IN_HAND = _InHand()


def tried(work: Callable[[], object]) -> None:
    """Where the image is suspect, has `work` done by a process of its own, for nothing but to see that it can be.
    Raises as `pixels` does."""
    if not (_CAN and IN_HAND.is_suspect):
        return

    def nothing() -> NDArray[Any]:
        work()
        return np.zeros(0)

    _apart("", nothing)


def pixels(kind: str, work: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """What `work` gives, the pixels of an image of this kind, done by a process of its own where there is a reason.
    Raises what it raises, and BrokenImage where such a process crashes, takes too much, or is killed."""
    _remember()
    is_needed = IN_HAND.is_suspect or (kind in KINDS and _crashed[KINDS.index(kind)])
    return _apart(kind, work) if _CAN and is_needed else work()


def _apart(kind: str, work: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    with contextlib.closing(_File(os.memfd_create("image"))) as file:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forking beside other threads, none of which is needed there
            child = os.fork()
        if child == 0:
            _work(work, file)
        try:
            _, status = os.waitpid(child, 0)
        except BaseException:  # Ctrl-C
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        if not os.WIFSIGNALED(status):
            return _result(file)
    number = os.WTERMSIG(status)
    if number in (signal.SIGXCPU, signal.SIGALRM):
        raise BrokenImage(f"decoding it takes more than {SECONDS} s")
    if number == signal.SIGKILL:
        raise BrokenImage("the process that decoded it was killed (out of memory?)")
    if kind in KINDS:
        _note(kind)
    raise BrokenImage(f"decoding it ended a process ({signal.Signals(number).name}, a fault in the decoder)")


class _File(io.FileIO):
    """An unnamed file in memory, which both processes have open."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "r+")


def _work(work: Callable[[], NDArray[Any]], file: _File) -> None:
    """The child's life: it writes an array, or what was raised, and leaves."""
    import resource  # which is not everywhere

    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_WAITING_SECONDS)
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        bound_growth(MOST_BYTES)
        try:
            found = work()
            np.save(file, np.asarray(found), allow_pickle=False)
            if isinstance(found, np.ma.MaskedArray):
                np.save(file, np.ma.getmaskarray(found), allow_pickle=False)
        except (BrokenImage, UserError) as error:
            _say(file, isinstance(error, UserError), error.what, error.advice)
        except MemoryError:
            _say(file, False, "it does not fit into memory", "")
        except Exception as error:
            _say(file, False, str(error).replace("\n", " ") or type(error).__name__, "")
    finally:
        os._exit(0)


def _say(file: _File, of_user: bool, what: str, advice: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps([of_user, what, advice]).encode())


def _result(file: _File) -> NDArray[Any]:
    file.seek(0)
    data = file.read()
    if data.startswith(b"\x93NUMPY"):
        arrays = io.BytesIO(data)
        array: NDArray[Any] = np.load(arrays, allow_pickle=False)
        return np.ma.array(array, mask=np.load(arrays, allow_pickle=False)) if arrays.tell() < len(data) else array
    if not data:
        raise BrokenImage("the process that decoded it ended without a word")
    of_user, what, advice = json.loads(data)
    raise (UserError if of_user else BrokenImage)(what, advice)


def _note(kind: str) -> None:
    """From now on images of this kind are decoded apart, on this machine."""
    if _crashed[KINDS.index(kind)]:
        return
    _crashed[KINDS.index(kind)] = 1
    _LOG.warning("the decoder of %s crashed: each image of that kind is now decoded in a process of its own", kind)
    with contextlib.suppress(OSError):
        _place().mkdir(parents=True, exist_ok=True)
        (_place() / kind).touch()


@cache
def _remember() -> None:
    """Takes over what earlier starts have noted."""
    with contextlib.suppress(OSError):
        if (cache_folder() / FOLDER).is_dir():
            for number, kind in enumerate(KINDS):
                _crashed[number] |= (_place() / kind).exists()


@cache
def _place() -> Path:
    """Where it is noted, for these versions of the decoders."""
    versions = []
    for name in _DECODERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return cache_folder() / FOLDER / hashlib.sha256(" ".join(versions).encode()).hexdigest()[:16]
