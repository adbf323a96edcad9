"""Images that nobody has annotated -> a folder of what a model finds in them: masks (masks.py), objects (objects.py).

openmae predict runs/nuclei new/images --out found/
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.console.progress import Say, of_next
from openmae.console.words import encodable, several
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.geotiff import Placed, placed, placed_in
from openmae.data.loading.pool import Hand, ordered
from openmae.data.opening import open_images
from openmae.data.sources.source import Source
from openmae.data.tiles.large import AnyImage
from openmae.distributed.share import Share
from openmae.errors import BrokenImage, UserError
from openmae.evaluate.segmentation import decoded_whole, large_of
from openmae.evaluate.suited import suited
from openmae.files.disk import room_on_disk
from openmae.files.parsing import to_json
from openmae.files.tables import SUFFIXES, Columns, TableWriter
from openmae.files.whole import WholeFile, write_file
from openmae.machine.device import choose_device, device_of
from openmae.machine.workers import workers_for
from openmae.recipes.in_parts.about import Kind, digest
from openmae.recipes.in_parts.folder import Part, PartsFolder, opened_parts, parts_folder
from openmae.recipes.in_parts.work import PART_SECONDS, all_of_them, require_some
from openmae.recipes.levels import check_levels
from openmae.recipes.opened import images_said, part_of, tell
from openmae.recipes.predict.mask_files import mask_places
from openmae.recipes.predict.settings import TABLE, Predict
from openmae.recipes.predictions import ERROR, with_errors
from openmae.report.sheets.layout import as_jpeg
from openmae.version import __version__
from openmae.weights import Loaded
from openmae.weights.loaded import TRAINED_WELL

SHEET = "sheet.jpg"
_IN_SHEET = 12  # images, the first ones


@dataclass(frozen=True)
class Asked:
    """All images of a source, where what is written of each is to lie, and the model of these classes, on a device."""

    out: Path
    source: Source
    places: list[str]
    loaded: Loaded
    names: list[str]
    device: torch.device
    settings: Predict
    workers: int


class Finder(ABC):
    """What one kind of model finds in images, one after the other, and what is written of that."""

    kind: ClassVar[Kind]
    doing: ClassVar[str]
    """segmenting"""
    gives: ClassVar[str]
    """a mask for each image"""
    numbers: ClassVar[str]
    """What is told of each class: share"""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    @classmethod
    @abstractmethod
    def check(cls, settings: Predict) -> dict[str, Any]:
        """Settings of its own that decide what comes out. Raises UserError for one that it cannot have."""

    @property
    @abstractmethod
    def side(self) -> int | None:
        """The longer side of the tiles that an image is cut into; None where it is seen whole."""

    @abstractmethod
    def find(
        self, index: int, image: AnyImage, where: Placed | None, say: Callable[[float], None]
    ) -> NDArray[np.float64]:
        """Writes what is found in an image (H, W, C) as decoded; gives the number of each class (K,). say: hears what
        share of it is done, but not of its end. Raises OSError, and UserError where the model gives no numbers."""

    @abstractmethod
    def keep(self, parts: PartsFolder) -> None:
        """Before a part is made of the images since the last one: writes what is held of them. Raises OSError."""

    def cells(self, part: Part) -> tuple[Columns, dict[str, list[Any]]]:
        """Columns of the table between path and height, of the images of a part that were read."""
        return {}, {}

    @abstractmethod
    def finish(self, finished: list[Part]) -> None:
        """Writes what tells of all of it. Raises OSError."""

    @abstractmethod
    def sheet(self, shown: list["InSheet"], finished: list[Part]) -> Image.Image:
        """The first images, and what was found in them."""

    @abstractmethod
    def show(self, told: NDArray[np.float32], console: Console) -> None:
        """Prints what was found, from the numbers (n, K) of all images that were read, and where it is."""

    def check_finite(self, index: int, values: torch.Tensor) -> None:
        """Raises UserError where the model gives no numbers."""
        if not values.isfinite().all():
            raise UserError(
                f"the model gives values that are not numbers for {self.asked.source.shown(index)}",
                "try --precision fp32, or a model whose training went well",
            )


@dataclass(frozen=True)
class InSheet:
    """An image (H, W, C), the number of each class (K,), and whether it lies on the ground."""

    index: int
    image: AnyImage
    told: NDArray[np.float32]
    is_placed: bool


def predict_folder(finder: type[Finder], settings: Predict, loaded: Loaded, share: Share, console: Console) -> None:
    """Writes what is not there yet of this process's share of the images; the last one, what tells of all. Raises
    UserError, Interrupted."""
    own = _check_asked(finder, settings)
    loaded.check_numbers(TRAINED_WELL)
    device = device_of(choose_device(settings.device), share.start)
    workers = workers_for(settings.workers, device, share.start)
    data = open_images(settings.images, settings.selection, settings.reading)
    source = part_of(data, settings.split)
    _check_folder(settings.out, source)
    tell(data, console)
    loaded = suited(loaded, source, settings.reading, workers, console)
    check_levels(loaded.name, loaded.statistics, source, workers, console)
    names: list[str] = loaded.info["class_names"]
    images_of = images_said(len(source), data.location, settings.split)
    said = several(len(names), "class")
    console.print(f"{loaded.outlines}, {said}; {images_of}", highlight=False, soft_wrap=True)
    model: Any = loaded.model
    about = {
        "openmae": __version__,
        "model": str(settings.model),
        "step": loaded.info["provenance"].get("step"),
        finder.kind.model: digest(model, model.arguments()),
        "class_names": [encodable(name) for name in names],
        **own,
        "precision": settings.precision,
        "statistics": loaded.statistics.to_dict(),
        "data": encodable(data.location),
        "split": settings.split,
        "data_fingerprint": source.fingerprint,
        "images": len(source),
    }
    with room_on_disk(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
        if (settings.out / TABLE).exists():
            finder.kind.fitting(settings.out / TABLE, about)
            console.print(f"{settings.out} has their {finder.kind.holds} already")
            return
        model.to(device)
        asked = Asked(settings.out, source, mask_places(source), loaded, names, device, settings, workers)
        _find(finder(asked), about, share, console)


def _check_asked(finder: type[Finder], settings: Predict) -> dict[str, Any]:
    for flag, value in {"--top-k": settings.top_k, "--sort": settings.sort}.items():
        if value is not None:
            raise UserError(
                f"{flag} is for classes of whole images, and this model gives {finder.gives}", "leave it out"
            )
    if settings.tile is not None:
        raise UserError("--tile is for models of whole images; this one cuts large ones by itself", "leave it out")
    if settings.batch_size is not None and settings.batch_size < 1:
        raise UserError(f"--batch-size is {settings.batch_size}", "give 1 or more")
    own = finder.check(settings)
    out = settings.out
    if out.suffix.lower() in SUFFIXES or (out.exists() and not out.is_dir()):
        raise UserError(f"--out is {out}, and this model gives {finder.gives}", "give a folder")
    return own


def _check_folder(out: Path, source: Source) -> None:
    """Raises UserError where what is found would mix with something else."""
    here, images = out.resolve(), Path(source.location).resolve()
    if images.is_dir() and (here == images or images in here.parents):
        raise UserError(f"--out is {out}, which is in {source.location} itself", "give a folder elsewhere")
    table = out / TABLE
    if out.is_dir() and any(out.iterdir()) and not table.exists() and not parts_folder(table).exists():
        raise UserError(f"--out is {out}, which is not empty", "give a new folder")


def _find(finder: Finder, about: dict[str, Any], share: Share, console: Console) -> None:
    """Finds what is left of the share; the last process to end writes what tells of all of it, the table last."""
    asked = finder.asked
    table, source, smaller = asked.out / TABLE, asked.source, "give a smaller --batch-size"
    with opened_parts(table, share) as parts:
        finder.kind.settle(table, about, parts)
        with all_of_them(parts, len(source), finder.doing, smaller, partial(_go_on, finder, parts), console) as whole:
            if whole is None:
                return
            require_some(whole, source)
            left_out = whole.left_out
            finder.finish(whole.finished)
            write_file(asked.out / SHEET, as_jpeg(finder.sheet([*_first(finder, whole.finished)], whole.finished)))
            _write_table(finder, whole.finished, {**about, "unreadable": len(left_out)})
            told = np.concatenate([_told(part) for part in whole.finished])
    finder.show(told, console)
    if left_out:
        index, reason = left_out[0]
        console.print(
            f"{several(len(left_out), 'image')} could not be read: the column {ERROR} says why "
            f"({source.shown(index)}: {with_flags(reason)}{', ...' if len(left_out) > 1 else ''})",
            style="yellow",
            soft_wrap=True,
        )


@dataclass(frozen=True)
class _Seen:
    """An image (H, W, C), and where it lies; why there is none, where there is none."""

    image: AnyImage | None
    where: Placed | None = None
    why_none: str = ""


def _see(source: Source, pixels: PixelFormat, side: int | None, index: int, hand: Hand) -> _Seen:
    try:
        if (large := large_of(source, pixels, index, hand, side)) is not None:
            return _Seen(large, placed_in(large.file))
        (data,) = hand.read_each(source, [index])
        hand.take(index)
        image = decoded_whole(data, pixels, is_cut=side is not None)
        return _Seen(image, placed(data) if isinstance(data, bytes) else None)
    except (OSError, BrokenImage) as error:
        return _Seen(None, None, str(error) or type(error).__name__)


def _go_on(finder: Finder, parts: PartsFolder, say: Say) -> None:
    """Adds parts up to the last image of the share; what is found in an image is written before."""
    asked, before = finder.asked, parts.stop
    stop = parts.share.span(len(asked.source)).stop
    waiting = _Waiting(finder, parts)
    see = partial(_see, asked.source, asked.loaded.statistics.pixels, finder.side)
    seen_each = ordered(see, range(before, stop), asked.workers, ahead=1)
    try:
        for index, seen in enumerate(seen_each, before):
            if seen.image is None:
                waiting.take(index, None, seen.why_none)
            else:
                try:
                    told = finder.find(index, seen.image, seen.where, of_next(say, index - before))
                except BrokenImage as error:  # a part of a large one
                    waiting.take(index, None, str(error))
                else:
                    waiting.take(index, [*seen.image.shape[:2], seen.where is not None, *told], "")
            say(index + 1 - before)
    finally:
        seen_each.close()
        waiting.keep()


_BEFORE_TOLD = 3  # numbers of a row: height, width, whether it lies on the ground


class _Waiting:
    """Images that are not in a part yet."""

    def __init__(self, finder: Finder, parts: PartsFolder) -> None:
        self.finder, self.parts, self.width = finder, parts, _BEFORE_TOLD + len(finder.asked.names)
        self.stop, self.since = parts.stop, time.monotonic()
        self.indices: list[int] = []
        self.rows: list[list[float]] = []
        self.left_out: list[tuple[int, str]] = []

    def take(self, index: int, row: list[float] | None, why_none: str) -> None:
        """Holds what was found of the next image, and keeps all that are held where the last part is a while ago."""
        if row is None:
            self.left_out.append((index, why_none))
        else:
            self.indices.append(index)
            self.rows.append(row)
        self.stop = index + 1
        if time.monotonic() - self.since >= PART_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Makes a part of what is held."""
        if self.stop > self.parts.stop:  # a Ctrl-C may come when it has just been made
            rows = np.array(self.rows, np.float32).reshape(-1, self.width)
            self.finder.keep(self.parts)
            self.parts.add(self.stop, np.array(self.indices, np.int64), rows, self.left_out)
        self.indices, self.rows, self.left_out, self.since = [], [], [], time.monotonic()


