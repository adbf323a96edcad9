"""Which images of two sources are one file, however it is called, and which are the same to the last byte."""

import os
import stat
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.folder import ImageFolder
from openmae.data.sources.joined import Joined
from openmae.data.sources.listing import KEPT_FROM
from openmae.data.sources.source import Remade, Source, Subset
from openmae.data.sources.table import TableSource
from openmae.data.sources.windows import Windows
from openmae.errors import BrokenImage

_MOST_READ = 2**28  # bytes of files that are compared at a start
_MOST_LOOKED_AT = 20_000  # images of which nothing but reading tells the size
_MOST_STATS = KEPT_FROM  # files that are looked up: of more, not even the list is made anew at each start

_known: "WeakKeyDictionary[TableSource, NDArray[np.int64]]" = WeakKeyDictionary()  # sizes of the files of tables

Identity = tuple[int, int] | str
"""Device and inode, the same whatever link, case or way leads to a file; a path where there is no file."""


def same_file(train: Source, val: Source) -> tuple[int, int] | None:
    """(index in train, index in val) of the first image of val that is a file of train too; None where there is none.
    Where more than 100,000 files would have to be looked up, a file is known by its path alone."""
    rows, sizes = (_files(train), _files(val)), _both_sizes(train, val)
    if sizes is not None:  # one file has one size
        alike = _of_one_size(*sizes)
        rows = np.intersect1d(rows[0], alike[0]), np.intersect1d(rows[1], alike[1])
    few = sum(map(len, rows)) <= _MOST_STATS
    seen = {_identity(train, index, few): index for index in rows[0].tolist()} if len(rows[1]) else {}
    for index in rows[1].tolist():
        if (found := seen.get(_identity(val, index, few))) is not None:
            return found, index
    return None


def linked(source: Source) -> NDArray[np.int64] | None:
    """(n,) a number for each image of a folder, or window of one, the same for links to one file; None where none is a
    link to another."""
    if isinstance(source, Windows):
        numbers = linked(source.source)
        return None if numbers is None else numbers[source.places.of]
    if not isinstance(source, ImageFolder):
        return None
    sizes = source.listing.sizes
    _, which, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[which] > 1)
    if len(rows) > _MOST_STATS:
        return None
    found = np.arange(len(source))
    first: dict[Identity, int] = {}
    for index in rows.tolist():
        found[index] = first.setdefault(_identity(source, index, True), index)
    if len(first) == len(rows):
        return None
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def same_content(train: Source, val: Source) -> list[tuple[int, int]]:
    """(index in train, index in val) of images of val that are in train to the last byte; none where looking would read
    more than 256 MB. Only images of one size are read."""
    rows, sizes = (np.arange(len(train)), np.arange(len(val))), _both_sizes(train, val)
    if sizes is not None:
        rows = _of_one_size(*sizes)
        if sum(int(size[own].sum()) for size, own in zip(sizes, rows, strict=True)) > _MOST_READ:
            return []
    elif len(train) + len(val) > _MOST_LOOKED_AT:
        return []
    left = [_MOST_READ]
    seen: dict[bytes, int] = {}
    for index, digest in _digests(train, rows[0], left):
        seen.setdefault(digest, index)
    found = [(seen[digest], index) for index, digest in _digests(val, rows[1], left) if digest in seen]
    return found if left[0] >= 0 else []


def _both_sizes(train: Source, val: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    first, second = _sizes(train), _sizes(val)
    return None if first is None or second is None else (first, second)


def _of_one_size(first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each, which have a size that occurs in both."""
    both = np.intersect1d(first, second)
    return np.flatnonzero(np.isin(first, both)), np.flatnonzero(np.isin(second, both))


def _digests(source: Source, rows: NDArray[np.int64], left: list[int]) -> list[tuple[int, bytes]]:
    """Of the images that can be read, as long as bytes are left."""
    found: list[tuple[int, bytes]] = []
    for index in rows.tolist():
        if left[0] < 0:
            break
        try:
            data = source.read(index)
        except (OSError, BrokenImage):
            continue
        left[0] -= len(data)
        if data:
            found.append((index, blake2b(data, digest_size=16).digest()))
    return found


def _files(source: Source) -> NDArray[np.int64]:
    """The images that are files of their own."""
    return np.arange(len(source)) if _path_of(source) is not None else np.empty(0, np.int64)


def _path_of(source: Source) -> Callable[[int], str] | None:
    """What gives the path of an image; None where images are no files."""
    if isinstance(source, Subset):
        whole, indices = _path_of(source.whole), source.indices
        return None if whole is None else lambda index: whole(int(indices[index]))
    if isinstance(source, Remade):
        return _path_of(source.source)
    if isinstance(source, Windows):
        image, of = _path_of(source.source), source.places.of
        return None if image is None else lambda index: image(int(of[index]))
    if isinstance(source, ImageFolder):
        return lambda index: str(source.path(index))
    if isinstance(source, TableSource):
        folder = Path(source.location).parent
        return lambda index: str(folder / source.paths[index])
    return None


def _sizes(source: Source) -> NDArray[np.int64] | None:
    """(n,) bytes of each image, where that is known without reading."""
    if isinstance(source, Subset):
        sizes = _sizes(source.whole)
        return None if sizes is None else sizes[source.indices]
    if isinstance(source, Remade):
        return _sizes(source.source)
    if isinstance(source, Joined):
        parts = [sizes for part in source.parts if (sizes := _sizes(part)) is not None]
        return np.concatenate(parts) if len(parts) == len(source.parts) else None
    if isinstance(source, ImageFolder):
        return source.listing.sizes
    if isinstance(source, TableSource) and len(source) <= _MOST_STATS:
        if source not in _known:
            path = _path_of(source)
            assert path is not None
            _known[source] = np.array([_size(path(index)) for index in range(len(source))], np.int64)
        return _known[source]
    return None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except (OSError, ValueError):
        return -1


def _identity(source: Source, index: int, look: bool) -> Identity:
    path_of = _path_of(source)
    assert path_of is not None
    path = path_of(index)
    if look:
        try:
            status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            pass
        else:
            if stat.S_ISREG(status.st_mode):
                return status.st_dev, status.st_ino
    return os.path.abspath(path)  # noqa: PTH100 (without a look at the disk)
