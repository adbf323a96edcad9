"""Where a GeoTIFF's pixels lie on the ground (OGC GeoTIFF 1.1), read from its first directory alone."""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.ifd import ORIENTATION, first_directory
from openmae.errors import BrokenImage

SCALE, TIEPOINTS, MATRIX, KEYS, DOUBLES, TEXTS = 33550, 33922, 34264, 34735, 34736, 34737
"""Tags: how large a pixel is, where points of it lie, both as one matrix, and in which coordinate system."""
_TAGS = (SCALE, TIEPOINTS, MATRIX, KEYS, DOUBLES, TEXTS)
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072  # keys
_POINT = 2  # the raster type in which coordinates are those of a pixel's middle
_OWN = 32767  # in place of an EPSG code: the file describes a system of its own
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Placed:
    """tags: those of the file that say where it lies, as it has them, text as bytes. affine: (2, 3), of x and y from
    (column, row, 1), in pixels from the corner of the first one. epsg: of the coordinate system; None of one that has
    no number."""

    tags: dict[int, tuple[Any, ...]]
    affine: tuple[tuple[float, float, float], tuple[float, float, float]]
    epsg: int | None

    def on_ground(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) column and row -> (n, 2) x and y."""
        affine = np.array(self.affine)
        return points @ affine[:, :2].T + affine[:, 2]


def placed(data: bytes) -> Placed | None:
    """Where the image lies; None where it is no TIFF, does not say it, or is stored turned."""
    if data[:4] not in _TIFF:
        return None
    try:
        tags = first_directory(data)
    except BrokenImage:
        return None
    if tags.get(ORIENTATION, (1,)) != (1,) or KEYS not in tags:
        return None
    affine = _affine(tags)
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:, :2])) == 0:
        return None
    keys = _keys(tags[KEYS])
    if keys.get(_RASTER_TYPE) == _POINT:  # a corner lies half a pixel before the middle
        affine[:, 2] -= affine[:, :2].sum(axis=1) / 2
    epsg = next((keys[key] for key in (_PROJECTED, _GEOGRAPHIC) if 0 < keys.get(key, 0) < _OWN), None)
    x, y = affine.tolist()
    return Placed({tag: tags[tag] for tag in _TAGS if tag in tags}, (tuple(x), tuple(y)), epsg)


def placed_in(file: str) -> Placed | None:
    """The same of a file, of which no more is read. Raises OSError."""
    with Path(file).open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return placed(mapped)  # type: ignore[arg-type]


def _affine(tags: dict[int, tuple[Any, ...]]) -> NDArray[np.float64] | None:
    if len(matrix := tags.get(MATRIX, ())) == 16:
        return np.array(matrix, np.float64).reshape(4, 4)[:2][:, [0, 1, 3]]
    scale, points = tags.get(SCALE, ()), tags.get(TIEPOINTS, ())
    if len(scale) < 2 or len(points) < 6:
        return None
    column, row, _, x, y, _ = points[:6]
    across, down = float(scale[0]), -float(scale[1])
    return np.array([[across, 0, x - column * across], [0, down, y - row * down]], np.float64)


def _keys(values: tuple[Any, ...]) -> dict[int, int]:
    """Those whose value stands in the directory itself."""
    entries = (values[at : at + 4] for at in range(4, len(values) - 3, 4))
    return {int(key): int(value) for key, place, _, value in entries if place == 0}
