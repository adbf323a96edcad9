"""Images -> tar shards that load several times faster: short side bounded, random access, checksums.

    openmae pack DATA SHARDS
    openmae pretrain SHARDS --out RUN

A photograph of 500 x 375 has twice the pixels that a short side of 256 leaves, one of 12 megapixels 137 times as many,
and all of them are decoded at every visit. What the bound costs in sharpness is in docs/pack.md.
"""

import errno
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from tyro.conf import Positional, arg

from openmae.data.labels import NO_LABEL
from openmae.data.opening import Split, has_splits, open_source
from openmae.data.order import epoch_order
from openmae.data.packing import RULES, Packed, Packing, pack_image
from openmae.data.pool import Hand, ordered
from openmae.data.shard_listing import CLASSES
from openmae.data.shard_writer import PARTS, LeftOut, Part, ShardWriter, concatenated, read_part
from openmae.data.shards import SETTINGS, Shard, write_index
from openmae.data.source import Names, Source
from openmae.errors import BrokenImage, UserError
from openmae.recipes.broken import on_one_line
from openmae.recipes.machine import make_console, reading_workers, room_on_disk
from openmae.recipes.pack_progress import PackProgress
from openmae.train.checkpoint import write_file

BROKEN = "broken.txt"
LOCK = ".lock"
_CHUNK = 8  # images a task: enough that handing it over costs little, few enough for images of many bands
_AHEAD = 2
_FEWEST, _MOST, _SHARDS = 100, 5000, 8  # images a shard, and how many shards a small data set should have
_ENOUGH_TO_TELL = 64  # images after which it can be said how much room all of them need


@dataclass(frozen=True)
class Pack:
    """Pack images into tar shards that load fast. Killed or stopped, the same command goes on where it was."""

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """Images: whatever pretrain takes. Of train and val splits, both are packed."""
    shards: Positional[Annotated[Path, arg(metavar="SHARDS")]]
    """Folder to write."""
    short_side: int = 256
    """Pixels that the shorter side of an image may have; larger images are made smaller. 256 is for training at 224."""
    quality: int = 95
    """Of the JPEGs, 1 to 100."""
    shard_size: int | None = None
    """Images a shard. Default: an eighth of all, but 100 to 5000 (200 MB of photographs)."""
    seed: int = 0
    """Decides the order of the images, which is shuffled for whoever reads shards from front to back."""
    max_broken: float = 0.01
    """Stop when more than this share of the images cannot be read; up to it they are left out and listed."""
    workers: int | None = None
    """Processes that decode and encode; 0 does it in this one. Default: one a core. Does not change the result."""


def run(settings: Pack) -> None:
    """Packs, and says what came of it and how to train on it. Raises UserError."""
    console = make_console()
    _check_ranges(settings)
    titles: tuple[Split | None, ...] = ("train", "val") if has_splits(settings.data) else (None,)
    _check_place(settings, titles)
    splits = _open_splits(settings, titles, console)
    total = sum(len(split) for split in splits)
    with room_on_disk(settings.shards), _only_one(settings.shards):
        for split in splits:
            split.settle()
        left_out: list[str] = []
        parts: list[Part] = []
        try:
            with PackProgress(total, console) as progress:
                for split in splits:
                    parts += _pack(split, settings, progress, left_out)
        except KeyboardInterrupt:
            console.print("The same command goes on where this one stopped.")
            raise
        finally:
            _write_list(settings.shards / BROKEN, left_out)
    _summarise(settings, parts, len(left_out), console)


