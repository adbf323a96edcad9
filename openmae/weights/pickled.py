"""Files of torch.save, read as weights and nothing else: whatever would run code is refused, and not run."""

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from openmae.errors import UserError

_NESTS = ("model", "state_dict")  # Meta's training checkpoints and released files; timm's
_MOST_REPEATED = 8  # times as large as what is stored
_ARGUMENTS: list[Any] = [
    argparse.Namespace
]  # the one type in Meta's training checkpoints that torch does not allow by itself


def read_pickled(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(the weights, the training's arguments where the file keeps any). Raises UserError.

    Tensors are mapped, not read: an optimizer's state beside the weights costs nothing.
    """
    _check_stored(file)
    try:
        with torch.serialization.safe_globals(_ARGUMENTS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another version of pickle's format: read, or refused below
            content = torch.load(file, "cpu", weights_only=True, mmap=zipfile.is_zipfile(file) or None)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"unrecognized \w+ ([\w.]+)", str(error))
        what = found[1] if found else None
        if what is None:
            raise UserError(f"{file} is no file of weights, or damaged", "copy or make it anew") from error
        raise UserError(
            f"{file} holds more than weights ({what}), and reading that could run any code; nothing of it was run",
            "save its state dict alone, where you trust it",
        ) from error
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OSError,
        EOFError,
        AssertionError,
        zipfile.BadZipFile,
        struct.error,  # of a file of before version 1.6 that ends early
        SafetensorError,  # torch takes what is not its own for such a file
    ) as error:
        raise UserError(f"{file} is no whole file of torch.save ({_first(error)})", "copy or make it anew") from error
    weights = _weights_in(content)
    if weights is None:
        raise UserError(f"{file} holds no weights", "give a file with a state dict, alone or under 'model'")
    _check_size(weights, file)
    arguments = content.get("args")
    return weights, dict(vars(arguments)) if isinstance(arguments, argparse.Namespace) else {}


def _check_stored(file: Path) -> None:
    """Raises UserError for a zip with compressed parts, which torch.save never writes: mapped, they would be taken for
    the weights themselves, and read, a small file may become any size."""
    try:
        with zipfile.ZipFile(file) as parts:
            packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # no zip, of which torch says more
    if packed:
        raise UserError(f"{file} is a zip with compressed parts, which torch.save does not write", "save it anew")


def _weights_in(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    for nest in _NESTS:
        if isinstance(content.get(nest), Mapping):
            content = content[nest]
            break
    whole = {key: tensor for key, tensor in content.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
    return whole if whole and len(whole) == len(content) and all(map(_is_plain, whole.values())) else None


def _is_plain(tensor: Tensor) -> bool:
    """Whether its numbers are there, one by one."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _check_size(weights: Mapping[str, Tensor], file: Path) -> None:
    """Raises UserError where tensors repeat what little is stored; a weight that two layers share is no such thing."""
    stored = {storage.data_ptr(): storage.nbytes() for storage in (one.untyped_storage() for one in weights.values())}
    if sum(one.nbytes for one in weights.values()) > _MOST_REPEATED * sum(stored.values()):
        raise UserError(f"{file} repeats the same few numbers in weights far larger than it", "save it anew")


def _first(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:200] or type(error).__name__
