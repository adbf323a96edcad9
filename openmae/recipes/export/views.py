"""Which of an image other libraries are to show the model: what `openmae evaluate` shows it, as far as they can."""

from pathlib import Path
from typing import Any

import numpy as np

from openmae.commandline.flags import flag
from openmae.data.formats.decode import read_header
from openmae.data.opening import Data, open_data
from openmae.data.sources.source import Source
from openmae.data.views.crop import covering_sides
from openmae.errors import BrokenImage, UserError
from openmae.recipes.learnt import selected_then
from openmae.weights import Loaded

KEY = "as_they_are"
"""Of model.json: true where the images that the model is for are exactly of its size, so that nothing is cut off."""
_LOOKED_AT = 16  # headers
_USUAL: tuple[Any, ...] = ("hwc", "frames", "ignore", [])  # of how files are read, what all readers do


def of_model_size(loaded: Loaded, data: Data | None) -> bool:
    """Whether the images that the model is for are exactly of its size, and so are taken as they are: those of DATA,
    else those that it learnt from, where they still lie where they did."""
    source = _learnt_from(loaded) if data is None else data.all
    if source is None:
        return loaded.info.get(KEY) is True
    chosen = np.linspace(0, len(source) - 1, min(len(source), _LOOKED_AT)).round().astype(int)
    sizes = set()
    for found in source.read_many(chosen.tolist()):
        try:
            header = read_header(found, loaded.statistics.pixels.reading)
        except (OSError, BrokenImage):
            continue
        sizes.add((header.height, header.width))
    return sizes == {loaded.encoder.img_size}


def sides(loaded: Loaded) -> tuple[int, ...]:
    """(height, width) that an image is resized to cover before its middle is taken."""
    img_size = loaded.encoder.img_size
    return img_size if loaded.info.get(KEY) or len(img_size) != 2 else covering_sides((img_size[0], img_size[1]))


def note(loaded: Loaded, what: str, other: str) -> list[str]:
    """Where `what` shows the model something else than openmae does, as a sentence; none where the two are the same.

    other: what to do about it, of images of the model's size, or, where that is what it is set to, of larger ones.
    """
    img_size = loaded.encoder.img_size
    if len(img_size) != 2 or covering_sides((img_size[0], img_size[1])) == img_size:
        return []
    height, width = img_size
    if loaded.info.get(KEY):
        return [
            f"{what} takes images of {height} x {width} pixels as they are, which this model is for, and larger ones "
            f"whole, where openmae cuts off their edges: {other}"
        ]
    return [
        f"{what} enlarges and crops images of exactly {height} x {width} pixels too, which openmae takes as they are: "
        f"{other}"
    ]


def read_otherwise(loaded: Loaded) -> list[str]:
    """What openmae does as it reads the model's files and other libraries' readers do not, as a sentence."""
    reading = loaded.statistics.pixels.reading.to_dict()
    said = {name: value for name, value in reading.items() if value not in _USUAL}
    if not said:
        return []
    flags = " ".join(f"{flag(name)} {_typed(value)}" for name, value in said.items())
    return [
        f"openmae reads this model's images with {flags}; other readers do not: give it images that are prepared so"
    ]


def _typed(value: Any) -> str:
    return " ".join(f"{one:.9g}" for one in value) if isinstance(value, list) else value


def _learnt_from(loaded: Loaded) -> Source | None:
    location = loaded.info["provenance"].get("data")
    if not isinstance(location, str) or not Path(location).is_absolute():
        return None
    try:
        return open_data(location, selected_then(loaded), loaded.statistics.pixels.reading).all
    except (UserError, OSError):
        return None
