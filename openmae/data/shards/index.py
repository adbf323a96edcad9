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
    group (n,) int64                      the same for images that belong together, where some do

`index.json`, written last, in the form of the `wids` library's shard lists:
    {"__kind__": "wids-shard-index-v1", "wids_version": 1, "openmae_version": 1,
     "shardlist": [{"url": "000000.tar", "nsamples": 1000, "filesize": 25088000, "sha256": "..."}, ...],
     "class_names": ["cat", "dog"], "label_kind": "folders",
     "index": {"url": "index.npz", "filesize": 60000, "sha256": "..."}, "fingerprint": "...", "about": {...}}
    A url is relative to the folder of index.json. class_names is empty where there are no labels; label_kind
    is what sources.source.LabelKind says, "written" where it is missing. `fingerprint` is
    what a folder with these names and sizes would have. `about` is whatever the writer wants to say.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.labels import NO_LABEL
from openmae.data.sources.listing import fingerprint
from openmae.data.sources.source import LabelKind, Names
from openmae.errors import UserError
from openmae.files.cache import Arrays, map_arrays, write_arrays
from openmae.files.parsing import read_json
from openmae.files.whole import write_file

INDEX = "index.json"
ARRAYS = "index.npz"
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What reading a damaged index raises."""
SETTINGS = "pack.json"  # of `openmae pack`, written first: without an index beside it, the shards are not all there
_MOST_BYTES = 1 << 62  # of a shard


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
    end was not found when it was scanned; notes: what else is to be said of what was found there. packed_as: how the
    files were read that the images were packed from.
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
    label_kind: LabelKind = "written"
    group: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    packed_as: Mapping[str, Any] = field(default_factory=dict)

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
    label_kind: LabelKind = "written",
    group: NDArray[np.int64] | None = None,
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
    if group is not None:
        arrays["group"] = group.astype(np.int64)
    write_arrays(folder / ARRAYS, arrays)
    with (folder / ARRAYS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    described = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "openmae_version": 1,
        "shardlist": [{"url": s.url, "nsamples": s.samples, "filesize": s.bytes, "sha256": s.sha256} for s in shards],
        "class_names": list(class_names),
        "label_kind": label_kind,
        "index": {"url": ARRAYS, "filesize": (folder / ARRAYS).stat().st_size, "sha256": digest},
        "fingerprint": fingerprint(names, size),
        "about": dict(about or {}),
    }
    write_file(folder / INDEX, json.dumps(described, indent=1).encode())


def read_index(folder: Path) -> ShardIndex:
    """The index that lies in `folder`; its arrays are mapped into memory, the shards' urls are whole paths.

    Raises UserError where it is damaged, or its two files do not belong together.
    """
    try:
        described = read_json((folder / INDEX).read_bytes())
        arrays = Path(_below(f"{folder}/", described["index"]["url"]))
        if arrays.stat().st_size != described["index"]["filesize"]:
            raise ValueError(f"{arrays.name} has another size than {INDEX} says")
        return parse_index(described, map_arrays(arrays), f"{folder}/")
    except (OSError, *DAMAGE) as error:
        raise UserError(f"the index of the shards in {folder} is damaged ({error})", "pack them again") from error


def listed_shards(described: Mapping[str, Any], base: str) -> tuple[Shard, ...]:
    """The shards of an index.json. base: what stands before their urls.

    Raises one of DAMAGE where it is damaged.
    """
    return tuple(
        Shard(_below(base, s["url"]), int(s["nsamples"]), int(s["filesize"]), s.get("sha256", ""))
        for s in described["shardlist"]
    )


def _below(base: str, url: str) -> str:
    """Where an index's url is. Raises ValueError where that is not in the folder `base`, or no name of a file."""
    if base and (url.startswith("/") or "://" in url or ".." in url.split("/")):
        raise ValueError(f"{url} lies outside of its folder")
    if b"\0" in os.fsencode(url):  # which raises where it is no text
        raise ValueError("a name of a shard is none")
    return base + url


def parse_index(described: Mapping[str, Any], arrays: Arrays, base: str) -> ShardIndex:
    """The index of an index.json and its arrays. base: what stands before the shards' urls.

    crc32 and damage need not be there. Raises one of DAMAGE where it is damaged.
    """
    shards = listed_shards(described, base)
    names = Names(arrays["text"], arrays["ends"])
    columns = {key: arrays[key] for key in ("shard", "offset", "size", "label")}
    crc32 = arrays.get("crc32")
    optional = {key: arrays[key] for key in ("crc32", "group") if key in arrays}
    all_columns = {**columns, **optional}
    if {len(column) for column in all_columns.values()} != {len(names)} or sum(s.samples for s in shards) != len(names):
        raise ValueError("its arrays have different lengths")
    classes = tuple(described["class_names"])
    if (label_kind := described.get("label_kind", "written")) not in get_args(LabelKind):
        raise ValueError(f"its labels are of the kind {label_kind}")
    if not all(isinstance(name, str) for name in (*classes, described["fingerprint"])):
        raise ValueError("its names are no text")
    _check_columns(names, shards, all_columns, len(classes))
    return ShardIndex(
        shards,
        names,
        **columns,
        crc32=crc32,
        class_names=classes,
        fingerprint=described["fingerprint"],
        damage=tuple(described.get("damage", ())),
        label_kind=label_kind,
        group=optional.get("group"),
        notes=tuple(described.get("notes", ())),
        packed_as=_packed_as(described),
    )


def _packed_as(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `openmae pack` says of how it read; nothing of other writers' shards. Raises one of DAMAGE."""
    said = described.get("about", {}).get("packed_as", {})
    return {str(name): word for name, word in said.items()}


def _check_columns(names: Names, shards: tuple[Shard, ...], columns: Mapping[str, NDArray[Any]], classes: int) -> None:
    """Raises ValueError where a number of the index points outside of what it is a number in."""
    bounds = {
        "ends": (names.ends, 0, len(names.text)),
        "shard": (columns["shard"], 0, len(shards) - 1),
        "offset": (columns["offset"], 0, _MOST_BYTES),
        "size": (columns["size"], 0, _MOST_BYTES),
        "label": (columns["label"], NO_LABEL, classes - 1),
        "group": (columns.get("group", np.empty(0, np.int64)), 0, _MOST_BYTES),
        "crc32": (columns.get("crc32", np.empty(0, np.uint32)), 0, 2**32 - 1),
    }
    for name, (column, least, most) in bounds.items():
        if column.ndim != 1 or column.dtype.kind not in "iu":
            raise ValueError(f"{name} is no list of whole numbers")
        if len(column) and not least <= column.min() <= column.max() <= most:
            raise ValueError(f"{name} holds numbers outside of {least} to {most}")
    if names.text.dtype != np.uint8 or (names.ends[1:] < names.ends[:-1]).any():
        raise ValueError("its names are in disorder")
