"""timm: a file that `timm.create_model(..., checkpoint_path=)` takes."""

import json
import math
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from openmae.errors import UserError
from openmae.heads import Classifier, Encoder
from openmae.model import NORM_EPS, SIZES, ViT
from openmae.recipes.export import views
from openmae.recipes.export.check import Compared, check_layers, compared, exported, reference, what_is_compared
from openmae.recipes.export.outputs import MOST_SAID
from openmae.recipes.training.settings import sides_of
from openmae.weights import Loaded, Model
from openmae.weights import timm as layout
from openmae.weights.entries import write_weights
from openmae.weights.layout import entries
from openmae.weights.loaded import held_out_of
from openmae.weights.shapes import mlp_ratio_of

_VIEW = {"interpolation": "bicubic", "crop_mode": "center"}


def write(loaded: Loaded, out: Path) -> list[str]:
    """Writes the file; gives sentences about what it does not hold. Raises UserError where timm has no such model."""
    check_layers(loaded, "timm")
    _import_timm()
    model = exported(loaded.model)
    vit = model.encoder
    if vit.read_classes > 1:
        raise UserError(
            f"timm's Vision Transformer has one class token, and {loaded.name} has {vit.read_classes}",
            "export to onnx or pt2, which hold any",
        )
    if vit.rope is not None and (vit.learned_positions or vit.qkv_bias == "all"):
        more = "positions" if vit.learned_positions else "biases of its keys"
        raise UserError(
            f"timm's DINOv3 has no {more} beside its rotations, and {loaded.name} has",
            "export to onnx or pt2, which hold any",
        )
    said = {layout.KEY: json.dumps(_header(loaded)), "format": "pt"}
    out.write_bytes(save(write_weights(model, entries(model)), said))
    return [] if isinstance(loaded.model, Classifier | Encoder) else ["The decoder is left out: timm has none"]


def compare(loaded: Loaded, out: Path, images: Tensor) -> Compared:
    """timm's outputs from the file beside ours."""
    timm = _import_timm()
    name, arguments = create_arguments(loaded)
    if loaded.encoder.norm_eps != _usual_eps(loaded.encoder):
        arguments["norm_layer"] = partial(nn.LayerNorm, eps=loaded.encoder.norm_eps)
    theirs = timm.create_model(name, checkpoint_path=str(out), **arguments).eval()
    with torch.no_grad():
        outputs = theirs(images) if isinstance(loaded.model, Classifier) else theirs.forward_features(images)
    return compared(reference(loaded.model, images), outputs, f"timm {version('timm')}", what_is_compared(loaded.model))


def usage(loaded: Loaded, out: Path) -> str:
    """What to type in Python."""
    name, arguments = create_arguments(loaded)
    given = "".join(f", {key}={value!r}" for key, value in arguments.items())
    if loaded.encoder.norm_eps != _usual_eps(loaded.encoder):
        given += f", norm_layer=functools.partial(torch.nn.LayerNorm, eps={loaded.encoder.norm_eps:g})"
    return f'timm.create_model("{name}", checkpoint_path="{out}"{given}, pretrained_cfg_overlay={_preparing(loaded)})'


def _preparing(loaded: Loaded) -> dict[str, Any]:
    """What timm's transforms have to know of the images: it reads none of it in the file, and takes its own. The names
    of a few classes too, in the order of the outputs."""
    size, statistics = (loaded.encoder.in_chans, *loaded.encoder.img_size), loaded.statistics
    told: dict[str, Any] = {"input_size": size, "mean": statistics.mean, "std": statistics.std}
    told |= {**_VIEW, "crop_pct": crop_pct(loaded)}
    names = loaded.info["class_names"] if isinstance(loaded.model, Classifier) else None
    return told if names is None or len(names) > MOST_SAID else {**told, "label_names": tuple(names)}


def crop_pct(loaded: Loaded) -> float:
    """The part of a side that timm's transform keeps, from which it finds our sides by rounding down."""
    img_size, cover = loaded.encoder.img_size, views.sides(loaded)
    part = min(side / covered for side, covered in zip(img_size, cover, strict=True))
    exact = all(math.floor(side / part) == covered for side, covered in zip(img_size, cover, strict=True))
    return part if exact else math.nextafter(part, 0)


def notes(loaded: Loaded, out: Path) -> list[str]:
    """Where what timm's readers and transforms do is not what openmae does."""
    pixels, part = loaded.statistics.pixels, crop_pct(replace(loaded, info={**loaded.info, views.KEY: False}))
    advice = f"give crop_pct={part if loaded.info.get(views.KEY) else 1.0:g} for those"
    found = views.note(loaded, "timm's transform", advice)
    if pixels.depth != "uint8":
        described = out.with_suffix(".json").name
        found.append(f"timm's transforms are for 8-bit images: prepare those of {pixels.depth} as {described} says")
    elif pixels.bands is not None:
        found.append(f"timm's transforms choose no bands: give them {', '.join(map(str, pixels.bands))}, in this order")
    elif pixels.in_chans == 1:
        found.append("timm's readers make colour images of all: give them input_img_mode='L'")
    return found


