"""What a folder is: of images, of shards or of parquet files, and which folders in it are its splits.

Splits are folders that are called so (`train/` and `val/`, whatever else lies there; `Training/` and `Testing/`,
`seg_train/` and `seg_test/`, ... where nothing else with images does), in the folder itself, in the one folder that
holds all, or in each of the class folders. What looks so without saying it plainly is asked for.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.data.parts import Openers, Parts, by_split, called_otherwise, of_files, said, unsaid, with_all
from openmae.data.shards.index import SETTINGS
from openmae.data.shards.listing import first_folders, open_shards, packed_shards
from openmae.data.shards.source import ShardSource
from openmae.data.sources.folder import ImageFolder, SplitFolder, open_folder
from openmae.data.sources.joined import Joined
from openmae.data.sources.listing import Listing, between, list_images, matching
from openmae.data.sources.notes import mask_folders
from openmae.data.sources.parquet import has_column, holds_images, open_parquet_images, text_column
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.sources.splits import Kind, look_alikes, plainly, split_name
from openmae.data.sources.table import rows_by_split
from openmae.errors import UserError

Folders = Mapping[Kind, str]
"""Which folder is which split."""


def in_folder(place: Path, selection: Selection, listing: Listing | None = None) -> Parts:
    """What opens it. listing: of what lies in it, where that is known.

    Raises UserError where it holds nothing, things of several kinds, or what may be splits or not.
    """
    if (folders := _called_exactly(place, selection)) is not None:
        return _in_splits(place, folders, selection, listing)  # without one, it walks the splits that are asked for
    if packed := packed_shards(str(place)):
        return in_shards(str(place), packed, selection)
    if (place / SETTINGS).exists():
        raise UserError(f"{place} is not packed to the end", "run the same openmae pack command again")
    listing = matching(list_images(place, slides=selection.tile is not None), selection) if listing is None else listing
    if (folders := _splits_in(place, listing, selection)) is not None:
        return _in_splits(place, folders, selection, listing)
    has_images = len(listing.names) > 0
    shards = [place / name for name in listing.shards if not (has_images and "/" in name)]
    tars = [file for file in shards if file.suffix.lower() == ".tar"]
    tables = [file for file in shards if file.suffix.lower() == ".parquet"]
    if has_images and tables and not any(holds_images(table, selection.image_key) for table in tables):
        tables = []  # they describe the images beside them
    kinds = ["images"] * has_images + [".tar files"] * bool(tars) + [".parquet files"] * bool(tables)
    if len(kinds) > 1:
        raise UserError(f"{place} holds {' and '.join(kinds)}", "give a folder with one of these, or one of the files")
    if tars:
        return in_shards(str(place), [str(tar) for tar in tars], selection)
    if tables:
        return _of_tables(place, tables, selection)
    return _of_images(place, listing, selection)


def _of_tables(place: Path, tables: list[Path], selection: Selection) -> Parts:
    """Parquet files, by the splits that their names tell."""

    def name_of(table: Path) -> str:
        return str(table.relative_to(place))

    groups = by_split(str(place), tables, name_of, selection)
    if not groups or [*groups] == ["all"]:
        return in_parquet(str(place), tables, selection)
    opened = partial(open_parquet_images, str(place), key=selection.image_key, label_column=selection.label_column)
    openers: Openers = {which: partial(opened, group) for which, group in groups.items()}
    return Parts(with_all(str(place), openers), *of_files(groups, name_of))


def in_parquet(location: str, files: list[Path], selection: Selection) -> Parts:
    """Files with the images inside, which together hold all splits: by their column `split`, if it tells any apart."""
    openers: Openers = {
        "all": cache(partial(open_parquet_images, location, files, selection.image_key, selection.label_column))
    }
    if selection.is_one_set:
        return Parts(openers)
    cells = text_column(files, "split") if all(has_column(file, "split") for file in files) else []
    names = {name: number for number, name in enumerate(dict.fromkeys(cells))}
    if len(names) < 2:
        if selection.pair is not None:
            raise called_otherwise(location, "files and no rows", selection)
        return Parts(openers)
    rows = rows_by_split(location, np.array([names[cell] for cell in cells]), [*names], selection)
    everything = openers["all"]
    openers |= {which: partial(_rows_of, everything, chosen) for which, chosen in rows.items()}
    return Parts(openers, "the rows by the column split")


def _rows_of(opener: Callable[[], Source], rows: NDArray[np.int64]) -> Source:
    return opener().take(rows)


def in_shards(location: str, urls: list[str], selection: Selection) -> Parts:
    """The shards, by the splits that their names tell, or else those of their members."""

    def name_of(url: str) -> str:
        return url.rpartition("/")[2]

    groups = by_split(location, urls, name_of, selection)
    if (not groups or [*groups] == ["all"]) and not selection.is_one_set:
        return _by_members(location, open_shards(location, urls, selection.image_key), selection)
    opened = partial(open_shards, location, image_key=selection.image_key)
    openers: Openers = {which: partial(opened, group) for which, group in groups.items()}
    return Parts(with_all(location, openers), *of_files(groups, name_of))


def _by_members(location: str, source: ShardSource, selection: Selection) -> Parts:
    """Samples by the folder that their names begin with, where it is a split; of shards that were packed only where
    somebody says so, for these were divided as they were to be."""
    whole: Openers = {"all": lambda: source}
    if source.index.crc32 is not None and selection.splits is None:
        return Parts(whole)
    folders = first_folders(source.index.names)
    plain = _of_members(location, {*folders}, selection)
    if plain is None:
        return Parts(whole)
    place = {name: number for number, name in enumerate(plain.values())}
    numbers = np.array([place.get(folder, -1) for folder in folders])
    openers: Openers = {kind: partial(source.take, np.flatnonzero(numbers == place[plain[kind]])) for kind in plain}
    return Parts({**openers, **whole}, said(plain, "/"), _are_odd(plain))


def _of_members(location: str, folders: set[str], selection: Selection) -> Folders | None:
    """Which of the folders that names of members begin with are splits; None where none is. Raises UserError where that
    is not plain, or not as it is asked for."""
    if selection.pair is not None:
        train, val = selection.pair
        if not {train, val} <= folders:
            raise called_otherwise(location, "files and no folders of members", selection)
        return {"train": train, "val": val}
    alike = look_alikes(sorted(folders))
    others = sorted(folders - alike.keys())
    if not alike or len(folders) == 1:
        if selection.splits is not None:
            raise called_otherwise(location, "files and no folders of members", selection)
        return None
    if (plain := plainly(alike)) is None or (others and selection.splits is None):
        raise unsaid(location, "members", [f"{name}/" for name in alike], [f"{name}/" for name in others if name])
    return plain


# ---------------------------------------------------------------- splits in the folder itself


def _called_exactly(place: Path, selection: Selection) -> Folders | None:
    """Folders called train and val, whatever else lies there, or those that the selection names."""
    if selection.splits == "classes":
        return None
    train, val = selection.pair or ("train", "val")
    patterns = selection.patterns
    for name in (train, val):
        if not (place / name).is_dir() or (patterns and patterns.excludes(selection.prefix + name)):
            return None
    has_test = selection.pair is None and (place / "test").is_dir()
    return {"train": train, "val": val, **({"test": "test"} if has_test else {})}


def _splits_in(place: Path, listing: Listing, selection: Selection) -> Folders | None:
    """The folders that are its splits, by their names; None where there are none, or are to be none. Raises UserError
    where that is not plain."""
    if selection.splits == "classes" or selection.pair is not None:
        return None
    tree = _Tree(listing)
    holding = tree.holding()
    alike = look_alikes(holding)
    others = [name for name in holding if name not in alike]
    if not alike or len(holding) == 1:
        return None  # there is nothing to tell apart
    plain = plainly(alike)
    if plain is not None and (not others or selection.splits is not None):
        return plain
    if selection.splits == "none":
        return None
    raise unsaid(str(place), "folders", [*alike], others)


def _in_splits(place: Path, folders: Folders, selection: Selection, listing: Listing | None) -> Parts:
    """Each of these folders; inside them a folder called test is a class. listing: of place, where it is known."""

    def opener(name: str) -> Source:
        inside = replace(selection.inside(name), splits="classes")
        return in_folder(place / name, inside, None if listing is None else listing.below(name)).openers["all"]()

    openers: Openers = {kind: cache(partial(opener, name)) for kind, name in folders.items()}
    whole = partial(_everything_in, place, folders, openers, selection, listing)
    if selection.splits == "none":
        return Parts({"all": whole}, f"{' and '.join(f'{name}/' for name in folders.values())} together", is_odd=True)
    return Parts({**openers, "all": whole}, said(folders, "/"), _are_odd(folders))


def _are_odd(folders: Folders) -> bool:
    return any(kind != name for kind, name in folders.items())


def _everything_in(
    place: Path, folders: Folders, openers: Openers, selection: Selection, listing: Listing | None
) -> Source:
    """All below a folder with splits; what else lies there counts only where these hold images."""
    used = {kind: name for kind, name in folders.items() if kind != "test" or "val" not in folders}
    parts = {name: openers[kind]() for kind, name in used.items()}
    images = {name: part for name, part in parts.items() if isinstance(part, ImageFolder)}
    if len(images) < len(parts):
        return Joined(str(place), list(parts.values()))
    if listing is None:
        known = {} if selection.patterns else {name: part.listing for name, part in images.items() if "/" not in name}
        listing = matching(list_images(place, known, slides=selection.tile is not None), selection)
    return SplitFolder(place, listing, images)


# ---------------------------------------------------------------- splits in the folders in it


def _of_images(place: Path, listing: Listing, selection: Selection) -> Parts:
    """A folder of images whose own folders may hold the splits: the one that holds all, or each of its classes."""
    tree = _Tree(listing)
    tops = tree.holding()
    if selection.splits != "classes" and tops and not tree.has_loose("", tops):
        if len(tops) == 1:
            found = _in_the_only_folder(place, tops[0], listing, selection)
        else:
            found = None if selection.splits == "none" else _in_class_folders(place, tops, tree, selection)
        if found is not None:
            return found
    if selection.pair or selection.splits == "folders":
        raise called_otherwise(str(place), "folders", selection)
    return Parts({"all": partial(open_folder, place, listing)})


def _in_the_only_folder(place: Path, top: str, listing: Listing, selection: Selection) -> Parts | None:
    """The folder that holds all, where it is divided into splits and is none itself."""
    if split_name(top) is not None:
        return None
    below, inside, inner = place / top, selection.inside(top), listing.below(top)
    folders = _called_exactly(below, inside) or _splits_in(below, inner, inside)
    return None if folders is None else _in_splits(below, folders, inside, inner)


def _in_class_folders(place: Path, tops: list[str], tree: "_Tree", selection: Selection) -> Parts | None:
    """Class folders each of which has splits in it."""

    def plain_of(names: Iterable[str]) -> Folders | None:
        if selection.pair is None:
            return plainly(look_alikes(names))
        train, val = selection.pair
        return {"train": train, "val": val} if {train, val} <= {*names} else None

    inner = {top: tree.splits_below(top, selection.pair or ()) for top in tops}
    if not any(plain_of(names) for names in inner.values()):
        return None
    if masks := mask_folders(tops):
        raise UserError(
            f"{place} has splits in {', '.join(tops)}, of which {masks[0]} looks like masks of the images",
            "leave it out by `exclude`",
        )
    names = sorted({name for found in inner.values() for name in found})
    plain, without = plain_of(names), [top for top, found in inner.items() if not found]
    if plain is None or without:
        raise unsaid(str(place), "class folders in which folders are", names, without)
    everything = cache(partial(open_folder, place, tree.listing))

    def part(folder: str) -> Source:
        source = everything()
        inside = (source.name(index).split("/", 2)[1] == folder for index in range(len(source)))
        return source.take(np.flatnonzero(np.fromiter(inside, np.bool_)))

    openers: Openers = {kind: partial(part, name) for kind, name in plain.items()}
    taken = said({kind: f"CLASS/{name}" for kind, name in plain.items()}, "/")
    return Parts({**openers, "all": everything}, taken, is_odd=True)


class _Tree:
    """The upper folders of a listing, those in which images or shards lie."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self._inside: dict[str, list[str]] = {}
        for folder in listing.folders:
            above, _, name = folder.rstrip("/").rpartition("/")
            if name and above.count("/") < 1:
                self._inside.setdefault(f"{above}/" if above else "", []).append(name)

    def holding(self, prefix: str = "") -> list[str]:
        """Names of the folders behind a prefix, "" or that of a folder with a slash at its end."""
        return sorted(name for name in self._inside.get(prefix, ()) if self._count(f"{prefix}{name}/"))

    def has_loose(self, prefix: str, holding: Iterable[str]) -> bool:
        """Whether files lie there beside these folders."""
        inside = sum(self._count(f"{prefix}{name}/") for name in holding)
        whole = self._count(prefix) if prefix else len(self.listing.names) + len(self.listing.shards)
        return inside < whole

    def splits_below(self, top: str, pair: Iterable[str]) -> list[str]:
        """The folders in a folder, where all look like splits and nothing lies beside them; else none."""
        prefix = f"{top}/"
        if not any(split_name(name) or name in pair for name in self._inside.get(prefix, ())):
            return []
        holding = self.holding(prefix)
        alike = all(split_name(name) or name in pair for name in holding)
        return holding if alike and not self.has_loose(prefix, holding) else []

    def _count(self, prefix: str) -> int:
        """How many images and shards lie behind a prefix that ends in a slash."""
        bounds = (between(names, os.fsencode(prefix)) for names in (self.listing.names, self.listing.shards))
        return sum(stop - start for start, stop in bounds)
