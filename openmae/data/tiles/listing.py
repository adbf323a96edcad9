"""The windows of all images of a source, found once: headers tell the sizes, a look at the pixels which are empty.

What took a while to find is kept between starts, and holds as long as no image was added, removed, renamed or changed
its size in bytes.
"""

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from openmae.console.progress import Status
from openmae.console.words import several
from openmae.data.formats.reading import Reading
from openmae.data.formats.window import Box
from openmae.data.loading.pool import Hand, ordered
from openmae.data.sources.source import Source
from openmae.data.sources.windows import WHOLE_IMAGE, Places, Tiling, Windows
from openmae.data.tiles.cutting import cut, parsing
from openmae.data.tiles.detail import Blocks, Part, block_of
from openmae.data.tiles.looking import Sizes, broken_part, part_of, size_of
from openmae.errors import BrokenImage, UserError
from openmae.files.cache import cache_file, keep, recall
from openmae.machine.cores import cores

_RULES = 1  # changes with what is found for the same images
_CHUNK = 16  # images whose headers are read by one task
_FEW = 64  # images whose headers are read sooner than processes start
_KEPT_FROM = 2.0  # seconds that finding them takes
_MOST = 2**31  # windows
_SOME = 3  # reasons that are named

Found = Sizes | str
"""What is known of an image, or why it cannot be cut."""


def windows_of(source: Source, tiling: Tiling, reading: Reading) -> Windows:
    """The source's images, cut. Images that are no larger than a window are taken whole, and so are those that cannot
    be read, for whoever reads them to count. Raises UserError where no window is left."""
    reading = Reading.from_dict(source.packed_as).but(reading)
    asked = json.dumps([tiling.side, tiling.overlap, tiling.min_detail, reading.to_dict()])
    file = cache_file("windows", f"{_RULES} {source.fingerprint} {source.location} {asked}")
    if (kept := recall(file)) is not None and {"of", "boxes"} <= kept[0].keys():
        arrays, about = kept
        broken = {int(image): why for image, why in about["broken"].items()}
        return Windows(source, tiling, Places(arrays["of"], arrays["boxes"], broken, tuple(about["notes"])), cut)
    began = time.monotonic()
    places, is_lasting = _find(source, tiling, reading)
    if is_lasting and time.monotonic() - began > _KEPT_FROM:
        about = {"broken": dict(places.broken), "notes": [*places.notes]}
        keep(file, {"of": places.of, "boxes": places.boxes}, about)
    return Windows(source, tiling, places, cut)


def _find(source: Source, tiling: Tiling, reading: Reading) -> tuple[Places, bool]:
    """(the windows, whether another look would find the same)"""
    status = Status()
    found, is_lasting = _all_sizes(source, tiling, reading, status)
    whole = np.array([WHOLE_IMAGE])
    broken = {image: one for image, one in enumerate(found) if isinstance(one, str)}
    sizes = {image: one for image, one in enumerate(found) if not isinstance(one, str)}
    counts = {image: tiling.count((one.height, one.width)) for image, one in sizes.items()}
    if (total := sum(counts.values())) > _MOST:
        raise UserError(f"`tile` makes {total:,} windows of {source.location}", "choose larger ones, or less overlap")
    grids = {image: tiling.grid((one.height, one.width)) for image, one in sizes.items() if counts[image] > 1}
    every = sum(map(len, grids.values()))
    if tiling.min_detail > 0:
        for image, shares in _all_shares(source, tiling, reading, {image: sizes[image] for image in grids}, status):
            grids[image] = grids[image][shares >= tiling.min_detail]
    status.done()
    boxes = [grids.get(image, whole) for image in range(len(source))]
    empty = every - sum(map(len, grids.values()))
    if not sum(map(len, boxes)):
        raise UserError(
            f"all {every:,} windows of the images in {source.location} are empty: of none {tiling.min_detail:g} or "
            "more is anything but background",
            "lower `tile_min_detail`, or give 0",
        )
    notes = _notes(tiling, source, (every, len(grids), empty), broken)
    if slow := sum(sizes[image].whole for image in grids):
        notes += (
            f"{several(slow, 'image')} {'is' if slow == 1 else 'are'} of a kind that is decoded whole: in a random "
            "order, as in training, each window costs what decoding the image does. openmae pack DATA SHARDS, with the "
            "same `tile`, cuts them once",
        )
    of = np.repeat(np.arange(len(source)), [len(own) for own in boxes])
    return Places(of, np.concatenate(boxes).astype(np.int32), broken, notes), is_lasting


