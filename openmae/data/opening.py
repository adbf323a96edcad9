"""Opens DATA, whatever it is, and divides it into splits.

DATA is a folder of images; a table (.csv, or .parquet with a column `path`); tar shards (a .tar file, a pattern
such as shards/{0000..0099}.tar, or a folder of them, also on http(s):// and s3://); .parquet files with the images
inside (one, or a folder of them); or an array (.npy, .npz).

Splits are: `train/` and `val/` inside a folder; files whose names say so (train-00000-of-00005.parquet, val-0000.tar;
`validation` and `test` mean val where there is no `val`); the column `split` of a table; train_images and val_images
of an .npz. A folder that holds images as well as shards is refused, since either might be meant; but shards that
`openmae pack` has written, with their index, may have pictures beside them.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from openmae.data.shards.index import SETTINGS
from openmae.data.shards.listing import expand, open_shards, packed_shards, tar_files
from openmae.data.sources.arrays import ArrayFile, npz_arrays, open_npz_array
from openmae.data.sources.folder import COMPRESSED, ImageFolder, open_folder, unpacking
from openmae.data.sources.joined import Joined
from openmae.data.sources.listing import EXTENSIONS, list_images
from openmae.data.sources.parquet import image_column, open_parquet, open_parquet_images
from openmae.data.sources.remote import is_remote
from openmae.data.sources.source import Source
from openmae.data.sources.table import TEST, TRAIN, VAL, open_table
from openmae.errors import UserError
from openmae.files.address import hide
from openmae.randomness import generator

File = TypeVar("File", str, Path)

Split = Literal["train", "val"]
Parts = dict[str, Callable[[], Source]]
"""How to open DATA: "all", and "train", "val" and "test" where it has them."""

_KINDS = (
    "a folder of images, a .csv or .parquet table, .tar shards, .parquet files with the images inside, or a .npy or "
    ".npz array"
)
_SPLIT_IN_NAME = re.compile(r"(?:^|[-_./])(train|val|valid|validation|dev|test)(?=[-_./])")
_SPLIT_CALLED = {"valid": "val", "validation": "val", "dev": "val"}


def open_source(data: str, split: Split | None = None) -> Source:
    """The images of DATA, or of one split of it; of all of it where it has no splits.

    Raises UserError where there is no such thing, or no image in it.
    """
    parts = _parts(data)
    if split is None or not _divided(parts):
        return parts["all"]()
    return parts[split if split in parts else "test"]()


def has_splits(data: str) -> bool:
    """Whether DATA is divided into train and val. Raises UserError where there is no such thing."""
    return _divided(_parts(data))


def has_unused_test(data: str) -> bool:
    """Whether DATA has a split called test beside train and val, which no command reads."""
    parts = _parts(data)
    beside = not is_remote(data) and (Path(data) / "test").is_dir()
    return "train" in parts and "val" in parts and ("test" in parts or beside)


def labelled_splits(data: str, seed: int) -> tuple[Source, Source]:
    """(train, val) of labelled DATA. Without splits, a fifth of each class is held out, by the seed.

    Raises UserError where labels are missing, differ between the splits, or a class has too few images.
    """
    if has_splits(data):
        train, val = open_source(data, "train"), open_source(data, "val")
        known, asked = _classes_that_occur(train), _classes_that_occur(val)
        if unknown := asked - known:
            raise UserError(
                f"{val.location} has classes that {train.location} lacks ({', '.join(sorted(unknown))})",
                "mend the labels",
            )
        if len(known) < 2 or len(asked) < 2:
            raise UserError(f"a split of {data} has one class", "give each split two or more")
        return train, val
    everything = open_source(data)
    train_indices: list[int] = []
    val_indices: list[int] = []
    for label, name in enumerate(everything.class_names):
        members = np.flatnonzero(everything.labels == label)
        if len(members) == 0:
            continue
        if len(members) < 2:
            numbers = all(text.isdecimal() for text in everything.class_names)
            hint = ", or, if the labels are numbers to predict, `task='regression'`" if numbers else ""
            raise UserError(f"class '{name}' of {data} has one image", f"give each class two or more{hint}")
        members = generator(seed, "split", index=label).permutation(members)
        held_out = max(1, len(members) // 5)
        val_indices.extend(members[:held_out])
        train_indices.extend(members[held_out:])
    return everything.take(np.sort(train_indices)), everything.take(np.sort(val_indices))


def _classes_that_occur(source: Source) -> set[str]:
    return {source.class_names[label] for label in np.unique(source.labels)}


def _divided(parts: Parts) -> bool:
    return "train" in parts and ("val" in parts or "test" in parts)


def _parts(data: str) -> Parts:
    data = hide(data)
    place = Path(data)
    try:
        is_folder, is_file = place.is_dir(), place.is_file()
    except OSError as error:
        raise UserError(f"{data} cannot be read ({error.strerror})", f"give {_KINDS}") from error
    if is_folder:
        return _folder_parts(place)
    if data.endswith(COMPRESSED) and (is_file or is_remote(data) or "{" in data):
        raise UserError(f"{data} is compressed, which rules out reading single images", unpacking(data))
    if is_remote(data):
        return _remote_parts(data.rstrip("/"))
    if is_file:
        return _file_parts(place)
    if "{" in data:
        return _shard_parts(data, expand(data))
    raise UserError(f"{data} does not exist", f"give {_KINDS}")


def _remote_parts(data: str) -> Parts:
    if "{" in data or data.partition("?")[0].endswith(".tar"):
        return _shard_parts(data, expand(data))
    if shards := packed_shards(data) or tar_files(data):
        return _shard_parts(data, shards)
    below = {split: f"{data}/{split}" for split in ("train", "val")}
    shards_below = {split: packed_shards(url) or tar_files(url) for split, url in below.items()}
    if not all(shards_below.values()):
        raise UserError(f"{data} has no index.json and no .tar files", f"give the shards as {data}/{{0000..0099}}.tar")
    return _with_all(
        data, {split: partial(open_shards, below[split], shards) for split, shards in shards_below.items()}
    )


def _folder_parts(place: Path) -> Parts:
    below = {split: place / split for split in ("train", "val")}
    if all(folder.is_dir() for folder in below.values()):
        parts: Parts = {split: partial(_open_all, folder) for split, folder in below.items()}
        return {**parts, "all": lambda: _join_or_list(place, [parts["train"](), parts["val"]()])}
    if packed := packed_shards(str(place)):
        return _shard_parts(str(place), packed)
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
        return _shard_parts(str(place), [str(tar) for tar in tars])
    if tables:
        groups = _by_split(tables, lambda table: str(table.relative_to(place)))
        return _with_all(str(place), {w: partial(open_parquet_images, str(place), g) for w, g in groups.items()})
    return {"all": partial(open_folder, place)}


def _file_parts(file: Path) -> Parts:
    kind = file.suffix.lower()
    if kind == ".tar":
        return _shard_parts(str(file), [str(file)])
    if kind == ".csv" or (kind == ".parquet" and not _holds_images(file)):
        return _table_parts(file)
    if kind == ".parquet":
        return {"all": partial(open_parquet_images, str(file), [file])}
    if kind == ".npy":
        return {"all": partial(ArrayFile, file)}
    if kind == ".npz":
        return _with_all(str(file), {w: partial(open_npz_array, file, name) for w, name in npz_arrays(file).items()})
    if kind in EXTENSIONS:
        raise UserError(f"{file} is one image", "give the folder that it is in")
    raise UserError(f"{file} is not what images are read from", f"give {_KINDS}")


def _table_parts(file: Path) -> Parts:
    table = open_table(file)
    parts: Parts = {"all": lambda: table}
    for which, number in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        if table.splits is not None and len(rows := np.flatnonzero(table.splits == number)):
            parts[which] = partial(table.take, rows)
    return parts


def _shard_parts(location: str, urls: Sequence[str]) -> Parts:
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


def _with_all(location: str, parts: Parts) -> Parts:
    """The parts, and "all": them joined, train before val before test."""
    if "all" in parts:
        return parts
    ordered = [parts[which] for which in ("train", "val", "test") if which in parts]
    if len(ordered) == 1:
        return {"all": ordered[0]}
    return {**parts, "all": lambda: Joined(location, [part() for part in ordered])}


def _open_all(folder: Path) -> Source:
    return _folder_parts(folder)["all"]()


def _join_or_list(place: Path, parts: Sequence[Source]) -> Source:
    """Everything below a folder with train/ and val/; what else lies there counts only where they hold images."""
    return open_folder(place) if all(isinstance(part, ImageFolder) for part in parts) else Joined(str(place), parts)


def _holds_images(table: Path) -> bool:
    with open_parquet(table) as file:
        return image_column(file.schema_arrow) is not None
