"""The place that runs are written to: room, speed, locks, renaming, and what kind of disk it is."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from openmae.console.words import size_of
from openmae.files.disk import DISK_FULL
from openmae.files.whole import write_file
from openmae.model import create_model
from openmae.recipes.doctor.diagnosis import Diagnosis
from openmae.recipes.training.room import RUN_BYTES
from openmae.train.cost import parameters

MOUNTS = Path("/proc/mounts")
MOST_BYTES = 256 * 10**6  # that are written
_BLOCK = 8 * 10**6
_SYNCED = 4  # blocks, so that a slow disk is known after one of them
_SECONDS = 3.0  # of writing, and of reading
_SLOW = 60.0  # seconds for a checkpoint of vit_base
_CHECKPOINT_BYTES = 12  # of a parameter: it and two averages
LOCK_SECONDS = 5.0
_KILLED_SECONDS = 1.0
_REMOTE = "nfs|cifs|smb|lustre|gpfs|beegfs|ceph|glusterfs|afs|9p|virtiofs|fuse.sshfs|pvfs|orangefs|wekafs"
_STORES = "s3fs|gcsfuse|goofys|rclone|blobfuse|mountpoint-s3|juicefs"  # objects, behind FUSE
LOCKS = """
import fcntl, os, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
child = os.fork()
if child == 0:
    try:
        fcntl.lockf(open(sys.argv[1], "a+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os._exit(0)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def disk(out: Path) -> list[Diagnosis]:
    """Looks at the folder, or at the nearest one above it that exists, and leaves nothing there."""
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not place.is_dir():
        return [Diagnosis("disk", "bad", f"{place} is a file", "give a folder as --out")]
    try:
        probe = Path(tempfile.mkdtemp(prefix=".openmae-doctor-", dir=place))
    except OSError as error:
        remedy = "ask for the right to write there, or choose another --out"
        if error.errno in DISK_FULL:
            remedy = "free some space, or choose another --out"
        return [Diagnosis("disk", "bad", f"{place} cannot be written ({error.strerror})", remedy)]
    try:
        return [_kind(place), _space(place), *speed(probe), _renaming(probe), _locks(probe)]
    finally:
        shutil.rmtree(probe, ignore_errors=True)


# ---------------------------------------------------------------- what it is


def _kind(place: Path) -> Diagnosis:
    found = filesystem(place.resolve())
    if found is None:
        return Diagnosis("disk", "ok", f"{place} can be written")
    device, kind = found
    said = f"{place} can be written: {kind}, on {device}"
    if re.search(_STORES, f"{kind} {device}"):
        remedy = "write runs to a disk and copy them there: a store of objects renames and locks nothing"
        return Diagnosis("disk", "warn", said, remedy)
    if re.match(_REMOTE, kind):
        return Diagnosis("disk", "ok", f"{said}, over a network")
    if kind == "overlay":
        remedy = "give a folder of the host's (docker run --volume): this one goes with the container"
        return Diagnosis("disk", "warn", said, remedy)
    if kind in ("tmpfs", "ramfs"):
        remedy = "choose an --out on a disk: this one is in memory, and gone when the machine starts anew"
        return Diagnosis("disk", "warn", said, remedy)
    return Diagnosis("disk", "ok", said)


def filesystem(place: Path, mounts: Path | None = None) -> tuple[str, str] | None:
    """(device, type) of what is mounted where `place`, without links, lies; None where that is not known."""
    try:
        lines = (mounts or MOUNTS).read_text(errors="replace").splitlines()
    except OSError:
        return None
    best: tuple[str, str] | None = None
    longest = -1
    for line in lines:
        words = [_plain(word) for word in line.split(" ")]
        if len(words) < 3:
            continue
        depth = len(Path(words[1]).parts)
        if place.is_relative_to(words[1]) and depth >= longest:  # of two on one point, the later one hides the other
            best, longest = (words[0], words[2]), depth
    return best


def _plain(word: str) -> str:
    """The word with its blanks, which stand as \\040 there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


# ---------------------------------------------------------------- what it can do


def _space(place: Path) -> Diagnosis:
    free = shutil.disk_usage(place).free
    inodes = os.statvfs(place)
    least, base = (RUN_BYTES * _parameters(name) for name in ("vit_tiny", "vit_base"))
    said = f"{size_of(free)} free; a run of vit_base takes {size_of(base)} at most, of vit_tiny {size_of(least)}"
    remedy = "free some space, or choose another --out"
    if inodes.f_files and not inodes.f_favail:
        return Diagnosis("space", "bad", f"{said}, but no file can be added (no inodes left)", "delete files there")
    if free < least:
        return Diagnosis("space", "bad", said, remedy)
    return (
        Diagnosis("space", "warn", said, f"{remedy}, or train a smaller model")
        if free < base
        else Diagnosis("space", "ok", said)
    )


def _parameters(model: str) -> int:
    """As pretrain makes it by default."""
    with torch.device("meta"):
        made = create_model(model)
    return sum(parameters(made.architecture))


def speed(probe: Path) -> list[Diagnosis]:
    """Writes, syncs, and reads again what no compression makes smaller."""
    most = min(MOST_BYTES, shutil.disk_usage(probe).free // 4)
    if most <= 0:
        return []
    block, file = os.urandom(min(_BLOCK, most)), probe / "speed"
    written = 0
    began = time.perf_counter()
    try:
        with file.open("wb", buffering=0) as out:
            while written + len(block) <= most and time.perf_counter() - began < _SECONDS:
                for _ in range(min(_SYNCED, (most - written) // len(block))):
                    at = 0
                    while at < len(block):
                        at += out.write(block[at:])
                    written += len(block)
                os.fsync(out.fileno())
    except OSError as error:
        said = f"writing fails after {size_of(written)} ({error.strerror})"
        return [Diagnosis("write", "bad", said, _mended(error))]
    rate = written / (time.perf_counter() - began)
    try:
        read, is_whole = _read(file, block)
    except OSError as error:
        return [
            Diagnosis("write", "bad", f"what was written cannot be read ({error.strerror})", "choose another --out")
        ]
    checkpoint = _CHECKPOINT_BYTES * _parameters("vit_base") / rate
    said = (
        f"{size_of(rate)}/s written and synced, {size_of(read)}/s read again, of {size_of(written)}; "
        f"a checkpoint of vit_base takes {checkpoint:.3g} s"
    )
    if not is_whole:
        remedy = "choose another --out, and have the disk and the memory tested"
        return [Diagnosis("write", "bad", f"{said}, but what was read is not what was written", remedy)]
    if checkpoint > _SLOW:
        remedy = "choose an --out on a local disk and copy the run, or give a longer --checkpoint-minutes"
        return [Diagnosis("write", "warn", said, remedy)]
    return [Diagnosis("write", "ok", said)]


def _read(file: Path, block: bytes) -> tuple[float, bool]:
    """(bytes a second, whether they are what was written)."""
    read, is_whole = 0, True
    with file.open("rb", buffering=0) as opened:
        if hasattr(os, "posix_fadvise"):  # out of the cache
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        while time.perf_counter() - began < _SECONDS and (part := opened.read(len(block))):
            is_whole &= part == block
            read += len(part)
    return read / (time.perf_counter() - began), is_whole


def _mended(error: OSError) -> str:
    if error.errno == errno.EFBIG:
        return "allow larger files (ulimit -f unlimited), or choose another --out"
    if error.errno in DISK_FULL:
        return "free some space or ask for a larger quota, or choose another --out"
    return "choose another --out, and have this disk looked at"


def _renaming(probe: Path) -> Diagnosis:
    """Checkpoints are written aside, synced, and renamed over what was there."""
    file = probe / "renamed"
    try:
        for text in (b"before", b"after"):
            write_file(file, text)
        is_right = file.read_bytes() == b"after" and len(list(probe.glob("*renamed*"))) == 1
    except OSError as error:
        said = f"a file cannot be replaced by another in one go ({error.strerror})"
        return Diagnosis("rename", "bad", said, "choose an --out on another file system")
    if not is_right:
        said = "a file that was renamed over another does not take its place"
        return Diagnosis("rename", "bad", said, "choose an --out on another file system")
    return Diagnosis("rename", "ok", "a file takes another's place in one go")


def _locks(probe: Path) -> Diagnosis:
    """A run's folder is locked. By processes of their own, one of which must be refused; a mount whose lock daemon is
    gone may never answer."""
    remedy = "mount it with locks that work (NFS: rpc.statd runs, and no nolock), or choose another --out"
    words = [sys.executable, "-I", "-c", LOCKS, str(probe / "lock")]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        try:
            code = process.wait(LOCK_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # it may hang in the kernel
                process.wait(_KILLED_SECONDS)
            return Diagnosis("lock", "bad", f"a file's lock was not given within {LOCK_SECONDS:g} s", remedy)
        said.seek(0)
        why = (said.read().decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
    if why.startswith(("OSError", "PermissionError", "BlockingIOError")):
        return Diagnosis("lock", "bad", f"a file cannot be locked ({why})", remedy)
    if code:
        return Diagnosis(
            "lock", "warn", "two processes get the lock of one file: two runs could share a folder", remedy
        )
    return Diagnosis("lock", "ok", "a file that one process has locked is refused to another")
