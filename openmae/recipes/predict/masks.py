"""Images that nobody has annotated -> what a segmenter finds in them: a folder of masks.

openmae predict runs/nuclei new/images --out found/
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from openmae.commandline.flags import with_flags
from openmae.console.progress import Say, counting
from openmae.console.words import encodable, in_a_line, pace, several
from openmae.data.annotations.annotations import BACKGROUND
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.geotiff import Placed, placed
from openmae.data.loading.pool import Hand, ordered
from openmae.data.opening import open_images
from openmae.data.sources.source import Source
from openmae.data.views.outlined import IGNORED
from openmae.errors import BrokenImage, Interrupted, UserError
from openmae.evaluate.segmentation import decoded_whole
from openmae.evaluate.suited import suited
from openmae.evaluate.tiled import TILES, strips
from openmae.files.disk import room_on_disk
from openmae.files.tables import SUFFIXES, Columns, TableWriter
from openmae.files.whole import WholeFile, write_file
from openmae.machine.device import choose_device
from openmae.machine.kinds import Precision
from openmae.machine.workers import workers_for
from openmae.recipes.in_parts.about import SAME_IMAGES, Kind, as_json, digest
from openmae.recipes.in_parts.folder import Part, PartsFolder, opened_parts, parts_folder
from openmae.recipes.in_parts.work import PART_SECONDS
from openmae.recipes.levels import check_levels
from openmae.recipes.opened import images_said, part_of, tell
from openmae.recipes.predict.mask_files import mask_name, mask_places, write_classes, write_mask
from openmae.recipes.predict.settings import TABLE, Predict
from openmae.recipes.predictions import ERROR, with_errors
from openmae.report.sheets.outlines import Shown, outline_sheet
from openmae.version import __version__
from openmae.weights import Loaded

CLASSES, SHEET = "classes.csv", "sheet.jpg"
_IN_SHEET = 12  # images, the first ones
_MOST_ROWS = 20  # of the table of classes; of more, the largest
_BEFORE_SHARES = 3  # numbers of a row: height, width, whether it lies on the ground
MASKED = Kind(
    command="predict",
    holds="masks",
    under_way="a prediction",
    model="segmenter",
    others={
        "segmenter": "another model, or the same at another step",
        "statistics": "other input statistics",
        "data_fingerprint": SAME_IMAGES,
    },
    flags=("precision",),
)


@dataclass(frozen=True)
class _Masking:
    """What is masked: all images of a source, by a model of these classes, on a device, so many tiles at once."""

    out: Path
    source: Source
    places: list[str]
    loaded: Loaded
    names: list[str]
    device: torch.device
    precision: Precision
    tiles: int
    workers: int


def predict_masks(settings: Predict, loaded: Loaded, console: Console) -> None:
    """Writes the masks that are not there yet, and what tells of them. Raises UserError, Interrupted."""
    _check_asked(settings)
    device = choose_device(settings.device)
    workers = workers_for(settings.workers, device)
    if settings.batch_size is not None and settings.batch_size < 1:
        raise UserError(f"--batch-size is {settings.batch_size}", "give 1 or more")
    data = open_images(settings.images, settings.selection, settings.reading)
    source = part_of(data, settings.split)
    _check_folder(settings.out, source)
    tell(data, console)
    loaded = suited(loaded, source, settings.reading, workers, console)
    check_levels(loaded.name, loaded.statistics, source, workers, console)
    names: list[str] = loaded.info["class_names"]
    images_of = images_said(len(source), data.location, settings.split)
    said = several(len(names), "class").replace("classs", "classes")
    console.print(f"segmentation, {said}; {images_of}", highlight=False, soft_wrap=True)
    about = {
        "openmae": __version__,
        "model": str(settings.model),
        "step": loaded.info["provenance"].get("step"),
        "segmenter": digest(loaded.model, loaded.segmenter.arguments()),
        "class_names": [encodable(name) for name in names],
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
            MASKED.fitting(settings.out / TABLE, about)
            console.print(f"{settings.out} has their masks already")
            return
        tiles = TILES if settings.batch_size is None else settings.batch_size
        loaded.segmenter.to(device)
        masking = _Masking(
            settings.out, source, mask_places(source), loaded, names, device, settings.precision, tiles, workers
        )
        _mask(masking, about, console)


def _check_asked(settings: Predict) -> None:
    asked = {"--top-k": settings.top_k, "--threshold": settings.threshold, "--sort": settings.sort}
    for flag, value in asked.items():
        if value is not None:
            raise UserError(f"{flag} is for classes of whole images, and this model's are of pixels", "leave it out")
    if settings.tile is not None:
        raise UserError("--tile is for models of whole images; this one cuts large ones by itself", "leave it out")
    out = settings.out
    if out.suffix.lower() in SUFFIXES or (out.exists() and not out.is_dir()):
        raise UserError(f"--out is {out}, and this model gives a mask for each image", "give a folder")


def _check_folder(out: Path, source: Source) -> None:
    """Raises UserError where masks would mix with something else."""
    here, images = out.resolve(), Path(source.location).resolve()
    if images.is_dir() and (here == images or images in here.parents):
        raise UserError(f"--out is {out}, which is in {source.location} itself", "give a folder elsewhere")
    table = out / TABLE
    if out.is_dir() and any(out.iterdir()) and not table.exists() and not parts_folder(table).exists():
        raise UserError(f"--out is {out}, which is not empty", "give a new folder")


def _mask(masking: _Masking, about: dict[str, Any], console: Console) -> None:
    """Masks what is left, and writes what tells of all of it; the table comes last."""
    table, total = masking.out / TABLE, len(masking.source)
    with opened_parts(table) as parts:
        MASKED.settle(table, about, parts)
        parts.read()
        if before := parts.stop:
            console.print(f"Resuming: {before:,} of {several(total, 'image')} are done")
        started = time.monotonic()
        try:
            with counting("segmenting", total, console, before) as say:
                _go_on(masking, parts, say)
        except KeyboardInterrupt:
            raise Interrupted("stopped; the same command goes on where it was") from None
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{masking.device} ran out of memory", f"give a --batch-size below {masking.tiles}"
            ) from error
        left_out = [entry for part in parts.finished for entry in part.left_out]
        if len(left_out) == total:
            index, reason = left_out[0]
            parts.remove()
            source = masking.source
            raise UserError(
                f"none of the {total} images in {source.location} can be read (the first: {source.shown(index)}: "
                f"{reason})",
                "check the files",
            )
        seconds = time.monotonic() - started
        write_classes(masking.out / CLASSES, masking.names)
        write_file(masking.out / SHEET, _sheet(masking, parts.finished))
        _write_table(masking, parts.finished, {**about, "unreadable": len(left_out)})
        shares = np.concatenate([_shares(part) for part in parts.finished])
        parts.remove()
    console.print(pace(total - before, seconds))
    _show(masking.names, shares, console)
    masks = several(total - len(left_out), "mask")
    console.print(
        f"{masking.out}: {masks} in masks/, colours in {CLASSES}, shares of each class in {TABLE}; look at {SHEET}",
        highlight=False,
        soft_wrap=True,
    )
    if left_out:
        index, reason = left_out[0]
        console.print(
            f"{several(len(left_out), 'image')} could not be read: the column {ERROR} says why "
            f"({masking.source.shown(index)}: {with_flags(reason)}{', ...' if len(left_out) > 1 else ''})",
            style="yellow",
            soft_wrap=True,
        )


@dataclass(frozen=True)
class _Seen:
    """An image (H, W, C) as decoded, and where it lies; why there is none, where there is none."""

    image: NDArray[Any] | None
    where: Placed | None = None
    why_none: str = ""


def _see(source: Source, pixels: PixelFormat, index: int, hand: Hand) -> _Seen:
    try:
        (data,) = hand.read_each(source, [index])
        hand.take(index)
        return _Seen(decoded_whole(data, pixels), placed(data) if isinstance(data, bytes) else None)
    except (OSError, BrokenImage) as error:
        return _Seen(None, None, str(error) or type(error).__name__)


def _go_on(masking: _Masking, parts: PartsFolder, say: Say) -> None:
    """Adds parts up to the last image; whose masks are written before."""
    before = parts.stop
    waiting = _Waiting(parts, len(masking.names))
    pixels = masking.loaded.statistics.pixels
    seen_each = ordered(
        partial(_see, masking.source, pixels), range(before, len(masking.source)), masking.workers, ahead=1
    )
    try:
        for index, seen in enumerate(seen_each, before):
            if seen.image is None:
                waiting.take(index, None, seen.why_none)
            else:
                mask = _segmented(masking, index, seen.image)
                write_mask(masking.out, masking.places[index], mask, masking.names, seen.where)
                shares = np.bincount(mask.ravel(), minlength=len(masking.names)) / mask.size
                waiting.take(index, [*mask.shape, seen.where is not None, *shares], "")
            say(index + 1 - before)
    finally:
        seen_each.close()
        waiting.keep()


def _segmented(masking: _Masking, index: int, image: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W) the class of each pixel."""
    loaded, found = masking.loaded, []
    for strip in strips(loaded.segmenter, loaded.statistics, image, masking.device, masking.tiles, masking.precision):
        if not strip.scores.isfinite().all():
            raise UserError(
                f"the model gives values that are not numbers for {masking.source.shown(index)}",
                "try --precision fp32, or a model whose training went well",
            )
        found.append(strip.scores.argmax(0).to(torch.uint8).numpy())
    return np.concatenate(found)


