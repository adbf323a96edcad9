"""Writes one tar shard in the WebDataset layout, whole or not at all, and what it will say in the index beside it.

The bytes are a function of what is added: no times, no owners. `.parts/0007.npz` tells what `0007.tar` holds. It is
written after the shard, so a shard with its part is finished, and whoever packs again after a kill leaves it alone.
"""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from openmae.data.shards.packing import Packed
from openmae.files.cache import map_arrays, write_arrays
from openmae.files.parsing import read_json
from openmae.files.whole import WholeFile

PARTS = ".parts"


@dataclass(frozen=True)
class LeftOut:
    """An image, by its index in the source, that gave nothing to pack, and why. may_return: its bytes could not be
    read this time, as when a disk or a server fails; otherwise they are damaged."""

    image: int
    reason: str
    may_return: bool


@dataclass(frozen=True)
class FinishedShard:
    """A finished shard: n samples with their images' indices in the source (n,), places (n,) and checksums (n,); the
    shard's size and SHA-256; the bytes its images had before; what was left out."""

    images: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    crc32: NDArray[np.uint32]
    bytes: int
    sha256: str
    bytes_before: int
    left_out: tuple[LeftOut, ...]

    def __len__(self) -> int:
        return len(self.images)


def read_finished(shard: Path) -> FinishedShard | None:
    """What a finished shard holds; None where it is not finished, was cut off, or misses images that may return."""
    try:
        arrays = map_arrays(_part_file(shard))
        about: dict[str, Any] = read_json(arrays["about"].tobytes())
        left_out = tuple(LeftOut(*entry) for entry in about["left_out"])
        if shard.stat().st_size != about["bytes"] or any(image.may_return for image in left_out):
            return None
        images, offset, size, crc32 = (arrays[key] for key in ("images", "offset", "size", "crc32"))
        return FinishedShard(
            images, offset, size, crc32, about["bytes"], about["sha256"], about["bytes_before"], left_out
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


class ShardWriter:
    """A shard that is being written; a context manager. Leaving it before `finish` leaves no trace."""

    def __init__(self, shard: Path) -> None:
        self.shard = shard
        self._whole = WholeFile(shard, aside=shard.with_name(f".{shard.name}.part"))
        self._digest = hashlib.sha256()
        self._images: list[int] = []
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._checksums: list[int] = []
        self._left_out: list[LeftOut] = []
        self._bytes = self._bytes_before = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._whole.__exit__(kind, error, traceback)

    def add(self, image: int, key: str, packed: Packed, label: str) -> None:
        """Image `image` of the source as members KEY.jpg (or as it is encoded) and, with a label, KEY.cls. Raises
        OSError."""
        self._images.append(image)
        self._offsets.append(self._member(f"{key}.{packed.extension}", packed.data))
        self._sizes.append(len(packed.data))
        self._checksums.append(packed.crc32)
        self._bytes_before += packed.bytes_before
        if label:
            self._member(f"{key}.cls", label.encode())

    def leave_out(self, image: LeftOut) -> None:
        """Notes that this one is missing."""
        self._left_out.append(image)

    def finish(self) -> FinishedShard:
        """Puts the shard and then its part in place. Raises OSError."""
        self._write(bytes(-(self._bytes + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE + 2 * tarfile.BLOCKSIZE))
        part = FinishedShard(
            np.array(self._images, np.int64),
            np.array(self._offsets, np.int64),
            np.array(self._sizes, np.int64),
            np.array(self._checksums, np.uint32),
            self._bytes,
            self._digest.hexdigest(),
            self._bytes_before,
            tuple(self._left_out),
        )
        self._whole.finish()
        _write_part(_part_file(self.shard), part)
        return part

    def _member(self, name: str, data: bytes) -> int:
        """Adds a file; returns where its bytes begin."""
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._write(entry.tobuf(tarfile.USTAR_FORMAT))
        start = self._bytes
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return start

    def _write(self, data: bytes) -> None:
        self._whole.file.write(data)
        self._digest.update(data)
        self._bytes += len(data)


def _write_part(file: Path, part: FinishedShard) -> None:
    about = {
        "bytes": part.bytes,
        "sha256": part.sha256,
        "bytes_before": part.bytes_before,
        "left_out": [(image.image, image.reason, image.may_return) for image in part.left_out],
    }
    arrays = {key: getattr(part, key) for key in ("images", "offset", "size", "crc32")}
    file.parent.mkdir(exist_ok=True)
    write_arrays(file, {**arrays, "about": np.frombuffer(json.dumps(about).encode(), np.uint8)})


def _part_file(shard: Path) -> Path:
    return shard.parent / PARTS / f"{shard.stem}.npz"


def concatenated(parts: Sequence[FinishedShard]) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """The source's indices of all samples (n,), shard by shard, and the columns of their index."""
    columns = {key: np.concatenate([getattr(part, key) for part in parts]) for key in ("offset", "size", "crc32")}
    columns["shard"] = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return np.concatenate([part.images for part in parts]), columns
