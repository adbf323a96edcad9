"""Which shards DATA means, and the index of their samples: as packed, as kept from an earlier start, or scanned."""

import contextlib
import hashlib
import math
import os
import re
import tempfile
import time
from array import array
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.console.progress import Status
from openmae.data.shards.index import DAMAGE, INDEX, Shard, ShardIndex, listed_shards, parse_index, read_index
from openmae.data.shards.samples import Noticed, TarSamples, labels_of, refuse_several, scan
from openmae.data.shards.source import ShardSource
from openmae.data.sources.labels import NO_LABEL, class_name, number_labels
from openmae.data.sources.listing import RACY_NS, fingerprint
from openmae.data.sources.remote import Refused, Span, fetch_file, fetch_spans, is_remote, list_folder, look_up
from openmae.data.sources.source import Names
from openmae.data.sources.splits import look_alikes, plainly
from openmae.errors import UserError
from openmae.files.cache import Arrays, cache_file, keep, map_arrays, recall, write_arrays
from openmae.files.parsing import read_json
from openmae.machine.memory import ram

CLASSES = "classes.txt"

_RULES = 2  # changes with what is listed, and in which order
_LOCAL_BLOCK = 4096
_REMOTE_BLOCK = 1 << 20
_SCANS_AT_ONCE = 8
_PART = 1 << 24  # bytes of a remote index that are fetched at a time
_MOST = 1_000_000  # shards
_BRACES = re.compile(r"\{([^{}]*)\}")
_NOT_THERE = (FileNotFoundError, PermissionError, Refused)  # S3 answers 403 for what is not there

ShardState = tuple[int, str]  # of a shard: its size in bytes, and its modification time or tag


def expand(pattern: str) -> list[str]:
    """`x-{0000..0012}.tar` and `{a,b}.tar` as shells expand them. Raises UserError for more than _MOST of them."""
    pieces = _BRACES.split(pattern)
    pieces[1::2] = [piece if ".." in piece or "," in piece else f"{{{piece}}}" for piece in pieces[1::2]]
    choices = [[piece] if i % 2 == 0 else _choices(piece) for i, piece in enumerate(pieces)]
    if (count := math.prod(map(len, choices))) > _MOST:
        raise UserError(f"{pattern} is {count:,} shards", f"give at most {_MOST:,}")
    return ["".join(choice) for choice in product(*choices)]


def _choices(braces: str) -> Sequence[str]:
    first, dots, last = braces.partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        width = max(len(first), len(last)) if "0" in (first[:1], last[:1]) else 0
        begin, end = int(first), int(last)
        numbers = range(begin, end + 1) if begin <= end else range(begin, end - 1, -1)
        if len(numbers) > _MOST:
            raise UserError(f"{{{braces}}} are {len(numbers):,} shards", f"give at most {_MOST:,}")
        return [f"{number:0{width}d}" for number in numbers]
    return braces.split(",")


def open_shards(data: str, urls: Sequence[str], image_key: str | None = None) -> ShardSource:
    """The samples of these .tar files, in this order.

    Uses the index beside them where they lie in one folder and it knows them all. image_key: which of a sample's files
    is its image, as `scan` takes it. Raises UserError where a shard is missing, none holds an image, or it is not clear
    which of several is meant.
    """
    folders = {os.path.dirname(url) or "." for url in urls}  # noqa: PTH120 (also of addresses)
    folder = min(folders)
    packed = _packed_index(folder) if len(folders) == 1 else None
    if packed is not None and (chosen := _selected(packed, urls)) is not None:
        return ShardSource(data, chosen)
    states = _remote_states(urls) if is_remote(urls[0]) else _local_states(urls)
    index = _listed(urls, states, _class_names(folder), image_key)
    if not len(index):
        if index.damage:
            raise UserError(f"{data} holds no images: {'; '.join(index.damage)}")
        if image_key is not None and index.notes:
            raise UserError(f"`image_key={image_key}` names no file of {data}: {index.notes[0]}")
        raise UserError(f"{data} holds no images", "give shards that do")
    return ShardSource(data, index)


def packed_shards(folder: str) -> list[str] | None:
    """The shards that the index in a folder names; None where there is no index."""
    if (described := _described(folder)) is None:
        return None
    try:
        return [shard.url for shard in listed_shards(described, f"{folder}/")]
    except DAMAGE as error:
        raise UserError(f"{folder}/{INDEX} is damaged ({error!r})", "pack the shards again") from error


def tar_files(url: str) -> list[str]:
    """The .tar files in a remote folder, none where there is no such folder. Raises UserError where it cannot be
    listed."""
    try:
        return list_folder(url, ".tar")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{url} cannot be listed ({error})", f"give the shards as {url}/{{0000..0099}}.tar") from error