def create_arguments(loaded: Loaded) -> tuple[str, dict[str, Any]]:
    """(the name of a model of timm's, what else `create_model` needs to make this one from it)."""
    vit = loaded.encoder
    shape = (vit.embed_dim, vit.depth, vit.num_heads)
    base = next((name for name, size in SIZES.items() if size == shape), "vit_base")
    patch = 14 if base == "vit_huge" else 16
    name, usual = f"{base}_patch{patch}_224", {"img_size": 224, "patch_size": patch, "in_chans": 3, "mlp_ratio": 4.0}
    usual_shape, ratio = SIZES[base], vit.mlp_ratio
    if vit.rope is not None:
        name, usual, usual_shape = "vit_small_patch16_dinov3", {**usual, "img_size": 256}, SIZES["vit_small"]
    elif vit.swiglu:  # of whose first layer timm counts all
        name, usual_shape = "vit_giant_patch14_dinov2", (1536, 40, 24)
        usual = {"img_size": 518, "patch_size": 14, "in_chans": 3}
        ratio = mlp_ratio_of((2 * int(vit.embed_dim * vit.mlp_ratio), vit.embed_dim))
    arguments: dict[str, Any] = {"img_size": sides_of(vit.img_size), "patch_size": sides_of(vit.patch_size)}
    arguments |= {"in_chans": vit.in_chans, "mlp_ratio": ratio}
    arguments |= dict(zip(("embed_dim", "depth", "num_heads"), shape, strict=True)) if shape != usual_shape else {}
    arguments = {key: value for key, value in arguments.items() if usual.get(key) != value}
    return name, {**arguments, **_rare(vit), **_end(loaded.model)}


def _rare(vit: ViT) -> dict[str, Any]:
    """What few encoders have, where it differs from what timm's model that `create_arguments` takes has."""
    if vit.rope is not None:  # as DINOv3 has: 4 registers, LayerScale, no biases of queries, keys and values
        found: dict[str, Any] = {} if vit.registers == 4 else {"num_reg_tokens": vit.registers}
        found |= {} if vit.layer_scale else {"init_values": None}
        found |= {"qkv_bias": True} if vit.qkv_bias == "no keys" else {}
        found |= {} if vit.rope == layout.DINOV3_ROPE else {"rope_temperature": vit.rope}
        return found | ({"swiglu_mlp": True, "swiglu_align_to": 1} if vit.swiglu else {})
    found = {"reg_tokens": vit.registers, "no_embed_class": True} if vit.registers else {}
    found |= {"qkv_bias": False} if vit.qkv_bias == "none" else {}
    if vit.layer_scale != vit.swiglu:  # DINOv2's giant has both
        found |= {"init_values": 1e-5 if vit.layer_scale else None}
    return found


def _usual_eps(vit: ViT) -> float:
    """Of the norms of timm's model."""
    return NORM_EPS if vit.rope is None else layout.DINOV3_EPS


def _end(model: Model) -> dict[str, Any]:
    """Head and pooling, as trained; of an encoder alone timm pools the class token."""
    outputs = model.head.out_features if isinstance(model, Classifier) else 0
    pools_mean = isinstance(model, Classifier) and model.pool == "mean"
    if model.encoder.rope is not None:  # of which timm takes the mean, with the norm before it, where nothing is said
        token = {} if model.encoder.read_classes else {"class_token": False}
        norm = {"use_fc_norm": True} if pools_mean else {"global_pool": "token"} if not token else {}
        return {"num_classes": outputs, **token, **norm}
    if model.encoder.read_classes:
        return {"num_classes": outputs, **({"global_pool": "avg"} if pools_mean else {})}
    no_norm = {} if pools_mean else {"fc_norm": False}
    return {"num_classes": outputs, "global_pool": "avg", "class_token": False, **no_norm}


def _header(loaded: Loaded) -> dict[str, Any]:
    """As timm's own config.json has it, so that nothing is lost where the file is read again."""
    name, arguments = create_arguments(loaded)
    statistics, size = loaded.statistics, loaded.encoder.img_size
    return {
        "architecture": name,
        "num_classes": arguments["num_classes"],
        "model_args": {**arguments, "num_heads": loaded.encoder.num_heads, "img_size": size},
        "norm_eps": loaded.encoder.norm_eps,
        "position_grid": loaded.encoder.position_grid,
        "pretrained_cfg": {
            "input_size": [loaded.encoder.in_chans, *size],
            "mean": statistics.mean,
            "std": statistics.std,
            **_VIEW,
            "crop_pct": crop_pct(loaded),
            "pixel_type": statistics.pixels.depth,
            **({} if statistics.pixels.bands is None else {"bands": statistics.pixels.bands}),
            "license": loaded.info.get("licence"),
        },
        "label_names": loaded.info["class_names"],
        "task": loaded.info["task"],
        "learnt": held_out_of(loaded.info["provenance"]),
    }


def _import_timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError("this export is checked with timm, which is not installed", "pip install timm") from error
    return timm
