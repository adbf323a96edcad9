"""Images -> tar shards that load several times faster: short side bounded, random access, checksums.

    openmae pack DATA SHARDS
    openmae pretrain SHARDS --out RUN

A photograph of 500 x 375 has twice the pixels that a short side of 256 leaves, one of 12 megapixels 137 times as many,
and all of them are decoded at every visit. What the bound costs in sharpness is in docs/pack.md.
"""

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.progress import Say, counting
from openmae.console.terminal import make_console
from openmae.console.words import on_one_line, several
from openmae.data.dividing import check_apart
from openmae.data.loading.pool import Hand, ordered
from openmae.data.opening import SPLITS, Data, Split, open_data
from openmae.data.shards.index import INDEX, Shard, write_index
from openmae.data.shards.listing import CLASSES
from openmae.data.shards.packing import Packed, Packing, pack_image
from openmae.data.shards.writer import FinishedShard, LeftOut, ShardWriter, concatenated
from openmae.data.sources.groups import groups_of
from openmae.data.sources.known_labels import known_labels
from openmae.data.sources.labels import NO_LABEL
from openmae.data.sources.source import Names, Source
from openmae.data.survey.findings import most_broken
from openmae.data.tasks import Task, taken_for_names
from openmae.distributed.share import WHOLE, Share, share_here
from openmae.errors import BrokenImage, Interrupted, UserError
from openmae.files.disk import room_on_disk
from openmae.files.whole import write_file
from openmae.machine.workers import reading_workers
from openmae.recipes.in_parts.said import say_done, still_missing
from openmae.recipes.opened import tell
from openmae.recipes.pack.reading import packing_for
from openmae.recipes.pack.settings import Pack
from openmae.recipes.pack.sharing import packing, put_together
from openmae.recipes.pack.split import PackedSplit

BROKEN = "broken.txt"
_AHEAD = 2
_ENOUGH_TO_TELL = 64  # images after which it can be said how much room all of them need


def run(settings: Pack) -> None:
    """Packs, and says what came of it and how to train on it. Raises UserError."""
    _check_ranges(settings)
    share = share_here(settings.part)
    console = make_console()
    console.quiet = not share.speaks
    data = open_data(settings.data, settings.selection, settings.reading)
    titles: tuple[Split | None, ...] = SPLITS if data.has_splits else (None,)
    _check_place(settings, titles)
    splits = _open_splits(data, settings, titles, console)
    apart = [data.train, data.val] if data.has_splits else []
    if apart and groups_of(data.train, settings.selection) is not None:
        check_apart(data, *apart)
    tell(data, console, *apart)
    with room_on_disk(settings.shards), packing(settings.shards, share, partial(_settle, splits, share)) as of:
        if of == share.of:  # else others pack, and this one only writes what tells of all
            _say_what_is_there(splits, share, console)
            _pack_all(splits, settings, share, console)
        with put_together(settings.shards, share, of, lambda: not _missing(splits, of)) as is_ours:
            if not share.is_whole:
                say_done(share, is_ours, console)
            if is_ours:
                left_out: list[str] = []
                try:
                    parts = [part for split in splits for part in _indexed(split, settings, left_out)]
                finally:
                    _write_list(_list_of(settings, WHOLE), left_out)
                for other in Share(1, of).all() if of > 1 else ():
                    _list_of(settings, other).unlink(missing_ok=True)
                _summarise(settings, parts, len(left_out), console)
            elif share.is_whole:
                missing = _missing(splits, of)
                shards = sum(len(one.span(len(split.shards))) for split in splits for one in missing)
                raise still_missing(missing, several(shards, "shard"))


def _settle(splits: list[PackedSplit], share: Share) -> None:
    for split in splits:
        split.settle(share)


