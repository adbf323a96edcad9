"""Folders of Hugging Face transformers: ViTMAEForPreTraining, ViTMAEModel, ViTModel, ViTForImageClassification, and, of
classifiers of the patches' mean, BeitForImageClassification without what else BEiT has.

Names and shapes: transformers' models/vit, models/vit_mae and models/beit. Version 5 has other names in memory and
writes the old ones; both are read.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.heads import Classifier, Encoder, Neighbours, Pool
from openmae.masking import Masking
from openmae.model import Architecture, MaskedAutoencoder, ViT
from openmae.weights.entries import Entry, decoder_inputs, filled, layer, made, patch_projection
from openmae.weights.layout import token_entry
from openmae.weights.loaded import Loaded, Model, held_out_of, model_json
from openmae.weights.native import read_safetensors
from openmae.weights.pickled import read_pickled
from openmae.weights.shapes import (
    are_sincos,
    count_blocks,
    decoder_learns_positions,
    mlp_ratio_of,
    photo_statistics,
    required,
    stated_statistics,
)

KINDS = ("vit", "vit_mae", "beit")  # model_type in config.json
Biases = Literal["all", "none", "without keys"]
"""Which of the layers that make queries, keys and values have biases. BEiT's keys have none: what one adds to the
products of a query with all keys alike, the softmax takes away again."""
OURS = "openmae"  # its entry for what our own exports keep there, as transformers has no field for it
_NEW_TO_OLD = (
    (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
    (r"\bdecoder_encoder\.layer\.", "decoder_layers."),  # which version 5 writes and version 4 does not read
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_TASKS = {
    "single_label_classification": "classification",
    "multi_label_classification": "multi-label",
    "regression": "regression",
}
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")  # of ViTModel: behind the encoder, and trained by none of MAE's


def block_entries(ours: str, theirs: str, depth: int, dim: int, biases: Biases) -> list[Entry]:
    """Of a stack of blocks; their queries, keys and values are three layers."""
    found = []
    for number in range(depth):
        our, their = f"{ours}.{number}", f"{theirs}.{number}"
        weights, all_biases = (
            tuple(f"{their}.attention.attention.{which}.{part}" for which in ("query", "key", "value"))
            for part in ("weight", "bias")
        )
        found.append(Entry((f"{our}.attn.qkv.weight",), weights, lambda *three: (torch.cat(three),), _thirds))
        bias = f"{our}.attn.qkv.bias"
        if biases == "all":
            found.append(Entry((bias,), all_biases, lambda *three: (torch.cat(three),), _thirds))
        elif biases == "without keys":
            found.append(Entry((bias,), all_biases[::2], _with_no_keys, lambda whole: _thirds(whole)[::2]))
        else:
            found.append(made(bias, lambda: torch.zeros(3 * dim)))
        for our_part, their_part in (
            ("attn.proj", "attention.output.dense"),
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            ("mlp.0", "intermediate.dense"),
            ("mlp.2", "output.dense"),
        ):
            found += layer(f"{our}.{our_part}", f"{their}.{their_part}")
    return found


def _thirds(whole: Tensor) -> tuple[Tensor, ...]:
    return whole.chunk(3)


def _with_no_keys(query: Tensor, value: Tensor) -> tuple[Tensor]:
    return (torch.cat([query, torch.zeros_like(query), value]),)


def encoder_entries(encoder: ViT, prefix: str, biases: Biases) -> list[Entry]:
    """Of a ViT without its final norm."""
    inside = f"{prefix}embeddings"
    return [
        *patch_projection(
            "encoder.patch_embed", f"{inside}.patch_embeddings.projection", encoder.patch_size, encoder.in_chans
        ),
        token_entry(encoder, names=(f"{inside}.cls_token", "", f"{inside}.position_embeddings")),
        *block_entries("encoder.blocks", f"{prefix}encoder.layer", encoder.depth, encoder.embed_dim, biases),
    ]


def entries(model: Model, biases: Biases = "all") -> list[Entry]:
    """Of ViTModel's or ViTMAEModel's weights, ViTForImageClassification's or, where the patches' mean is pooled,
    BeitForImageClassification's, or ViTMAEForPreTraining's."""
    assert not isinstance(model, Neighbours)  # for which transformers has no layer
    if isinstance(model, Classifier) and model.pool == "mean":
        unasked = {"weight": torch.ones, "bias": torch.zeros}
        return [
            *encoder_entries(model.encoder, "beit.", "without keys"),
            *layer("norm", "beit.pooler.layernorm"),
            *(made(f"encoder.norm.{part}", partial(make, model.encoder.embed_dim)) for part, make in unasked.items()),
            *layer("head", "classifier"),
        ]
    prefix = "" if isinstance(model, Encoder) else "vit."
    whole = [*encoder_entries(model.encoder, prefix, biases), *layer("encoder.norm", f"{prefix}layernorm")]
    if isinstance(model, Encoder):
        return whole
    if isinstance(model, Classifier):
        return whole + layer("head", "classifier")
    assert isinstance(model, MaskedAutoencoder)  # transformers has none of the others
    return [
        *whole,
        *decoder_inputs("decoder.decoder_embed", "decoder.mask_token", "decoder.decoder_pos_embed"),
        *block_entries(
            "decoder.blocks",
            "decoder.decoder_layers",
            model.architecture.decoder_depth,
            model.architecture.decoder_embed_dim,
            biases,
        ),
        *layer("decoder.norm", "decoder.decoder_norm"),
        *layer("decoder.head", "decoder.decoder_pred"),
    ]


def load_folder(folder: Path, config: Mapping[str, Any]) -> Loaded:
    """The model of a folder of transformers'. Raises UserError with what does not fit."""
    name = str(folder)
    weights = {_old_name(key): tensor for key, tensor in weights_of(folder).items()}
    described = Config(config, name)
    model: Model = filled(
        lambda: _build(described, weights),
        lambda blank: entries(blank, described.biases),
        weights,
        name,
        left_out=lambda blank: _POOLER if isinstance(blank, Encoder) else (),
    )
    in_chans = model.encoder.in_chans
    statistics, assumed = statistics_of(folder, in_chans, described.whole("bands"))
    dropped = {"left_out": [key for key in _POOLER if key in weights]} if isinstance(model, Encoder) else {}
    names, task = described.classes(model.head.out_features) if isinstance(model, Classifier) else (None, None)
    provenance = {"format": "transformers", "file": name, **{k: v for k, v in dropped.items() if v}, "assumed": assumed}
    learnt = described.own.get("learnt")
    provenance |= held_out_of(learnt if isinstance(learnt, dict) else {})
    info = model_json(model, statistics, provenance, task=task, class_names=names, licence=licence_of(folder))
    return Loaded(model.eval(), statistics, info, name)


