"""Whether annotations fit their images: their sizes, and which way up they are, by a look at some."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openmae.console.words import several
from openmae.data.annotations.annotations import Annotations, Turned
from openmae.data.annotations.listed import Listed
from openmae.data.annotations.orientations import orientation_of
from openmae.data.formats.decode import open_image, reasons
from openmae.data.formats.reading import Reading
from openmae.data.note import Note
from openmae.data.sources.source import Source
from openmae.errors import BrokenImage, UserError

_LOOKED_AT = 128
IN_CHECK = "such images are left out; openmae check lists them"


@dataclass(frozen=True)
class _Fit:
    """size: (H, W) upright; own: of the annotation, as it says; orientation: of the image, as EXIF numbers them."""

    index: int
    size: tuple[int, int]
    own: tuple[int, int]
    orientation: int

    @property
    def is_upright(self) -> bool:
        return self.size == self.own

    @property
    def is_stored(self) -> bool:
        return (self.size[::-1] if self.orientation >= 5 else self.size) == self.own


def fitted(location: str, images: Source, right: Annotations, reading: Reading) -> tuple[Annotations, list[Note]]:
    """The annotations, turned with the images where they are of the images as they are stored, and what to say of it.
    Raises UserError where most are of other sizes."""
    fits = _looked_at(images, right, reading)
    turned = [fit for fit in fits if fit.orientation != 1]
    telling = [fit for fit in turned if fit.is_upright != fit.is_stored]
    stored = [fit for fit in telling if fit.is_stored]
    notes: list[Note] = []
    if stored and len(stored) * 2 > len(telling):
        right = Turned(right, images)
        notes.append(
            Note(f"Images are turned as their EXIF says, and their annotations with them, for {len(stored)} of "
                 f"{len(telling)} that tell fit the images as they are stored")
        )  # fmt: skip
    elif turned:
        why = f"{len(telling)} that tell fit them so" if telling else "nothing tells that they are not"
        notes.append(Note(f"Images are turned as their EXIF says, and their annotations are not, for {why}"))
    misfits = [fit for fit in fits if not (fit.is_stored if isinstance(right, Turned) else fit.is_upright)]
    if misfits:
        first = misfits[0]
        called = f"{images.shown(first.index)} is {_by(first.size)} pixels, its annotation {_by(first.own)}"
        what = (
            f"{several(len(misfits), 'annotation')} of the {len(fits)} that were looked at "
            f"{'is' if len(misfits) == 1 else 'are'} of another size than the image"
        )
        if len(misfits) * 2 > len(fits):
            raise UserError(f"{what} in {location} ({called})", "give both in one size")
        notes.append(Note(f"{what} ({called})", IN_CHECK, is_warning=True))
    return right, notes


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _looked_at(images: Source, right: Annotations, reading: Reading) -> list[_Fit]:
    fits = []
    for index in np.unique(np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).astype(int)).tolist():
        try:
            data = images.read(index)
            header = open_image(data, reading).header
            with reasons():
                own, orientation = right.own_size(index), orientation_of(data)
        except (OSError, BrokenImage):
            continue
        size = header.height, header.width
        if own is not None or orientation != 1:
            fits.append(_Fit(index, size, own or size, orientation if own or isinstance(right, Listed) else 1))
    return fits