def _missing(splits: list[PackedSplit], of: int) -> list[Share]:
    """The shares of the work that are not there yet."""
    found = [(split, split.found()) for split in splits]

    def is_there(share: Share) -> bool:
        return all(number in there for split, there in found for number in split.of(share))

    return [share for share in Share(1, of).all() if not is_there(share)]


def _pack_all(splits: list[PackedSplit], settings: Pack, share: Share, console: Console) -> None:
    """Writes the shards of this process's share that are not there yet. Raises UserError, Interrupted."""
    total, before = (sum(split.images(share, only) for split in splits) for only in (False, True))
    left_out: list[str] = []
    try:
        with counting("packing", total, console, before) as say:
            progress = _Progress(total - before, say)
            for split in splits:
                _pack(split, settings, share, progress, left_out)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on with the first shard that is not finished") from None
    finally:
        _write_list(_list_of(settings, share), left_out)


def _list_of(settings: Pack, share: Share) -> Path:
    """Where what is left out of a share stands, until all of it stands in one."""
    return settings.shards / (BROKEN if share.is_whole else f"broken-{share.number}.txt")


@dataclass
class _Progress:
    """Images and bytes of this session, of `left` images that it had to do; told to `say`."""

    left: int
    say: Say
    done: int = 0
    written: int = 0

    def note(self, images: int, written: int) -> None:
        """So many more images, so many more bytes."""
        self.done += images
        self.written += written
        self.say(self.done, f"{self.written / 1e6:,.0f} MB")


def _say_what_is_there(splits: list[PackedSplit], share: Share, console: Console) -> None:
    there = sum(number in split.finished for split in splits for number in split.of(share))
    shards = sum(len(split.of(share)) for split in splits)
    if there == shards and all((split.folder / INDEX).exists() for split in splits):
        console.print("Already packed: nothing to do")
    elif there:
        console.print(f"Resuming: {there:,} of {several(shards, 'shard')} are there")


def _pack(split: PackedSplit, settings: Pack, share: Share, progress: _Progress, left_out: list[str]) -> None:
    """Writes the shards of this share that are not there yet. Adds to left_out `path<TAB>reason` of each image that is
    not in them. Raises UserError where these are too many."""
    missing = [number for number in split.of(share) if number not in split.finished]
    before = len(left_out)
    for number in split.of(share):
        if number in split.finished:
            left_out += [_line(split, image) for image in split.finished[number].left_out]
    tasks = (split.order[chunk.start : chunk.stop] for number in missing for chunk in split.chunks(number))
    results = ordered(
        partial(_pack_chunk, split.source, split.packing), tasks, reading_workers(settings.workers), _AHEAD
    )
    with closing(results):  # its processes end when it does
        for number in missing:
            with ShardWriter(split.shards[number]) as writer:
                for places, outcomes in zip(split.chunks(number), results, strict=False):
                    _add(writer, split, places, outcomes, left_out)
                    _check_share(split, settings, share, left_out, before)
                    written = sum(len(outcome.data) for outcome in outcomes if isinstance(outcome, Packed))
                    _check_room(split.folder, progress, len(outcomes), written)
                writer.finish()


def _indexed(split: PackedSplit, settings: Pack, left_out: list[str]) -> list[FinishedShard]:
    """Writes the index of a split whose shards are all there; gives what is in them. Adds to left_out, and raises, as
    `_pack` does."""
    found, before = split.found(), len(left_out)
    parts = [found[number] for number in range(len(split.shards))]
    left_out += [_line(split, image) for part in parts for image in part.left_out]
    _check_share(split, settings, WHOLE, left_out, before)
    _write_index(split, parts)
    return parts


def _add(
    writer: ShardWriter, split: PackedSplit, places: range, outcomes: list[Packed | LeftOut], left_out: list[str]
) -> None:
    """Adds what became of the images at these places of the order."""
    for place, outcome in zip(places, outcomes, strict=True):
        if isinstance(outcome, LeftOut):
            writer.leave_out(outcome)
            left_out.append(_line(split, outcome))
        else:
            image = int(split.order[place])
            writer.add(image, f"{place:09d}", outcome, split.label(image))