class _Waiting:
    """Images that are not in a part yet."""

    def __init__(self, parts: PartsFolder, classes: int) -> None:
        self.parts, self.width = parts, _BEFORE_SHARES + classes
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
            self.parts.add(self.stop, np.array(self.indices, np.int64), rows, self.left_out)
        self.indices, self.rows, self.left_out, self.since = [], [], [], time.monotonic()


def _shares(part: Part) -> NDArray[np.float32]:
    """(m, K) of the pixels of each image that was read."""
    return part.rows()[:, _BEFORE_SHARES:]


def _write_table(masking: _Masking, finished: list[Part], about: dict[str, Any]) -> None:
    """A row for each image, whole or absent, and what it is of beside it. Raises OSError."""
    table, source = masking.out / TABLE, masking.source
    shares = [f"share({encodable(name)})" for name in masking.names]
    columns: Columns = {"path": "text", "mask": "text", "height": "whole", "width": "whole"}
    columns = {**columns, **dict.fromkeys(shares, "number"), ERROR: "text"}
    with WholeFile(table, aside=parts_folder(table) / TABLE) as whole:
        with TableWriter(whole.file, table.suffix, columns) as writer:
            for part in finished:
                rows = part.rows()
                cells: dict[str, list[Any]] = {
                    "mask": [
                        mask_name(masking.places[index], bool(row[2]))
                        for index, row in zip(part.indices.tolist(), rows, strict=True)
                    ],
                    "height": rows[:, 0].astype(int).tolist(),
                    "width": rows[:, 1].astype(int).tolist(),
                    **{name: rows[:, _BEFORE_SHARES + k].tolist() for k, name in enumerate(shares)},
                }
                errors = {index - part.start: encodable(with_flags(reason)) for index, reason in part.left_out}
                places = (part.indices - part.start).tolist()
                paths = [encodable(source.name(index)) for index in range(part.start, part.stop)]
                writer.write({"path": paths, **with_errors(cells, places, errors, part.stop - part.start)})
        whole.close()
        for beside in MASKED.companions(table):
            write_file(beside, as_json(about))
        whole.finish()


