"""Our own format: `model.safetensors` and, beside it and inside its header, `model.json`."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from openmae.data.tasks import Task
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.heads import Classifier, Encoder, Link, Neighbours, Pool
from openmae.model import NORM_EPS, Architecture, QkvBias
from openmae.weights.entries import complain
from openmae.weights.loaded import LINKS, Loaded, Model
from openmae.weights.writing import pieces

KEY = "openmae"  # of the header entry that holds model.json
_WHOLE = ("in_chans", "embed_dim", "depth", "num_heads", "decoder_embed_dim", "decoder_depth", "decoder_num_heads")
# Fixed positions are computed, so nothing in a file bounds how many there are, nor how large the images are.
_MOST_PATCHES, _MANY_PATCHES = 2**18, 2**14
_MOST_POSITIONS = 32  # numbers in many positions, for each number that is stored
_MOST_PIXELS = 2**28  # of all channels of an image


def serialize(model: Model, info: dict[str, Any]) -> bytes:
    """The safetensors file: every weight and buffer of the state dict, `info` in its header."""
    return b"".join(serialized(model, info))


def serialized(model: Model, info: dict[str, Any]) -> Iterator[bytes | memoryview]:
    """It, piece by piece."""
    return pieces(model.state_dict(), {KEY: json.dumps(info)})


def load_native(path: Path | str) -> Loaded:
    """Reads a run folder or a `.safetensors` file; strictly: every weight, no other, of the right shape.

    Nothing is unpickled, and nothing is made that is larger than the file has weights for. Raises UserError with what
    does not fit.
    """
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.exists():
        hint = "give a run folder" + (" whose run has saved weights" if path.is_dir() else "")
        hint += ", or another model that openmae.load takes (a file or folder of Meta, timm, transformers, or hub:...)"
        if runs := sorted(path.glob("blocks-*/model.safetensors")):  # a sweep
            hint = f"give one of the runs in {path}, such as {runs[0].parent}"
        elif path.is_dir() and not (path / "config.toml").exists():
            hint += "; commands take MODEL first and then DATA"
        raise UserError(f"{file} does not exist", hint)
    metadata, weights = read_header(file), read_safetensors(file)
    if KEY not in metadata:
        raise UserError(f"{file} was not written by openmae: its header does not describe a model")
    return replace(load_described(str(file), lambda: read_json(metadata[KEY]), weights), name=str(path))


def load_described(name: str, describe: Callable[[], dict[str, Any]], weights: dict[str, Tensor]) -> Loaded:
    """The model of what model.json says. describe: gives that; it may raise what a damaged one leads to.

    Raises UserError with what does not fit.
    """
    try:
        info = describe()
        statistics = Statistics.from_dict(info["statistics"])
        _check(info, statistics, weights)
        with torch.device("meta"):  # which takes no memory, whatever sizes it says
            blank = _build(info)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        said = str(error).split("\n", 1)[0]
        raise UserError(f"{name} describes a model that this version of openmae cannot build ({said})") from error
    _check_fits(blank, weights, name)
    model = _build(info)
    model.load_state_dict(weights)
    if isinstance(model, Neighbours) and not model.is_sound():
        raise UserError(f"{name} holds labels that are none of its outputs'", "copy or make it anew")
    return Loaded(model.eval(), statistics, info, name)


def read_header(file: Path) -> dict[str, str]:
    """What a safetensors file says besides its weights. Raises UserError where it is none, or not whole."""
    try:
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a whole safetensors file ({error})", "copy or make it anew") from error


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The weights of a safetensors file. Raises UserError where it is none, or not whole."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a whole safetensors file ({error})", "copy or make it anew") from error


def _check(info: dict[str, Any], statistics: Statistics, weights: dict[str, Tensor]) -> None:
    """Raises ValueError, TypeError, KeyError or AttributeError where the description lacks what readers of it rely on,
    or has more parts than a file with such weights."""
    _ = info["provenance"].get("step")
    if not isinstance(info.get("licence"), str | None):
        raise ValueError(f"its licence is {info['licence']}")
    shape = info["architecture"]
    encoder = shape.get("encoder", shape)
    for name in _WHOLE:
        if type(number := {**shape, **encoder}.get(name, 1)) is not int or number < 1:
            raise ValueError(f"{name} is {number}")
    eps = encoder.get("norm_eps", NORM_EPS)
    flags = [{**shape, **encoder}.get(name, False) for name in ("learned_positions", "decoder_learned_positions")]
    if type(eps) is not float or not 0 < eps < 1 or not all(type(flag) is bool for flag in flags):
        raise ValueError(f"norm_eps is {eps}, and whether positions are learned is {flags}")
    _check_rare(encoder)
    if encoder["in_chans"] != statistics.pixels.in_chans:
        raise ValueError(f"statistics of {statistics.pixels.in_chans} channels, and {encoder['in_chans']} of images")
    _check_statistics(statistics)
    if max(encoder["depth"], shape.get("decoder_depth", 0)) > len(weights):
        raise ValueError("it has more blocks than weights")
    width = max(encoder["embed_dim"], shape.get("decoder_embed_dim", 0))
    check_sizes(encoder, width, sum(tensor.numel() for tensor in weights.values()))
    if info.get("kind") in ("segmenter", "detector"):
        names, classes = info["class_names"], shape["classes"]
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names) and len(names) == classes):
            raise ValueError("its class names are no list of as many names as it has classes")
    if (kind := info.get("kind", "autoencoder")) in ("classifier", "neighbours"):
        names, task, outputs = info["class_names"], info["task"], shape["outputs"]
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("its class names are no list of names")
        if (names is not None and len(names) != outputs) or task not in (None, *get_args(Task)):
            raise ValueError("its outputs, their names and its task do not go together")
        if shape["pool"] not in get_args(Pool):
            raise ValueError(f"its pool is {shape['pool']}")
        if kind == "neighbours":
            _check_votes(shape, task)


def _check_votes(shape: dict[str, Any], task: Task | None) -> None:
    """Raises ValueError or KeyError for nearest neighbours that could not vote."""
    for name in ("images", "outputs", "k"):
        if type(shape[name]) is not int or not 0 < shape[name] < 2**31:
            raise ValueError(f"{name} is {shape[name]}")
    temperature, link = shape["temperature"], shape["link"]
    if type(temperature) not in (int, float) or not 0 < temperature < math.inf:
        raise ValueError(f"its temperature is {temperature}")
    if link not in get_args(Link) or (task is not None and link != LINKS[task]):
        raise ValueError(f"its link is {link}, and its task {task}")


def _check_rare(encoder: dict[str, Any]) -> None:
    """Raises ValueError for what few encoders have, where it is none of what they have."""
    fits: dict[str, Callable[[Any], bool]] = {
        "registers": lambda value: type(value) is int and value >= 0,
        "layer_scale": lambda value: type(value) is bool,
        "swiglu": lambda value: type(value) is bool,
        "qkv_bias": lambda value: value in get_args(QkvBias),
        "rope": lambda value: value is None or (type(value) in (int, float) and 1 < value < math.inf),
    }
    for name, is_one in fits.items():
        if name in encoder and not is_one(encoder[name]):
            raise ValueError(f"{name} is {encoder[name]}")


def _check_statistics(statistics: Statistics) -> None:
    """Raises ValueError for a mean or a deviation by which images become no numbers."""
    mean, std = statistics.mean, statistics.std
    if not len(mean) == len(std) == statistics.pixels.in_chans or not all(map(math.isfinite, mean + std)):
        raise ValueError(f"its mean is {mean}, and its deviation {std}")
    if min(std) <= 0:
        raise ValueError(f"its deviation is {std}, and must be above 0")


def check_sizes(encoder: dict[str, Any], width: int, stored: int) -> None:
    """Raises ValueError for images that no model of so many numbers was trained with."""
    img_size, patch_size, grid = encoder["img_size"], encoder["patch_size"], encoder.get("position_grid")
    for name, sides in (("img_size", img_size), ("patch_size", patch_size), ("position_grid", grid)):
        if sides is not None and not all(type(side) is int and 0 < side < 2**31 for side in sides):
            raise ValueError(f"its {name} is {sides}")
    patches = math.prod(side // patch for side, patch in zip(img_size, patch_size, strict=True))
    is_much = patches > _MANY_PATCHES and patches * width > _MOST_POSITIONS * stored
    if is_much or patches > _MOST_PATCHES:
        raise ValueError(f"its img_size is {img_size}: {patches:,} patches, for {stored:,} numbers of weights")
    if math.prod(img_size) * encoder["in_chans"] > _MOST_PIXELS:
        raise ValueError(f"its img_size is {img_size} with in_chans {encoder['in_chans']}")


def _build(info: dict[str, Any]) -> Model:
    kind = info.get("kind", "autoencoder")
    if kind == "autoencoder":
        return Architecture.from_dict(info["architecture"]).build()
    if kind == "segmenter":
        from openmae.transfer.segmenter import Segmenter  # with torchvision, which few models need

        return Segmenter.from_arguments(info["architecture"])
    if kind == "detector":
        from openmae.transfer.detector import Detector

        return Detector.from_arguments(info["architecture"])
    others: dict[str, type[Classifier] | type[Encoder] | type[Neighbours]] = {
        "classifier": Classifier,
        "encoder": Encoder,
        "neighbours": Neighbours,
    }
    return others[kind].from_arguments(info["architecture"])


def _check_fits(model: torch.nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Raises UserError that lists what is missing, unexpected or misshapen."""
    expected = model.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in weights]
    problems += [f"{key} is unexpected" for key in weights if key not in expected]
    problems += [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    problems += [
        f"{key} is of {weights[key].dtype}, not {value.dtype}"
        for key, value in expected.items()
        if key in weights and weights[key].is_floating_point() != value.is_floating_point()
    ]
    complain(problems, name)