def _pack_chunk(source: Source, packing: Packing, images: NDArray[np.int64], hand: Hand) -> list[Packed | LeftOut]:
    found: list[Packed | LeftOut] = []
    for image, data in zip(images.tolist(), hand.read_each(source, images.tolist()), strict=True):
        try:
            hand.take(image)
            if not isinstance(data, bytes):
                raise data
            found.append(pack_image(data, packing))
        except (OSError, BrokenImage) as error:
            found.append(LeftOut(image, str(error), may_return=isinstance(data, OSError)))
    return found


def _write_index(split: PackedSplit, parts: list[FinishedShard]) -> None:
    """Says where everything is, and thereby that everything is there. Raises OSError."""
    images, columns = concatenated(parts)
    if not len(images):
        raise UserError(f"none of the images of {split.source.location} can be read", f"look at the list in {BROKEN}")
    shards = zip(split.shards, parts, strict=True)
    if split.class_names and split.task == "classification":
        write_file(split.folder / CLASSES, "".join(f"{name}\n" for name in split.class_names).encode())
    write_index(
        split.folder,
        tuple(Shard(shard.name, len(part), part.bytes, part.sha256) for shard, part in shards),
        Names.of(split.source.name(image) for image in images.tolist()),
        label=split.labels[images],
        class_names=split.class_names,
        label_kind=split.source.label_kind,
        group=None if (groups := split.groups) is None else groups[images],
        about={"packed": split.identity, "packed_as": split.packing.read_as},
        **columns,
    )


def _open_splits(data: Data, settings: Pack, titles: tuple[Split | None, ...], console: Console) -> list[PackedSplit]:
    """All that is to be packed. Labels of val are numbered as those of train."""
    sources = {title: data.all if title is None else data.split(title) for title in titles}
    labels = {title: known_labels(source) for title, source in sources.items()}
    names = tuple(dict.fromkeys(name for _, own in labels.values() for name in own))
    task = _task(names, next(iter(sources.values())))
    number = {name: i for i, name in enumerate(names)}
    splits: list[PackedSplit] = []
    packing = packing_for(data, settings, console)
    for title, source in sources.items():
        numbers, own = labels[title]
        numbers = np.array([*(number[name] for name in own), NO_LABEL])[numbers]
        console.print(f"{len(source):,} images in {source.location}, {_said_of_labels(source, own, numbers, task)}")
        folder = settings.shards / (title or "")
        upto = names[: len(own)] if not splits else names  # train's alone, which come first
        splits.append(PackedSplit(title or "", source, numbers, upto if own else (), task, folder, settings, packing))
    if data.has_unused_test:
        console.print("The third split, test, is left out: only train and val are packed")
    return splits


def _task(names: Sequence[str], source: Source) -> Task:
    """What the labels are taken for; classes where they would be asked about."""
    try:
        return taken_for_names(names, source.label_kind, source.location).task
    except UserError:
        return "classification"


def _said_of_labels(source: Source, names: Sequence[str], labels: NDArray[np.int64], task: Task) -> str:
    if names:
        missing = int((labels == NO_LABEL).sum())
        said = f"{len(names):,} classes" if task == "classification" else f"labels for {task}"
        return f"{said} ({missing:,} without a label)" if missing else said
    try:
        _ = source.class_names
    except UserError as error:
        return f"without labels, which only knn and probe need ({with_flags(str(error))})"
    return "without labels"


