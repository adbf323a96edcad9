"""DINOv2's and DINOv3's weights as Meta's code and transformers call them, under timm's names.

Names: github.com/facebookresearch/dinov2 and dinov3 (models/vision_transformer.py), transformers' models/dinov2,
models/dinov2_with_registers and models/dinov3_vit.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmae.errors import UserError
from openmae.weights.hf import Config, licence_of, statistics_of, weights_of
from openmae.weights.loaded import Loaded
from openmae.weights.shapes import required
from openmae.weights.timm import DINOV3_EPS, DINOV3_ROPE, Stated, load_weights

KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit")  # model_type in transformers' config.json
# What no encoder of visible patches asks: what stands for hidden ones, copies of fixed numbers, a norm of small crops.
_UNASKED = r"(^|\.)mask_token$|\.bias_mask$|^rope_embed\.periods$|^local_cls_norm\."
_NAMES = (  # of transformers' and Meta's, timm's
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^(embeddings\.register_tokens|register_tokens|storage_tokens)$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^(model\.|encoder\.)?layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.(attention\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(attention\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(attention\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.(weights_in|w12)\.", ".mlp.fc1."),
    (r"\.mlp\.(weights_out|down_proj|w3)\.", ".mlp.fc2."),
    (r"\.mlp\.(gate_proj|w1)\.", ".mlp.fc1_g."),
    (r"\.mlp\.(up_proj|w2)\.", ".mlp.fc1_x."),
)


def are_metas(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are of Meta's code: with a mask token, and no decoder that reads it."""
    if any(key.startswith("decoder_") for key in weights):
        return False
    return "mask_token" in weights and ("blocks.0.ls1.gamma" in weights or "storage_tokens" in weights)


def as_timm(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The same under the names of timm's ViT or, where there are rotations instead of positions, of its DINOv3. Raises
    UserError where parts that belong together do not fit each other."""
    try:
        return _as_timm(weights, name)
    except (RuntimeError, IndexError, ValueError) as error:
        raise UserError(f"{name} does not fit its model: {str(error).splitlines()[0]}") from error


def _as_timm(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    found = {_timms(key): tensor for key, tensor in weights.items() if not re.search(_UNASKED, key) and tensor.numel()}
    turns = "pos_embed" not in found
    for key in [key for key in found if key.endswith((".attn.q.weight", ".attn.q.bias"))]:
        three = [key.replace(".attn.q.", f".attn.{which}.") for which in "qkv"]
        query, keys, value = (found.pop(one, None) for one in three)
        if query is None or value is None:
            raise UserError(f"{name} does not fit its model: {three[2]} is missing")
        whole = torch.cat([query, torch.zeros_like(query) if keys is None else keys, value])
        found[key.replace(".attn.q.", ".attn.qkv.")] = whole
    if turns:
        return _of_dinov3(found)
    if "reg_token" in found:  # whose positions are those of the class token and the patches
        places = required(found, "pos_embed", 3, name)
        found["cls_token"] = required(found, "cls_token", 3, name) + places[:, :1]
        found["pos_embed"] = places[:, 1:]
    return found


def _timms(key: str) -> str:
    for theirs, timms in _NAMES:
        key = re.sub(theirs, timms, key)
    return key


def _of_dinov3(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As timm's DINOv3 has them."""
    found: dict[str, Tensor] = {}
    gated = "blocks.0.mlp.fc1_g.weight" in weights
    for key, tensor in weights.items():
        if key.endswith(".attn.qkv.bias"):  # of which the keys' is masked
            query, _, value = tensor.chunk(3)
            found |= {key.replace("qkv.bias", "q_bias"): query, key.replace("qkv.bias", "v_bias"): value}
        else:
            named = re.sub(r"\.ls(\d)\.gamma$", r".gamma_\1", key)
            found[named if gated else named.replace(".mlp.fc1_x.", ".mlp.fc1.")] = tensor
    return found


def load_folder(folder: Path, values: Mapping[str, Any]) -> Loaded:
    """The encoder of a folder of transformers'. Raises UserError with what does not fit."""
    name, is_third = str(folder), values.get("model_type") == KINDS[2]
    gated = is_third and values.get("use_gated_mlp") is True  # by its hidden_act; DINOv2's gates have SiLU always
    config, weights = Config(values, name, "silu" if gated else "gelu"), weights_of(folder)
    if any(key.startswith("classifier.") for key in weights):
        raise UserError(
            f"{name} classifies by its class token beside the patches' mean, and openmae by one of both",
            "give the folder of the encoder, such as Dinov2Model's",
        )
    if is_third and values.get("key_bias"):
        raise UserError(f"{name} has biases of keys beside its rotations, which DINOv3 has not: it cannot be loaded")
    nested = values.get("rope_parameters")
    theta = values.get("rope_theta", nested.get("rope_theta", DINOV3_ROPE) if isinstance(nested, dict) else DINOV3_ROPE)
    if type(theta) not in (int, float) or not 1 < theta < 1e9:
        raise UserError(f"{name}/config.json has rope_theta as {theta!r}", "it must be a number above 1")
    statistics, assumed = statistics_of(folder, config.number("num_channels", 3), None)
    stated = Stated(
        config.number("num_attention_heads", 6 if is_third else 12),
        config.sides("image_size", 224),
        config.fraction("layer_norm_eps", DINOV3_EPS if is_third else 1e-6),
        statistics.to_dict(),
        licence_of(folder),
        rope=float(theta) if is_third else None,
    )
    loaded = load_weights(as_timm(weights, name), name, stated, {"format": "transformers"})
    loaded.info["provenance"]["assumed"] += assumed
    return loaded
