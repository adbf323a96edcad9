"""What is computed so far, in a folder beside the file to be: parts that are whole or absent, so that a kill costs the
last one at most. Several processes may share it, each with a span of images of its own."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.commandline.flags import flag
from openmae.console.words import several
from openmae.data.survey.as_arrays import Arrays
from openmae.distributed.share import WHOLE, Share
from openmae.errors import UserError
from openmae.files.whole import locked, take_lock, write_file
from openmae.recipes.in_parts.claim import claimed
from openmae.recipes.in_parts.said import still_missing

_LOCK, _JOB = "lock", "job.json"
_SHARED = "shared"  # of the job: among how many, and of how many images the smallest share is


@dataclass(frozen=True)
class Part:
    """Images `start` to `stop`: which of them could be read, indices (m,), how many, and why the others could not."""

    file: Path
    start: int
    stop: int
    indices: NDArray[np.int64]
    left_out: list[tuple[int, str]]

    def rows(self) -> NDArray[np.float32]:
        """(m, ...) what was computed of each, read now. Raises UserError where the file has been damaged."""
        with _opened(self.file) as stored:
            return np.asarray(stored["rows"])

    def more(self) -> Arrays:
        """All arrays of it, likewise."""
        with _opened(self.file) as stored:
            return {name: stored[name] for name in stored.files}


class PartsFolder:
    """The folder. Open it by `opened_parts`.

    share: which of the images this process does; unit: shares are whole multiples of so many images. of: among how many
    processes it is shared, by whoever has begun it.
    """

    def __init__(self, folder: Path, share: Share = WHOLE, unit: int = 1) -> None:
        self.folder, self.share, self.unit = folder, share, unit
        self.finished: list[Part] = []
        self.start = 0
        self.of = share.of

    @contextmanager
    def settling(self) -> Iterator[dict[str, Any]]:
        """Within, no other process begins: what was begun here, empty where nothing was. Raises UserError where it is
        not shared in this way."""
        with locked(self.folder / _JOB):
            before = read_job(self.folder)
            if before:
                self._fit(before)
            yield before

    def _fit(self, before: dict[str, Any]) -> None:
        of, unit = before.get(_SHARED, (1, self.unit))
        if self.share.is_whole:  # which puts together what others have begun
            self.of, self.unit = of, unit
        elif of == 1:
            raise UserError(
                f"{self.folder} is of one process that does everything",
                "let it end, or delete that folder to share the work from the beginning",
            )
        elif of != self.share.of:
            raise UserError(
                f"{self.folder} is shared among {of} processes, not {self.share.of}",
                f"give --part K/{of}, or delete that folder to begin anew",
            )
        elif unit != self.unit:
            raise UserError(
                f"{self.folder} is shared in multiples of {unit} images, and here it would be {self.unit}",
                f"give all processes the same {flag('batch_size')}",
            )

    def begin(self, job: dict[str, Any]) -> None:
        """Notes what is to be made here. Raises OSError."""
        shared = {} if self.share.is_whole else {_SHARED: [self.share.of, self.unit]}
        write_file(self.folder / _JOB, json.dumps({**job, **shared}, indent=1).encode())

    def read(self, total: int) -> None:
        """Finds the finished parts of this process's share of so many images. Raises UserError where one is damaged."""
        span = self.share.span(total, self.unit)
        self.start = span.start
        files = sorted(file for file in self.folder.glob("*.npz") if int(file.stem) in span)
        self.finished = [_read_part(file) for file in files]

    @contextmanager
    def together(self, total: int) -> Iterator["PartsFolder | None"]:
        """The folder with the parts of all who share it, if this process is to put them together: the last one to end,
        or one that nobody shares with; None for another one. Raises UserError where a share is missing that nobody
        here is to do."""
        if self.of == 1:
            yield self
            return
        whole = PartsFolder(self.folder)
        with self._claim(total) as is_ours:
            if is_ours:
                whole.read(total)
            yield whole if is_ours else None

    def _claim(self, total: int) -> AbstractContextManager[bool]:
        """Whether this process is to put the parts together."""
        if not self.share.is_whole:
            return claimed(self.folder, _JOB, _LOCK, lambda: not self._missing())
        if missing := self._missing():
            images = sum(len(share.span(total, self.unit)) for share in missing)
            raise still_missing(missing, several(images, "image"))
        return nullcontext(True)  # it has the lock already, and would give it up by taking it twice

    def _missing(self) -> list[Share]:
        """Who has not ended yet, be it that there was nothing to do: the file comes after the last one only."""
        return [share for share in Share(1, self.of).all() if not self._mark(share).exists()]

    def _mark(self, share: Share) -> Path:
        return self.folder / f"done-{share.number}"

    def end(self) -> None:
        """Notes that this process's share is done, where several share the work. Raises OSError."""
        if not self.share.is_whole:
            write_file(self._mark(self.share), b"")

    @property
    def stop(self) -> int:
        """Up to which image everything of this share is there."""
        return self.finished[-1].stop if self.finished else self.start

    def add(
        self,
        stop: int,
        indices: NDArray[np.int64],
        rows: NDArray[np.float32],
        left_out: list[tuple[int, str]],
        more: Arrays = MappingProxyType({}),
    ) -> None:
        """Keeps the images from where the last part ended up to `stop`. more: arrays by other names than these.
        Raises OSError."""
        start = self.stop
        buffer = io.BytesIO()
        arrays = {
            "span": np.array([start, stop]),
            "indices": indices,
            "rows": rows,
            "missing": np.array([index for index, _ in left_out], np.int64),
            "reasons": np.array([reason for _, reason in left_out], np.str_),
        }
        np.savez(buffer, allow_pickle=False, **arrays, **more)
        file = self.folder / f"{start:012d}.npz"
        write_file(file, buffer.getvalue())
        self.finished.append(Part(file, start, stop, indices, left_out))

    @property
    def left_out(self) -> list[tuple[int, str]]:
        """Index and reason of each image that could not be read."""
        return [entry for part in self.finished for entry in part.left_out]

    def remove(self) -> None:
        """Takes the folder away, all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read_job(folder: Path) -> dict[str, Any]:
    """What is being made in a folder of parts; empty where nothing was begun. Raises UserError where it is damaged."""
    file = folder / _JOB
    try:
        return dict(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error})", f"delete the folder {folder}") from error


def parts_folder(out: Path) -> Path:
    """Where the parts of this file lie."""
    return out.with_name(f".{out.name}.part")


@contextmanager
def opened_parts(out: Path, share: Share = WHOLE, unit: int = 1) -> Iterator[PartsFolder]:
    """The parts of `out`, locked against another process that would do the same share, of multiples of `unit` images.
    Raises UserError where one has them."""
    folder = parts_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    name = _LOCK if share.is_whole else f"{_LOCK}-{share.number}"
    lock = take_lock(folder / name)  # it goes with the folder, when that is done with
    if lock is None:
        which = "" if share.is_whole else f"part {share} of "
        raise UserError(f"another process is writing {which}{out}", "wait for it, or choose another --out")
    with lock:
        yield PartsFolder(folder, share, unit)


def _read_part(file: Path) -> Part:
    with _opened(file) as stored:
        reasons = list(zip(stored["missing"].tolist(), stored["reasons"].tolist(), strict=True))
        start, stop = stored["span"].tolist()
        return Part(file, start, stop, stored["indices"], reasons)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with np.load(file) as stored:
            yield stored
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} is damaged ({error})", f"delete the folder {file.parent}, and run the same command again"
        ) from error
