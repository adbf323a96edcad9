"""Which annotated images are train, val and test: by the folders that they lie in, or by lists of their names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.data.parts import called_otherwise, unsaid
from openmae.data.sources.selection import Selection
from openmae.data.sources.splits import KINDS, Kind, look_alikes, plainly

Places = Mapping[Kind, NDArray[np.int64]]
"""Which images are of which split."""


def by_folders(location: str, folders: Sequence[tuple[str, ...]], selection: Selection) -> tuple[Places, str]:
    """(the images of each split, what was taken for which in words), nothing where the folders tell none. folders: of
    each image, without those that say images or masks. Raises UserError where that is not plain."""
    if selection.is_one_set or selection.splits == "classes":
        return {}, ""
    for depth in (0, 1):
        heads = [own[depth] if len(own) > depth else "" for own in folders]
        kinds = sorted({*heads})
        if (named := _named(location, kinds, selection)) is not None:
            places = {kind: np.flatnonzero([head == name for head in heads]) for kind, name in named.items()}
            return places, ", ".join(f"{name}/ for {'val' if kind == 'test' and 'val' not in named else kind}"
                                     for kind, name in named.items())  # fmt: skip
        if len(kinds) > 1:
            break
    if selection.pair is not None or selection.splits == "folders":
        raise called_otherwise(location, "folders", selection)
    return {}, ""


def _named(location: str, names: Sequence[str], selection: Selection) -> Mapping[Kind, str] | None:
    """The folder of each split, None where none is."""
    if selection.pair is not None:
        train, val = selection.pair
        return {"train": train, "val": val} if {train, val} <= {*names} else None
    alike = look_alikes(name for name in names if name)
    others = [name for name in names if name not in alike]
    if not alike or len(names) == 1:
        return None
    plain = plainly(alike)
    if plain is None or (others and selection.splits is None):
        raise unsaid(location, "folders", [*alike], others)
    return plain


def by_lists(folder: Path, stems: Sequence[str]) -> Places:
    """The images of each split, as train.txt, val.txt and test.txt in a folder name their stems, one a line; nothing
    where there are none for train and one of the others."""
    places: dict[Kind, NDArray[np.int64]] = {}
    for kind in KINDS:
        try:
            lines = (folder / f"{kind}.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        named = {line.split()[0] for line in lines if line.strip()}
        if len(found := np.flatnonzero([stem in named for stem in stems])):
            places[kind] = found
    return places if "train" in places and len(places) > 1 else {}
