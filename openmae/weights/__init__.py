"""Weights in and out: one file per format. `load` finds out which one it is given."""

import os
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from openmae.masking import Sampler
from openmae.own import Own
from openmae.targets import OwnTarget
from openmae.weights.fitting import Channels, Fitted, fitted, fitted_autoencoder
from openmae.weights.loaded import Loaded, Model, model_json
from openmae.weights.native import serialize, serialized
from openmae.weights.opening import load_model
from openmae.weights.timm import is_name as is_timm_name

__all__ = [
    "Channels",
    "Fitted",
    "Loaded",
    "Model",
    "fitted",
    "fitted_autoencoder",
    "is_timm_name",
    "load",
    "load_model",
    "model_json",
    "serialize",
    "serialized",
]


def load(
    model: "str | os.PathLike[str]",
    *,
    num_heads: int | None = None,
    decoder_num_heads: int | None = None,
    mask: Sampler | None = None,
    target: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Model:
    """A model in evaluation mode, on the CPU: a MaskedAutoencoder from pre-training, a Classifier from fine-tuning, an
    Encoder from a file that has neither decoder nor head; all have the `encoder`, and `encode(images)`.

    model: a run folder or a Run, a `.safetensors` file of ours, a file or checkpoint of Meta's MAE code, a
    folder of transformers', a file, folder or model name of timm's, or `hub:user/name`.
    num_heads, decoder_num_heads: attention heads, for files that do not say it (.pth of Meta's layout and of timm's).
    mask, target: those that it was trained with, where its trainer made them (docs/python.md): they are not kept with
    weights, and only filling in patches needs them.
    `openmae.weights.load_model` gives the input statistics, the licence and the provenance stored with it too.
    Raises UserError where it is none of these, or weights are missing, unexpected or misshapen.
    """
    loaded = load_model(os.fspath(model), num_heads=num_heads, decoder_num_heads=decoder_num_heads)
    if mask is not None:
        loaded.autoencoder.masking = replace(loaded.autoencoder.masking, mask=Own.of(mask))
    if target is not None:
        values = loaded.autoencoder.target.values
        loaded.autoencoder.target = OwnTarget(Own.of(target), values)
    return loaded.model
