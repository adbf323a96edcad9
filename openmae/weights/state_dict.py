"""A state dict of one of our models, as `torch.save(model.state_dict(), file)` leaves it.

The model writes what it is beside its weights (`model.describe`), where torch keeps the versions of modules. Files
that lack it, such as safetensors of bare weights, are read with the model.json that lies beside them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.weights.loaded import Loaded
from openmae.weights.native import load_described
from openmae.weights.shapes import photo_statistics

_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_OURS = {"encoder.": "encoder.patch_embed.weight", "": "patch_embed.weight"}  # of a whole model; of its encoder alone
_MOST_CHANNELS, _MOST_DESCRIBED = 2**16, 2**26


def unwrapped(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """(the weights under their names in the model itself, what stood before all of these)."""
    before = ""
    while wrapper := next((one for one in _WRAPPERS if weights and all(key.startswith(one) for key in weights)), None):
        weights, before = {key.removeprefix(wrapper): one for key, one in weights.items()}, before + wrapper
    return weights, before


def is_ours(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of our models'."""
    return any(name in weights and f"{prefix}class_token" in weights for prefix, name in _OURS.items())


def load_state_dict(file: Path, weights: dict[str, Tensor], described: str | None) -> Loaded:
    """The model. described: what it wrote beside its weights. Raises UserError where nothing says its sizes."""
    name = str(file)
    if _OURS[""] in weights:
        weights = {f"encoder.{key}": one for key, one in weights.items()}
    if described is not None:
        return load_described(name, lambda: _info(described, name), weights)
    beside = file.with_name("model.json")
    if not beside.is_file() or beside.stat().st_size > _MOST_DESCRIBED:
        raise UserError(
            f"{name} is a state dict of openmae's own that does not say its model's sizes",
            "put the model.json of its run beside it, give the run folder, or save `model.state_dict()` whole, with "
            "torch.save",
        )
    return load_described(name, lambda: read_json(beside.read_bytes()), weights)


def _info(described: str, name: str) -> dict[str, Any]:
    """As model.json has it. Raises ValueError, KeyError, TypeError or AttributeError where it is damaged."""
    said = read_json(described)
    shape = said["architecture"]
    in_chans = shape.get("encoder", shape)["in_chans"]
    if type(in_chans) is not int or not 0 < in_chans <= _MOST_CHANNELS:
        raise ValueError(f"in_chans is {in_chans}")
    statistics, assumed = photo_statistics(in_chans)
    return {
        "format": 1,
        **said,
        "statistics": statistics.to_dict(),
        "task": None,
        "class_names": None,
        "provenance": {"format": "state dict", "file": name, "assumed": [assumed]},
        "licence": None,
    }
