"""Other implementations of the same training, built with the same sizes as ours; see docs/bench.md.

Each builder takes our Architecture, of square images and patches, and gives a module that takes images (B, C, H, W) to
their loss. What learns is the same as in ours but for what a builder's text names.
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openmae.errors import UserError
from openmae.model import Architecture
from openmae.recipes.bench.steps import PlainStepper, Stepper, Where, rehearsed, small


def transformers_mae(architecture: Architecture, attention: str | None = None) -> nn.Module:
    """ViTMAEForPreTraining of Hugging Face transformers. attention: its name for how that is computed; None for its
    default, scaled_dot_product_attention."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=architecture.embed_dim,
            num_hidden_layers=architecture.depth,
            num_attention_heads=architecture.num_heads,
            intermediate_size=int(architecture.embed_dim * architecture.mlp_ratio),
            image_size=architecture.img_size[0],
            patch_size=architecture.patch_size[0],
            num_channels=architecture.in_chans,
            decoder_hidden_size=architecture.decoder_embed_dim,
            decoder_num_hidden_layers=architecture.decoder_depth,
            decoder_num_attention_heads=architecture.decoder_num_heads,
            decoder_intermediate_size=int(architecture.decoder_embed_dim * architecture.mlp_ratio),
            mask_ratio=architecture.masking.mask_ratio,
            norm_pix_loss=True,
            attn_implementation=attention,  # type: ignore[call-arg]
        )
    )


def lightly_mae(architecture: Architecture) -> nn.Module:
    """The parts that lightly gives for it, as its MAE example puts them together, around a VisionTransformer of timm.
    It has one more token, which it does not use."""
    from lightly.models import utils  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from lightly.models.modules import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        MaskedVisionTransformerDecoderTIMM,
        MaskedVisionTransformerTIMM,
    )
    from timm.models.vision_transformer import VisionTransformer

    sides, patch, width = architecture.img_size[0], architecture.patch_size[0], architecture.decoder_embed_dim

    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            encoder = VisionTransformer(
                img_size=sides,
                patch_size=patch,
                in_chans=architecture.in_chans,
                embed_dim=architecture.embed_dim,
                depth=architecture.depth,
                num_heads=architecture.num_heads,
                mlp_ratio=architecture.mlp_ratio,
                num_classes=0,
            )
            self.backbone = MaskedVisionTransformerTIMM(vit=encoder)
            self.embed = nn.Linear(architecture.embed_dim, width)
            self.decoder = MaskedVisionTransformerDecoderTIMM(
                num_patches=encoder.patch_embed.num_patches,
                embed_dim=width,
                depth=architecture.decoder_depth,
                num_heads=architecture.decoder_num_heads,
                mlp_ratio=architecture.mlp_ratio,
            )
            self.head = nn.Linear(width, patch**2 * architecture.in_chans)

        def forward(self, images: Tensor) -> Tensor:
            size = (len(images), self.decoder.sequence_length)
            keep, hidden = utils.random_token_mask(size, architecture.masking.mask_ratio, device=images.device)
            encoded = self.embed(self.backbone.encode(images, idx_keep=keep))
            tokens = utils.repeat_token(self.decoder.mask_token, size)
            tokens = utils.set_at_index(tokens, keep, encoded.type_as(tokens))
            decoded = self.decoder.decode(self.decoder.add_pos_embed(tokens))
            predicted = self.head(utils.get_at_index(decoded, hidden))
            target = utils.get_at_index(utils.patchify(images, patch), hidden - 1)
            return nn.functional.mse_loss(predicted, utils.normalize_mean_var(target))

    return Autoencoder()


def birder_mae(architecture: Architecture) -> nn.Module:
    """MAE_ViT of birder around its ViT, whose positions are learned; its decoder has 16 heads, whatever ours has."""
    from birder.net.mim.mae_vit import MAE_ViT  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from birder.net.vit import ViT  # type: ignore[import-not-found,import-untyped,unused-ignore]

    shape = {
        "patch_size": architecture.patch_size[0],
        "num_layers": architecture.depth,
        "num_heads": architecture.num_heads,
        "hidden_dim": architecture.embed_dim,
        "mlp_dim": int(architecture.embed_dim * architecture.mlp_ratio),
        "drop_path_rate": 0.0,
    }
    size = (architecture.img_size[0], architecture.img_size[1])
    decoder = {
        "decoder_depth": architecture.decoder_depth,
        "decoder_embed_dim": architecture.decoder_embed_dim,
        "norm_pix_loss": True,
    }
    encoder = ViT(architecture.in_chans, 0, config=shape, size=size)
    ratio = architecture.masking.mask_ratio

    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = MAE_ViT(encoder, config=decoder, size=size, mask_ratio=ratio)

        def forward(self, images: Tensor) -> Any:
            return self.model(images)["loss"]

    return Autoencoder()


BUILDERS: dict[str, Callable[[Architecture], nn.Module]] = {  # by the package that has to be installed, and how
    "transformers": transformers_mae,
    "transformers, eager attention": partial(transformers_mae, attention="eager"),
    "lightly": lightly_mae,
    "birder": birder_mae,
}


def installed() -> list[str]:
    """The names of BUILDERS whose package is there."""
    return [name for name in BUILDERS if importlib.util.find_spec(name.partition(",")[0]) is not None]


@dataclass(frozen=True)
class Peer:
    """Another package's model. name: a key of BUILDERS."""

    name: str
    architecture: Architecture
    compiled: bool = False

    def start(self, where: Where) -> Stepper:
        """Builds it. Raises whatever that package raises."""
        rehearsed(self._stepper(small(self.architecture), False, where))
        return self._stepper(self.architecture, self.compiled, where)

    def _stepper(self, architecture: Architecture, compiled: bool, where: Where) -> PlainStepper:
        model = BUILDERS[self.name](architecture)
        return PlainStepper(model, compiled, where, architecture.in_chans, architecture.img_size)


@dataclass(frozen=True)
class FilePeer:
    """A model that a callable in the user's own file gives."""

    file: Path
    callable: str
    in_chans: int
    img_size: tuple[int, ...]

    def start(self, where: Where) -> Stepper:
        """Runs the file and calls the callable. Raises whatever they raise, TypeError where that gives no module."""
        sys.path.insert(0, str(self.file.parent))  # as if it were run: it may import what lies beside it
        specification = importlib.util.spec_from_file_location(self.file.stem, self.file)
        if specification is None or specification.loader is None:
            raise TypeError(f"{self.file} is no Python file")
        module = importlib.util.module_from_spec(specification)
        sys.modules[self.file.stem] = module
        specification.loader.exec_module(module)
        tiny = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 1))
        rehearsed(PlainStepper(tiny, False, where, 3, (2, 2)))
        model = getattr(module, self.callable)()
        if not isinstance(model, nn.Module):
            raise TypeError(f"{self.callable}() gives {type(model).__name__}, no torch.nn.Module")
        return PlainStepper(model.to(torch.float32), False, where, self.in_chans, self.img_size)


def file_peer(given: str, in_chans: int, img_size: tuple[int, ...]) -> FilePeer:
    """The peer that PATH:CALLABLE names. Raises UserError where that is not its form or there is no such file."""
    path, _, name = given.rpartition(":")
    if not path or not name.isidentifier():
        raise UserError(f"--peer is {given}", "give a Python file and a callable in it, such as models.py:mae_base")
    if not Path(path).is_file():
        raise UserError(f"--peer is {given}, and there is no file {path}", "give one, and a callable in it")
    return FilePeer(Path(path).absolute(), name, in_chans, img_size)
