"""Bytes of an image file -> what the model sees of it, read as in training; and the images that are kept for the page.

Shapes: C channels, H x W pixels of the model.
"""

import io
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count

import torch
from rich.console import Console
from torch import Tensor

from openmae.data.formats.reading import UNSAID, Reading
from openmae.data.survey.sample import evidence, levels_of, seen_of
from openmae.data.views.centred import centred
from openmae.data.views.statistics import Statistics
from openmae.errors import BrokenImage, UserError
from openmae.evaluate.suited import suited_to
from openmae.recipes.levels import check_expected
from openmae.weights import Loaded

MOST_KEPT = 64  # images; of several tabs, too


@dataclass(frozen=True)
class Viewed:
    """What the model sees of a file: image (1, C, H, W) as decoded; statistics, with how the file was read; notes on
    it, a sentence each."""

    name: str
    image: Tensor
    statistics: Statistics
    notes: tuple[str, ...]

    @property
    def normalised(self) -> Tensor:
        """(1, C, H, W) float32."""
        return self.statistics.normalize(self.image)


def view(loaded: Loaded, asked: Reading, name: str, data: bytes) -> Viewed:
    """As `openmae reconstruct` reads it. Raises UserError for what gives no image of the model's."""
    said = Console(file=io.StringIO(), width=10_000, highlight=False, markup=False, emoji=False)
    seen = seen_of(data, UNSAID)
    suited = suited_to(loaded, evidence([seen]), asked, said)
    statistics = suited.statistics
    height, width = loaded.encoder.img_size
    down, across = loaded.encoder.patch_size
    try:
        pixels = centred(data, statistics.pixels, (height, width), (down, across))
    except BrokenImage as error:
        # Its advice is for settings, or for a set that can do without the image.
        raise UserError(f"{name}: {error.what}", "give another image, or a part of it") from error
    check_expected(loaded.name, statistics, levels_of([data], statistics.pixels), name, said)
    notes = said.file.getvalue().splitlines() if isinstance(said.file, io.StringIO) else []
    if seen.header is not None and (seen.header.height, seen.header.width) != (height, width):
        have = f"{seen.header.width:,} x {seen.header.height:,}"
        notes.insert(0, f"Of {have} pixels the model sees the middle, at {width} x {height}.")
    return Viewed(name, torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], statistics, tuple(notes))


class Shelf:
    """The images that were opened last, by the number that the page has of each."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._kept: OrderedDict[int, Viewed] = OrderedDict()

    def put(self, viewed: Viewed) -> int:
        """Its number."""
        number = next(self._numbers)
        self._kept[number] = viewed
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return number

    def __getitem__(self, number: int) -> Viewed:
        if number not in self._kept:
            raise UserError("this image is not kept any more", "open it again")
        self._kept.move_to_end(number)
        return self._kept[number]
