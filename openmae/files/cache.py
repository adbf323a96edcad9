"""Listings that are kept between starts: named arrays in one file, memory-mapped when they are read again.

The file is an uncompressed .npz, so its arrays lie in it as they are in memory, and all processes of a machine
share the pages. It lies in $XDG_CACHE_HOME/openmae (~/.cache/openmae where that is not set). A cache makes a
start faster and decides nothing: one that is damaged or cannot be written is treated as absent.
"""

import ast
import contextlib
import hashlib
import json
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.files.parsing import read_json
from openmae.files.whole import WholeFile

Arrays = Mapping[str, NDArray[Any]]

_ABOUT = "about"  # the array that holds the JSON text


def cache_folder() -> Path:
    """Where everything that can be made anew is kept; it may not exist, and where nobody has a home it cannot."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 (never raises)
    return (home if home.is_absolute() else Path(os.devnull)) / "openmae"


def cache_file(kind: str, key: str) -> Path:
    """Where the listing of this kind ("folder", "shards", ...) and key (what was listed) is kept."""
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
    return cache_folder() / f"{kind}-{digest[:32]}.npz"


def keep(file: Path, arrays: Arrays, about: Mapping[str, Any]) -> None:
    """Writes the arrays and `about` (JSON) whole or not at all; where that fails, nothing is kept."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(file, {**arrays, _ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)})


def recall(file: Path) -> tuple[Arrays, dict[str, Any]] | None:
    """What was kept, mapped into memory; None where there is nothing or it is damaged."""
    try:
        arrays = map_arrays(file)
        return arrays, read_json(arrays[_ABOUT].tobytes())
    except (OSError, ValueError, KeyError):
        return None


def write_arrays(file: Path, arrays: Arrays) -> None:
    """An uncompressed .npz, in place only when it is whole. Raises OSError."""
    with WholeFile(file, synced=False) as whole:  # `map_arrays` notices what a power cut leaves of it
        np.savez(whole.file, **{key: np.ascontiguousarray(array) for key, array in arrays.items()})  # type: ignore[arg-type]
        whole.finish()


def map_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an uncompressed .npz as read-only views of the file, their checksums verified.

    Raises OSError where it cannot be read, ValueError where it is damaged.
    """
    with file.open("rb") as opened:
        try:
            members = zipfile.ZipFile(opened).infolist()
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            return {member.filename.removesuffix(".npy"): _view(mapped, member) for member in members}
        except (zipfile.BadZipFile, struct.error, SyntaxError, KeyError, TypeError, NotImplementedError) as error:
            raise ValueError(f"{file} is damaged ({error})") from error


def _view(mapped: mmap.mmap, member: zipfile.ZipInfo) -> NDArray[Any]:
    """The array of one member of the archive, where it lies."""
    name_length, extra_length = struct.unpack_from("<HH", mapped, member.header_offset + 26)
    start = member.header_offset + 30 + name_length + extra_length
    with memoryview(mapped) as whole, whole[start : start + member.file_size] as data:
        if member.compress_type != zipfile.ZIP_STORED or zlib.crc32(data) != member.CRC:
            raise ValueError(f"{member.filename} is damaged")
        if bytes(data[:7]) != b"\x93NUMPY\x01":  # version 1.0 of the format, which holds every header that we write
            raise ValueError(f"{member.filename} is no array")
        length = struct.unpack_from("<H", data, 8)[0]
        header = ast.literal_eval(bytes(data[10 : 10 + length]).decode("latin-1"))
    dtype, shape = np.dtype(header["descr"]), header["shape"]
    array = np.frombuffer(mapped, dtype, int(np.prod(shape)), start + 10 + length) if np.prod(shape) else None
    return np.empty(shape, dtype) if array is None else array.reshape(shape)
