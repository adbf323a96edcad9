"""Checkpoints: a folder a step, complete or absent, verified on load; the newest good one wins.

A checkpoint is written aside, synced to the disk, and renamed into place, so a folder of its name is whole
whatever killed the writer. `checksums.json` guards against what happens to it later.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from openmae.distributed.sharding import gathered, placed
from openmae.files.parsing import read_json
from openmae.files.whole import whole_folder, write_file, write_synced
from openmae.train.learner import Learner
from openmae.weights import serialized
from openmae.weights.loaded import Model
from openmae.weights.writing import pieces

KEEP = 2
"""Checkpoints: the newest, and one before it in case the newest is damaged."""
Piece = bytes | memoryview
_PREFIX = "step-"
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_RECORD = "run.json"


@dataclass(frozen=True)
class Checkpoint:
    """What is needed to go on: weights, optimizer state, and the loop's own numbers.

    record: what the run folder said of itself then (`RunFolder.record`); {} where an older version saved it.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)


def save_model(run: Path, model: Model, info: dict[str, Any]) -> None:
    """model.safetensors and model.json of the run, each complete or as it was before.

    info: what `model_json` says of it. Raises OSError.
    """
    write_file(run / "model.safetensors", serialized(model, info))
    write_file(run / "model.json", json.dumps(info, indent=1).encode())


def snapshot(
    learner: "Learner[Any, Any]",
    optimizer: torch.optim.Optimizer,
    step: int,
    state: dict[str, Any],
    record: dict[str, Any],
    copy: bool = True,
) -> Checkpoint | None:
    """What training can go on from, on the CPU; None but on the lead. All ranks together.

    copy: so that training may go on meanwhile; else it has to wait until this is written.
    """
    parts: list[dict[str, Tensor]] = []
    for tensors in (learner.model.state_dict(), optimizer_tensors(learner.model, optimizer)):
        parts.append({})
        for key, tensor in tensors.items():
            whole = gathered(tensor.detach())  # by all ranks
            if learner.ranks.leads:
                parts[-1][key] = whole.to("cpu", copy=copy).contiguous()
    return Checkpoint(step, parts[0], parts[1], state, record) if learner.ranks.leads else None


def snapshot_bytes(learner: "Learner[Any, Any]", optimizer: torch.optim.Optimizer) -> int:
    """What a copy takes in memory; of parts of a sharded model, of those that are here."""
    tensors = [*learner.model.state_dict().values(), *optimizer_tensors(learner.model, optimizer).values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = KEEP) -> Path:
    """Writes `folder/step-XXXXXXXX` and removes all but the newest `keep`. Raises OSError, leaving older ones."""
    final = folder / f"{_PREFIX}{checkpoint.step:08d}"
    checksums: dict[str, str] = {}
    with whole_folder(final) as aside:  # of one of this step, saved before, nothing newer can be in it
        for name, data in _files(checkpoint):
            digest = hashlib.sha256()
            write_synced(aside / name, _noted(data, digest))
            checksums[name] = digest.hexdigest()
        write_synced(aside / "checksums.json", json.dumps(checksums).encode())
    for old in _steps(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _noted(data: Iterable[Piece], digest: "hashlib._Hash") -> Iterator[Piece]:
    for piece in data:
        digest.update(piece)
        yield piece


def _files(checkpoint: Checkpoint) -> Iterator[tuple[str, Iterable[Piece]]]:
    yield _FILES[0], pieces(checkpoint.weights)
    yield _FILES[1], pieces(checkpoint.optimizer)
    yield _FILES[2], [json.dumps({"step": checkpoint.step, **checkpoint.state}).encode()]
    yield _RECORD, [json.dumps(checkpoint.record).encode()]


def has_checkpoint(folder: Path, step: Any) -> bool:
    """Whether one was saved after so many steps."""
    return isinstance(step, int) and (folder / f"{_PREFIX}{step:08d}").exists()


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, if there is one, and a sentence for each newer one that is damaged.

    A damaged one is set aside as `damaged-step-XXXXXXXX`, so that it neither stands in the way of a new one of
    its step nor counts among the KEEP newest.
    """
    complaints: list[str] = []
    for path in reversed(_steps(folder)):
        try:
            return _read(path), complaints
        except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            complaints.append(f"checkpoint {path.name} is damaged ({error}) and was set aside as {aside.name}")
    return None, complaints


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state under the parameters' names, as `name:entry`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}:{entry}": value
        for parameter, values in optimizer.state.items()
        for entry, value in values.items()
    }


def restore(checkpoint: Checkpoint | None, learner: "Learner[Any, Any]", optimizer: torch.optim.Optimizer) -> None:
    """Puts the lead's weights and optimizer state back on all ranks, which call this together, the others with None.

    Raises RuntimeError or KeyError where they do not fit.
    """
    ranks = learner.ranks
    weights = {} if checkpoint is None else checkpoint.weights
    held = {} if checkpoint is None else checkpoint.optimizer
    named = learner.model.state_dict()
    if ranks.leads and weights.keys() != named.keys():
        raise RuntimeError(f"the checkpoint's weights are others than the model's: {weights.keys() ^ named.keys()}")
    with torch.no_grad():
        for name, tensor in named.items():
            if (value := weights.get(name)) is not None and value.shape != tensor.shape:
                raise RuntimeError(f"{name} has shape {tuple(value.shape)} instead of {tuple(tensor.shape)}")
            tensor.copy_(placed(value, tensor, ranks))
    parameters = dict(learner.model.named_parameters())
    for key, shape, dtype in ranks.from_lead([(key, tuple(value.shape), value.dtype) for key, value in held.items()]):
        name, entry = key.rsplit(":", 1)
        parameter = parameters[name].detach()
        if shape not in ((), tuple(parameter.shape)):
            raise RuntimeError(f"{key} has shape {shape} instead of {tuple(parameter.shape)}")
        # AdamW's fused step counts live beside the parameter, in float32.
        plain = torch.empty(shape, dtype=dtype, device=parameter.device)
        like = parameter if shape == tuple(parameter.shape) and dtype == parameter.dtype else plain
        optimizer.state[parameters[name]][entry] = placed(held.get(key), like, ranks)


def _read(path: Path) -> Checkpoint:
    checksums = read_json((path / "checksums.json").read_bytes())
    for name in _FILES:
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != checksums[name]:
                raise ValueError(f"{name} has changed since it was written")
    weights, optimizer = (load_file(path / name) for name in _FILES[:2])
    state = read_json((path / _FILES[2]).read_bytes())
    step = state.pop("step")
    if path.name != f"{_PREFIX}{step:08d}" or not all(isinstance(value, int | float) for value in state.values()):
        raise ValueError("state.json is of another checkpoint")
    return Checkpoint(step, weights, optimizer, state, _record(path))


def newest_record(folder: Path) -> dict[str, Any]:
    """What the newest whole checkpoint has of the run folder; {} where there is none."""
    for path in reversed(_steps(folder)):
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            if record := _record(path):
                return record
    return {}


def _record(path: Path) -> dict[str, Any]:
    """Raises ValueError and others where it is damaged."""
    checksums = read_json((path / "checksums.json").read_bytes())
    if _RECORD not in checksums:  # of an older version
        return {}
    data = (path / _RECORD).read_bytes()
    if hashlib.sha256(data).hexdigest() != checksums[_RECORD]:
        raise ValueError(f"{_RECORD} has changed since it was written")
    return dict(read_json(data))


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"))
