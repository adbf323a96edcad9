"""What a reader of one format gives: images, what they show, and how they are divided."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openmae.data.annotations.annotations import Annotations
from openmae.data.annotations.splits import Places
from openmae.data.annotations.tally import Tally
from openmae.data.note import Note
from openmae.data.sources.folder import ImageFolder
from openmae.data.sources.listing import Listing, fingerprint
from openmae.data.sources.source import Names, Source


@dataclass(frozen=True)
class Found:
    """format: in words, with how many files. taken: what was taken for which split, in words; empty where there is
    none. notes: what is worth saying beside what was left out."""

    format: str
    images: Source
    right: Annotations
    places: Places
    taken: str
    tally: Tally
    notes: tuple[Note, ...] = ()


def images_of(root: Path, listing: Listing, names: Sequence[str]) -> Source:
    """The images of these names, which the listing has, in this order; nothing else that lies there is one."""
    chosen = {*names}
    places = [place for place, name in enumerate(listing.names) if name in chosen]
    kept, sizes = Names.of(listing.names[place] for place in places), listing.sizes[places]
    alone = replace(
        listing, names=kept, sizes=sizes, fingerprint=fingerprint(kept, sizes), folders=Names.of([]), others=()
    )
    number = {name: place for place, name in enumerate(kept)}
    return ImageFolder(root, alone).take(np.array([number[name] for name in names], np.int64))
