"""Opens DATA, whatever it is: one object, of which the rest of a job asks its splits.

DATA is a folder of images; a table (.csv, or .parquet with a column `path`); tar shards (a .tar file, a pattern
such as shards/{0000..0099}.tar, or a folder of them, also on http(s):// and s3://); .parquet files with the images
inside (one, or a folder of them); or an array (.npy, .npz).

Splits are what is called so, by one rule (sources/splits.py): folders, in a folder or in each class folder in it; files
(train-00000-of-00005.parquet, val-0000.tar); first folders of a tar's members; cells of a table's column `split`;
arrays of an .npz. What may be splits or not is asked for. A folder that holds images as well as shards is refused,
since either might be meant; but shards that `openmae pack` has written, with their index, may have pictures beside
them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, final

import numpy as np

from openmae.data.folders import in_folder, in_parquet, in_shards
from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.note import Note
from openmae.data.parts import Openers, Parts, called_otherwise, said, with_all
from openmae.data.shards.listing import expand, open_shards, packed_shards, tar_files
from openmae.data.shards.source import ShardSource
from openmae.data.sources.arrays import ArrayFile, npz_arrays, open_npz_array
from openmae.data.sources.files import ImageFiles
from openmae.data.sources.folder import COMPRESSED, ImageFolder, unpacking
from openmae.data.sources.joined import Joined
from openmae.data.sources.listing import EXTENSIONS, SLIDES, Listing
from openmae.data.sources.notes import notes_on
from openmae.data.sources.own import OwnImages
from openmae.data.sources.parquet import ParquetImages, holds_images
from openmae.data.sources.remote import is_remote
from openmae.data.sources.selection import WHOLE, Patterns, Selection, none_taken
from openmae.data.sources.source import Source, Subset
from openmae.data.sources.table import TableSource, open_table
from openmae.data.sources.windows import Tiling
from openmae.data.tiles.listing import windows_of
from openmae.errors import UserError
from openmae.files.address import hide
from openmae.own import Own, is_lacking, is_own

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val")  # what a training learns from, and is judged by

_KINDS = (
    "a folder of images, a .csv or .parquet table, .tar shards, .parquet files with the images inside, or a .npy or "
    ".npz array"
)


@final
class Data:
    """What DATA has become: it was listed once, and each part of it is opened once, when it is first asked for.

    location: as it was given, without its secrets. taken: what was taken for which split, in words. selection: what was
    asked for.
    Asking for images raises UserError where there are none.
    """

    def __init__(self, location: str, parts: Parts, selection: Selection) -> None:
        self.selection = selection
        self.location, self.taken, self._is_odd = location, parts.taken, parts.is_odd
        self._opened: dict[str, Source] = {}
        openers = {which: partial(_kept, self._opened, which, opener) for which, opener in parts.openers.items()}
        self._openers = {which: cache(opener) for which, opener in openers.items()}

    @property
    def notes(self) -> list[Note]:
        """What is worth saying of the files of the parts that were opened by now, and of what was taken for a split
        that is called otherwise."""
        opened = [self._opened["all"]] if "all" in self._opened else [*self._opened.values()]
        return [*([Note(f"Splits: {self.taken}")] if self._is_odd else []), *notes_on(opened)]

    @property
    def has_splits(self) -> bool:
        """Whether it is divided into train and val."""
        return "train" in self._openers and ("val" in self._openers or "test" in self._openers)

    @property
    def has_unused_test(self) -> bool:
        """Whether there is a split called test beside train and val, which is read where it is asked for alone."""
        return {"train", "val", "test"} <= self._openers.keys()

    @property
    def all(self) -> Source:
        """All images, those of train before those of val."""
        return self._openers["all"]()

    @property
    def train(self) -> Source:
        """The split train; all images where there are no splits."""
        return self.split("train")

    @property
    def val(self) -> Source:
        """The split val, or test where there is no val; all images where there are no splits."""
        return self.split("val")

    def split(self, which: Split) -> Source:
        """`train`, `val` (test where there is no val), or `test`. Raises UserError where nothing is called test."""
        if which == "test" and "test" not in self._openers:
            raise UserError(f"{self.location} has no split called test", "leave `split='test'` out")
        if not self.has_splits:
            return self.all
        return self._openers[which if which in self._openers else "test"]()


def _kept(opened: dict[str, Source], which: str, opener: Callable[[], Source]) -> Source:
    """Opens it, and notes it there; no method, by which an object would hold itself, and its open files."""
    opened[which] = opener()
    return opened[which]


def open_data(
    data: str, selection: Selection = WHOLE, reading: Reading = UNSAID, listing: Listing | None = None
) -> Data:
    """Looks what DATA is and what it is divided into. reading: of files that are cut into windows. listing: of a
    folder, what of it is asked for, where that is known.

    Raises UserError where there is no such thing, and where it has what may be splits or not."""
    if is_lacking(data):
        raise UserError(
            f"the images are a data set that was given from Python, {data}, which is not kept",
            "make the same call from Python again, with that data set",
        )
    if isinstance(data, Own):
        return _data(data.name, _given(data), selection, reading)
    location = hide(data)
    if selection.tile is not None and is_remote(data):
        raise UserError(
            f"{location} lies on a server, and `tile` would have to fetch all of its images to know their sizes",
            "pack them with `tile` where they are, or copy them",
        )
    return _data(location, _parts(location, selection, listing), selection, reading)


def open_images(images: Sequence[str], selection: Selection = WHOLE, reading: Reading = UNSAID) -> Data:
    """As `open_data` one DATA, or else image files that are named one by one. Raises UserError."""
    if not images:
        raise UserError("IMAGES are missing", "give image files, or one folder, table, ... of images")
    if len(images) == 1 and (is_own(images[0]) or not _is_image(images[0])):
        return open_data(images[0], selection, reading)
    if other := next((name for name in images if not _is_image(name) and not Path(name).is_file()), None):
        raise UserError(f"{other} is no image file", "give image files, or one folder, table, ... of images alone")
    files = cache(partial(ImageFiles, images))
    return _data(files().location, Parts({"all": files}), selection, reading)


def _given(data: Own) -> Parts:
    """Of a caller's data set, or of several by the names of splits."""
    if not isinstance(data.made, Mapping):
        return Parts({"all": lambda: OwnImages(data.made, data.name)})
    openers: Openers = {
        which: partial(OwnImages, images, f"{data.name}.{which}") for which, images in data.made.items()
    }
    if not {"train", "val"} <= openers.keys() <= {"train", "val", "test"}:
        called = f"the data sets are called {', '.join(map(str, openers))}" if openers else f"{data.name} is empty"
        raise UserError(called, "call them train and val, and maybe test; or give one data set that is no dict")
    return Parts(with_all(data.name, openers), "as they were given")


