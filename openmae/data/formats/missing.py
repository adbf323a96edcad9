"""Pixels that are missing: what a file calls no-data, what the user does, and what is no number.

A decoder that knows of such pixels gives a masked array (numpy.ma) of the shape that it gives without them; a plain
array says that all are there. `decode` fills them; `decode_masked` also tells where they were.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Missing = NDArray[np.bool_]

_HUGE = 1e18  # beyond it a value is typed and written with few digits: -3.4e38 means the lowest float32


def equals(stored: NDArray[Any], no_data: Iterable[float], colours: int = 0) -> Missing | None:
    """Where values (H, W, C) are one of `no_data`, or not a number; None where they nowhere are.

    colours: how many channels, from the first, are the colours of one picture: these are missing where all of them
    are, for a deep red of (0, 3, 1) is one where 0 is no-data. Bands are missing each by itself, as GDAL has it.
    """
    found: Missing | None = None
    for value in no_data:
        same = _equals(stored, value)
        if same is not None and same.any():
            found = same if found is None else found | same
    if found is not None and colours > 1:
        found = np.array(np.broadcast_to(found[..., :colours].all(-1, keepdims=True), found.shape))
    if stored.dtype.kind == "f":
        there = np.isfinite(stored)
        if not there.all():
            found = ~there if found is None else found | ~there
    return found if found is not None and found.any() else None


def _equals(stored: NDArray[Any], value: float) -> Missing | None:
    """None where the pixels' type cannot hold it."""
    if np.isnan(value):
        return None
    if stored.dtype.kind == "f":
        if abs(value) >= _HUGE:
            sides = (stored < -_HUGE) if value < 0 else (stored > _HUGE)
            most = float(np.finfo(stored.dtype).max)
            return sides & np.isclose(stored, np.clip(value, -most, most), rtol=1e-2)
        return stored == stored.dtype.type(value)
    kind = np.iinfo(stored.dtype) if stored.dtype.kind in "iu" else None
    if kind is None or not float(value).is_integer() or not kind.min <= value <= kind.max:
        return None
    return stored == stored.dtype.type(int(value))


def filled(values: NDArray[Any], missing: Missing, fill: tuple[float, ...] | None) -> NDArray[Any]:
    """(H, W, C) with what is missing replaced by `fill`, a level for each channel, or by the mean of what is there of
    the channel, 0 where nothing is."""
    values = np.require(values, requirements=("C", "W"))
    for channel in range(values.shape[2]):
        gaps = missing[..., channel]
        if not gaps.any():
            continue
        if fill is not None:
            level = fill[channel]
        else:
            level = 0.0 if gaps.all() else float(values[..., channel][~gaps].mean(dtype=np.float64))
        values[..., channel][gaps] = level if values.dtype.kind == "f" else round(level)
    return values