def _described(folder: str) -> dict[str, Any] | None:
    """The index.json of a folder, unless there is none or it is not `openmae pack` who wrote it."""
    try:
        text = fetch_file(f"{folder}/{INDEX}") if is_remote(folder) else (Path(folder) / INDEX).read_bytes()
        described = read_json(text)
    except (ValueError, *_NOT_THERE):
        return None
    except OSError as error:
        raise UserError(f"{folder}/{INDEX} cannot be read ({error})", "try again") from error
    return described if isinstance(described, dict) and "openmae_version" in described else None


def _packed_index(folder: str) -> ShardIndex | None:
    """The index that `openmae pack` wrote, or None."""
    if (described := _described(folder)) is None:
        return None
    if not is_remote(folder):
        return read_index(Path(folder))
    try:
        return parse_index(described, _fetched_arrays(folder, described["index"]), f"{folder}/")
    except (OSError, *DAMAGE) as error:
        raise UserError(
            f"the index of the shards in {folder} cannot be read ({error})", "try again, or pack them again"
        ) from error


def _fetched_arrays(folder: str, described: dict[str, Any]) -> Arrays:
    """The arrays of a remote index, fetched once and then kept."""
    file = cache_file("index", described["sha256"])
    with contextlib.suppress(OSError, ValueError):
        return map_arrays(file)
    url, length = f"{folder}/{described['url']}", int(described["filesize"])
    if length > ram() // 4:
        raise ValueError(f"{url} takes {length:,} bytes, more than a quarter of this machine's memory")
    parts = fetch_spans([Span(url, at, min(_PART, length - at)) for at in range(0, length, _PART)])
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile() as temporary:
        for part in parts:
            if isinstance(part, OSError):
                raise part
            digest.update(part)
            temporary.write(part)
        if digest.hexdigest() != described["sha256"]:
            raise ValueError(f"{url} is not the one that {INDEX} belongs to")
        temporary.flush()
        arrays = map_arrays(Path(temporary.name))
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(file, arrays)
        return arrays


def _selected(index: ShardIndex, urls: Sequence[str]) -> ShardIndex | None:
    """The index of these shards, in this order; None where it does not know all of them."""
    number = {shard.url.rpartition("/")[2]: i for i, shard in enumerate(index.shards)}
    files = [url.rpartition("/")[2] for url in urls]
    if any(file not in number for file in files):
        return None
    if list(number) == files:
        return index
    place = np.full(len(number), -1, np.int32)
    place[[number[file] for file in files]] = np.arange(len(urls))
    places = place[index.shard]
    rows = np.argsort(places, kind="stable")[(places < 0).sum() :]
    names = Names.of(index.names[int(row)] for row in rows)
    columns = {key: getattr(index, key)[rows] for key in ("offset", "size", "label")}
    return ShardIndex(
        tuple(index.shards[number[file]] for file in files),
        names,
        places[rows],
        **columns,
        crc32=None if index.crc32 is None else index.crc32[rows],
        class_names=index.class_names,
        fingerprint=fingerprint(names, columns["size"]),
        label_kind=index.label_kind,
        group=None if index.group is None else index.group[rows],
    )


def _local_states(urls: Sequence[str]) -> list[ShardState]:
    states = []
    for url in urls:
        try:
            status = Path(url).stat()
        except OSError as error:
            raise UserError(f"{url} cannot be read ({error.strerror})", "check that all shards are there") from error
        states.append((status.st_size, str(status.st_mtime_ns)))
    return states


def _remote_states(urls: Sequence[str]) -> list[ShardState]:
    states = []
    for found in look_up(urls):
        if isinstance(found, OSError):
            raise UserError(str(found), "check that all shards are there and that the server answers")
        states.append((found.size, found.tag))
    return states


def _recalled(file: Path, urls: Sequence[str], expected: dict[str, Any]) -> ShardIndex | None:
    """The index that was kept when the shards and the class names were as expected."""
    if (kept := recall(file)) is None:
        return None
    arrays, about = kept
    try:
        if any(about[key] != value for key, value in expected.items()):
            return None
        for shard, url in zip(about["shardlist"], urls, strict=True):
            shard["url"] = url
        return parse_index(about, arrays, "")
    except DAMAGE:
        return None


def _listed(
    urls: Sequence[str], states: Sequence[ShardState], classes: list[str] | None, image_key: str | None
) -> ShardIndex:
    """The index of shards that have none: kept from an earlier start, or read from their headers and kept."""
    known = {"states": [list(state) for state in states], "classes": classes, "image_key": image_key}
    real = [url if is_remote(url) else os.path.realpath(url) for url in urls]
    file = cache_file("shards", "\n".join([str(_RULES), *real]))
    tells = not is_remote(urls[0]) or all(tag for _, tag in states)  # whether other bytes of the same size would show
    if tells and (index := _recalled(file, urls, known)) is not None:
        return index
    started = time.time_ns()
    index = _scanned(urls, [size for size, _ in states], classes, image_key)
    if tells and (is_remote(urls[0]) or max(int(modified) for _, modified in states) < started - RACY_NS):
        columns: dict[str, NDArray[Any]] = {key: getattr(index, key) for key in ("shard", "offset", "size", "label")}
        columns.update(text=index.names.text, ends=index.names.ends)
        if index.group is not None:
            columns["group"] = index.group
        shards = [{"url": s.url, "nsamples": s.samples, "filesize": s.bytes} for s in index.shards]
        about: dict[str, Any] = {"shardlist": shards, "fingerprint": index.fingerprint}
        about |= {key: getattr(index, key) for key in ("class_names", "label_kind", "damage", "notes")}
        keep(file, columns, {**about, **known})
    return index


