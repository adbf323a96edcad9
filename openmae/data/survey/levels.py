"""Do images have the values that are expected of them?

The same picture may be stored as 8 bits, as 12 bits in 16, as floats of 0..1 or of 0..255, or in a unit such as
Hounsfield's. A model that learnt from one of these and is given another sees one constant, and a set that mixes them
shows it some images and hides the others. What is judged is a sample of the pixels, scaled as `Statistics` says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from openmae.console import words
from openmae.data.formats.header import Depth
from openmae.data.survey.nodata import Suspect
from openmae.data.views.statistics import WHITE, Statistics
from openmae.errors import UserError

BITS: dict[Depth, str] = {"uint8": "8 bits", "uint16": "16 bits", "float32": "floats"}

_ODD_MEAN, _IMPOSSIBLE_MEAN = 3.0, 10.0  # deviations that the normalised images' mean is out: beyond what photographs,
# scans and X-rays differ by (2); and where not even their darkest and brightest parts can be where the model looks
_ODD_STD, _IMPOSSIBLE_STD = 8.0, 40.0  # times too large or too small: the latter leaves fewer than 7 of 256 levels
_ODD_DEPTHS = 4.0  # times larger, the values of files of another depth
_ODD_APART = 6.0  # times larger than the next smaller image; 12 bits beside 16 are 16 apart, less what images differ by
_ALL = "8 and 16 bits scaled to 0..1"
_SHARE_APART = 0.02  # of the images, at least, on both sides, and two images


@dataclass(frozen=True)
class Levels:
    """Scaled pixels of n images: moments (n, 2, C), each image's means of its pixels and of their squares; depths: of
    each file, before it was brought to that of the others; suspected: values that look like no-data."""

    moments: NDArray[np.float64]
    depths: tuple[Depth, ...]
    suspected: tuple[Suspect, ...] = ()

    @property
    def mean(self) -> NDArray[np.float64]:
        """(C,) each image weighing the same."""
        found: NDArray[np.float64] = self.moments[:, 0].mean(0)
        return found

    @property
    def std(self) -> NDArray[np.float64]:
        """(C,), 0 where a channel is the same everywhere."""
        return np.sqrt(np.maximum(self.moments[:, 1].mean(0) - self.mean**2, 0))

    @property
    def sizes(self) -> NDArray[np.float64]:
        """(n,) how large each image's values are: the root of their mean square."""
        return np.sqrt(self.moments[:, 1].mean(1))


UNKNOWN = Levels(np.zeros((0, 2, 1)), ())


@dataclass(frozen=True)
class Apart:
    """Images whose values are of another scale than the others'. what: that, in words. few: (k,) which of them are the
    fewer."""

    what: str
    few: NDArray[np.intp]


def apart(sizes: NDArray[np.float64], depths: Sequence[Depth]) -> Apart | None:
    """Whether images of such sizes, (n,) as `Levels.sizes`, from files of such depths fall into two scales."""
    return _by_depth(sizes, depths) or _by_size(sizes)


def _by_depth(sizes: NDArray[np.float64], depths: Sequence[Depth]) -> Apart | None:
    """Whether files of one depth have other values than those of another."""
    kinds = np.array(depths)
    usual: dict[Depth, float] = {}
    for kind in dict.fromkeys(depths):
        if (of := (kinds == kind) & (sizes > 0)).any():  # of a black image no scale can be told
            usual[kind] = float(np.median(sizes[of]))
    ranked = sorted(usual, key=usual.__getitem__)
    if not ranked or usual[ranked[-1]] < _ODD_DEPTHS * usual[ranked[0]]:
        return None
    low, high = ranked[0], ranked[-1]
    said = [f"{words.images(depths.count(kind))} of {BITS[kind]} {_around(usual[kind])}" for kind in (low, high)]
    fewer = min((low, high), key=depths.count)
    return Apart(f"the images are of two scales, {_ALL}: {said[0]}, {said[1]}", np.flatnonzero(kinds == fewer))