def _told(part: Part) -> NDArray[np.float32]:
    """(m, K) the numbers of each image that was read."""
    return part.rows()[:, _BEFORE_TOLD:]


def sizes_of(part: Part) -> list[tuple[int, int]]:
    """(height, width) of each image that was read."""
    return [(int(height), int(width)) for height, width in part.rows()[:, :2].tolist()]


def is_placed(part: Part) -> list[bool]:
    """Of each image that was read, whether it lies on the ground."""
    return (part.rows()[:, 2] > 0).tolist()


def _write_table(finder: Finder, finished: list[Part], about: dict[str, Any]) -> None:
    """A row for each image, whole or absent, and what it is of beside it. Raises OSError."""
    asked = finder.asked
    table, source = asked.out / TABLE, asked.source
    told = [f"{finder.numbers}({encodable(name)})" for name in asked.names]
    is_count = finder.numbers == "count"
    columns: Columns = {"path": "text", **finder.cells(finished[0])[0], "height": "whole", "width": "whole"}
    columns = {**columns, **dict.fromkeys(told, "whole" if is_count else "number"), ERROR: "text"}
    with WholeFile(table, aside=parts_folder(table) / TABLE) as whole:
        with TableWriter(whole.file, table.suffix, columns) as writer:
            for part in finished:
                rows = part.rows()
                numbers = rows[:, _BEFORE_TOLD:].astype(np.int64) if is_count else rows[:, _BEFORE_TOLD:]
                cells: dict[str, list[Any]] = {
                    **finder.cells(part)[1],
                    "height": rows[:, 0].astype(int).tolist(),
                    "width": rows[:, 1].astype(int).tolist(),
                    **{name: numbers[:, k].tolist() for k, name in enumerate(told)},
                }
                errors = {index - part.start: encodable(with_flags(reason)) for index, reason in part.left_out}
                places = (part.indices - part.start).tolist()
                paths = [encodable(source.name(index)) for index in range(part.start, part.stop)]
                writer.write({"path": paths, **with_errors(cells, places, errors, part.stop - part.start)})
        whole.close()
        for beside in finder.kind.companions(table):
            write_file(beside, to_json(about, indent=1))
        whole.finish()


def _first(finder: Finder, finished: list[Part]) -> Iterator[InSheet]:
    """The first images that were read."""
    asked, number = finder.asked, 0
    for part in finished:
        for index, row in zip(part.indices.tolist(), part.rows(), strict=True):
            if number == _IN_SHEET:
                return
            number += 1
            seen = _see(asked.source, asked.loaded.statistics.pixels, finder.side, index, Hand())
            if seen.image is not None:
                yield InSheet(index, seen.image, row[_BEFORE_TOLD:], bool(row[2]))
