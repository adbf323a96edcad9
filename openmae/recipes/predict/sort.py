"""Images in a folder for each class that was predicted: copies or links, each where it lay in IMAGES, below that."""

import csv
import json
import os
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from openmae.console.progress import counting
from openmae.console.words import several
from openmae.data.formats.window import is_window
from openmae.data.shards.packing import Packing, pack_image
from openmae.data.signatures import ENOUGH, format_of
from openmae.data.sources.labels import several as labels_in
from openmae.data.sources.listing import EXTENSIONS
from openmae.data.sources.source import Source
from openmae.errors import BrokenImage, Interrupted, UserError
from openmae.files.parsing import to_json
from openmae.files.spreadsheets import original
from openmae.files.whole import WholeFile, write_file
from openmae.recipes.predictions import ERROR, Predictions

_MARK = ".openmae-sort.json"  # in the folder: of which model and images it is
_SAME = ("classifier", "data_fingerprint", "top_k", "threshold", "statistics", "by")
_WHOLE = Packing(short_side=2**16)  # which makes nothing smaller
_MOST_BYTES = 120  # of a folder's name
_OF_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}
_PART = ".openmae-sort.part"  # what is being copied, in the folder where it is to be: short, whatever its name is
UNREADABLE, NONE = "_unreadable", "_none"
"""Folders of files that gave no image, and of images without a label."""


