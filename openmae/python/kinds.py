"""What a call takes in the place of a word or an address."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.loading.pool import START
from openmae.errors import UserError
from openmae.own import Own

Place = str | os.PathLike[str]
"""A file or folder; a Run is one."""
Text = str | float | os.PathLike[str]
"""Of settings that are texts: a number is written as one (blocks=4), a path as its text."""
AnyModel = Place
"""A Run, its path, or whatever else openmae.load takes."""
Data = Any
"""What the commands take as DATA; or a data set: what has a length and gives an item by its index, as torch's map-style
data sets, lists and arrays do, an iterable of items, or {"train": ..., "val": ...} of such. See OwnImages for items."""
Mask = (
    Literal["random", "block", "grid", "crop", "uniform"]
    | Callable[[np.random.Generator, tuple[int, ...], int], NDArray[Any]]
)
"""One of the names, or a function (generator, grid, num_visible) -> a boolean map of the grid, True where a patch
hides, or the numbers of all patches, the visible ones first."""
Target = Literal["pixel", "pca", "hog"] | Callable[[Tensor, Tensor], Tensor]
"""One of the names, or a function or module (images (B, C, H, W) normalised, patches (B, N, P)) -> (B, N, K)."""


def data_of(data: Any) -> Any:
    """An address as it is, a data set as one's own."""
    if data is None or isinstance(data, str | os.PathLike):
        return data
    if isinstance(data, list | tuple) and data and all(isinstance(one, str | os.PathLike) for one in data):
        return data  # files by their names, where they are taken
    if not hasattr(data, "__getitem__") and not hasattr(data, "__iter__"):
        raise UserError(f"the images are {data!r}"[:200], "give an address, or a data set")
    return Own.of(data, "data" if isinstance(data, dict | list | tuple) or not hasattr(data, "__len__") else None)


def own(made: Any) -> Any:
    """A word as it is, a function as one's own."""
    return Own.of(made) if callable(made) else made


def at_home(given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for what is one's own, where processes are started anew instead of forked: it is not sent to them, and
    images are loaded in this one."""
    if START == "spawn" and settings.get("workers") is None and any(isinstance(one, Own) for one in given.values()):
        return {"workers": 0}
    return {}
