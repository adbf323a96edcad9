"""Tar shards in the WebDataset layout, read at random through an index.

Beside the shards lie two files, which `openmae pack` writes and which other shards need not have:

`index.npz` (uncompressed, so that it can be mapped into memory), n samples in the order of the data set:
    text (t,) uint8 and ends (n,) int64   the samples' names: name i is text[ends[i - 1] : ends[i]]. A name is what
                                          the image is called in lists and tables; it may differ from the name of
                                          the member of the tar file, whose keys must not hold dots
    shard (n,) int32                      number of the shard in index.json's list
    offset, size (n,) int64               where the image's bytes are in the shard
    label (n,) int64                      index into class_names, -1 for none
    crc32 (n,) uint32                     zlib.crc32 of the image's bytes

`index.json`, written last, in the form of the `wids` library's shard lists:
    {"__kind__": "wids-shard-index-v1", "wids_version": 1, "openmae_version": 1,
     "shardlist": [{"url": "000000.tar", "nsamples": 1000, "filesize": 25088000, "sha256": "..."}, ...],
     "class_names": ["cat", "dog"],
     "index": {"url": "index.npz", "filesize": 60000, "sha256": "..."}, "fingerprint": "...", "about": {...}}
    A url is relative to the folder of index.json. class_names is empty where there are no labels. `fingerprint` is
    what a folder with these names and sizes would have. `about` is whatever the writer wants to say.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.cache import Arrays, map_arrays, write_arrays
from openmae.data.listing import fingerprint
from openmae.data.source import Names
from openmae.errors import UserError

INDEX = "index.json"
ARRAYS = "index.npz"
SETTINGS = "pack.json"  # of `openmae pack`, written first: without an index beside it, the shards are not all there


@dataclass(frozen=True)
class Shard:
    """A tar file: its path or address, number of samples, size in bytes; sha256 in hex, empty where not known."""

    url: str
    samples: int
    bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of n samples are; the module's docstring describes the arrays.

    crc32 is None where it is not known. fingerprint is of names and sizes. damage: a sentence for each shard whose
    end was not found when it was scanned.
    """

    shards: tuple[Shard, ...]
    names: Names
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int64]
    crc32: NDArray[np.uint32] | None
    class_names: tuple[str, ...]
    fingerprint: str
    damage: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def write_index(
    folder: Path,
    shards: tuple[Shard, ...],
    names: Names,
    *,
    shard: NDArray[np.int32],
    offset: NDArray[np.int64],
    size: NDArray[np.int64],
    label: NDArray[np.int64],
    crc32: NDArray[np.uint32],
    class_names: tuple[str, ...] = (),
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes index.npz and then index.json, each whole or not at all. Raises OSError.

    shards: with urls relative to `folder`. about: JSON, kept as it is in index.json.
    """
    arrays: dict[str, NDArray[Any]] = {
        "text": names.text,
        "ends": names.ends,
        "shard": shard.astype(np.int32),
        "offset": offset.astype(np.int64),
        "size": size.astype(np.int64),
        "label": label.astype(np.int64),
        "crc32": crc32.astype(np.uint32),
    }
    write_arrays(folder / ARRAYS, arrays)
    with (folder / ARRAYS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    described = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "openmae_version": 1,
        "shardlist": [{"url": s.url, "nsamples": s.samples, "filesize": s.bytes, "sha256": s.sha256} for s in shards],
        "class_names": list(class_names),
        "index": {"url": ARRAYS, "filesize": (folder / ARRAYS).stat().st_size, "sha256": digest},
        "fingerprint": fingerprint(names, size),
        "about": dict(about or {}),
    }
    temporary = folder / f".{INDEX}-{os.getpid()}"
    temporary.write_text(json.dumps(described, indent=1), encoding="utf-8")
    temporary.replace(folder / INDEX)


def read_index(folder: Path) -> ShardIndex:
    """The index that lies in `folder`; its arrays are mapped into memory, the shards' urls are whole paths.

    Raises UserError where it is damaged, or its two files do not belong together.
    """
    try:
        described = json.loads((folder / INDEX).read_bytes())
        arrays = folder / described["index"]["url"]
        if arrays.stat().st_size != described["index"]["filesize"]:
            raise ValueError(f"{arrays.name} has another size than {INDEX} says")
        return parse_index(described, map_arrays(arrays), f"{folder}/")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the index of the shards in {folder} is damaged ({error}): pack them again") from error


def listed_shards(described: Mapping[str, Any], base: str) -> tuple[Shard, ...]:
    """The shards of an index.json. base: what stands before their urls.

    Raises ValueError, KeyError or TypeError where it is damaged.
    """
    return tuple(
        Shard(base + s["url"], int(s["nsamples"]), int(s["filesize"]), s.get("sha256", ""))
        for s in described["shardlist"]
    )


def parse_index(described: Mapping[str, Any], arrays: Arrays, base: str) -> ShardIndex:
    """The index of an index.json and its arrays. base: what stands before the shards' urls.

    crc32 and damage need not be there. Raises ValueError, KeyError or TypeError where it is damaged.
    """
    shards = listed_shards(described, base)
    names = Names(arrays["text"], arrays["ends"])
    columns = {key: arrays[key] for key in ("shard", "offset", "size", "label")}
    crc32 = arrays.get("crc32")
    lengths = {len(column) for column in (*columns.values(), *([] if crc32 is None else [crc32]))}
    if lengths != {len(names)} or sum(s.samples for s in shards) != len(names):
        raise ValueError("its arrays have different lengths")
    return ShardIndex(
        shards,
        names,
        **columns,
        crc32=crc32,
        class_names=tuple(described["class_names"]),
        fingerprint=described["fingerprint"],
        damage=tuple(described.get("damage", ())),
    )
