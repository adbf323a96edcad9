"""Whatever MODEL may be -> the model and what travels with it. Which format it is, is found by looking at it."""

from dataclasses import replace
from pathlib import Path

from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.model import MaskedAutoencoder
from openmae.weights import dino, hf, hub, meta, timm
from openmae.weights.loaded import Loaded
from openmae.weights.native import KEY, load_native, read_header, read_safetensors
from openmae.weights.pickled import Pickled, read_pickled
from openmae.weights.shapes import Heads
from openmae.weights.state_dict import is_ours, load_state_dict, unwrapped

_FOR_SERVING = {".onnx": "ONNX", ".pt2": "torch.export"}
_DESCRIBES = (".json", ".md")
_MOST_DESCRIBED = 2**26  # bytes of one of these files; 21,841 names of classes take one


def load_model(model: str | Path, *, num_heads: int | None = None, decoder_num_heads: int | None = None) -> Loaded:
    """A run folder, a `.safetensors` file of ours, a file of Meta's, a folder of transformers', a file, folder or model
    name of timm's, or `hub:user/name` for a repository of the Hugging Face Hub that holds one of these.

    Strictly: every weight, no other, of the right shape. Nothing is run that a file says, and nothing made that is
    larger than the file has weights for.
    num_heads, decoder_num_heads: attention heads, for files that do not say it; by default as most models of such a
    width have, and `info` says so. Raises UserError with what does not fit, and where a file says other heads.
    """
    heads = Heads(num_heads, decoder_num_heads)
    loaded = _load(model, heads)
    _check_heads(loaded, heads)
    return loaded


def _load(model: str | Path, heads: Heads) -> Loaded:
    name = str(model)
    if name.startswith(hub.PREFIX):
        return hub.renamed(_load(hub.fetched(name), heads), name)
    path = Path(model)
    _check_files(path)
    if _is_sharded(path):
        raise UserError(
            f"{path} is a sharded checkpoint of torch.distributed, which is not read",
            "parts of it are pickled, and a "
            "pickle can run any code; give a run folder, or a .safetensors file of openmae",
        )
    if path.is_dir():
        return _load_folder(path, heads)
    if not path.exists():
        return timm.load_name(name) if timm.is_name(name) else load_native(path)  # which says what is missing
    if path.suffix.lower() in _FOR_SERVING:
        what = _FOR_SERVING[path.suffix.lower()]
        raise UserError(
            f"{path} is a graph of {what} for serving, not weights", "give the model that it was exported from"
        )
    if _is_pickled(path):
        return _of_keys(path, read_pickled(path), heads)
    return _load_safetensors(path, heads)


def _check_heads(loaded: Loaded, heads: Heads) -> None:
    """Raises UserError where others are given than the model says that it has."""
    decoder = loaded.model.architecture.decoder_num_heads if isinstance(loaded.model, MaskedAutoencoder) else None
    if heads.decoder is not None and decoder is None:
        raise UserError(f"{loaded.name} has no decoder", "leave `decoder_num_heads` out")
    for name, given, has in (
        ("num_heads", heads.encoder, loaded.encoder.num_heads),
        ("decoder_num_heads", heads.decoder, decoder),
    ):
        if given not in (None, has):
            raise UserError(f"{loaded.name} says that its `{name}` is {has}, not {given}", "leave that out")


def _check_files(path: Path) -> None:
    """Raises UserError for a pipe or a device, of which reading may never end, and for a description without end."""
    kinds = (*_DESCRIBES, ".safetensors", ".bin")
    for file in (one for one in path.iterdir() if one.suffix in kinds) if path.is_dir() else (path,):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise UserError(f"{file} is a pipe or a device, and models are read from files", "give a file or a folder")
        if file.suffix in _DESCRIBES and file.is_file() and file.stat().st_size > _MOST_DESCRIBED:
            raise UserError(f"{file} is too large to describe a model", "copy or make it anew")


def _load_folder(folder: Path, heads: Heads) -> Loaded:
    config = folder / "config.json"
    if not config.exists():
        return load_native(folder)
    try:
        described = read_json(config.read_bytes())
        if not isinstance(described, dict):
            raise ValueError("it is no table of settings")
    except (ValueError, OSError) as error:
        raise UserError(f"{config} is damaged ({error})", "copy it anew") from error
    kind = described.get("model_type")
    if kind in hf.KINDS:
        return hf.load_folder(folder, described)
    if kind in dino.KINDS:
        return dino.load_folder(folder, described)
    if "architecture" in described and kind is None:
        stated = timm.stated_by(described, str(folder))
        stated = replace(stated, licence=stated.licence or hf.licence_of(folder))
        return _timm_file(timm.folder_weights(folder), str(folder), timm.with_heads(stated, heads))
    raise UserError(
        f"{folder} is of the kind '{kind}', and of transformers openmae reads {', '.join((*hf.KINDS, *dino.KINDS))}",
        "give one of those",
    )


def _timm_file(file: Path, name: str, stated: timm.Stated) -> Loaded:
    weights = read_pickled(file)[0] if _is_pickled(file) else read_safetensors(file)
    return timm.load_weights(weights, name, stated)


def _load_safetensors(file: Path, heads: Heads) -> Loaded:
    metadata = read_header(file)
    if KEY in metadata:
        return load_native(file)
    weights = read_safetensors(file)
    if timm.KEY in metadata:
        try:
            stated = timm.stated_by(read_json(metadata[timm.KEY]), str(file))
        except ValueError as error:
            raise UserError(f"{file} has a damaged header ({error})", "copy or make it anew") from error
        return timm.load_weights(weights, str(file), timm.with_heads(stated, heads))
    return _of_keys(file, Pickled(weights, {}, {}), heads)


def _of_keys(file: Path, content: Pickled, heads: Heads) -> Loaded:
    """A file that says no more than its weights' names, or what our models say beside them."""
    weights, before = unwrapped(content.weights)
    if is_ours(weights):
        return load_state_dict(file, weights, content.described.get(before.removesuffix(".")))
    if any(key.startswith(("vit.", "embeddings.")) for key in weights):
        raise UserError(f"{file} is of transformers, whose config.json says its shape", "give the folder with both")
    if dino.are_metas(weights):
        name = str(file)
        stated = timm.Stated(heads.encoder)
        return timm.load_weights(dino.as_timm(weights, name), name, stated, {"format": "meta"})
    return meta.load_weights_of(file, weights, content.arguments, heads)


def _is_sharded(path: Path) -> bool:
    """Whether torch.distributed.checkpoint wrote it."""
    is_whole = (path / "model.safetensors").exists()
    return path.suffix == ".distcp" or (not is_whole and ((path / ".metadata").exists() or any(path.glob("*.distcp"))))


def _is_pickled(file: Path) -> bool:
    """Whether torch.save wrote it, in its format of today, a zip, or of before version 1.6."""
    with file.open("rb") as opened:
        start = opened.read(9)
    is_safetensors = start[8:] == b"{"  # behind eight bytes that may be any number
    return not is_safetensors and (start[:2] == b"PK" or start[:1] == b"\x80")