def _sheet(masking: _Masking, finished: list[Part]) -> bytes:
    """The first images with their masks over them, as JPEG."""
    names = masking.names
    shown = []
    for index, row in _first(finished):
        seen = _see(masking.source, masking.loaded.statistics.pixels, index, Hand())
        if seen.image is None:
            continue
        with Image.open(masking.out / mask_name(masking.places[index], bool(row[2]))) as mask:
            shares = row[_BEFORE_SHARES:].copy()
            shares[0] = -1 if names[0] == BACKGROUND and len(names) > 1 else shares[0]
            most = int(shares.argmax())
            note = f"{shares[most]:.0%} {names[most]}"
            shown.append(Shown(seen.image, None, np.asarray(mask), masking.source.shown(index), note))
    file = io.BytesIO()
    outline_sheet(shown, names, IGNORED, names[0] == BACKGROUND).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def _first(finished: list[Part]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Index and row of the first images that were read."""
    number = 0
    for part in finished:
        for index, row in zip(part.indices.tolist(), part.rows(), strict=True):
            if number == _IN_SHEET:
                return
            number += 1
            yield index, row


def _show(names: list[str], shares: NDArray[np.float32], console: Console) -> None:
    """How much of all there is of each class."""
    table = Table("class", "images", "of their pixels")
    order = np.argsort(-shares.mean(0), kind="stable").tolist()
    for number in order[:_MOST_ROWS]:
        has = shares[:, number] > 0
        mean = float(shares[has, number].mean()) if has.any() else 0.0
        table.add_row(in_a_line(names[number]), f"{int(has.sum()):,}", f"{mean:.1%}")
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)
    if len(names) > _MOST_ROWS:
        console.print(f"The {_MOST_ROWS} largest of {len(names):,}.")
