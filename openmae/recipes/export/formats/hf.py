"""transformers: folders that `from_pretrained` takes, with the decoder (hf-mae) or without it (hf-vit)."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from safetensors.torch import save
from torch import Tensor

from openmae.errors import UserError
from openmae.heads import Classifier
from openmae.masking import Masking
from openmae.model import MaskedAutoencoder, SelfDecoder
from openmae.recipes.export.check import Compared, check_layers, compared, exported, reference, what_is_compared
from openmae.recipes.export.formats.processor import write_processor
from openmae.recipes.training.settings import sides_of
from openmae.weights import Loaded, Model
from openmae.weights.entries import write_weights
from openmae.weights.hf import OURS, entries
from openmae.weights.loaded import held_out_of

_PROBLEMS = {"classification": "single_label", "multi-label": "multi_label"}
_ELSEWHERE = "export the encoder alone to hf-vit, or all of it to safetensors"
_OLDEST = "4.53"  # whose ViTModel knows pooler_act
_LOOSE = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def write_mae(loaded: Loaded, out: Path) -> list[str]:
    """Writes a folder for ViTMAEForPreTraining; gives sentences about what it does not hold. Raises UserError where
    transformers has no such model."""
    check_layers(loaded, "transformers")
    transformers = _import_transformers()
    model = _like_theirs(loaded)
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "qkv_bias": True,
        **_encoder_config(model),
        "decoder_hidden_size": model.architecture.decoder_embed_dim,
        "decoder_num_hidden_layers": model.architecture.decoder_depth,
        "decoder_num_attention_heads": model.architecture.decoder_num_heads,
        "decoder_intermediate_size": int(model.architecture.decoder_embed_dim * model.architecture.mlp_ratio),
        "mask_ratio": model.masking.mask_ratio,
        "norm_pix_loss": model.architecture.target == "norm_pix",
    }
    notes = _masking_notes(model.masking)
    return _write(loaded, out, transformers, config, write_weights(model, entries(model)), notes)


@torch.no_grad()
def compare_mae(loaded: Loaded, out: Path, images: Tensor) -> Compared:
    """transformers' features of whole images, and its predictions and losses under one mask, beside ours."""
    transformers = _import_transformers()
    theirs = _reloaded(transformers, "ViTMAEForPreTraining", out)
    ours = loaded.autoencoder
    patches = math.prod(ours.encoder.grid)
    theirs.config.mask_ratio = 0.0
    features = theirs.vit(images, noise=torch.arange(patches).expand(len(images), -1)).last_hidden_state
    theirs.config.mask_ratio = 0.5
    found = theirs(images, noise=torch.rand(len(images), patches, generator=torch.Generator().manual_seed(0)))
    hidden = found.mask.bool()
    expected = ours(images, visible=(~hidden).nonzero()[:, 1].view(len(images), -1))
    pairs = [
        (ours.encode(images), features),
        (expected.predicted.flatten(0, 1), found.logits[hidden]),
        (expected.loss, found.loss),
    ]
    return _worst(pairs, transformers, "features, predictions and the loss")


def usage_mae(loaded: Loaded, out: Path) -> str:
    """What to type in Python."""
    return _usage("ViTMAEForPreTraining", out)


def write_vit(loaded: Loaded, out: Path) -> list[str]:
    """Writes a folder for ViTModel, or for ViTForImageClassification or BeitForImageClassification where there is a
    head; gives sentences about what it does not hold. Raises UserError where transformers has no such model."""
    check_layers(loaded, "transformers")
    transformers = _import_transformers()
    _check_encoder(loaded)
    model = exported(loaded.model)
    config = {"architectures": [_vit_class(model)], **_kind(loaded, model), **_encoder_config(model)}
    weights = write_weights(model, entries(model))
    if isinstance(model, Classifier):
        config |= _outputs_config(loaded, model)
    else:
        width = model.encoder.embed_dim  # so that pooler_output, which transformers always makes, is the class token's
        weights |= {"pooler.dense.weight": torch.eye(width), "pooler.dense.bias": torch.zeros(width)}
        config["pooler_act"] = "linear"
    notes = ["The decoder is left out: ViTModel has none"] if isinstance(loaded.model, MaskedAutoencoder) else []
    return _write(loaded, out, transformers, config, weights, notes)


