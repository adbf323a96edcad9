"""Files of Meta's MAE code: released ones and training checkpoints; encoders alone, with decoder, fine-tuned.

Names and shapes: github.com/facebookresearch/mae (models_mae.py, models_vit.py, util/misc.py).
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from openmae.errors import UserError
from openmae.masking import Masking
from openmae.model import SIZES, Architecture, MaskedAutoencoder
from openmae.weights.entries import Entry, decoder_inputs, filled, layer
from openmae.weights.layout import block_entries, encoder_entries
from openmae.weights.loaded import Loaded, model_json
from openmae.weights.shapes import (
    NOT_GIVEN,
    Heads,
    assumed_heads,
    count_blocks,
    decoder_learns_positions,
    photo_statistics,
    required,
    usual_heads,
)
from openmae.weights.timm import Stated, load_weights, vit_arguments

_DECODER_HEADS = 16  # of every decoder in that code, and no file says it
_MODELS = re.compile(r"(?:mae_)?(vit_(?:base|large|huge))_patch\d+\w*")  # of that code; others add theirs
_LICENCE = "CC-BY-NC-4.0"
_RELEASED = {  # the first digits of the files' MD5, as README.md and FINETUNE.md there give them
    "8cad7c": "mae_pretrain_vit_base.pth",
    "b8b06e": "mae_pretrain_vit_large.pth",
    "9bdbb0": "mae_pretrain_vit_huge.pth",
    "1b25e9": "mae_finetuned_vit_base.pth",
    "51f550": "mae_finetuned_vit_large.pth",
    "2541f2": "mae_finetuned_vit_huge.pth",
}
_RELEASED_NAMES = ("mae_pretrain_vit_", "mae_finetuned_vit_", "mae_visualize_vit_")


def decoder_entries(depth: int) -> list[Entry]:
    """Of the decoder."""
    return [
        *decoder_inputs("decoder_embed", "mask_token", "decoder_pos_embed"),
        *block_entries("decoder.blocks", "decoder_blocks", depth),
        *layer("decoder.norm", "decoder_norm"),
        *layer("decoder.head", "decoder_pred"),
    ]


def entries(model: MaskedAutoencoder) -> list[Entry]:
    """Of a whole autoencoder."""
    return [
        *encoder_entries(model.encoder),
        *layer("encoder.norm", "norm"),
        *decoder_entries(model.architecture.decoder_depth),
    ]


def load_weights_of(
    file: Path, weights: Mapping[str, Tensor], arguments: Mapping[str, Any], given: Heads = NOT_GIVEN
) -> Loaded:
    """The model of a file of Meta's. arguments: those of the training, empty in released files.

    Raises UserError as `read_weights` does.
    """
    name = str(file)
    licence, released = _licence(file, arguments)
    has_decoder = any(key.startswith(("decoder_", "mask_token")) for key in weights)
    is_metas = has_decoder or released is not None or bool(arguments)  # else anybody's, who names weights as timm does
    provenance = {"format": "meta" if is_metas else "timm", "file": name}
    provenance |= {"released_as": released} if released else {}
    heads = _heads(weights, arguments, given, is_released=released is not None)
    if not has_decoder:
        return load_weights(weights, name, Stated(heads.encoder, licence=licence), provenance)
    architecture, assumed = _architecture(weights, arguments, file, heads)
    model = filled(architecture.build, entries, weights, name)
    statistics, said = photo_statistics(architecture.in_chans)
    info = model_json(model, statistics, {**provenance, "assumed": [*assumed, said]}, licence=licence)
    return Loaded(model.eval(), statistics, info, name)


def _heads(weights: Mapping[str, Tensor], arguments: Mapping[str, Any], given: Heads, is_released: bool) -> Heads:
    """As they are given; of models that Meta's code names, as they are there; None where nothing says it."""
    named = _MODELS.fullmatch(str(arguments.get("model")))
    kernel = weights.get("patch_embed.proj.weight")
    width = 0 if kernel is None else len(kernel)
    if not is_released and not (named and SIZES[named[1]][0] == width):
        return given
    return Heads(given.encoder or usual_heads(width), given.decoder or _DECODER_HEADS)


def _architecture(
    weights: Mapping[str, Tensor], arguments: Mapping[str, Any], file: Path, heads: Heads
) -> tuple[Architecture, list[str]]:
    """(the shape, what of it no line of the file says)."""
    name = str(file)
    vit, at = vit_arguments(weights, Stated(heads.encoder), name)
    if vit["class_tokens"] != 1 or at != 1:
        raise UserError(f"{name} does not fit its model: cls_token is missing, or its position")
    width = required(weights, "decoder_embed.weight", 2, name).shape[0]
    places = required(weights, "decoder_pos_embed", 3, name)[0]
    assumed = [] if heads.encoder else [assumed_heads(vit["num_heads"])]
    assumed += [] if heads.decoder else [f"decoder's attention heads: {_DECODER_HEADS}, as Meta's code has"]
    norm_pix = arguments.get("norm_pix_loss")
    if not isinstance(norm_pix, bool):
        norm_pix = "visualize" not in file.name  # those are the ones that predict pixels as they are
        assumed.append(f"target: {'norm_pix' if norm_pix else 'pixel'}, by the file's name")
    ratio = arguments.get("mask_ratio", 0.75)
    if not isinstance(ratio, float) or not 0 < ratio < 1:
        raise UserError(f"{name} says that its mask_ratio is {ratio}", "it must lie between 0 and 1")
    grid = tuple(side // patch for side, patch in zip(vit["img_size"], vit["patch_size"], strict=True))
    return Architecture(
        **vit,
        decoder="self",
        decoder_embed_dim=width,
        decoder_depth=count_blocks(weights, "decoder_blocks."),
        decoder_num_heads=heads.decoder or _DECODER_HEADS,
        decoder_layers=1,
        encoder_mask_token=False,
        target="norm_pix" if norm_pix else "pixel",
        masking=Masking(mask_ratio=ratio),
        decoder_learned_positions=decoder_learns_positions(places, grid),
    ), assumed


def _licence(file: Path, arguments: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(the licence, the name of the released file that this is). Meta's are known by their MD5, the ones with decoder
    by their names; what somebody trained with that code is theirs, and says nothing."""
    if arguments:
        return None, None
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if released := _RELEASED.get(digest[:6]):
        return _LICENCE, released
    return (_LICENCE, file.name) if file.name.startswith(_RELEASED_NAMES) else (None, None)
