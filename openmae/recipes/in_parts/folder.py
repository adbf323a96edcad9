"""What is computed so far, in a folder beside the file to be: parts that are whole or absent, so that a kill costs the
last one at most."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.errors import UserError
from openmae.files.whole import take_lock, write_file

_LOCK, _JOB = "lock", "job.json"


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


class PartsFolder:
    """The folder. Open it by `opened_parts`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished: list[Part] = []

    def begin(self, job: dict[str, Any]) -> None:
        """Notes what is to be made here. Raises OSError."""
        write_file(self.folder / _JOB, json.dumps(job, indent=1).encode())

    def read(self) -> None:
        """Finds the finished parts. Raises UserError where one is damaged."""
        self.finished = []
        for file in sorted(self.folder.glob("*.npz")):
            with _opened(file) as stored:
                reasons = list(zip(stored["missing"].tolist(), stored["reasons"].tolist(), strict=True))
                start, stop = stored["span"].tolist()
                self.finished.append(Part(file, start, stop, stored["indices"], reasons))

    @property
    def stop(self) -> int:
        """Up to which image everything is there."""
        return self.finished[-1].stop if self.finished else 0

    def add(
        self,
        stop: int,
        indices: NDArray[np.int64],
        rows: NDArray[np.float32],
        left_out: list[tuple[int, str]],
    ) -> None:
        """Keeps the images from where the last part ended up to `stop`. Raises OSError."""
        start = self.stop
        buffer = io.BytesIO()
        np.savez(
            buffer,
            span=np.array([start, stop]),
            indices=indices,
            rows=rows,
            missing=np.array([index for index, _ in left_out], np.int64),
            reasons=np.array([reason for _, reason in left_out], np.str_),
        )
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
def opened_parts(out: Path) -> Iterator[PartsFolder]:
    """The parts of `out`, locked against another process. Raises UserError where one has them."""
    folder = parts_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    lock = take_lock(folder / _LOCK)  # it goes with the folder, when that is done with
    if lock is None:
        raise UserError(f"another process is writing {out}", "wait for it, or choose another --out")
    with lock:
        yield PartsFolder(folder)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with np.load(file) as stored:
            yield stored
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} is damaged ({error})", f"delete the folder {file.parent}, and run the same command again"
        ) from error
