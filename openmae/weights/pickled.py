"""Files of torch.save, read as weights and nothing else: what would run code, or take more memory than the file has
bytes, is refused before any of it is done."""

import argparse
import mmap
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from openmae.errors import UserError
from openmae.model import DESCRIBED
from openmae.weights.opcodes import Refused, follow

_NESTS = ("model", "state_dict")  # Meta's training checkpoints and released files; timm's
_MOST_REPEATED = 8  # times as large as what is stored
_PICKLES = 5  # of a file of before version 1.6: a magic number, a version, about the machine, the content, storages
_ARGUMENTS: list[Any] = [
    argparse.Namespace
]  # the one type in Meta's training checkpoints that torch does not allow by itself
_DAMAGED = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OSError,
    EOFError,
    AssertionError,
    MemoryError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,  # of a file of before version 1.6 that ends early
    SafetensorError,  # torch takes what is not its own for such a file
)


class Pickled(NamedTuple):
    """What a file holds. arguments: plain values of the training's. described: what a module wrote beside its weights
    of what it is, by the module's name."""

    weights: dict[str, Tensor]
    arguments: dict[str, Any]
    described: dict[str, str]


def read_pickled(file: Path) -> Pickled:
    """The weights, and what is said of them. Raises UserError.

    Tensors are mapped, not read: an optimizer's state beside the weights costs nothing.
    """
    _check_stored(file)
    with file.open("rb") as opened:
        is_zip = opened.read(4) == b"PK\x03\x04"  # by which torch tells
    try:
        _follow_zip(file) if is_zip else _follow_old(file)
        with torch.serialization.safe_globals(_ARGUMENTS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another version of pickle's format: read, or refused below
            content = torch.load(file, "cpu", weights_only=True, mmap=is_zip or None)
    except Refused as refused:
        raise UserError(
            f"{file} holds more than weights ({refused}): reading that could run any code, or take any memory, and "
            "nothing of it was run",
            "save its state dict alone, where you trust it",
        ) from refused
    except _DAMAGED as error:
        raise UserError(f"{file} is no whole file of torch.save ({_first(error)})", "copy or make it anew") from error
    nest = _nest(content)
    weights = _weights_in(nest)
    if weights is None:
        raise UserError(f"{file} holds no weights", "give a file with a state dict, alone or under 'model'")
    _check_size(weights, file)
    arguments = dict.get(content, "args")
    values = vars(arguments) if isinstance(arguments, argparse.Namespace) else {}
    plain = {key: value for key, value in values.items() if isinstance(value, int | float | str)}
    return Pickled(weights, plain, _described(nest))


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


def _follow_zip(file: Path) -> None:
    """Raises Refused for what no file of weights needs; by torch's own reader of zips, which may see others than
    Python's in a crafted one."""
    reader = torch._C.PyTorchFileReader(str(file))
    # torch 2.6 cannot say how large a record is; stored as it is, reading it takes no more than the file.
    size_of = getattr(reader, "get_record_size", lambda name: len(reader.get_record(name)))
    sizes = {name: size_of(name) for name in reader.get_all_records()}
    if sum(sizes.values()) > file.stat().st_size:
        raise Refused("parts that are larger than the file")
    content = reader.get_record("data.pkl")
    follow(BytesIO(content), len(content), lambda key: sizes.get(f"data/{key}", 0))


def _follow_old(file: Path) -> None:
    """The same for a file of before version 1.6: pickles in a row, then the storages that they name."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        if _begins_tar(whole[: tarfile.BLOCKSIZE]):  # which torch tries first, and its members may claim any size
            raise ValueError("it is a tar")
        named = [follow(whole, len(whole), lambda key: len(whole)) for _ in range(_PICKLES)]  # type: ignore[arg-type]
        if sum(named) > len(whole):
            raise Refused("more numbers than are stored")


def _begins_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


# Methods are those of the types below: a file may have given attributes of its own their names.


def _nest(content: Any) -> Any:
    """Where the weights lie."""
    places = [dict.get(content, nest) for nest in _NESTS] if isinstance(content, dict) else []
    return next((place for place in places if isinstance(place, dict)), content)


def _described(weights: Any) -> dict[str, str]:
    """What modules of ours wrote where torch keeps their versions."""
    kept = vars(weights).get("_metadata") if isinstance(weights, OrderedDict) else None
    said = dict.items(kept) if isinstance(kept, dict) else ()
    found = {name: dict.get(values, DESCRIBED) for name, values in said if isinstance(values, dict)}
    return {name: text for name, text in found.items() if isinstance(name, str) and isinstance(text, str)}


def _weights_in(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, dict):
        return None
    whole = {
        key: torch.Tensor.detach(tensor)
        for key, tensor in dict.items(content)
        if isinstance(key, str) and isinstance(tensor, Tensor)
    }
    return whole if whole and len(whole) == dict.__len__(content) and all(map(_is_plain, whole.values())) else None


def _is_plain(tensor: Tensor) -> bool:
    """Whether its numbers are there, one by one."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _check_size(weights: Mapping[str, Tensor], file: Path) -> None:
    """Raises UserError where tensors repeat what little is stored; a weight that two layers share is no such thing."""
    stored = {storage.data_ptr(): storage.nbytes() for storage in (one.untyped_storage() for one in weights.values())}
    if sum(one.nbytes for one in weights.values()) > _MOST_REPEATED * sum(stored.values()):
        raise UserError(f"{file} repeats the same few numbers in weights far larger than it", "save it anew")


def _first(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200] or type(error).__name__
