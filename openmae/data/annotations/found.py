"""What a reader of one format gives: images, what they show, and how they are divided."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmae.data.annotations.annotations import Annotations
from openmae.data.annotations.splits import Places
from openmae.data.annotations.tally import Tally
from openmae.data.note import Note
from openmae.data.sources.folder import ImageFolder
from openmae.data.sources.listing import Listing
from openmae.data.sources.source import Source


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
    """The images of these names, which the listing has, in this order."""
    places = {name: place for place, name in enumerate(listing.names)}
    indices: NDArray[np.int64] = np.array([places[name] for name in names], np.int64)
    return ImageFolder(root, listing).take(indices)