def _is_image(name: str) -> bool:
    """Whether it is one image by its name: a .npy may be an array of many."""
    return Path(name).suffix.lower() in EXTENSIONS - {".npy"} and not is_remote(name)


def _data(location: str, parts: Parts, selection: Selection, reading: Reading) -> Data:
    openers = {"all": parts.openers["all"]} if selection.is_one_set else parts.openers
    if selection.image_key is not None:
        openers = {which: partial(_of_samples, opener) for which, opener in openers.items()}
    if selection.label_column is not None:
        openers = {which: partial(_with_columns, opener) for which, opener in openers.items()}
    if (patterns := selection.patterns) is not None:
        openers = {which: partial(_matching, opener, patterns) for which, opener in openers.items()}
    if selection.tile is None and selection.tile_min_detail is not None:
        raise UserError("`tile_min_detail` is for windows, and images are taken whole", "give `tile`, or leave it out")
    if selection.tile is not None:
        tiling = Tiling.asked(selection.tile, selection.tile_min_detail)
        openers = {which: partial(_cut, opener, tiling, reading) for which, opener in openers.items()}
    return Data(location, replace(parts, openers=openers), selection)


def _parts(data: str, selection: Selection, listing: Listing | None) -> Parts:
    place = Path(data)
    try:
        is_folder, is_file = place.is_dir(), place.is_file()
    except OSError as error:
        raise UserError(f"{data} cannot be read ({error.strerror})", f"give {_KINDS}") from error
    if is_folder:
        return in_folder(place, selection, listing)
    if data.endswith(COMPRESSED) and (is_file or is_remote(data) or "{" in data):
        raise UserError(f"{data} is compressed, which rules out reading single images", unpacking(data))
    if is_remote(data):
        return _remote(data.rstrip("/"), selection)
    if is_file:
        return _in_file(place, selection)
    if "{" in data:
        return in_shards(data, expand(data), selection)
    raise UserError(f"{data} does not exist", f"give {_KINDS}")