class Config:
    """config.json of transformers, each value checked as it is asked for."""

    def __init__(self, values: Mapping[str, Any], name: str, activation: str = "gelu") -> None:
        self.values, self.name = values, name
        self.biases: Biases = "none" if values.get("qkv_bias", True) is False else "all"
        self.is_beit = values.get("model_type") == "beit"
        if self.is_beit and values.get("use_mean_pooling", True) is not True:
            raise UserError(f"{name} is a BEiT that pools by its class token, which openmae does not read")
        self.own = values[OURS] if isinstance(values.get(OURS), dict) else {}
        if (said := values.get("hidden_act", "gelu")) != activation:
            raise UserError(f"{name} computes with {said}, and openmae's blocks with {activation}: it cannot be loaded")

    def number(self, key: str, default: int) -> int:
        """A whole number above 0."""
        value = self.values.get(key, default)
        if type(value) is not int or not 0 < value < 2**31:
            raise UserError(f"{self.name}/config.json has {key} as {value!r}", "it must be a whole number above 0")
        return value

    def fraction(self, key: str, default: float) -> float:
        """Between 0 and 1."""
        value = self.values.get(key, default)
        if type(value) not in (int, float) or not 0 < value < 1:
            raise UserError(f"{self.name}/config.json has {key} as {value!r}", "it must lie between 0 and 1")
        return float(value)

    def sides(self, key: str, default: int) -> tuple[int, int]:
        """(height, width), of two whole numbers or one."""
        value = self.values.get(key, default)
        pair = value if isinstance(value, list) else [value, value]
        if len(pair) != 2 or any(type(side) is not int or not 0 < side < 2**20 for side in pair):
            raise UserError(f"{self.name}/config.json has {key} as {value!r}", "it must be one whole number, or two")
        return pair[0], pair[1]

    def whole(self, key: str) -> tuple[int, ...] | None:
        """Whole numbers above 0 that an export of ours kept for itself; None where it kept none."""
        value = self.own.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or any(type(one) is not int or not 0 < one < 2**20 for one in value):
            raise UserError(f"{self.name}/config.json has {key} as {value!r}", "it must be whole numbers above 0")
        return tuple(value)

    def masking(self) -> Masking:
        """Which patches hid: of our own exports in full, else so many single ones at random."""
        kept = self.own.get("masking", {})
        try:
            return Masking(**{**kept, "mask_ratio": self.fraction("mask_ratio", 0.75)})
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.name}/config.json has a masking that openmae does not know ({error})") from error

    def classes(self, outputs: int) -> tuple[list[str] | None, str | None]:
        """(names in the order of the outputs, the task); None for what is not stated."""
        names = self.values.get("id2label")
        if not isinstance(names, dict):
            return None, _TASKS.get(str(self.values.get("problem_type")))
        try:
            ordered = [names[str(number)] for number in range(len(names))]
        except KeyError as error:
            raise UserError(f"{self.name}/config.json has no name for output {error}", "mend its id2label") from error
        if len(ordered) != outputs:
            raise UserError(f"{self.name} has {outputs} outputs and names {len(ordered)} classes", "mend its id2label")
        if not all(isinstance(name, str) for name in ordered):
            raise UserError(f"{self.name}/config.json has an id2label that is no list of names", "mend it")
        return ordered, _TASKS.get(str(self.values.get("problem_type")), "classification")


