"""Sheets of images with their objects: image, as labelled, as found; or image and what was found in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from openmae.data.annotations.objects import Objects, Piece
from openmae.data.tiles.large import AnyImage
from openmae.report.sheets.layout import Row, elide, font_for, sheet
from openmae.report.sheets.outlines import REPORTED, as_picture, colours, legend_of, square

_PREDICTED = 448  # pixels a side of a tile, of two in a row
_TINT = 0.35  # of an object's colour over the image
_FINE = 8  # pixels of an image that a pixel of a picture is made of, at least, where some are left out
_CROWD = (128, 128, 128)
_LETTERS = 13  # pixels
_LONGEST_LABEL = 0.4  # of a tile

Ink = tuple[int, int, int]


@dataclass(frozen=True)
class ShownObjects:
    """An image (H, W, C) as decoded; its objects, right and found; its name, and what is said of it."""

    image: AnyImage
    right: Objects
    found: Objects
    name: str
    note: str


@dataclass(frozen=True)
class FoundObjects:
    """An image (H, W, C) as decoded; the objects found in it, the surest first, and their scores (n,); its name, and
    what is said of it."""

    image: AnyImage
    found: Objects
    scores: NDArray[np.float32]
    name: str
    note: str


def object_sheet(shown: Sequence[ShownObjects], names: Sequence[str]) -> Image.Image:
    """One row an image. The colour is the class's, or, of one class alone, just one that its neighbours have not; of
    several classes their names stand by, where there is room for them. Raises ValueError where there is none."""
    inks = _Inks(names)
    rows = []
    for one in shown:
        tiles = [_sized(one.image, REPORTED)]
        for objects in (one.right, one.found):
            picture = _drawn(one.image, objects, inks, REPORTED)
            if not inks.one_class:
                own = [names[label] for label in objects.classes.tolist()]
                _label(picture, objects, own, inks, REPORTED / max(one.image.shape[:2]))
            tiles.append(picture)
        rows.append(Row([square(tile) for tile in tiles], one.name, one.note))
    occurring = {int(label) for one in shown for objects in (one.right, one.found) for label in objects.classes}
    crowds = any(one.right.crowd.any() for one in shown)
    size = (REPORTED, REPORTED)
    said = f"{inks.said}{' Grey: nobody judges.' if crowds else ''}".strip()
    return sheet(("image", "labelled", "found"), rows, size, said, inks.legend(occurring), REPORTED, len(rows))


def found_sheet(shown: Sequence[FoundObjects], names: Sequence[str]) -> Image.Image:
    """One row an image, each object with its class and score, where there is room for them. Colours as those of
    `object_sheet`. Raises ValueError where there is none."""
    inks, rows = _Inks(names), []
    for one in shown:
        picture = _drawn(one.image, one.found, inks, _PREDICTED)
        scale = _PREDICTED / max(one.image.shape[:2])
        if one.found.pieces is not None:
            _frame(picture, one.found, inks, scale, 1)
        labels = zip(one.found.classes.tolist(), one.scores.tolist(), strict=True)
        said = [f"{score:.2f}" if inks.one_class else f"{names[label]} {score:.2f}" for label, score in labels]
        _label(picture, one.found, said, inks, scale)
        tiles = [_sized(one.image, _PREDICTED), picture]
        rows.append(Row([square(tile) for tile in tiles], one.name, one.note))
    occurring = {int(label) for one in shown for label in one.found.classes}
    size = (_PREDICTED, _PREDICTED)
    return sheet(("image", "found"), rows, size, inks.said, inks.legend(occurring), _PREDICTED)


class _Inks:
    """Which colour an object has."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.one_class = names, len(names) == 1
        self.palette = colours(max(len(names), 8), False)

    @property
    def said(self) -> str:
        return f"{self.names[0]}: colours tell objects apart." if self.one_class else ""

    def of(self, objects: Objects) -> list[Ink]:
        which = range(len(objects)) if self.one_class else objects.classes.tolist()
        inks = [self._ink(place % len(self.palette)) for place in which]
        return [_CROWD if crowd else ink for ink, crowd in zip(inks, objects.crowd, strict=True)]

    def legend(self, occurring: set[int]) -> list[tuple[Ink, str]]:
        """Of the classes that occur."""
        return [] if self.one_class else legend_of(self.names, self.palette, occurring)

    def _ink(self, place: int) -> Ink:
        red, green, blue = self.palette[place].tolist()
        return red, green, blue