def _remote(data: str, selection: Selection) -> Parts:
    if "{" in data or data.partition("?")[0].endswith(".tar"):
        return in_shards(data, expand(data), selection)
    if shards := packed_shards(data) or tar_files(data):
        return in_shards(data, shards, selection)
    names = selection.pair or SPLITS
    below = {split: f"{data}/{name}" for split, name in zip(SPLITS, names, strict=True)}
    shards_below = {split: packed_shards(url) or tar_files(url) for split, url in below.items()}
    if not all(shards_below.values()):
        raise UserError(f"{data} has no index.json and no .tar files", f"give the shards as {data}/{{0000..0099}}.tar")
    opened = partial(open_shards, image_key=selection.image_key)
    openers: Openers = {split: partial(opened, below[split], shards) for split, shards in shards_below.items()}
    taken = "" if selection.is_one_set else said(dict(zip(SPLITS, names, strict=True)), "/")
    return Parts(with_all(data, openers), taken, bool(taken) and names != SPLITS)


def _in_file(file: Path, selection: Selection) -> Parts:
    kind = file.suffix.lower()
    if kind == ".tar":
        return in_shards(str(file), [str(file)], selection)
    if kind == ".csv" or (kind == ".parquet" and not holds_images(file, selection.image_key)):
        return _in_table(file, selection)
    if kind == ".parquet":
        return in_parquet(str(file), [file], selection)
    if kind == ".npy":
        if selection.splits is not None and not selection.is_one_set:
            raise called_otherwise(str(file), "arrays", selection)
        return Parts({"all": partial(ArrayFile, file)})
    if kind == ".npz":
        arrays = npz_arrays(file, selection)
        openers: Openers = {which: partial(open_npz_array, file, name) for which, name in arrays.items()}
        return Parts(with_all(str(file), openers), "" if "all" in arrays else said(arrays))
    if kind in EXTENSIONS or kind[1:].encode() in SLIDES:
        raise UserError(f"{file} is one image", "give the folder that it is in")
    raise UserError(f"{file} is not what images are read from", f"give {_KINDS}")


def _in_table(file: Path, selection: Selection) -> Parts:
    table = open_table(file, selection.label_column)
    openers: Openers = {"all": lambda: table}
    rows = table.rows_of(selection)
    openers.update((which, partial(table.take, chosen)) for which, chosen in rows.items())
    return Parts(openers, "the rows by the column split" if rows else "")


def _of_samples(opener: Callable[[], Source]) -> Source:
    """Samples whose image somebody names. Raises UserError where there is nothing to name."""
    source = opener()
    for whole in _wholes(source):
        if isinstance(whole, ParquetImages):
            continue
        if not isinstance(whole, ShardSource):
            raise UserError(f"`image_key` is for tar shards and parquet, not {source.location}", "leave it out")
        if whole.index.crc32 is not None:
            raise UserError(f"`image_key`: {source.location} was packed, with one image a sample", "leave it out")
    return source


def _with_columns(opener: Callable[[], Source]) -> Source:
    """Images of tables, whose column of labels somebody names. Raises UserError where they are none."""
    source = opener()
    if not all(isinstance(whole, TableSource | ParquetImages) for whole in _wholes(source)):
        raise UserError(f"`label_column` is for tables, .csv and .parquet, not {source.location}", "leave it out")
    return source


def _wholes(source: Source) -> list[Source]:
    """What it is made of."""
    parts = source.parts if isinstance(source, Joined) else [source]
    return [part.whole if isinstance(part, Subset) else part for part in parts]


def _matching(opener: Callable[[], Source], patterns: Patterns) -> Source:
    """The images whose names are asked for. Raises UserError where there is none."""
    source = opener()
    if isinstance(
        source.whole if isinstance(source, Subset) else source, ImageFolder
    ):  # of which this was asked when it was listed
        return source
    taken = patterns.taken(source.name(index) for index in range(len(source)))
    if not taken.any():
        raise none_taken(len(source), source.name(0))
    return source if taken.all() else source.take(np.flatnonzero(taken))


def _cut(opener: Callable[[], Source], tiling: Tiling, reading: Reading) -> Source:
    """The windows of the images."""
    return windows_of(opener(), tiling, reading)