def _notes(tiling: Tiling, source: Source, counts: tuple[int, int, int], broken: dict[int, str]) -> tuple[str, ...]:
    """counts: of windows, of the images that they are of, and of windows that are empty."""
    windows, cut_up, empty = counts
    overlap = f" that overlap by {tiling.overlap}" if tiling.overlap else ""
    of = f"{cut_up:,} of the " if cut_up < len(source) else ""
    said = f"{windows - empty:,} windows of {tiling.side} pixels{overlap}, cut from {of}{several(len(source), 'image')}"
    if (others := len(source) - cut_up - len(broken)) > 0:
        said += f"; {others:,} no larger than that {'is' if others == 1 else 'are'} taken whole"
    if empty:
        said += (
            f"; {empty:,} empty windows are left out, of which less than {tiling.min_detail:g} is anything but "
            "background (`tile_min_detail`)"
        )
    notes = [said]
    if broken:
        named = "; ".join(f"{source.shown(image)}: {why}" for image, why in [*broken.items()][:_SOME])
        more = f"; and {len(broken) - _SOME:,} more" if len(broken) > _SOME else ""
        notes.append(f"{several(len(broken), 'image')} cannot be cut, and count as broken ({named}{more})")
    return tuple(notes)


# ---------------------------------------------------------------- sizes


def _all_sizes(source: Source, tiling: Tiling, reading: Reading, status: Status) -> tuple[list[Found], bool]:
    """(of each image, whether all that failed would fail again)"""
    chunks = [range(at, min(at + _CHUNK, len(source))) for at in range(0, len(source), _CHUNK)]
    work = partial(_sizes, source, tiling.side, reading)
    found: list[Found] = []
    is_lasting = True
    for more, own_lasting in ordered(work, chunks, 0 if len(source) <= _FEW else cores()):
        found += more
        is_lasting &= own_lasting
        status.say(f"looking at the sizes of {source.location}: {len(found):,} of {len(source):,} images")
    return found, is_lasting


def _sizes(source: Source, side: int, reading: Reading, images: Sequence[int], hand: Hand) -> tuple[list[Found], bool]:
    found: list[Found] = []
    is_lasting = True
    for image in images:
        try:
            hand.take(image)
            with parsing():
                found.append(size_of(source, image, side, reading))
        except (OSError, BrokenImage) as error:
            is_lasting &= isinstance(error, BrokenImage)
            found.append(str(error))
    return found, is_lasting


# ---------------------------------------------------------------- empty ones


def _all_shares(
    source: Source,
    tiling: Tiling,
    reading: Reading,
    sizes: dict[int, Sizes],
    status: Status,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """(image, how much of each of its windows is detail)"""
    tasks = [(image, one, box) for image, one in sizes.items() for box in one.parts()]
    work = partial(_part, source, tiling.side, reading)
    blocks: Blocks | None = None
    processes = 0 if len(tasks) == 1 else min(cores(), len(tasks))
    for number, ((image, one, _), part) in enumerate(zip(tasks, ordered(work, tasks, processes), strict=True)):
        if blocks is None:
            blocks = Blocks((one.height, one.width), block_of((one.height, one.width), tiling.side))
        blocks.add(part)
        status.say(f"looking for empty windows in {source.location}: part {number + 1:,} of {len(tasks):,}")
        if number + 1 == len(tasks) or tasks[number + 1][0] != image:
            yield image, blocks.shares(tiling.grid((one.height, one.width)))
            blocks = None


def _part(source: Source, side: int, reading: Reading, task: tuple[int, Sizes, Box], hand: Hand) -> Part:
    image, sizes, box = task
    try:
        hand.take(image)
        return part_of(source, image, sizes, box, side, reading)
    except (OSError, BrokenImage):
        return broken_part(sizes, box, side)
