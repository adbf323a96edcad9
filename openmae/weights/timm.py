"""timm's Vision Transformers: files, folders of the Hub with timm's config.json, and model names.

Meta's released files name an encoder's weights in the same way, see `meta`.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.data.tasks import Task
from openmae.errors import UserError
from openmae.heads import Classifier, Encoder, Pool
from openmae.model import NORM_EPS, ViT
from openmae.weights.entries import filled
from openmae.weights.layout import check_parts, entries
from openmae.weights.loaded import Loaded, held_out_of, model_json
from openmae.weights.native import check_sizes
from openmae.weights.shapes import (
    Heads,
    are_sincos,
    assumed_heads,
    count_blocks,
    grid_of_positions,
    heads_of,
    mlp_ratio_of,
    photo_statistics,
    required,
    stated_statistics,
)

DINOV3_ROPE, DINOV3_EPS, DINOV3_SIZE = 100.0, 1e-5, (256, 256)  # of all of DINOv3's, which bare weights do not say
KEY = "timm"  # of the header entry in which a file that openmae exports says what `create_model` needs


@dataclass(frozen=True)
class Stated:
    """What is known of a model beside its weights; None where nothing says it.

    pool: timm's global_pool. position_grid, rope: see `ViT`.
    """

    num_heads: int | None = None
    img_size: tuple[int, int] | None = None
    norm_eps: float = NORM_EPS
    statistics: Mapping[str, Any] | None = None
    licence: str | None = None
    class_names: list[str] | None = None
    task: str | None = None
    pool: str | None = None
    position_grid: tuple[int, ...] | None = None
    rope: float | None = None
    held_out: Mapping[str, Any] = field(default_factory=dict)
    """Of an export of ours, as `held_out_of` gives it."""


def vit_arguments(weights: Mapping[str, Tensor], stated: Stated, name: str) -> tuple[dict[str, Any], int]:
    """(what `ViT` takes for weights of this layout, of how many class tokens there are positions). Raises UserError
    where they are no ViT's, or leave it open."""
    check_parts(weights, name)
    kernel = required(weights, "patch_embed.proj.weight", 4, name)
    width, in_chans, *patch_size = kernel.shape
    classes = required(weights, "cls_token", 3, name).shape[1] if "cls_token" in weights else 0
    registers = required(weights, "reg_token", 3, name).shape[1] if "reg_token" in weights else 0
    depth = count_blocks(weights, "blocks.")
    if depth == 0:
        raise UserError(f"{name} does not fit its model: blocks.0 is missing")
    swiglu = "blocks.0.mlp.fc1_g.weight" in weights
    hidden = len(required(weights, f"blocks.0.mlp.{'fc1_g' if swiglu else 'fc1'}.weight", 2, name))
    if not swiglu:
        inner = required(weights, "blocks.0.mlp.fc2.weight", 2, name).shape[1]
        swiglu, hidden = hidden == 2 * inner, inner if hidden == 2 * inner else hidden
    arguments = {
        "patch_size": tuple(patch_size),
        "in_chans": in_chans,
        "embed_dim": width,
        "depth": depth,
        "num_heads": stated.num_heads or _heads(weights, width, name),
        "mlp_ratio": mlp_ratio_of((hidden, width)),
        "class_tokens": classes + registers,
        "norm_eps": stated.norm_eps,
        **_parts(weights, registers, swiglu),
    }
    if "pos_embed" not in weights:
        return {**arguments, **_turned(weights, stated, name, (patch_size[0], patch_size[1]))}, 0
    if any(re.match(r"blocks\.0\.(gamma_1|attn\.(q_bias|q_proj\.))", key) for key in weights):
        raise UserError(f"{name} is an EVA with other rotations than DINOv3's, or post-norms: it cannot be loaded")
    places = required(weights, "pos_embed", 3, name)[0]
    if places.shape[1] != width:
        raise UserError(f"{name} does not fit its model: pos_embed is {tuple(places.shape)} for a width of {width}")
    of_all, of_none = classes + registers, 0
    tried = [of_none, of_all] if registers else [of_all]
    if stated.img_size is not None and not registers:  # else 15 positions and one more could be 16
        tried.append(of_none)
    found = [(at, *_placed(places[at:], stated, patch_size)) for at in tried if len(places) > at]
    at, sides, learned = next((one for one in found if one[1] is not None), (0, None, True))
    if sides is None and stated.img_size is not None:  # which does not fit, and is said to
        at, sides = of_all, (stated.img_size[0] // patch_size[0], stated.img_size[1] // patch_size[1])
    if sides is None:
        raise UserError(
            f"{name} has {len(places) - of_all} positions, and does not say how many rows they are",
            "give a folder with its config.json",
        )
    arguments |= {"img_size": (sides[0] * patch_size[0], sides[1] * patch_size[1]), "learned_positions": learned}
    counted_in = stated.position_grid
    if counted_in is not None and learned and are_sincos(places[at:], sides, counted_in):
        arguments |= {"learned_positions": False, "position_grid": counted_in}
    return arguments, at


def _heads(weights: Mapping[str, Tensor], width: int, name: str) -> int:
    """As most models of this width have; DINOv3's two largest have others."""
    largest = {1280: 20, 4096: 32} if "pos_embed" not in weights else {}
    return largest.get(width) or heads_of(width, name)


def _placed(places: Tensor, stated: Stated, patch_size: list[int]) -> tuple[tuple[int, int] | None, bool]:
    """(the grid of so many positions (N, D), whether they are learned); None where it is none, or another is stated."""
    grid, learned = grid_of_positions(places)
    if stated.img_size is None or not learned:
        return grid, learned
    said = (stated.img_size[0] // patch_size[0], stated.img_size[1] // patch_size[1])
    return (said if said[0] * said[1] == len(places) else None), learned


def _parts(weights: Mapping[str, Tensor], registers: int, swiglu: bool) -> dict[str, Any]:
    """What few encoders have, as far as this one has it."""
    first = "blocks.0."
    has = {"registers": registers, "swiglu": swiglu}
    has["layer_scale"] = f"{first}ls1.gamma" in weights or f"{first}gamma_1" in weights
    if f"{first}attn.q_bias" in weights:
        return {**has, "qkv_bias": "no keys"}
    return has if f"{first}attn.qkv.bias" in weights else {**has, "qkv_bias": "none"}


def _turned(weights: Mapping[str, Tensor], stated: Stated, name: str, patch_size: tuple[int, int]) -> dict[str, Any]:
    """Of a model without positions: DINOv3's has rotations instead. Raises UserError for another."""
    is_dinov3s = all(key in weights for key in ("cls_token", "reg_token", "blocks.0.gamma_1"))
    if stated.rope is None and not is_dinov3s:
        raise UserError(
            f"{name} has no positions (pos_embed), and does not say what stands for them", "give DINOv3's, or a ViT's"
        )
    sides = stated.img_size or DINOV3_SIZE
    sides = (sides[0] // patch_size[0] * patch_size[0], sides[1] // patch_size[1] * patch_size[1])
    kernel, stored = weights["patch_embed.proj.weight"], sum(tensor.numel() for tensor in weights.values())
    try:  # nothing in the file bounds them
        said = {"img_size": sides, "patch_size": patch_size, "in_chans": kernel.shape[1]}
        check_sizes(said, len(kernel), stored)
    except ValueError as error:
        raise UserError(f"{name} describes a model that openmae cannot build ({error})") from error
    return {
        "img_size": sides,
        "rope": stated.rope or DINOV3_ROPE,
        "norm_eps": stated.norm_eps if stated.rope else DINOV3_EPS,
    }


def load_weights(
    weights: Mapping[str, Tensor], name: str, stated: Stated | None = None, provenance: Mapping[str, Any] | None = None
) -> Loaded:
    """The encoder or the classifier of a file of this layout. Raises UserError as `read_weights` does."""
    stated = Stated() if stated is None else stated
    arguments, at = vit_arguments(weights, stated, name)

    def build() -> Encoder | Classifier:
        encoder = ViT(**arguments)
        if "head.weight" not in weights:
            return Encoder(encoder)
        outputs = len(required(weights, "head.weight", 2, name))
        pool: Pool
        pool, theirs = ("mean", "avg") if "fc_norm.weight" in weights else ("class", "token")
        if stated.pool not in (None, theirs):
            raise UserError(
                f"{name} pools by {stated.pool!r}, with{'' if pool == 'mean' else 'out'} a norm behind it, and "
                "openmae by 'token' without or 'avg' with one: it cannot be loaded"
            )
        return Classifier(encoder, outputs, pool)

    model = filled(build, partial(entries, at=at), weights, name)
    said = {"format": "timm", "file": name, **(provenance or {}), **stated.held_out}
    assumed = []
    in_chans = model.encoder.in_chans
    if stated.num_heads is None:
        assumed.append(assumed_heads(model.encoder.num_heads))
    if model.encoder.rope is not None and stated.rope is None:
        assumed.append(f"rotations of base {DINOV3_ROPE:g} and a norm_eps of {DINOV3_EPS:g}, as DINOv3 has")
    if model.encoder.rope is not None and stated.img_size is None:
        assumed.append(f"img_size: {DINOV3_SIZE[0]}, which is DINOv3's; rotations fit any")
    if stated.statistics is None:
        statistics, what = photo_statistics(in_chans)
        assumed.append(what)
    else:
        statistics = stated_statistics(stated.statistics, in_chans, name)
    said["assumed"] = assumed
    names = stated.class_names if isinstance(model, Classifier) else None
    if names is not None and isinstance(model, Classifier) and len(names) != model.head.out_features:
        raise UserError(
            f"{name} has {model.head.out_features} outputs and names {len(names)} classes", "mend its config"
        )
    task = None if names is None else stated.task or "classification"
    info = model_json(model, statistics, said, task=task, class_names=names, licence=stated.licence)
    return Loaded(model.eval(), statistics, info, name)


def stated_by(config: Mapping[str, Any], name: str) -> Stated:
    """What timm's config.json says, or the header of a file that openmae exported. Raises UserError where damaged."""
    try:
        given = config.get("pretrained_cfg") or {}
        arguments = config.get("model_args") or {}
        statistics = None
        if "mean" in given and "std" in given:
            statistics = {key: given[key] for key in ("mean", "std", "pixel_type", "bands") if key in given}
        size = arguments.get("img_size") or (given.get("input_size") or [None])[1:] or None
        if isinstance(size, int):
            size = (size, size)
        if size is not None and not (len(size) == 2 and all(type(side) is int for side in size)):
            raise ValueError(f"img_size is {size}")
        is_dinov3 = "dinov3" in str(config.get("architecture"))
        rope = float(arguments.get("rope_temperature", DINOV3_ROPE)) if is_dinov3 else None
        heads = arguments.get("num_heads")
        if heads is not None and not (type(heads) is int and heads > 0):
            raise ValueError(f"num_heads is {heads}")
        names = config.get("label_names") or given.get("label_names")
        if names is not None and not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
            raise ValueError("label_names is no list of names")
        norm_eps = float(config.get("norm_eps", DINOV3_EPS if is_dinov3 else NORM_EPS))
        licence, task = given.get("license"), config.get("task")
        if rope is not None and not 1 < rope < 1e9:
            raise ValueError(f"rope_temperature is {rope}")
        if not 0 < norm_eps < 1 or not isinstance(licence, str | None) or task not in (None, *get_args(Task)):
            raise ValueError(f"norm_eps is {norm_eps}, license {licence}, task {task}")
        if (activation := arguments.get("act_layer") or "gelu") != "gelu":
            raise UserError(f"{name} computes with {activation}, and openmae's blocks with gelu: it cannot be loaded")
        return Stated(
            heads,
            None if size is None else (size[0], size[1]),
            norm_eps,
            statistics,
            licence,
            names,
            task,
            _pool(arguments, given.get("global_pool") or config.get("global_pool")),
            _grid(config.get("position_grid")),
            rope,
            held_out_of(config.get("learnt") or {}),
        )
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise UserError(
            f"{name} describes its model in a way that cannot be read ({error})", "copy or make it anew"
        ) from error


def with_heads(stated: Stated, heads: Heads) -> Stated:
    """The same, with the heads that are given where nothing is stated of them."""
    return replace(stated, num_heads=stated.num_heads or heads.encoder)


def _pool(arguments: Mapping[str, Any], otherwise: Any) -> str | None:
    """timm's global_pool as the arguments of a model have it, in words where other tokens than the patches count."""
    pool = arguments.get("global_pool") or otherwise
    return f"{pool} of all tokens" if arguments.get("pool_include_prefix") else pool


def _grid(sides: Any) -> tuple[int, ...] | None:
    """Rows and columns. Raises ValueError for anything else."""
    if sides is not None and not (len(sides) == 2 and all(type(side) is int and 0 < side < 2**20 for side in sides)):
        raise ValueError(f"position_grid is {sides}")
    return None if sides is None else tuple(sides)


def is_name(model: str) -> bool:
    """Whether timm has a model of this name, such as vit_base_patch16_224.mae; False where timm is not installed."""
    if importlib.util.find_spec("timm") is None or not re.fullmatch(r"\w+(\.\w+)?", model):
        return False
    import timm

    return timm.is_model(model.split(".", 1)[0])


def load_name(model: str) -> Loaded:
    """A model of timm's by its name, with the weights that timm has for it. Raises UserError where they cannot be had,
    or are no plain ViT's."""
    import timm

    try:
        found = timm.create_model(model, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).split("\n", 1)[0]
        raise UserError(
            f"timm has no weights for {model} here ({said})", "see that it can fetch them, or give a file"
        ) from error
    rope = _checked(found, model)
    vit: Any = found
    cfg, size = vit.pretrained_cfg, vit.patch_embed.img_size
    arguments = {"global_pool": vit.global_pool, "pool_include_prefix": getattr(vit, "pool_include_prefix", False)}
    stated = Stated(
        vit.blocks[0].attn.num_heads,
        (size[0], size[1]),
        vit.blocks[0].norm1.eps,
        cfg,
        cfg.get("license"),
        cfg.get("label_names"),
        pool=_pool(arguments, None),
        rope=rope,
    )
    return load_weights(vit.state_dict(), f"timm's {model}", stated, {"file": model})


def _checked(found: Any, model: str) -> float | None:
    """The base of its rotations, None where it has none. Raises UserError for a model of timm's whose weights would be
    read, and mean something else."""
    import timm

    is_eva = isinstance(found, timm.models.Eva)
    if not (is_eva or isinstance(found, timm.models.VisionTransformer)):
        raise UserError(f"timm's {model} is no plain Vision Transformer", "choose a model whose name begins with vit_")
    check_parts(found.state_dict(), f"timm's {model}")
    block = found.blocks[0]
    if (kind := type(block).__name__) not in ("Block", "EvaBlock"):
        raise UserError(f"timm's {model} has blocks of another kind ({kind}): it cannot be loaded")
    gated = type(block.mlp).__name__ in ("GluMlp", "SwiGLU")
    tried = torch.linspace(-4, 4, 81)  # quick and tanh forms of GELU have the same class's name, or no weights to tell
    expected = F.silu(tried) if gated else F.gelu(tried)
    if not torch.allclose(block.mlp.act(tried.clone()), expected, rtol=0, atol=1e-6):
        raise UserError(f"timm's {model} computes with another activation than openmae's gelu: it cannot be loaded")
    if gated and getattr(block.mlp, "gate_last", False):
        raise UserError(f"timm's {model} has its gates behind what they let through: it cannot be loaded")
    rope = getattr(found, "rope", None)
    if rope is None:
        return None
    is_dinov3s = type(rope).__name__ == "RotaryEmbeddingDinoV3" and rope.temperature and rope.rotate_half
    if not is_dinov3s or (rope.normalize_coords, rope.grid_offset, rope.grid_indexing) != ("separate", 0, "ij"):
        raise UserError(f"timm's {model} has other rotations than DINOv3's: it cannot be loaded")
    return rope.temperature


def folder_weights(folder: Path) -> Path:
    """The file of weights in a folder with timm's config.json. Raises UserError where there is none."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder} has timm's config.json, and no model.safetensors beside it", "fetch that too")
