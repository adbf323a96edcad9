"""openmae: pre-train Vision Transformers on your own unlabelled images by masked autoencoding.

`create_model` makes a MaskedAutoencoder, `load` reads one from a run folder or a `.safetensors` file.
"""

from typing import TYPE_CHECKING, Any

from openmae.version import __version__ as __version__

if TYPE_CHECKING:
    from openmae.model import MaskedAutoencoder, create_model
    from openmae.weights import load

__all__ = ["MaskedAutoencoder", "create_model", "load"]


def __getattr__(name: str) -> Any:
    # torch takes a second to import; `openmae --help` and `openmae.__version__` do without it.
    if name == "load":
        from openmae.weights import load

        return load
    if name in __all__:
        from openmae import model

        return getattr(model, name)
    raise AttributeError(f"module 'openmae' has no attribute '{name}'")
