"""Missing pixels of a data set: how many there are, and values that look like no-data though no file says so."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.missing import Missing

LEAST = 0.001  # share of an image's values that are equal, from which on its outermost value may be no measurement
FAR_OF_USUAL = 0.1  # times the range of all other values
_HUGE = 1e18  # netCDF's 9.97e36, CF's 1e20, the lowest and highest float32; nothing that a camera measures
_USUAL = frozenset((-999.0, -9998.0, -9999.0, -99999.0, -999999.0, -32767.0, -32768.0, -2147483647.0, -2147483648.0))


@dataclass(frozen=True)
class Ends:
    """Of one image, channels together: its outermost values that may stand for no-data, with the share of its values
    that they are; least and most of all others, least > most where there are none."""

    outermost: tuple[tuple[float, float], ...]
    least: float
    most: float


@dataclass(frozen=True)
class Suspect:
    """A value that looks like no-data: farther from all others than these are from each other; a usual one, than a
    tenth of that.

    images: in how many it was found, of `of`; share: of their values, 0 to 1; least, most: of all other values.
    """

    value: float
    images: int
    of: int
    share: float
    least: float
    most: float

    @property
    def is_usual(self) -> bool:
        """As the function of this name."""
        return is_usual(self.value)

    @property
    def said(self) -> str:
        """The value, with as many digits as tell it from other float32."""
        return _typed(self.value)

    def __str__(self) -> str:
        return (
            f"{self.said} in {self.images:,} of {self.of:,} images, {self.share:.1%} of their pixels, and all else "
            f"is from {self.least:g} to {self.most:g}"
        )


def to_give(value: Suspect, others: Iterable[Suspect], known: Iterable[float] | None) -> list[str]:
    """All that has to be given so that a value is no-data, for that takes the place of what is known: the usual ones of
    the others too."""
    usual_ones = [one.value for one in others if one.is_usual]
    return [*map(_typed, dict.fromkeys([*(known or ()), *usual_ones, value.value]))]


def _typed(value: float) -> str:
    return f"{value:.9g}"


def ends(image: NDArray[Any], missing: Missing | None) -> Ends:
    """Of an image (H, W, C). 8-bit pixels have no value to spare, so none of theirs is suspected."""
    if image.dtype == np.uint8:
        return Ends((), 0, 255)
    values = image.reshape(-1) if missing is None else image[~missing]
    found: list[tuple[float, float]] = []
    of = len(values)
    while len(values):
        least, most = float(values.min()), float(values.max())
        shares = {value: float(np.count_nonzero(values == values.dtype.type(value))) / of for value in (least, most)}
        # Of usual ones there may be several, one outside the other.
        outer = [value for value in shares if is_usual(value) or (not found and shares[value] >= LEAST)]
        if not outer:
            return Ends(tuple(sorted(found)), least, most)
        found += [(value, shares[value]) for value in outer]
        for value in outer:
            values = values[values != values.dtype.type(value)]
    return Ends(tuple(sorted(found)), np.inf, -np.inf)


def is_usual(value: float) -> bool:
    """Whether it is one that software writes where nothing was measured, and no camera does."""
    return value in _USUAL or abs(value) >= _HUGE


def suspects(found: Iterable[Ends]) -> tuple[Suspect, ...]:
    """What the images' outermost values tell together, the lowest first."""
    images = [*found]
    least = min((one.least for one in images), default=np.inf)
    most = max((one.most for one in images), default=-np.inf)
    shares, counts = Counter[float](), Counter[float]()
    for one in images:
        for value, share in one.outermost:
            shares[value] += share  # type: ignore[assignment]
            counts[value] += 1
    return tuple(
        Suspect(value, counts[value], len(images), shares[value] / counts[value], least, most)
        for value in sorted(counts)
        if least < most and max(least - value, value - most) > (most - least) * (FAR_OF_USUAL if is_usual(value) else 1)
    )


def usual(suspected: Iterable[Suspect]) -> tuple[float, ...] | None:
    """Those that are taken for no-data where nobody says otherwise; None for none."""
    return tuple(one.value for one in suspected if one.is_usual) or None
