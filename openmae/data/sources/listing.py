"""The list of a folder's images, made once: names and sizes in arrays, kept between starts.

A walk of a million files takes seconds on a local disk and minutes over a network; the kept listing is good as long
as no folder that was walked has changed, which a look at each folder's time tells.
"""

import hashlib
import os
import re
import stat
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from openmae.console.progress import Status
from openmae.data.signatures import ENOUGH, format_of
from openmae.data.sources.selection import Selection, none_taken
from openmae.data.sources.source import Names
from openmae.errors import UserError
from openmae.files.cache import cache_file, keep, recall

EXTENSIONS = frozenset(".jpg .jpeg .jfif .png .webp .bmp .gif .tif .tiff .dcm .dicom .avif .heic .heif .npy".split())
SHARD_ENDINGS = (b".tar", b".parquet")
_ENDINGS = frozenset(ending.encode()[1:] for ending in (*EXTENSIONS, ".tar", ".parquet"))
_TIFF_INSIDE = frozenset(  # photographs as the sensor saw them, and slides: a reader of TIFF shows a thumbnail
    b"nef nrw cr2 cr3 crw arw dng orf rw2 raf pef srw svs ndpi scn mrxs vms bif".split()
)
SLIDES = frozenset(b"svs ndpi".split())
"""Endings of slides that are read where images are cut into windows."""
UNREAD = _TIFF_INSIDE | frozenset(
    b"ppm pgm pbm pnm pam pfm jp2 j2k jpf jpx j2c jxl jxr exr hdr tga pcx ico dds ras sgi nii mha mhd nrrd svg "
    b"eps ps ai psd xcf czi lif nd2".split()
)
"""Endings of images of kinds that are not read."""
_NO_IMAGES = frozenset(
    b"txt json jsonl ndjson xml csv tsv md rst html htm pdf doc docx odt xls xlsx ppt pptx zip gz tgz bz2 xz "
    b"zst 7z rar mp4 m4v mov avi mkv webm mpg mpeg wmv mp3 wav flac ogg m4a mat h5 hdf5 hdf he5 nc zarr npz pkl "
    b"pickle joblib pt pth ckpt safetensors onnx py pyc ipynb js css sh bat c cc cpp h hpp java r m log out err "
    b"yaml yml toml ini cfg lock db sqlite sqlite3 lmdb mdb tfrecord tfrecords rec idx lst feather arrow "
    b"geojson shp shx dbf prj cpg kml gpkg tfw jgw pgw wld ovr exe dll so".split()
)
_NOT_OPENED = _NO_IMAGES | _TIFF_INSIDE
_IS_ENDING = re.compile(rb"[a-z][a-z0-9_+~-]{0,15}")  # names of scanners have numbers with dots between them

_RULES = 5  # changes with what is listed, and in which order
KEPT_FROM = 100_000  # images; fewer are listed anew each time, which also notices files that were written anew
RACY_NS = 2_000_000_000  # a folder that changed this shortly before it was listed may change again at the same time

FolderState = tuple[int, int, int, int]  # of a folder: times of modification and change, device, inode