@dataclass(frozen=True)
class _Split:
    """Images that get shards of their own in `folder`. title: "train", "val" or ""; labels (n,), NO_LABEL for none."""

    title: str
    source: Source
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    folder: Path
    settings: Pack

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def shard_size(self) -> int:
        """Images a shard, broken ones included."""
        return self.settings.shard_size or min(_MOST, max(_FEWEST, -(-len(self) // _SHARDS)))

    @cached_property
    def shards(self) -> list[Path]:
        """0000.tar, 0001.tar, ..."""
        count = -(-len(self) // self.shard_size)
        width = max(4, len(str(count - 1)))
        return [self.folder / f"{number:0{width}d}.tar" for number in range(count)]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """(n,) the source's indices as they are packed."""
        return epoch_order(self.settings.seed, 0, len(self))

    def chunks(self, shard: int) -> Iterator[range]:
        """The places in `order` of the images of a shard, a task at a time."""
        stop = min(len(self), (shard + 1) * self.shard_size)
        return (range(at, min(at + _CHUNK, stop)) for at in range(shard * self.shard_size, stop, _CHUNK))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides what the shards hold."""
        labels = hashlib.sha256(json.dumps(self.class_names).encode() + self.labels.tobytes()).hexdigest()
        return {
            "rules": RULES,
            "short_side": self.settings.short_side,
            "quality": self.settings.quality,
            "shard_size": self.shard_size,
            "seed": self.settings.seed,
            "images": len(self),
            "source": self.source.fingerprint,
            "labels": labels,
        }

    def settle(self) -> None:
        """Notes in the folder what is packed there, and removes what a killed process left half-written.

        Raises UserError where something else is there already.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / SETTINGS
        if file.exists():
            try:
                before = json.loads(file.read_bytes())
                differing = [key for key in self.identity if before[key] != self.identity[key]]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} is damaged ({error!r}): choose another SHARDS") from error
            if differing:
                said = ", ".join(
                    f"{key} {before[key]}, not {self.identity[key]}"
                    if key not in ("source", "labels")
                    else f"other {key}"
                    for key in differing
                )
                raise UserError(
                    f"{self.folder} holds shards of other images or settings ({said}): choose another SHARDS"
                )
        elif any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            raise UserError(f"{self.folder} is not empty and holds no shards of openmae: choose another SHARDS")
        else:
            write_file(file, json.dumps(self.identity, indent=1).encode())
        for names in (".*.part", ".index.*", f"{PARTS}/.*"):
            for leftover in self.folder.glob(names):
                leftover.unlink()


def _pack(split: _Split, settings: Pack, progress: PackProgress, left_out: list[str]) -> list[Part]:
    """Writes the shards that are not there yet, and the index. Adds to left_out `path<TAB>reason` of each image that
    is not in them. Raises UserError where these are too many."""
    found = [read_part(shard) for shard in split.shards]
    missing = [number for number, part in enumerate(found) if part is None]
    finished = {number: part for number, part in enumerate(found) if part is not None}
    before = len(left_out)
    for part in finished.values():
        left_out += [_line(split, image) for image in part.left_out]
        progress.skip(len(part) + len(part.left_out))
    tasks = (split.order[chunk.start : chunk.stop] for number in missing for chunk in split.chunks(number))
    packing = Packing(settings.short_side, settings.quality)
    results = ordered(partial(_pack_chunk, split.source, packing), tasks, reading_workers(settings.workers), _AHEAD)
    with closing(results):  # its processes end when it does
        for number in missing:
            with ShardWriter(split.shards[number]) as writer:
                for places, outcomes in zip(split.chunks(number), results, strict=False):
                    _add(writer, split, places, outcomes, left_out)
                    _check_share(split, settings, left_out, before)
                    written = sum(len(outcome.data) for outcome in outcomes if isinstance(outcome, Packed))
                    _check_room(split.folder, progress, len(outcomes), written)
                finished[number] = writer.finish()
    parts = [finished[number] for number in range(len(split.shards))]
    _write_index(split, parts)
    return parts


def _add(
    writer: ShardWriter, split: _Split, places: range, outcomes: list[Packed | LeftOut], left_out: list[str]
) -> None:
    """Adds what became of the images at these places of the order."""
    for place, outcome in zip(places, outcomes, strict=True):
        if isinstance(outcome, LeftOut):
            writer.leave_out(outcome)
            left_out.append(_line(split, outcome))
        else:
            image = int(split.order[place])
            writer.add(image, f"{place:09d}", outcome, int(split.labels[image]))


def _pack_chunk(source: Source, packing: Packing, images: NDArray[np.int64], hand: Hand) -> list[Packed | LeftOut]:
    found: list[Packed | LeftOut] = []
    for image, data in zip(images.tolist(), source.read_each(images.tolist()), strict=True):
        try:
            hand.take(image)
            if not isinstance(data, bytes):
                raise data
            found.append(pack_image(data, packing))
        except (OSError, BrokenImage) as error:
            found.append(LeftOut(image, str(error), may_return=isinstance(error, OSError)))
    return found


def _write_index(split: _Split, parts: list[Part]) -> None:
    """Says where everything is, and thereby that everything is there. Raises OSError."""
    images, columns = concatenated(parts)
    if not len(images):
        raise UserError(f"none of the images of {split.source.location} can be read: look at the list in {BROKEN}")
    shards = zip(split.shards, parts, strict=True)
    if split.class_names:
        write_file(split.folder / CLASSES, "".join(f"{name}\n" for name in split.class_names).encode())
    write_index(
        split.folder,
        tuple(Shard(shard.name, len(part), part.bytes, part.sha256) for shard, part in shards),
        Names.of(split.source.name(image) for image in images.tolist()),
        label=split.labels[images],
        class_names=split.class_names,
        about={"packed": split.identity},
        **columns,
    )


def _open_splits(settings: Pack, titles: tuple[Split | None, ...], console: Console) -> list[_Split]:
    """All that is to be packed. Labels of val are numbered as those of train."""
    splits: list[_Split] = []
    names: tuple[str, ...] = ()
    for title in titles:
        source = open_source(settings.data, title)
        said = f"{len(source):,} images in {source.location}"
        try:
            own, labels = source.class_names, source.labels
            names += tuple(name for name in own if name not in names)
            labels = np.array([names.index(name) for name in own])[labels]
            said += f", {len(own):,} classes"
        except UserError as error:
            own, labels = (), np.full(len(source), NO_LABEL)
            said += f", packed without labels ({error})"
        console.print(said)
        folder = settings.shards / (title or "")
        splits.append(_Split(title or "", source, labels, names if own else (), folder, settings))
    return splits


def _check_ranges(settings: Pack) -> None:
    if not 16 <= settings.short_side <= 8192:
        raise UserError(f"--short-side is {settings.short_side}: give 16 to 8192 pixels")
    if not 1 <= settings.quality <= 100:
        raise UserError(f"--quality is {settings.quality}: give 1 to 100")
    if settings.shard_size is not None and settings.shard_size < 1:
        raise UserError(f"--shard-size is {settings.shard_size}: give 1 image or more")
    if not 0 <= settings.seed < 2**63:
        raise UserError(f"--seed is {settings.seed}: give a number from 0 and below 2**63")
    if not 0 <= settings.max_broken <= 1:
        raise UserError(f"--max-broken is {settings.max_broken:g}: give a share from 0 to 1")
    reading_workers(settings.workers)  # raises


def _check_place(settings: Pack, titles: tuple[Split | None, ...]) -> None:
    """Raises UserError where the shards would lie among the images, or among something else."""
    shards, data = settings.shards, Path(settings.data)
    if shards.exists() and not shards.is_dir():
        raise UserError(f"{shards} is a file: give a folder for the shards")
    if data.is_dir() and shards.resolve().is_relative_to(data.resolve()):
        raise UserError(f"{shards} lies in {data}, whose images it would mix with: give a folder elsewhere")
    ours = {*titles, BROKEN}
    if (
        None not in titles
        and shards.is_dir()
        and any(e.name not in ours and e.name[0] != "." for e in shards.iterdir())
    ):
        raise UserError(f"{shards} holds something else than packed splits: choose another SHARDS")


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keeps a second process from packing into the same folder. Raises UserError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise UserError(f"another process packs into {folder}: wait for it, or choose another SHARDS") from error
        yield


def _check_share(split: _Split, settings: Pack, left_out: list[str], before: int) -> None:
    """before: how many of left_out belong to an earlier split."""
    if len(left_out) - before > settings.max_broken * len(split):
        first = "; ".join(line.replace("\t", ": ") for line in left_out[before : before + 3])
        raise UserError(
            f"{len(left_out) - before} of {len(split)} images cannot be read, more than --max-broken "
            f"{settings.max_broken:g} allows ({first}); all found so far are listed in {settings.shards / BROKEN}: "
            "mend or remove them, or raise --max-broken"
        )


def _check_room(folder: Path, progress: PackProgress, images: int, written: int) -> None:
    """Raises UserError as soon as it can be told that the disk is too small, rather than when it is full."""
    knew = progress.done >= _ENOUGH_TO_TELL
    progress.note(images, written)
    if knew or progress.done < _ENOUGH_TO_TELL:
        return
    needed = progress.written / progress.done * (progress.images - progress.skipped - progress.done)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the shards need {needed / 1e6:,.0f} MB more and the disk that holds {folder} has {free / 1e6:,.0f} MB "
            "free: free some, choose another SHARDS, or a smaller --short-side"
        )


def _line(split: _Split, image: LeftOut) -> str:
    """`path<TAB>reason`, printable."""
    path = f"{split.title}/{split.source.name(image.image)}".removeprefix("/")
    return f"{on_one_line(path)}\t{on_one_line(image.reason)}"


def _write_list(file: Path, lines: list[str]) -> None:
    if lines:
        file.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


def _summarise(settings: Pack, parts: list[Part], left_out: int, console: Console) -> None:
    after, before = sum(part.bytes for part in parts), sum(part.bytes_before for part in parts)
    console.print(
        f"{sum(map(len, parts)):,} images in {len(parts):,} shards, {after / 1e6:,.1f} MB: {after / before:.0%} of the "
        f"{before / 1e6:,.1f} MB that they had"
    )
    if left_out:
        console.print(f"{left_out:,} could not be read and are left out: {settings.shards / BROKEN}", style="yellow")
    console.print(f"Train on them with:   openmae pretrain {settings.shards} --out RUN")
