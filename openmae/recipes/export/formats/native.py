"""openmae's own file: what a run folder keeps its weights in, of any model that openmae can load."""

from pathlib import Path

import torch
from torch import Tensor

from openmae.recipes.export.check import Compared, compared, reference, what_is_compared
from openmae.version import __version__
from openmae.weights import Loaded, load_model, serialize


def write(loaded: Loaded, out: Path) -> list[str]:
    """Writes the file."""
    out.write_bytes(serialize(loaded.model, loaded.info))
    return []


@torch.no_grad()
def compare(loaded: Loaded, out: Path, images: Tensor) -> Compared:
    """The outputs of the file, read again, beside those of the model."""
    again = load_model(out).model
    by, outputs = f"openmae {__version__}", what_is_compared(loaded.model)
    return compared(reference(loaded.model, images), reference(again, images), by, outputs)


def usage(loaded: Loaded, out: Path) -> str:
    """What to type in Python."""
    return f'openmae.load("{out}")'
