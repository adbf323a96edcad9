"""Opens DATA, whatever it is: one object, of which the rest of a job asks its splits.

DATA is a folder of images; a table (.csv, or .parquet with a column `path`); tar shards (a .tar file, a pattern
such as shards/{0000..0099}.tar, or a folder of them, also on http(s):// and s3://); .parquet files with the images
inside (one, or a folder of them); or an array (.npy, .npz).

Splits are: `train/` and `val/` inside a folder; files whose names say so (train-00000-of-00005.parquet, val-0000.tar;
`validation` and `test` mean val where there is no `val`); the column `split` of a table; train_images and val_images
of an .npz. A folder that holds images as well as shards is refused, since either might be meant; but shards that
`openmae pack` has written, with their index, may have pictures beside them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeVar, final

import numpy as np

from openmae.data.shards.index import SETTINGS
from openmae.data.shards.listing import expand, open_shards, packed_shards, tar_files
from openmae.data.sources.arrays import ArrayFile, npz_arrays, open_npz_array
from openmae.data.sources.folder import COMPRESSED, ImageFolder, open_folder, unpacking
from openmae.data.sources.joined import Joined
from openmae.data.sources.listing import EXTENSIONS, list_images
from openmae.data.sources.parquet import image_column, open_parquet, open_parquet_images
from openmae.data.sources.remote import is_remote
from openmae.data.sources.selection import WHOLE, Patterns, Selection
from openmae.data.sources.source import Source
from openmae.data.sources.table import TEST, TRAIN, VAL, open_table
from openmae.errors import UserError
from openmae.files.address import hide

File = TypeVar("File", str, Path)

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
Openers = dict[str, Callable[[], Source]]
"""What opens "all", and "train", "val" and "test" where DATA has them."""

_KINDS = (
    "a folder of images, a .csv or .parquet table, .tar shards, .parquet files with the images inside, or a .npy or "
    ".npz array"
)
_SPLIT_IN_NAME = re.compile(r"(?:^|[-_./])(train|val|valid|validation|dev|test)(?=[-_./])")
_SPLIT_CALLED = {"valid": "val", "validation": "val", "dev": "val"}


@final
class Data:
    """What DATA has become: it was listed once, and each part of it is opened once, when it is first asked for.

    location: as it was given, without its secrets. Asking for images raises UserError where there are none.
    """

    def __init__(self, location: str, openers: Openers) -> None:
        self.location = location
        self._openers = {which: cache(opener) for which, opener in openers.items()}

    @property
    def has_splits(self) -> bool:
        """Whether it is divided into train and val."""
        return "train" in self._openers and ("val" in self._openers or "test" in self._openers)

    @property
    def has_unused_test(self) -> bool:
        """Whether there is a split called test beside train and val, which no command reads."""
        beside = not is_remote(self.location) and (Path(self.location) / "test").is_dir()
        return "train" in self._openers and "val" in self._openers and ("test" in self._openers or beside)

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
        """`train` or `val`."""
        if not self.has_splits:
            return self.all
        return self._openers[which if which in self._openers else "test"]()


def open_data(data: str, selection: Selection = WHOLE) -> Data:
    """Looks what DATA is and what it is divided into. Raises UserError where there is no such thing."""
    location = hide(data)
    openers = _openers(location)
    if (patterns := selection.patterns) is not None:
        openers = {which: partial(_matching, opener, patterns) for which, opener in openers.items()}
    return Data(location, openers)


def _openers(data: str) -> Openers:
    place = Path(data)
    try:
        is_folder, is_file = place.is_dir(), place.is_file()
    except OSError as error:
        raise UserError(f"{data} cannot be read ({error.strerror})", f"give {_KINDS}") from error
    if is_folder:
        return _in_folder(place)
    if data.endswith(COMPRESSED) and (is_file or is_remote(data) or "{" in data):
        raise UserError(f"{data} is compressed, which rules out reading single images", unpacking(data))
    if is_remote(data):
        return _remote(data.rstrip("/"))
    if is_file:
        return _in_file(place)
    if "{" in data:
        return _in_shards(data, expand(data))
    raise UserError(f"{data} does not exist", f"give {_KINDS}")


def _remote(data: str) -> Openers:
    if "{" in data or data.partition("?")[0].endswith(".tar"):
        return _in_shards(data, expand(data))
    if shards := packed_shards(data) or tar_files(data):
        return _in_shards(data, shards)
    below = {split: f"{data}/{split}" for split in SPLITS}
    shards_below = {split: packed_shards(url) or tar_files(url) for split, url in below.items()}
    if not all(shards_below.values()):
        raise UserError(f"{data} has no index.json and no .tar files", f"give the shards as {data}/{{0000..0099}}.tar")
    return _with_all(
        data, {split: partial(open_shards, below[split], shards) for split, shards in shards_below.items()}
    )


def _in_folder(place: Path) -> Openers:
    if all((place / split).is_dir() for split in SPLITS):
        splits: Openers = {split: cache(partial(_everything_of, place / split)) for split in SPLITS}
        return {**splits, "all": lambda: _everything_in(place, {split: splits[split]() for split in SPLITS})}
    if packed := packed_shards(str(place)):
        return _in_shards(str(place), packed)
    if (place / SETTINGS).exists():
        raise UserError(f"{place} is not packed to the end", "run the same openmae pack command again")
    listing = list_images(place)
    has_images = len(listing.names) > 0
    shards = [place / name for name in listing.shards if not (has_images and "/" in name)]
    tars = [file for file in shards if file.suffix.lower() == ".tar"]
    tables = [file for file in shards if file.suffix.lower() == ".parquet"]
    if has_images and tables and not any(_holds_images(table) for table in tables):
        tables = []  # they describe the images beside them
    kinds = ["images"] * has_images + [".tar files"] * bool(tars) + [".parquet files"] * bool(tables)
    if len(kinds) > 1:
        raise UserError(f"{place} holds {' and '.join(kinds)}", "give a folder with one of these, or one of the files")
    if tars:
        return _in_shards(str(place), [str(tar) for tar in tars])
    if tables:
        groups = _by_split(tables, lambda table: str(table.relative_to(place)))
        return _with_all(str(place), {w: partial(open_parquet_images, str(place), g) for w, g in groups.items()})
    return {"all": partial(open_folder, place, listing)}


def _in_file(file: Path) -> Openers:
    kind = file.suffix.lower()
    if kind == ".tar":
        return _in_shards(str(file), [str(file)])
    if kind == ".csv" or (kind == ".parquet" and not _holds_images(file)):
        return _in_table(file)
    if kind == ".parquet":
        return {"all": partial(open_parquet_images, str(file), [file])}
    if kind == ".npy":
        return {"all": partial(ArrayFile, file)}
    if kind == ".npz":
        return _with_all(str(file), {w: partial(open_npz_array, file, name) for w, name in npz_arrays(file).items()})
    if kind in EXTENSIONS:
        raise UserError(f"{file} is one image", "give the folder that it is in")
    raise UserError(f"{file} is not what images are read from", f"give {_KINDS}")


def _in_table(file: Path) -> Openers:
    table = open_table(file)
    openers: Openers = {"all": lambda: table}
    for which, number in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        if table.splits is not None and len(rows := np.flatnonzero(table.splits == number)):
            openers[which] = partial(table.take, rows)
    return openers


def _in_shards(location: str, urls: Sequence[str]) -> Openers:
    groups = _by_split(urls, lambda url: url.rpartition("/")[2])
    return _with_all(location, {which: partial(open_shards, location, group) for which, group in groups.items()})


def _by_split(files: Sequence[File], name_of: Callable[[File], str]) -> dict[str, list[File]]:
    """The files by the split that their names tell; all of them together where any tells none."""
    groups: dict[str, list[File]] = {}
    for file in files:
        found = _SPLIT_IN_NAME.search(name_of(file))
        which = _SPLIT_CALLED.get(found[1], found[1]) if found else "all"
        groups.setdefault(which, []).append(file)
    return {"all": list(files)} if "all" in groups else groups


def _with_all(location: str, openers: Openers) -> Openers:
    """The openers, and "all": what they open joined, train before val before test."""
    if "all" in openers:
        return openers
    known: Openers = {which: cache(openers[which]) for which in ("train", "val", "test") if which in openers}
    if len(known) == 1:
        return {"all": known.popitem()[1]}
    return {**known, "all": lambda: Joined(location, [opener() for opener in known.values()])}


def _everything_of(folder: Path) -> Source:
    return _in_folder(folder)["all"]()


def _everything_in(place: Path, splits: Mapping[str, Source]) -> Source:
    """All below a folder with train/ and val/; what else lies there counts only where these hold images."""
    folders = {split: source for split, source in splits.items() if isinstance(source, ImageFolder)}
    if len(folders) < len(splits):
        return Joined(str(place), list(splits.values()))
    return open_folder(place, list_images(place, {split: folder.listing for split, folder in folders.items()}))


def _matching(opener: Callable[[], Source], patterns: Patterns) -> Source:
    """The images whose names are asked for. Raises UserError where there is none."""
    source = opener()
    taken = patterns.taken(source.name(index) for index in range(len(source)))
    if not taken.any():
        raise UserError(
            f"`include` and `exclude` leave none of the {len(source):,} images of {source.location}",
            f"mend the patterns; an image is called {source.name(0)}",
        )
    return source if taken.all() else source.take(np.flatnonzero(taken))


def _holds_images(table: Path) -> bool:
    with open_parquet(table) as file:
        return image_column(file.schema_arrow) is not None
