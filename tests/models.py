"""Small models of every kind, with weights that hide no error."""

from typing import Any

import torch
from torch import nn

from openmae import create_model
from openmae.model import MaskedAutoencoder, ViT

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
TINY: dict[str, Any] = {
    "model": "vit_tiny",
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "decoder_embed_dim": 16,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}


def tiny(**settings: Any) -> MaskedAutoencoder:
    return create_model(**{**TINY, **settings})


@torch.no_grad()
def randomize(module: nn.Module) -> None:
    """Random values for everything that can be learned, so that no zero bias and no unit scale hides an error."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.normal_(std=0.1)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)


def vit(**changes: object) -> ViT:
    """A ViT of four blocks, no part of which is the identity."""
    encoder = create_model("vit_tiny", **{**SIZE, **changes}).encoder  # type: ignore[arg-type]
    with torch.no_grad():  # so that no part is the identity
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    return encoder