@torch.no_grad()
def compare_vit(loaded: Loaded, out: Path, images: Tensor) -> Compared:
    """transformers' scores, or features of all tokens and the pooled one, beside ours."""
    transformers = _import_transformers()
    theirs = _reloaded(transformers, _vit_class(loaded.model), out)
    ours, found = reference(loaded.model, images), theirs(images)
    if isinstance(loaded.model, Classifier):
        pairs = [(ours, found.logits)]
    else:
        pairs = [(ours, found.last_hidden_state), (ours[:, 0], found.pooler_output)]
    return _worst(pairs, transformers, what_is_compared(loaded.model))


def usage_vit(loaded: Loaded, out: Path) -> str:
    """What to type in Python."""
    return _usage(_vit_class(loaded.model), out)


def _usage(name: str, out: Path) -> str:
    return f'transformers.{name}.from_pretrained("{out}"), transformers.AutoImageProcessor.from_pretrained("{out}")'


def _vit_class(model: Model) -> str:
    if not isinstance(model, Classifier):
        return "ViTModel"
    return "BeitForImageClassification" if model.pool == "mean" else "ViTForImageClassification"


def _kind(loaded: Loaded, model: Model) -> dict[str, Any]:
    """Of ViT; or of BEiT, the one classifier of transformers' that reads the patches' mean, without what else it has:
    the same function, since the bias of a key, which it lacks, changes no softmax. Raises UserError."""
    if not (isinstance(model, Classifier) and model.pool == "mean"):
        return {"model_type": "vit", "qkv_bias": True}
    vit = model.encoder
    if len(set(vit.img_size)) > 1 or len(set(vit.patch_size)) > 1:
        raise UserError(
            f"transformers classifies by the mean of the patches in square images and patches alone, and those of "
            f"{loaded.name} are not",
            "export to timm or onnx",
        )
    without = ("mask_token", "relative_position_bias", "shared_relative_position_bias")
    return {
        "model_type": "beit",
        "use_mean_pooling": True,
        "use_absolute_position_embeddings": True,
        **{f"use_{part}": False for part in without},
        "layer_scale_init_value": 0.0,
        "drop_path_rate": 0.0,
    }


# ---------------------------------------------------------------- what transformers has


def _check_encoder(loaded: Loaded) -> None:
    vit = loaded.encoder
    if len(vit.img_size) != 2:
        raise UserError(
            f"transformers' ViT takes images of 2 axes, and {loaded.name} of {len(vit.img_size)}",
            "export to safetensors",
        )
    if parts := vit.rare_parts():
        raise UserError(
            f"transformers' ViT is a plainer one, and {loaded.name} has {', '.join(parts)}",
            "export to timm, or to onnx or pt2, which hold any",
        )
    if vit.class_tokens != 1:
        raise UserError(
            f"transformers' ViT has one class token, and {loaded.name} has {vit.class_tokens}",
            "export to onnx or pt2, which hold any",
        )


def _like_theirs(loaded: Loaded) -> MaskedAutoencoder:
    """The model. Raises UserError unless ViTMAEForPreTraining computes the same."""
    model, name = loaded.model, loaded.name
    if not isinstance(model, MaskedAutoencoder):
        raise UserError(f"{name} has no decoder, which ViTMAEForPreTraining needs", "export to hf-vit")
    _check_encoder(loaded)
    if not isinstance(model.decoder, SelfDecoder):
        raise UserError(f"transformers' MAE has no cross-attention decoder, which {name} has", _ELSEWHERE)
    if model.encoder_mask_token is not None:
        raise UserError(f"transformers' MAE encodes no mask tokens, which {name} does", _ELSEWHERE)
    if len(set(model.encoder.img_size)) > 1 or len(set(model.encoder.patch_size)) > 1:
        raise UserError(f"transformers' MAE takes square images and patches, and those of {name} are not", _ELSEWHERE)
    if (target := model.architecture.target) not in ("pixel", "norm_pix"):
        raise UserError(f"transformers' MAE predicts pixels, and {name} predicts {target}", _ELSEWHERE)
    return model


def _masking_notes(masking: Masking) -> list[str]:
    if masking == Masking(mask_ratio=masking.mask_ratio):
        return []
    return [
        f"transformers hides single patches at random, {masking.mask_ratio:.0%} of them, and predicts all: how else "
        "this model was trained is kept in config.json for openmae alone"
    ]


# ---------------------------------------------------------------- the folder


