"""Large-scale jitter: an image and its outlines drawn larger or smaller, and a window of that (arXiv 2012.07177).

The window has the model's size; where the image that was drawn is smaller, the rest of the window is the mean of the
images, and nothing is asked there. All is drawn from the view's own generator. What is done to pixels, masks and boxes
is torchvision's.
"""

from dataclasses import dataclass, field

import numpy as np

from openmae.data.views.crop import Augmentation, turned
from openmae.errors import BadValue

_NUMBERS = 10  # that a view draws, whatever is done with them


@dataclass(frozen=True)
class Jitter:
    """scale: least and most size of what is drawn, evenly drawn; of 1 an image has its own pixels, or, where it `fits`,
    it is just as large as the window's smaller share of it.

    turns: how views are mirrored and turned; its crops are not asked. colour: strength, 0 to 1, of changes of
    brightness, contrast and saturation; for 8-bit photographs.
    Raises ValueError for a scale that is none.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    fits: bool = False
    turns: Augmentation = field(default_factory=Augmentation)
    colour: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise BadValue(f"scale is {self.scale}", "give two ascending numbers above 0")
        if not 0 <= self.colour <= 1:
            raise BadValue(f"colour is {self.colour:g}", "give a number from 0 to 1")


@dataclass(frozen=True)
class Placed:
    """A part of an image, rows top to top + height, columns left to left + width, mirrored, then upside down, then with
    rows for columns, drawn `size` (height, width) pixels large in the upper left corner of the window; colour: factors
    of brightness, contrast and saturation."""

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]
    turned: tuple[bool, bool, bool] = (False, False, False)
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


def place(size: tuple[int, int], img_size: tuple[int, int], jitter: Jitter, draws: np.random.Generator) -> Placed:
    """Of an image of `size` (height, width), for a window of img_size."""
    numbers = draws.random(_NUMBERS).tolist()
    share, down, right, mirror, flip, turn, *colours = numbers[:9]
    shown_as = turned(jitter.turns.hflip and mirror < 0.5, jitter.turns, flip, turn)
    if shown_as[2]:
        img_size = img_size[::-1]
    least, most = jitter.scale
    scale = least + share * (most - least)
    if jitter.fits:
        scale *= min(want / have for want, have in zip(img_size, size, strict=True))
    parts, shown = [], []
    for have, want, at in zip(size, img_size, (down, right), strict=True):
        drawn = max(1, round(have * scale))
        part = have if drawn <= want else max(1, round(want / scale))
        parts.append((int(at * (have - part + 1)), part))
        shown.append(min(drawn, want))
    (top, height), (left, width) = parts
    strength = jitter.colour
    brightness, contrast, saturation = (1 + strength * (2 * number - 1) for number in colours)
    drawn_size = (shown[1], shown[0]) if shown_as[2] else (shown[0], shown[1])
    return Placed(top, left, height, width, drawn_size, shown_as, (brightness, contrast, saturation))
