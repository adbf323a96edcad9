"""timm's Vision Transformers: files, folders of the Hub with timm's config.json, and model names.

Meta's released files name an encoder's weights in the same way, see `meta`.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from openmae.data.tasks import Task
from openmae.errors import UserError
from openmae.heads import Classifier, Encoder, Pool
from openmae.model import NORM_EPS, ViT
from openmae.weights.entries import Entry, filled, layer, made, patch_projection, tokens
from openmae.weights.loaded import Loaded, model_json
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

KEY = "timm"  # of the header entry in which a file that openmae exports says what `create_model` needs


@dataclass(frozen=True)
class Stated:
    """What is known of a model beside its weights; None where nothing says it.

    pool: timm's global_pool. position_grid: see `ViT`.
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


def block_entries(ours: str, theirs: str, depth: int) -> list[Entry]:
    """Of a stack of blocks."""
    parts = {"norm1": "norm1", "attn.qkv": "attn.qkv", "attn.proj": "attn.proj", "norm2": "norm2"}
    parts |= {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    return [
        entry
        for number in range(depth)
        for our, their in parts.items()
        for entry in layer(f"{ours}.{number}.{our}", f"{theirs}.{number}.{their}")
    ]


def encoder_entries(encoder: ViT) -> list[Entry]:
    """Of a ViT without its final norm, which not all models have."""
    return [
        *patch_projection("encoder.patch_embed", "patch_embed.proj", encoder.patch_size, encoder.in_chans),
        tokens("encoder", "cls_token", "pos_embed", encoder.class_tokens),
        *block_entries("encoder.blocks", "blocks", encoder.depth),
    ]


def entries(model: Encoder | Classifier) -> list[Entry]:
    """Of a model as timm has it: a norm before the pooling, or, where the patches' mean is pooled, behind it."""
    head = layer("head", "head") if isinstance(model, Classifier) else []
    norms = layer("encoder.norm", "norm")
    if isinstance(model, Classifier) and model.pool == "mean":  # which does not ask the encoder's own
        width = model.encoder.embed_dim
        unasked = {"weight": lambda: torch.ones(width), "bias": lambda: torch.zeros(width)}
        norms = [*layer("norm", "fc_norm"), *(made(f"encoder.norm.{part}", make) for part, make in unasked.items())]
    return [*encoder_entries(model.encoder), *norms, *head]


def vit_arguments(weights: Mapping[str, Tensor], stated: Stated, name: str) -> dict[str, Any]:
    """What `ViT` takes for weights of this layout. Raises UserError where they are no ViT's, or leave it open."""
    kernel = required(weights, "patch_embed.proj.weight", 4, name)
    places = required(weights, "pos_embed", 3, name)[0]
    width, in_chans, *patch_size = kernel.shape
    classes = required(weights, "cls_token", 3, name).shape[1] if "cls_token" in weights else 0
    depth = count_blocks(weights, "blocks.")
    if depth == 0:
        raise UserError(f"{name} does not fit its model: blocks.0 is missing")
    hidden = len(required(weights, "blocks.0.mlp.fc1.weight", 2, name))
    if len(places) <= classes or places.shape[1] != width:
        raise UserError(f"{name} does not fit its model: pos_embed is {tuple(places.shape)} for a width of {width}")
    if "reg_token" in weights:
        raise UserError(f"{name} does not fit its model: reg_token is unexpected; openmae's ViT has class tokens alone")
    grid, learned = grid_of_positions(places[classes:])
    if stated.img_size is not None and learned:
        grid = (stated.img_size[0] // patch_size[0], stated.img_size[1] // patch_size[1])
    if grid is None:
        raise UserError(
            f"{name} has {len(places) - classes} positions, and does not say how many rows they are",
            "give a folder with its config.json",
        )
    counted_in = stated.position_grid
    if counted_in is None or not learned or not are_sincos(places[classes:], grid, counted_in):
        counted_in = None
    return {
        "img_size": (grid[0] * patch_size[0], grid[1] * patch_size[1]),
        "patch_size": tuple(patch_size),
        "in_chans": in_chans,
        "embed_dim": width,
        "depth": depth,
        "num_heads": stated.num_heads or heads_of(width, name),
        "mlp_ratio": mlp_ratio_of((hidden, width)),
        "class_tokens": classes,
        "norm_eps": stated.norm_eps,
        "learned_positions": learned and counted_in is None,
        **({} if counted_in is None else {"position_grid": counted_in}),
    }


def load_weights(
    weights: Mapping[str, Tensor], name: str, stated: Stated | None = None, provenance: Mapping[str, Any] | None = None
) -> Loaded:
    """The encoder or the classifier of a file of this layout. Raises UserError as `read_weights` does."""
    stated = Stated() if stated is None else stated
    arguments = vit_arguments(weights, stated, name)

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

    model = filled(build, entries, weights, name)
    said = {"format": "timm", "file": name, **(provenance or {})}
    assumed = []
    in_chans = model.encoder.in_chans
    if stated.num_heads is None:
        assumed.append(assumed_heads(model.encoder.num_heads))
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
        heads = arguments.get("num_heads")
        if heads is not None and not (type(heads) is int and heads > 0):
            raise ValueError(f"num_heads is {heads}")
        names = config.get("label_names") or given.get("label_names")
        if names is not None and not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
            raise ValueError("label_names is no list of names")
        norm_eps, licence, task = float(config.get("norm_eps", NORM_EPS)), given.get("license"), config.get("task")
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
    if not isinstance(found, timm.models.VisionTransformer):
        raise UserError(f"timm's {model} is no plain Vision Transformer", "choose a model whose name begins with vit_")
    vit: Any = found
    block, cfg, size = vit.blocks[0], vit.pretrained_cfg, vit.patch_embed.img_size
    tried = torch.linspace(-4, 4, 81)  # quick and tanh forms of GELU have the same class's name, or no weights to tell
    if not torch.allclose(block.mlp.act(tried.clone()), F.gelu(tried), rtol=0, atol=1e-6):
        raise UserError(f"timm's {model} computes with another activation than openmae's gelu: it cannot be loaded")
    arguments = {"global_pool": vit.global_pool, "pool_include_prefix": vit.pool_include_prefix}
    stated = Stated(
        block.attn.num_heads,
        (size[0], size[1]),
        block.norm1.eps,
        cfg,
        cfg.get("license"),
        cfg.get("label_names"),
        pool=_pool(arguments, None),
    )
    return load_weights(vit.state_dict(), f"timm's {model}", stated, {"file": model})


def folder_weights(folder: Path) -> Path:
    """The file of weights in a folder with timm's config.json. Raises UserError where there is none."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder} has timm's config.json, and no model.safetensors beside it", "fetch that too")