def _sized(image: AnyImage, side: int) -> Image.Image:
    """The longer side so many pixels. Of an image that is very much larger, some of its pixels are looked at alone."""
    longer = max(image.shape[:2])
    scale, step = side / longer, max(1, longer // (_FINE * side))
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return Image.fromarray(as_picture(image[::step, ::step])).resize((width, height), how)


def _drawn(image: AnyImage, objects: Objects, inks: _Inks, side: int) -> Image.Image:
    """Each object tinted and outlined where its pixels are known, framed where its box is all that is. Lines are of the
    picture's own pixels, however large the image is."""
    drawn, scale = _sized(image, side), side / max(image.shape[:2])
    if objects.pieces is None:
        _frame(drawn, objects, inks, scale, 2)
        return drawn
    picture = np.asarray(drawn).astype(np.float32)
    for piece, ink in reversed([*zip(objects.pieces, inks.of(objects), strict=True)]):  # the surest one above
        _tint(picture, piece, np.array(ink, np.float32), scale)
    return Image.fromarray(picture.round().clip(0, 255).astype(np.uint8))


def _tint(picture: NDArray[np.float32], piece: Piece, ink: NDArray[np.float32], scale: float) -> None:
    """One object into the picture (h, w, 3) of an image that is drawn at this scale."""
    if not piece.mask.size:
        return
    top, left = (min(round(at * scale), most - 1) for at, most in zip(piece[:2], picture.shape, strict=False))
    height, width = (max(1, round(side * scale)) for side in piece.mask.shape)
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    mask = np.asarray(Image.fromarray(piece.mask.astype(np.uint8) * 255).resize((width, height), how)) >= 128
    part = picture[top : top + height, left : left + width]
    mask = mask[: part.shape[0], : part.shape[1]]
    core, line = mask, 2 if min(height, width) >= 12 else 1
    for _ in range(line):
        inside = np.pad(core, 1)
        core = core & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    part[core] = (1 - _TINT) * part[core] + _TINT * ink
    part[mask & ~core] = ink


def _frame(picture: Image.Image, objects: Objects, inks: _Inks, scale: float, width: int) -> None:
    """The box of each object."""
    canvas = ImageDraw.Draw(picture)
    for box, ink in reversed([*zip((objects.boxes * scale).tolist(), inks.of(objects), strict=True)]):
        left, top, right, bottom = box
        canvas.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=ink, width=width)


def _label(picture: Image.Image, objects: Objects, said: Sequence[str], inks: _Inks, scale: float) -> None:
    """What is said of each object over its box, the first ones first; where there is no room it is left out."""
    canvas, taken = ImageDraw.Draw(picture), list[tuple[float, float, float, float]]()
    for box, whole, ink in zip((objects.boxes * scale).tolist(), said, inks.of(objects), strict=True):
        font = font_for(whole, _LETTERS)
        words = elide(whole, font, _LONGEST_LABEL * picture.width)
        width, height = font.getlength(words) + 4, _LETTERS + 3
        left = min(max(0.0, box[0]), picture.width - width)
        for top in (box[1] - height, box[1], box[3]):
            place = (left, top, left + width, top + height)
            is_free = all(
                place[2] <= there[0] or there[2] <= place[0] or place[3] <= there[1] or there[3] <= place[1]
                for there in taken
            )
            if is_free and 0 <= top <= picture.height - height:
                taken.append(place)
                canvas.rectangle(place, fill=ink)
                light = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2]
                canvas.text((left + 2, top + height / 2), words, "black" if light > 110 else "white", font, anchor="lm")
                break
