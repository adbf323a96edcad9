"""openmae: pre-train Vision Transformers on your own unlabelled images by masked autoencoding.

`pretrain`, `finetune` and the others are the commands as functions (docs/python.md); `Run` opens a run folder;
`create_model` makes a MaskedAutoencoder, `load` reads one from a run folder or a `.safetensors` file.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

from openmae.version import __version__ as __version__

_PLACES = {  # what is imported when it is first asked for: torch takes a second, and `openmae --help` does without it
    "MaskedAutoencoder": "model",
    "create_model": "model",
    "load": "weights",
    "UserError": "errors",
    "Interrupted": "errors",
    "Run": "python.run",
    "Study": "python.study",
    "Features": "python.features",
    "pretrain": "python.training",
    "finetune": "python.training",
    "adapt": "python.study",
    "ablate": "python.study",
    "compare": "python.study",
    "embed": "python.features",
    "knn": "python.features",
    "probe": "python.features",
    "predict": "python.results",
    "evaluate": "python.results",
    "reconstruct": "python.results",
    "export": "python.results",
    "stats": "python.looking",
    "check": "python.looking",
    "pack": "python.looking",
    "push": "python.results",
}
__all__ = [*_PLACES]  # noqa: PLE0604  # __init__.pyi has them for type checkers


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'openmae' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"openmae.{_PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class _Package(ModuleType):
    """`evaluate` is a call, and a room of the same name, which Python would put in the call's place when it is first
    imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
