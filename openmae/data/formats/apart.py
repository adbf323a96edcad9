"""What a decoder does to its process, a fault, a hang or memory without end, it does to a process of its own.

That costs some milliseconds an image, so it is done where there is a reason: for an image that has ended a loader
process, and from then on for all images of its format, for what corrupts memory does not always end a process at once.
Which formats have crashed is known to all processes that are forked later, and kept in the cache between starts, until
another version of a decoder is installed.

The processes are forked by a server (server.py), one for each process that needs one: it is started, not forked, for
forking a process that has torch in memory takes ten times as long as decoding.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats import witness
from openmae.data.formats.header import Wanted
from openmae.data.formats.reading import Reading
from openmae.data.formats.witness import Witness
from openmae.errors import BrokenImage, UserError
from openmae.files.cache import cache_folder

KINDS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "NPY", "WEBP", "AVIF", "HEIC", "DICOM")
SECONDS = 60  # of computing, for one image
MOST_BYTES = 2**32  # that decoding one may take
FOLDER = "crashed"  # in the cache
SERVE = "from openmae.data.formats.server import serve; serve({descriptor})"
_LOG = logging.getLogger("openmae")
_DECODERS = ("imagecodecs", "pi-heif", "pillow", "pydicom", "simplejpeg", "tifffile")
CAN = sys.platform == "linux"
"""Whether there can be such processes."""
_witnesses: dict[int, Witness | None] = {}  # by process
_crashed = mmap.mmap(-1, len(KINDS))  # by kind; forked processes share it


@dataclass
class _InHand:
    """The image that this process decodes next: whether it has ended another process, and whether it is one of a task
    over which processes have crashed, whichever image they had in hand: one may corrupt what crashes with the next.
    is_guarded: whether another process looks after this one, and sees how it ends."""

    is_suspect: bool = False
    is_among_suspects: bool = False
    is_guarded: bool = False


IN_HAND = _InHand()


@contextlib.contextmanager
def suspected() -> Iterator[None]:
    """Within, every image is taken for one that has ended a process: where this one must live, whatever it is given."""
    before, IN_HAND.is_suspect = IN_HAND.is_suspect, True
    try:
        yield
    finally:
        IN_HAND.is_suspect = before


def tried(data: bytes, reading: Reading) -> None:
    """Where the image is suspect, has it opened by a process of its own, for nothing but to see that it can be.
    Raises as `pixels` does."""
    if CAN and IN_HAND.is_suspect:
        _apart("", data, reading, None)


def pixels(
    kind: str, data: bytes, reading: Reading, asked: Wanted, here: Callable[[Wanted], NDArray[Any]]
) -> NDArray[Any]:
    """What `here` gives, the pixels of the image `data` of this kind, where there is a reason decoded by a process of
    its own. Raises what decoding raises, and BrokenImage where such a process crashes, takes too much, or is killed."""
    _remember()
    if IN_HAND.is_among_suspects and kind in KINDS:
        _note(kind)
    is_needed = IN_HAND.is_suspect or (kind in KINDS and _crashed[KINDS.index(kind)])
    if CAN and is_needed:
        return _apart(kind, data, reading, asked)
    seen_by = None if IN_HAND.is_guarded or not CAN else _witness()
    with seen_by.sees(KINDS.index(kind)) if seen_by and kind in KINDS else contextlib.nullcontext():
        return here(asked)


def guarded() -> None:
    """To be called in a process, forked or not, that another one looks after."""
    IN_HAND.is_guarded = True
    for inherited in _witnesses.values():
        if inherited is not None:
            inherited.leave()
    _witnesses.clear()


def _witness() -> Witness | None:
    """This process's."""
    if os.getpid() not in _witnesses:
        _witnesses[os.getpid()] = witness.begin(cache_folder() / FOLDER)
    return _witnesses[os.getpid()]


def _apart(kind: str, data: bytes, reading: Reading, asked: Wanted | None) -> NDArray[Any]:
    for _ in range(2):  # it may have been killed since it was last asked
        server = _server(os.getpid())
        try:
            server.send((kind, data, reading, asked, SECONDS, MOST_BYTES))
            number, answer = int.from_bytes(server.recv_bytes(), "little"), server.recv_bytes()
            break
        except (EOFError, OSError):
            _server.cache_clear()
    else:
        raise BrokenImage("the process that was to decode it was killed (out of memory?)")
    if not number:
        return _result(answer)
    if number in (signal.SIGXCPU, signal.SIGALRM):
        raise BrokenImage(f"decoding it takes more than {SECONDS} s")
    if number == signal.SIGKILL:
        raise BrokenImage("the process that decoded it was killed (out of memory?)")
    if kind in KINDS:
        _note(kind)
    raise BrokenImage(f"decoding it ended a process ({signal.Signals(number).name}, a fault in the decoder)")


@cache
def _server(process: int) -> Connection:
    """Our end of the pipe to this process's server, which ends when that is closed, or we end. It imports from where we
    do, and not (-P) from the folder that we are in, which may be the data's."""
    ours, theirs = Pipe()
    started = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVE.format(descriptor=theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    theirs.close()
    weakref.finalize(ours, _end, started, process)
    return ours


def _end(server: "subprocess.Popen[bytes]", process: int) -> None:
    if os.getpid() == process:
        server.kill()
        server.wait()


def _result(answer: bytes) -> NDArray[Any]:
    if answer.startswith(b"{"):
        start = answer.index(b"\n") + 1
        about = json.loads(answer[:start])
        stop, kind = len(answer) - about["missing"], np.dtype(about["dtype"])
        array = np.frombuffer(answer, kind, (stop - start) // kind.itemsize, start).reshape(about["shape"]).copy()
        if not about["missing"]:
            return array
        return np.ma.array(array, mask=np.frombuffer(answer, np.bool_, about["missing"], stop).reshape(array.shape))
    if not answer:
        raise BrokenImage("the process that decoded it ended without a word")
    of_user, what, advice = json.loads(answer)
    raise (UserError if of_user else BrokenImage)(what, advice)


def _note(kind: str) -> None:
    """From now on images of this kind are decoded apart, on this machine."""
    if _crashed[KINDS.index(kind)] or not CAN:
        return
    _crashed[KINDS.index(kind)] = 1
    _LOG.warning("the decoder of %s crashed: each image of that kind is now decoded in a process of its own", kind)
    with contextlib.suppress(OSError):
        _place().mkdir(parents=True, exist_ok=True)
        (_place() / kind).touch()


@cache
def _remember() -> None:
    """Takes over what earlier starts have noted, or have left where they crashed."""
    if not CAN:
        return
    with contextlib.suppress(OSError):
        if (cache_folder() / FOLDER).is_dir():
            for number in witness.testimony(cache_folder() / FOLDER):
                if number < len(KINDS):
                    _note(KINDS[number])
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