def _encoder_config(model: Model) -> dict[str, Any]:
    vit = model.encoder
    return {
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.num_heads,
        "intermediate_size": int(vit.embed_dim * vit.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": vit.norm_eps,
        "image_size": sides_of(vit.img_size),
        "patch_size": sides_of(vit.patch_size),
        "num_channels": vit.in_chans,
    }


def _outputs_config(loaded: Loaded, model: Classifier) -> dict[str, Any]:
    """What the outputs stand for. transformers has no task for one class alone."""
    names, task, outputs = loaded.info["class_names"], loaded.info["task"], model.head.out_features
    config: dict[str, Any] = {"num_labels": outputs}
    if names is not None:
        config = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    if task == "regression":
        config["problem_type"] = "regression"
    elif task == "multi-label" or (task == "classification" and outputs > 1):
        config["problem_type"] = f"{_PROBLEMS[task]}_classification"
    return config


def _ours_alone(loaded: Loaded, model: Model) -> dict[str, Any]:
    """What openmae reads again and transformers has no field for."""
    found: dict[str, Any] = {}
    if loaded.statistics.pixels.bands is not None:
        found["bands"] = [*loaded.statistics.pixels.bands]
    if isinstance(model, MaskedAutoencoder):
        found["masking"] = asdict(model.masking)
    if isinstance(model, Classifier) and (learnt := held_out_of(loaded.info["provenance"])):
        found["learnt"] = learnt
    if model.encoder.position_grid is not None:
        found["position_grid"] = [*model.encoder.position_grid]
    return found


def _write(
    loaded: Loaded, out: Path, transformers: Any, config: dict[str, Any], weights: dict[str, Tensor], notes: list[str]
) -> list[str]:
    """Writes all files; gives all notes."""
    is_mae = config["model_type"] == "vit_mae"
    kept = _ours_alone(loaded, loaded.model if is_mae else exported(loaded.model))
    out.mkdir()
    (out / "config.json").write_text(json.dumps({**config, **({OURS: kept} if kept else {})}, indent=1))
    (out / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))  # the header that transformers asks for
    with _quiet(transformers):
        notes = [*notes, *write_processor(loaded, out, transformers)]
    (out / "README.md").write_text(_card(loaded, config["architectures"][0], notes))
    return notes


def _card(loaded: Loaded, name: str, notes: Sequence[str]) -> str:
    """A model card: the licence where the Hub looks for it, what this is, how to load it."""
    head = ["library_name: transformers"]
    if licence := loaded.info.get("licence"):
        plain = re.fullmatch(r"[\w.+-]+", licence)  # as the Hub names licences
        head += [f"license: {licence}"] if plain else ["license: other", f"license_name: {json.dumps(licence)}"]
    vit = loaded.encoder
    size, patch = (" x ".join(map(str, sides)) for sides in (vit.img_size, vit.patch_size))
    lines = [
        f"A Vision Transformer {vit.embed_dim} wide and {vit.depth} deep, trained with openmae or read by it, for "
        f"images of {size} with {vit.in_chans} channel{'' if vit.in_chans == 1 else 's'} in patches of {patch}.",
        f"`transformers.{name}.from_pretrained` loads it, `transformers.AutoImageProcessor.from_pretrained` what "
        "prepares images for it, and `openmae.load` loads it too.",
    ]
    if name == "ViTModel":
        lines.append(
            "`pooler_output` is the class token's feature, `last_hidden_state[:, 0]`; versions of transformers "
            f"before {_OLDEST} give its tanh."
        )
    return "\n".join(["---", *head, "---", "", *lines, *(f"{note}." for note in notes), ""])


# ---------------------------------------------------------------- transformers itself


def _reloaded(transformers: Any, name: str, out: Path) -> Any:
    """The model of a folder. Raises UserError unless every weight was taken, and no other was wanted."""
    by = f"transformers {transformers.__version__}"
    try:
        with _quiet(transformers):
            model, report = getattr(transformers, name).from_pretrained(out, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{by} cannot load what was written ({said})", "please report this") from error
    loose = [f"{key} {min(map(str, report[key]))} and {len(report[key]) - 1} more" for key in _LOOSE if report.get(key)]
    if loose:
        raise UserError(f"{by} does not take the weights as written ({', '.join(loose)})", "please report this")
    return model


def _worst(pairs: Sequence[tuple[Tensor, Tensor]], transformers: Any, outputs: str) -> Compared:
    found = [compared(ours, theirs, f"transformers {transformers.__version__}", outputs) for ours, theirs in pairs]
    return max(found, key=lambda one: one.difference / one.allowed)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Within it, transformers draws no bars and warns of nothing; what matters is checked."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            "this export is checked with transformers, which is not installed", "pip install transformers"
        ) from error
    if Version(found := transformers.__version__) < Version(_OLDEST):
        raise UserError(
            f"this export is checked with transformers {_OLDEST} or newer, and {found} is installed",
            "pip install --upgrade transformers",
        )
    return transformers