def _build(config: Config, weights: Mapping[str, Tensor]) -> Model:
    name = config.name
    has_head, has_decoder = "classifier.weight" in weights, any(key.startswith("decoder.") for key in weights)
    prefix = "beit." if config.is_beit else "vit." if has_head or has_decoder else ""
    places = required(weights, f"{prefix}embeddings.position_embeddings", 3, name)[0]
    width = config.number("hidden_size", 768)
    img_size, patch_size = config.sides("image_size", 224), config.sides("patch_size", 16)
    grid = tuple(side // patch for side, patch in zip(img_size, patch_size, strict=True))
    counted_in = config.whole("position_grid")
    if counted_in is not None and (len(counted_in) != 2 or not are_sincos(places[1:], grid, counted_in)):
        counted_in = None
    depth = config.number("num_hidden_layers", 12)
    stored = count_blocks(weights, f"{prefix}encoder.layer.")
    if depth != stored:
        raise UserError(f"{name} does not fit its model: config.json says {depth} layers, and there are {stored}")
    vit: dict[str, Any] = {
        "img_size": img_size,
        "patch_size": patch_size,
        "in_chans": config.number("num_channels", 3),
        "embed_dim": width,
        "depth": depth,
        "num_heads": config.number("num_attention_heads", 12),
        "mlp_ratio": mlp_ratio_of((config.number("intermediate_size", 3072), width)),
        "class_tokens": 1,
        "norm_eps": config.fraction("layer_norm_eps", 1e-12),
        "learned_positions": not are_sincos(places[1:], grid, counted_in),
    }
    vit["position_grid"] = counted_in
    if has_head:
        encoder = ViT(**vit)
        pool: Pool = "mean" if config.is_beit else "class"
        return Classifier(encoder, len(required(weights, "classifier.weight", 2, name)), pool)
    if config.is_beit:
        raise UserError(f"{name} is a BEiT without a classifier, and openmae reads its classifiers alone")
    if not has_decoder:
        return Encoder(ViT(**vit))
    return _autoencoder(config, weights, vit, grid)


def _autoencoder(
    config: Config, weights: Mapping[str, Tensor], vit: dict[str, Any], grid: tuple[int, ...]
) -> MaskedAutoencoder:
    name = config.name
    places = required(weights, "decoder.decoder_pos_embed", 3, name)[0]
    width = config.number("decoder_hidden_size", 512)
    hidden, decoder_hidden = (
        config.number("intermediate_size", 3072),
        config.number("decoder_intermediate_size", 2048),
    )
    vit["mlp_ratio"] = mlp_ratio_of((hidden, vit["embed_dim"]), (decoder_hidden, width))
    if int(vit["embed_dim"] * vit["mlp_ratio"]) != hidden or int(width * vit["mlp_ratio"]) != decoder_hidden:
        raise UserError(
            f"{name} has MLPs {hidden / vit['embed_dim']:g} times as wide as its encoder and "
            f"{decoder_hidden / width:g} times as its decoder; openmae's have one ratio",
            "export ViTMAEModel from it, which is the encoder alone",
        )
    return Architecture(
        **vit,
        decoder="self",
        decoder_embed_dim=width,
        decoder_depth=config.number("decoder_num_hidden_layers", 8),
        decoder_num_heads=config.number("decoder_num_attention_heads", 16),
        decoder_layers=1,
        encoder_mask_token=False,
        target="norm_pix" if config.values.get("norm_pix_loss") is True else "pixel",
        masking=config.masking(),
        decoder_learned_positions=decoder_learns_positions(places, grid, vit["position_grid"]),
    ).build()


def _old_name(key: str) -> str:
    """A weight's name as files have it, for one that is called as version 5 calls it in memory."""
    for new, old in _NEW_TO_OLD:
        key = re.sub(new, old, key)
    return key


def weights_of(folder: Path) -> dict[str, Tensor]:
    """From the one file or the several that an index lists, safetensors before pickled ones."""
    for single, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", _read_bin)):
        if (folder / single).exists():
            return read(folder / single)
        index = folder / f"{single}.index.json"
        if index.exists():
            try:
                files = sorted(set(read_json(index.read_bytes())["weight_map"].values()))
                if any(Path(file).name != file for file in files):
                    raise ValueError("it points out of its folder")
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise UserError(f"{index} is damaged ({error})", "copy it anew") from error
            parts = [read(folder / file) for file in files]
            return {key: tensor for part in parts for key, tensor in part.items()}
    raise UserError(
        f"{folder} has a config.json, and no model.safetensors or pytorch_model.bin beside it", "fetch that too"
    )


def _read_bin(file: Path) -> dict[str, Tensor]:
    return read_pickled(file)[0]


def statistics_of(folder: Path, in_chans: int, bands: tuple[int, ...] | None) -> tuple[Statistics, list[str]]:
    """(of its image processor, what had to be assumed). bands: that an export of ours says files are read by."""
    file = folder / "preprocessor_config.json"
    if not file.exists():
        statistics, said = photo_statistics(in_chans)
        return statistics, [said]
    try:
        values = read_json(file.read_bytes())
        scaled = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
        depths = {255: "uint8", 65535: "uint16", 1: "float32"}
        mean, std = [0.0] * in_chans, [1.0] * in_chans
        if values.get("do_normalize", True):  # else transformers asks neither
            mean, std = values["image_mean"], values["image_std"]
        given = {"mean": mean, "std": std, "pixel_type": depths[round(1 / scaled)]}
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{file} does not say how images are scaled ({error})", "mend it, or move it away") from error
    found = stated_statistics(given, in_chans, str(folder))
    if bands is None or len(bands) != in_chans:
        return found, []
    return replace(found, pixels=replace(found.pixels, bands=bands)), []


def licence_of(folder: Path) -> str | None:
    """What the model card's head says, in the Hub's form; None where there is no card, or no line of it."""
    try:
        lines = (folder / "README.md").read_text(errors="replace").splitlines()
    except OSError:
        return None
    if not lines or lines[0].strip() != "---":
        return None
    head = "\n".join(lines[1 : [*map(str.strip, lines), "---"].index("---", 1)])
    known = re.search(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", head, re.MULTILINE)
    named = re.search(r"^license_name:\s*(\S.*?)\s*$", head, re.MULTILINE)
    return _unquoted(named[1]) if known and named and known[1] == "other" else known[1] if known else None


def _unquoted(text: str) -> str:
    """A word of YAML as it is meant; in double quotes it is written as JSON has it, by our exports too."""
    try:
        return str(json.loads(text)) if text.startswith('"') else text.strip("'")
    except ValueError:
        return text.strip('"')
