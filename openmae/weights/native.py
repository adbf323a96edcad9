"""Our own format: `model.safetensors` and, beside it and inside its header, `model.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import openmae
from openmae.data.statistics import Statistics
from openmae.errors import UserError
from openmae.model import Architecture, MaskedAutoencoder

_KEY = "openmae"  # of the header entry that holds model.json


@dataclass(frozen=True)
class Loaded:
    """A model and what travels with it."""

    model: MaskedAutoencoder
    statistics: Statistics
    info: dict[str, Any]


def model_json(model: MaskedAutoencoder, statistics: Statistics, provenance: dict[str, Any]) -> dict[str, Any]:
    """What model.json says: architecture, input statistics, where the weights come from, their licence.

    The weights belong to whoever trained them, so `licence` is null until they say.
    """
    return {
        "format": 1,
        "openmae": openmae.__version__,
        "architecture": model.architecture.to_dict(),
        "statistics": statistics.to_dict(),
        "class_names": None,
        "provenance": provenance,
        "licence": None,
    }


def serialize(model: MaskedAutoencoder, info: dict[str, Any]) -> bytes:
    """The safetensors file: every weight and buffer of the state dict, `info` in its header."""
    return save({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, {_KEY: json.dumps(info)})


def load_native(path: Path) -> Loaded:
    """Reads a run folder or a `.safetensors` file; strictly: every weight, no other, of the right shape.

    Raises UserError with what does not fit.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.exists():
        hint = "is this a run folder, and has its run saved weights yet?" if path.is_dir() else "give a run folder"
        raise UserError(f"{file} does not exist: {hint}")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a whole safetensors file ({error}): copy or make it anew") from error
    if _KEY not in metadata:
        raise UserError(f"{file} was not written by openmae: its header does not describe a model")
    try:
        info = json.loads(metadata[_KEY])
        statistics = Statistics.from_dict(info["statistics"])
        model = Architecture.from_dict(info["architecture"]).build()
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} describes a model that this version of openmae cannot build ({error})") from error
    fill(model, weights, str(file))
    return Loaded(model.eval(), statistics, info)


def fill(model: torch.nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Loads weights into the model. Raises UserError that lists what is missing, unexpected or misshapen."""
    expected = model.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in weights]
    problems += [f"{key} is unexpected" for key in weights if key not in expected]
    problems += [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if problems:
        rest = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(f"{name} does not fit its model: {', '.join(problems[:8])}{rest}")
    model.load_state_dict(weights)