def check_sort(folder: Path, by: Literal["copy", "link"], source: Source, about: dict[str, Any]) -> None:
    """Makes the folder, and notes whose it is. Raises UserError, before anything long begins, where images could not be
    put there, or where there is something already that no earlier start of the same has put there."""
    if by == "link" and source.file(0) is None:
        raise UserError(
            f"--sort-by link is for images that are files of their own, and those of {source.location} lie in others",
            "give --sort-by copy",
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--sort is {folder}, which is a file", "give a folder")
    here, images = folder.resolve(), Path(source.location).resolve()
    if images.is_dir() and (here == images or images in here.parents):
        raise UserError(f"--sort is {folder}, which is in {source.location} itself", "give a folder elsewhere")
    mark = folder / _MARK
    now = {key: about.get(key) for key in _SAME} | {"by": by}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if mark.exists():
            if _read(mark) != json.loads(to_json(now, indent=1)):
                raise UserError(
                    f"--sort is {folder}, which has images sorted by another model or of other IMAGES",
                    "give another folder, or delete that one",
                )
        elif any(not place.name.startswith(".") for place in folder.iterdir()):  # another part may write its mark
            raise UserError(f"--sort is {folder}, which is not empty", "give a new folder")
        else:
            write_file(mark, to_json(now, indent=1))
    except OSError as error:
        raise UserError(f"--sort {folder} cannot be written ({error.strerror})", "give another folder") from error


def sort_images(
    folder: Path,
    by: Literal["copy", "link"],
    source: Source,
    table: Path,
    predictions: Predictions,
    console: Console,
) -> None:
    """Puts each image there, as the table says; those that are there already stay. An image of several labels is in
    the folder of each. Raises OSError, Interrupted."""
    below = dict(zip(predictions.names, folder_names(predictions.names), strict=True))
    places = _Places(source)
    lost = 0
    try:
        with counting("sorting", len(source), console) as say:
            for index, (said, error) in enumerate(_rows(table, next(iter(predictions.columns)))):
                labels = labels_in(said or "") if predictions.task == "multi-label" else [said or ""]
                names = [UNREADABLE] if error else [below[label] for label in labels] or [NONE]
                put = [_put(folder / name, places, source, index, by) for name in names]
                lost += not all(put)
                say(index + 1)
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on where it was") from None
    console.print(f"Sorted into {folder}: {several(len(source) - lost, 'image')}", highlight=False, soft_wrap=True)
    if lost:
        console.print(f"{several(lost, 'image')} cannot be read there, and are in the table alone", style="yellow")


def folder_names(names: Sequence[str]) -> list[str]:
    """A folder's name for each of these, different for different ones, and from those of no class, also where capitals
    or the way in which an accent is written do not count; none that Windows keeps for devices."""
    found: list[str] = []
    seen = {UNREADABLE, NONE}
    for name in names:
        plain = "".join("_" if letter in '/\\:*?"<>|' or not letter.isprintable() else letter for letter in name)
        plain = plain.strip().rstrip(".").encode()[:_MOST_BYTES].decode(errors="ignore").rstrip(". ") or "_"
        is_taken = plain.startswith(".") or plain.partition(".")[0].strip().casefold() in _OF_DEVICES
        plain = f"_{plain}" if is_taken else plain
        number, free = 1, plain
        while _alike(free) in seen:
            number += 1
            free = f"{plain}-{number}"
        seen.add(_alike(free))
        found.append(free)
    return found


def _alike(name: str) -> str:
    """The same for names that some disk takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class _Places:
    """Where images come to lie below the folder of their class: on their own paths, without what leads up or to the
    root; where two images would lie in one place, with a number."""

    def __init__(self, source: Source) -> None:
        self._source = source
        hashes = np.fromiter((hash(_alike(self._plain(i))) for i in range(len(source))), np.int64, len(source))
        self._plains, counts = np.unique(hashes, return_counts=True)
        self._is_several = counts > 1

    def of(self, index: int, ending: str = "") -> str:
        """Of an image that gets an ending."""
        plain = self._plain(index)
        is_several = self._is_several[self._found(plain) or 0]
        if not is_several and not (ending and self._found(plain + ending) is not None):
            return plain + ending
        stem, own = os.path.splitext(plain)  # noqa: PTH122
        number = f"-{index + 1}"
        while self._found(f"{stem}{number}{own}{ending}") is not None:  # another one is really called so
            number = f"-{number}"
        return f"{stem}{number}{own}{ending}"

    def _found(self, place: str) -> int | None:
        """Among the places as they are without numbers."""
        wanted = hash(_alike(place))
        at = int(np.searchsorted(self._plains, wanted))
        return at if at < len(self._plains) and self._plains[at] == wanted else None

    def _plain(self, index: int) -> str:
        parts = self._source.name(index).replace("\0", "_").split("/")
        return "/".join(part for part in parts if part not in ("", ".", "..")) or "image"


def _put(folder: Path, places: _Places, source: Source, index: int, by: Literal["copy", "link"]) -> bool:
    """Whether it is there now."""
    file, place = source.file(index), places.of(index)
    data = b""
    if file is None:
        try:
            data = source.read(index)
            if is_window(data):
                data = pack_image(data, _WHOLE).data
        except (OSError, BrokenImage):
            return False
        if Path(place).suffix.lower() not in EXTENSIONS:
            place = places.of(index, _ending(data))
    target = folder / place
    if os.path.lexists(target):
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    if file is not None and by == "link":
        target.symlink_to(os.path.abspath(file))  # noqa: PTH100
        return True
    aside = target.with_name(_PART)
    if file is None:
        with WholeFile(target, aside=aside) as whole:
            whole.file.write(data)
            whole.finish()
        return True
    try:
        shutil.copy2(file, aside)
    except FileNotFoundError:
        return False
    aside.replace(target)
    return True


def _ending(data: bytes) -> str:
    """That an image without one gets."""
    return f".{format_of(data[:ENOUGH]) or 'bin'}"


def _read(mark: Path) -> Any:
    try:
        return json.loads(mark.read_bytes())
    except ValueError:
        return None


def _rows(table: Path, column: str) -> Iterator[tuple[str | None, str | None]]:
    """What the table says of each image, and why it could not be read. Raises UserError where it is damaged."""
    try:
        if table.suffix.lower() == ".parquet":
            from pyarrow import parquet

            with parquet.ParquetFile(table) as file:
                for batch in file.iter_batches(columns=[column, ERROR]):
                    yield from zip(batch.column(column).to_pylist(), batch.column(ERROR).to_pylist(), strict=True)
        elif table.suffix.lower() == ".jsonl":
            with table.open(encoding="utf-8") as lines:
                for line in lines:
                    row = json.loads(line)
                    yield row[column], row[ERROR]
        else:
            with table.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines):
                    yield original(row[column]), row[ERROR]
    except (ValueError, KeyError) as error:
        raise UserError(f"{table} is damaged ({error})", "delete it, and predict again") from error
