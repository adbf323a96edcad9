"""Our own format: `model.safetensors` and, beside it and inside its header, `model.json`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import openmae
from openmae.data.statistics import Statistics
from openmae.errors import UserError
from openmae.heads import Classifier
from openmae.model import Architecture, MaskedAutoencoder, ViT

_KEY = "openmae"  # of the header entry that holds model.json


@dataclass(frozen=True)
class Loaded:
    """A model and what travels with it."""

    model: MaskedAutoencoder | Classifier
    statistics: Statistics
    info: dict[str, Any]
    name: str

    @property
    def encoder(self) -> ViT:
        """The ViT, which both kinds have."""
        return self.model.encoder

    @property
    def autoencoder(self) -> MaskedAutoencoder:
        """The model that pre-training left. Raises UserError where it has no decoder any more."""
        if not isinstance(self.model, MaskedAutoencoder):
            raise UserError(
                f"{self.name} was fine-tuned and has no decoder, so it cannot fill in patches: give the run that it "
                f"was fine-tuned from ({self.info['provenance'].get('model') or 'not stated'})"
            )
        return self.model

    @property
    def classifier(self) -> Classifier:
        """The model that fine-tuning left. Raises UserError where it has no head."""
        if not isinstance(self.model, Classifier):
            raise UserError(
                f"{self.name} is pre-trained and has not learnt any labels: openmae finetune {self.name} DATA --out RUN"
            )
        return self.model


def model_json(
    model: MaskedAutoencoder | Classifier,
    statistics: Statistics,
    provenance: dict[str, Any],
    *,
    task: str | None = None,
    class_names: Sequence[str] | None = None,
    licence: str | None = None,
) -> dict[str, Any]:
    """What model.json says: kind, architecture, input statistics, what the outputs stand for, where the weights come
    from, their licence.

    licence: of the weights that this one began from; they belong to whoever trained them, so it is null until they
    say.
    """
    is_classifier = isinstance(model, Classifier)
    return {
        "format": 1,
        "openmae": openmae.__version__,
        "kind": "classifier" if is_classifier else "autoencoder",
        "architecture": model.arguments() if isinstance(model, Classifier) else model.architecture.to_dict(),
        "statistics": statistics.to_dict(),
        "task": task,
        "class_names": None if class_names is None else list(class_names),
        "provenance": provenance,
        "licence": licence,
    }


def serialize(model: MaskedAutoencoder | Classifier, info: dict[str, Any]) -> bytes:
    """The safetensors file: every weight and buffer of the state dict, `info` in its header."""
    return save({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, {_KEY: json.dumps(info)})


def load_native(path: Path | str) -> Loaded:
    """Reads a run folder or a `.safetensors` file; strictly: every weight, no other, of the right shape.

    Raises UserError with what does not fit.
    """
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.exists():
        hint = "give a run folder" + (" whose run has saved weights" if path.is_dir() else "")
        if runs := sorted(path.glob("blocks-*/model.safetensors")):  # a sweep
            hint = f"give one of the runs in {path}, such as {runs[0].parent}"
        raise UserError(f"{file} does not exist: {hint}")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a whole safetensors file ({error}): copy or make it anew") from error
    if _KEY not in metadata:
        raise UserError(f"{file} was not written by openmae: its header does not describe a model")
    try:
        info = json.loads(metadata[_KEY])
        statistics = Statistics.from_dict(info["statistics"])
        _ = info["provenance"].get("step")
        model = _build(info)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} describes a model that this version of openmae cannot build ({error})") from error
    fill(model, weights, str(file))
    return Loaded(model.eval(), statistics, info, str(path))


def _build(info: dict[str, Any]) -> MaskedAutoencoder | Classifier:
    if info.get("kind", "autoencoder") == "autoencoder":
        return Architecture.from_dict(info["architecture"]).build()
    return Classifier.from_arguments(info["architecture"])


def fill(model: torch.nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Loads weights into the model. Raises UserError that lists what is missing, unexpected or misshapen."""
    expected = model.state_dict()
    problems = [f"{key} is missing" for key in expected if key not in weights]
    problems += [f"{key} is unexpected" for key in weights if key not in expected]
    problems += [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if problems:
        rest = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise UserError(f"{name} does not fit its model: {', '.join(problems[:8])}{rest}")
    model.load_state_dict(weights)