def _check_ranges(settings: Pack) -> None:
    if not 16 <= settings.most_pixels <= 8192:
        raise UserError(f"--short-side is {settings.short_side}", "give 16 to 8192 pixels")
    if not 1 <= settings.quality <= 100:
        raise UserError(f"--quality is {settings.quality}", "give 1 to 100")
    if settings.shard_size is not None and settings.shard_size < 1:
        raise UserError(f"--shard-size is {settings.shard_size}", "give 1 image or more")
    if not 0 <= settings.seed < 2**63:
        raise UserError(f"--seed is {settings.seed}", "give a number from 0 and below 2**63")
    if not 0 <= settings.max_broken <= 1:
        raise UserError(f"--max-broken is {settings.max_broken:g}", "give a share from 0 to 1")
    reading_workers(settings.workers)  # raises


def _check_place(settings: Pack, titles: tuple[Split | None, ...]) -> None:
    """Raises UserError where the shards would lie among the images, or among something else."""
    shards, data = settings.shards, Path(settings.data)
    if shards.exists() and not shards.is_dir():
        raise UserError(f"{shards} is a file", "give a folder for the shards")
    if data.is_dir() and shards.resolve().is_relative_to(data.resolve()):
        raise UserError(f"{shards} lies in {data}, whose images it would mix with", "give a folder elsewhere")
    there = [entry.name for entry in shards.iterdir()] if shards.is_dir() and None not in titles else []
    if any(name not in {*titles, BROKEN} and not name.startswith((".", "broken-")) for name in there):
        raise UserError(f"{shards} holds something else than packed splits", "choose another SHARDS")


def _check_share(split: PackedSplit, settings: Pack, share: Share, left_out: list[str], before: int) -> None:
    """before: how many of left_out belong to an earlier split."""
    if len(left_out) - before > most_broken(settings.max_broken, len(split)):
        first = "; ".join(line.replace("\t", ": ") for line in left_out[before : before + 3])
        raise UserError(
            f"{len(left_out) - before} of {len(split)} images cannot be read, more than --max-broken "
            f"{settings.max_broken:g} allows ({first}); all found so far are listed in {_list_of(settings, share)}",
            "mend or remove them, or raise --max-broken",
        )


def _check_room(folder: Path, progress: _Progress, images: int, written: int) -> None:
    """Raises UserError as soon as it can be told that the disk is too small, rather than when it is full."""
    knew = progress.done >= _ENOUGH_TO_TELL
    progress.note(images, written)
    if knew or progress.done < _ENOUGH_TO_TELL:
        return
    needed = progress.written / progress.done * (progress.left - progress.done)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the shards need {needed / 1e6:,.0f} MB more and the disk that holds {folder} has {free / 1e6:,.0f} MB "
            "free",
            "free some, choose another SHARDS, or a smaller --short-side",
        )


def _line(split: PackedSplit, image: LeftOut) -> str:
    """`path<TAB>reason`, printable."""
    path = f"{split.title}/{split.source.name(image.image)}".removeprefix("/")
    return f"{on_one_line(path)}\t{on_one_line(with_flags(image.reason))}"


def _write_list(file: Path, lines: list[str]) -> None:
    if lines:
        write_file(file, "".join(f"{line}\n" for line in sorted(lines)).encode())
    else:
        file.unlink(missing_ok=True)


def _summarise(settings: Pack, parts: list[FinishedShard], left_out: int, console: Console) -> None:
    after, before = sum(part.bytes for part in parts), sum(part.bytes_before for part in parts)
    console.print(
        f"{several(sum(map(len, parts)), 'image')} in {several(len(parts), 'shard')}, {after / 1e6:,.1f} MB: "
        f"{after / before:.0%} of the {before / 1e6:,.1f} MB that they had"
    )
    if after > before:
        console.print(
            f"The shards are larger than the files, {after / 1e6:,.1f} MB instead of {before / 1e6:,.1f} MB: small "
            "images gain little by packing",
            style="yellow",
            soft_wrap=True,
        )
    if left_out:
        are = "is" if left_out == 1 else "are"
        console.print(f"{left_out:,} that could not be read {are} left out: {settings.shards / BROKEN}", style="yellow")
    console.print(f"Train on them with:   openmae pretrain {settings.shards} --out RUN")