def _by_size(sizes: NDArray[np.float64]) -> Apart | None:
    """Whether a part of the images has much larger values than the rest, and none lies between."""
    known = np.flatnonzero(sizes > 0)
    order = known[np.argsort(sizes[known])]
    least = max(2, math.ceil(_SHARE_APART * len(sizes)))
    gaps = np.diff(np.log(sizes[order]))[least - 1 : max(0, len(order) - least)]
    if not len(gaps) or gaps.max() < math.log(_ODD_APART):
        return None
    at = least + int(gaps.argmax())
    parts = order[:at], order[at:]
    said = [f"{words.images(len(part))} {_around(float(np.median(sizes[part])))}" for part in parts]
    return Apart(f"the images are of two scales, with none between: {said[0]}, {said[1]}", np.sort(min(parts, key=len)))


@dataclass(frozen=True)
class Unlike:
    """Why images are not what statistics are of. impossible: they cannot be meant for each other; else odd."""

    what: str
    impossible: bool


def unlike(levels: Levels, statistics: Statistics) -> Unlike | None:
    """What images look like once they are normalised, where that is far from mean 0 and deviation 1."""
    if not levels.depths:
        return None
    std = levels.std
    known = std > 0  # of what is the same everywhere no scale can be told
    if not known.any():
        return None
    expected, allowed = np.array(statistics.mean), np.array(statistics.std)
    shift, spread = (levels.mean - expected)[known] / allowed[known], std[known] / allowed[known]
    out, off = float(np.abs(shift).max()), float(np.maximum(spread, 1 / spread).min())
    worst = float(shift[np.abs(shift).argmax()]), float(spread[np.abs(np.log(spread)).argmax()])
    if out < _ODD_MEAN and off < _ODD_STD:
        return None
    depth = statistics.pixels.depth
    what = (
        f"their pixels are {_values(levels.mean, std, depth)}, where {_values(expected, allowed, depth)} are expected"
        f"{_other_depth(levels, depth)}: normalised, they have mean {_number(worst[0])} and deviation "
        f"{_number(worst[1])} instead of 0 and 1"
    )
    return Unlike(what, out > _IMPOSSIBLE_MEAN or off > _IMPOSSIBLE_STD)


def check_given(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, levels: Levels, own: Statistics) -> None:
    """Raises UserError where a mean or a deviation that somebody gives cannot be the images'.

    own: of the images. Published figures are often of levels, 123.7 of 255 or 1424 of 65535, and not of 0..1.
    """
    given = {name: values for name, values in (("mean", mean), ("std", std)) if values is not None}
    if not given or any(len(values) != len(own.mean) for values in given.values()):
        return  # the latter is refused by what builds the model
    for white in sorted({WHITE["uint8"], WHITE[own.pixels.depth]}) if own.pixels.depth != "float32" else ():
        divided = {name: _rounded(np.array(values) / white) for name, values in given.items()}
        if _largest(given) > 1 >= _largest(divided) and not _cannot_be(levels, own, divided):
            raise UserError(
                f"{_said(given)} is in levels of 0 to {white:.0f}, and pixels are scaled to 0..1",
                f"give {_said(divided)}",
            )
    if what := _cannot_be(levels, own, given):
        measured = {name: getattr(own, name) for name in given}
        raise UserError(f"{_said(given)} cannot be of these images ({what})", f"their own: {_said(measured)}")


def _cannot_be(levels: Levels, own: Statistics, given: dict[str, tuple[float, ...]]) -> str:
    """Why images are not of the figures that are given, the others their own; empty where they may be."""
    complaint = unlike(levels, replace(own, **given))  # type: ignore[arg-type]
    return complaint.what if complaint is not None and complaint.impossible else ""


def _largest(given: dict[str, tuple[float, ...]]) -> float:
    return max(abs(value) for values in given.values() for value in values)


def _said(given: dict[str, tuple[float, ...]]) -> str:
    return " ".join(f"`{name}={values}`" for name, values in given.items())


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)


def _around(size: float) -> str:
    return f"with values around {size:.2g}"


def _values(mean: NDArray[np.float64], std: NDArray[np.float64], depth: Depth) -> str:
    """In levels as in the files: 1180 ± 640 of 65535."""
    white = WHITE[depth]
    of = f" of {white:.0f}" if white > 1 else ""
    return f"around {_number(float(mean.mean()) * white)} ± {_number(float(std.mean()) * white)}{of}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _other_depth(levels: Levels, depth: Depth) -> str:
    """Where none of the files has the depth that is expected, which is the usual reason."""
    if depth in levels.depths:
        return ""
    return f" (of {BITS[depth]}; these files have {' and '.join(BITS[kind] for kind in sorted(set(levels.depths)))})"
