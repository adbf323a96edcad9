"""Weights in and out: one file per format. `load` finds out which one it is given."""

from pathlib import Path

from openmae.heads import Classifier
from openmae.model import MaskedAutoencoder
from openmae.weights.native import Loaded, fill, load_native, model_json, serialize

__all__ = ["Loaded", "fill", "load", "load_native", "model_json", "serialize"]


def load(model: str | Path) -> MaskedAutoencoder | Classifier:
    """The model of a run folder or a `.safetensors` file of ours, in evaluation mode, on the CPU: a MaskedAutoencoder
    from pre-training, a Classifier from fine-tuning; both have the `encoder`.

    `openmae.weights.load_native` gives the input statistics and the provenance stored with it too.
    Raises UserError where it is neither, or weights are missing, unexpected or misshapen.
    """
    return load_native(Path(model)).model