class Others(NamedTuple):
    """How many files that are not called like images lie in a folder (by the first two of its path). are_images: by
    their first bytes, and so they are among the names; otherwise they are left out. ending: with its dot."""

    folder: str
    ending: str
    are_images: bool
    number: int


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    names: of the images, relative to the folder, sorted by their bytes. sizes (n,): theirs in bytes, -1 where a file
    is not there. fingerprint: of names and sizes. shards: the .tar and
    .parquet files, as the names. folders, states (m, 4): what was walked. began: when, in ns. others: what lies there
    beside what is called like an image.
    """

    names: Names
    sizes: NDArray[np.int64]
    fingerprint: str
    shards: Names
    folders: Names
    states: NDArray[np.int64]
    began: int
    others: tuple["Others", ...] = ()

    def below(self, folder: str) -> "Listing":
        """Of a folder in it, as it is reached from here."""
        prefix = os.fsencode(f"{folder}/")
        start, stop = between(self.names, prefix)
        names, sizes = _without(self.names[start:stop], prefix), self.sizes[start:stop]
        shards = _without([name for name in self.shards if os.fsencode(name).startswith(prefix)], prefix)
        inside = [i for i, name in enumerate(self.folders) if os.fsencode(name).startswith(prefix)]
        folders = _without([self.folders[i] for i in inside], prefix)
        others = (one for one in self.others if f"{one.folder}/".startswith(f"{folder}/"))
        deeper = tuple(one._replace(folder=one.folder[len(folder) + 1 :]) for one in others)
        digest = fingerprint(names, sizes)
        return Listing(names, sizes, digest, shards, folders, self.states[inside], self.began, deeper)


def between(names: Names, prefix: bytes) -> tuple[int, int]:
    """Where sorted names with a prefix, which ends in a slash, begin and end."""
    start = bisect_left(names, prefix, key=os.fsencode)
    return start, bisect_left(names, prefix[:-1] + b"0", start, key=os.fsencode)


def _without(names: Sequence[str], prefix: bytes) -> Names:
    return Names.of(os.fsencode(name)[len(prefix) :] for name in names)


def list_images(root: Path, known: Mapping[str, Listing] | None = None, *, slides: bool = False) -> Listing:
    """The images below root: as kept from an earlier time where they are many and no folder has changed since.

    known: listings of folders in root, by their names, which were made just now. slides: whether these are images.
    Raises UserError where a folder cannot be read.
    """
    real = os.path.realpath(root)
    file = cache_file("folder", f"{_RULES}{' slides' * slides} {real}")
    if (kept := _recall(file, real)) is not None:
        return kept
    walk = _Walk(root, known or {}, SLIDES if slides else frozenset())
    walk.run()
    listing = walk.listing()
    names, folders, shards = listing.names, listing.folders, listing.shards
    if len(names) >= KEPT_FROM and listing.states[:, 0].max() < listing.began - RACY_NS:
        arrays: dict[str, NDArray[Any]] = {"text": names.text, "ends": names.ends, "states": listing.states}
        arrays.update(sizes=listing.sizes)
        arrays.update(folders=folders.text, folder_ends=folders.ends, shards=shards.text, shard_ends=shards.ends)
        keep(
            file,
            arrays,
            {"root": os.fsencode(real).hex(), "fingerprint": listing.fingerprint, "others": listing.others},
        )
    return listing


def matching(listing: Listing, selection: Selection) -> Listing:
    """What of it is asked for. Raises UserError where there are images and none of them is."""
    if (patterns := selection.patterns) is None or not len(listing.names) + len(listing.shards):
        return listing
    taken = patterns.taken(listing.names, selection.prefix)
    kept = patterns.taken(listing.shards, selection.prefix)
    if taken.all() and kept.all():
        return listing
    if not taken.any() and not kept.any():
        first = (*listing.names[:1], *listing.shards[:1])[0]
        raise none_taken(len(listing.names) or len(listing.shards), f"{selection.prefix}{first}")
    names = Names.of(name for name, is_taken in zip(listing.names, taken, strict=True) if is_taken)
    shards = Names.of(name for name, is_kept in zip(listing.shards, kept, strict=True) if is_kept)
    sizes = listing.sizes[taken]
    return replace(listing, names=names, sizes=sizes, fingerprint=fingerprint(names, sizes), shards=shards)


def fingerprint(names: Names, sizes: NDArray[np.int64]) -> str:
    """The same for the same names and sizes in bytes in the same order, wherever the images lie."""
    digest = hashlib.sha256()
    start = 0
    for first in range(0, len(names), 10_000):
        ends = names.ends[first : first + 10_000].tolist()
        text = names.text[start : ends[-1]].tobytes()
        lines = []
        place = 0
        for end, size in zip(ends, sizes[first : first + 10_000].tolist(), strict=True):
            lines.append(b"%b\0%d\n" % (text[place : end - start], size))
            place = end - start
        digest.update(b"".join(lines))
        start = ends[-1]
    return digest.hexdigest()


def _recall(file: Path, real: str) -> Listing | None:
    """The kept listing, unless a folder that was walked has changed."""
    if (kept := recall(file)) is None:
        return None
    arrays, about = kept
    try:
        if about["root"] != os.fsencode(real).hex():
            return None
        began = time.time_ns()
        folders, states = Names(arrays["folders"], arrays["folder_ends"]), arrays["states"]
        for i, state in enumerate(states.tolist()):
            if list(_state(os.path.join(real, folders[i]))) != state:  # noqa: PTH118 (there may be a million)
                return None
        shards = Names(arrays["shards"], arrays["shard_ends"])
        names = Names(arrays["text"], arrays["ends"])
        others = tuple(Others(*one) for one in about["others"])
        return Listing(names, arrays["sizes"], about["fingerprint"], shards, folders, states, began, others)
    except (OSError, KeyError, IndexError, TypeError):
        return None


def _state(folder: str | bytes) -> FolderState:
    """What changes when a file is added to the folder or removed, or when a link leads to another folder."""
    status = os.stat(folder)  # noqa: PTH116
    # The first of the times is put back by what copies folders, the second by nothing.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino


class _Walk:
    """Goes through a tree in the order of the sorted relative paths, holding the names of one folder at a time.

    known: listings of folders in it, by their names. also: endings of what is listed beside images.
    """

    def __init__(self, root: Path, known: Mapping[str, Listing], also: frozenset[bytes]) -> None:
        self.root, self.also = root, also
        self.known = {os.fsencode(name) + b"/": listing for name, listing in known.items()}
        self.began = time.time_ns()
        self.text = bytearray()
        self.ends, self.sizes = array("q"), array("q")
        self.shards: list[bytes] = []
        self.folders: list[bytes] = []
        self.states: list[FolderState] = []
        self.others: Counter[tuple[str, str, bool]] = Counter()  # by the first two of Others' fields
        self.status = Status()

    def run(self) -> None:
        """Fills text, ends and sizes (the images), shards, and folders and states (what was walked)."""
        for path, name in self._below(os.path.join(os.fsencode(self.root), b""), b"", frozenset()):  # noqa: PTH118
            if name[-8:].lower().endswith(SHARD_ENDINGS):
                self.shards.append(name)
            else:
                self._add(path, name)
        self.status.done()

    def listing(self) -> Listing:
        """What was found."""
        names = Names(np.frombuffer(self.text, np.uint8), np.frombuffer(self.ends, np.int64))
        sizes, states = np.frombuffer(self.sizes, np.int64), np.array(self.states, np.int64).reshape(-1, 4)
        shards, folders = Names.of(self.shards), Names.of(self.folders)
        others = tuple(Others(*what, count) for what, count in sorted(self.others.items()))
        return Listing(names, sizes, fingerprint(names, sizes), shards, folders, states, self.began, others)

    def _below(self, place: bytes, prefix: bytes, above: frozenset[tuple[int, int]]) -> Iterator[tuple[bytes, bytes]]:
        """Path and name of every image and shard below a folder.

        place and prefix: the folder's path, from anywhere and from the root, with a slash at the end; above: the
        folders that lead to it, by device and inode, into which a link may lead back.
        """
        try:
            state = _state(place)  # before it is read, so that a later change is noticed
            if state[2:] in above:
                return
            names = sorted(self._worth_a_look(place, prefix))
        except OSError as error:
            folder = os.fsdecode(place.rstrip(b"/") or b"/")
            raise UserError(f"{folder} cannot be read ({error.strerror})", "check its permissions") from error
        self.states.append(state)
        self.folders.append(prefix)
        for name in names:
            if not name.endswith(b"/"):
                yield place + name, prefix + name
            elif prefix or not self._take_over(name, state):
                yield from self._below(place + name, prefix + name, above | {state[2:]})

    def _take_over(self, folder: bytes, root: FolderState) -> bool:
        """Adds what is known to lie in a folder of the root's; False where that is not known, or may not be the same
        from here: alone, the folder may have a link that leads back to the root."""
        listing = self.known.get(folder)
        if listing is None or list(root[2:]) in listing.states[:, 2:].tolist():
            return False
        text, start = listing.names.text.tobytes(), 0
        for end in listing.names.ends.tolist():
            self.text += folder + text[start:end]
            self.ends.append(len(self.text))
            start = end
        self.sizes.extend(listing.sizes.tolist())
        self.shards += [folder + os.fsencode(name) for name in listing.shards]
        self.folders += [folder + os.fsencode(name) for name in listing.folders]
        self.states += [(state[0], state[1], state[2], state[3]) for state in listing.states.tolist()]
        for one in listing.others:
            inside = "/".join([os.fsdecode(folder[:-1]), *filter(None, [one.folder.partition("/")[0]])])
            self.others[inside, one.ending, one.are_images] += one.number
        self.began = min(self.began, listing.began)
        return True

    def _worth_a_look(self, folder: bytes, prefix: bytes) -> list[bytes]:
        """Names of the images and, with a slash at the end, of the folders in it: so a folder sorts where its contents
        do. Hidden files are left out, and so is what lies in run folders, whose pictures are no data. Files that are
        not called like images are counted, and are images where their first bytes say so."""
        names = []
        others: Counter[tuple[str, bool]] = Counter()
        marks = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == ord("."):  # hidden
                    continue
                head, dot, ending = name.rpartition(b".")
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself
                    is_folder = False
                if is_folder:
                    names.append(name + b"/")
                    continue
                ending = ending.lower() if dot and head and _IS_ENDING.fullmatch(ending.lower()) else b""
                if ending in _ENDINGS or ending in self.also:
                    names.append(name)
                    continue
                marks += name in (b"lock", b"config.toml")
                is_image = ending not in _NOT_OPENED and _begins_as_an_image(folder + name)
                others[os.fsdecode(b"." + ending if ending else b""), is_image] += 1
                if is_image:
                    names.append(name)
        if marks == 2:
            return []
        above = "/".join(os.fsdecode(prefix).split("/")[:2]).rstrip("/")
        for (ending_said, is_image), count in others.items():
            self.others[above, ending_said, is_image] += count
        return names

    def _add(self, path: bytes, name: bytes) -> None:
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            size = -1  # it has vanished, or is a link that leads nowhere: reading it says so
        else:
            if not stat.S_ISREG(status.st_mode):
                return  # reading a pipe or a device would wait for ever
            size = status.st_size
        self.text += name
        self.ends.append(len(self.text))
        self.sizes.append(size)
        if len(self.ends) % 10_000 == 0:
            self.status.say(f"listing {self.root}: {len(self.ends):,} images")


def _begins_as_an_image(path: bytes) -> bool:
    """Whether its first bytes are those of an image; not where it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return is_file and format_of(os.pread(descriptor, ENOUGH, 0)) is not None
    except OSError:
        return False
    finally:
        os.close(descriptor)