def _scanned(urls: Sequence[str], sizes: Sequence[int], classes: list[str] | None, image_key: str | None) -> ShardIndex:
    """Goes through the shards' headers."""
    text, labels, texts = bytearray(), list[str](), list[str]()
    ends, offset, size, samples, group = array("q"), array("q"), array("q"), array("q"), array("q")
    damage, noticed = [], Noticed()
    status = Status()
    with ThreadPoolExecutor(_SCANS_AT_ONCE if is_remote(urls[0]) else 1) as pool:
        for url, found in zip(urls, pool.map(partial(_scan_shard, image_key), urls, sizes), strict=True):
            refuse_several(url, found)
            status.say(f"reading the headers of {len(samples):,} of {len(urls):,} shards: {len(ends):,} images")
            for name in found.names:
                text += os.fsencode(name)
                ends.append(len(text))
            offset.extend(found.offsets)
            size.extend(found.sizes)
            labels += found.labels
            texts += found.texts
            group.extend(noticed.count + sample for sample in found.samples)
            noticed.add(found)
            samples.append(len(found.names))
            if found.damage:
                damage.append(f"{url}: {found.damage}")
    status.done()
    names = Names(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64))
    numbers, class_names, label_kind = number_labels(labels_of(labels, texts), classes)
    if numbers is None:
        numbers, class_names = _class_folders(names)
        label_kind = "folders"
    lengths = np.frombuffer(size, np.int64)
    return ShardIndex(
        tuple(Shard(url, n, length) for url, n, length in zip(urls, samples, sizes, strict=True)),
        names,
        np.repeat(np.arange(len(urls), dtype=np.int32), np.frombuffer(samples, np.int64)),
        np.frombuffer(offset, np.int64),
        lengths,
        numbers,
        None,
        class_names,
        fingerprint(names, lengths),
        tuple(damage),
        label_kind,
        np.frombuffer(group, np.int64) if len({*group}) < len(group) else None,
        noticed.said(),
    )


def _scan_shard(image_key: str | None, url: str, length: int) -> TarSamples:
    """Its samples. Raises UserError where it cannot be read."""
    if is_remote(url):
        return _scan_remote(image_key, url, length)
    try:
        with Path(url).open("rb", buffering=0) as file:
            return scan(partial(_pread, file.fileno()), length, _LOCAL_BLOCK, image_key)
    except OSError as error:
        raise UserError(f"{url} cannot be read ({error.strerror})", "check the file") from error


def _pread(descriptor: int, offset: int, count: int) -> bytes:
    return os.pread(descriptor, count, offset)


def _scan_remote(image_key: str | None, url: str, length: int) -> TarSamples:
    def fetch(offset: int, count: int) -> bytes:
        (data,) = fetch_spans([Span(url, offset, min(count, length - offset))])
        if isinstance(data, OSError):
            raise UserError(str(data), "check that the server answers") from data
        return data

    return scan(fetch, length, _REMOTE_BLOCK, image_key)


def _class_names(folder: str) -> list[str] | None:
    """The lines of classes.txt beside the shards, where there is one."""
    try:
        data = fetch_file(f"{folder}/{CLASSES}") if is_remote(folder) else (Path(folder) / CLASSES).read_bytes()
    except _NOT_THERE:
        return None
    except OSError as error:
        raise UserError(f"{folder}/{CLASSES} cannot be read ({error})", "check the file") from error
    return [line.strip() for line in data.decode("utf-8", errors="surrogateescape").split("\n") if line.strip()]


def first_folders(names: Iterable[str]) -> list[str]:
    """Of each path the first folder, "" where there is none."""
    return [name.partition("/")[0] if "/" in name else "" for name in names]


def _class_folders(names: Names) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels by the members' first folder, as in a folder of images, or, where that is a split, by the one inside it;
    where all have one and there are two or more."""
    folders = first_folders(names)
    if plainly(look_alikes({*folders})):
        folders = first_folders(name.partition("/")[2] for name in names)
    folders = [class_name(folder) for folder in folders]
    classes = sorted(set(folders))
    if len(classes) < 2 or "" in classes:
        return np.full(len(names), NO_LABEL, np.int64), ()
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[folder] for folder in folders]), tuple(classes)
