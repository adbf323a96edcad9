"""Files of other libraries' models, made by those libraries, small and with random weights."""

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openmae.model import MaskedAutoencoder

MAE = {
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}
VIT = {key: value for key, value in MAE.items() if not key.startswith("decoder")}


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random values for all but fixed positions, so that nothing that is left at zero or one hides an error."""
    draws = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.normal_(std=0.1, generator=draws)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return module.eval()


def mae(seed: int = 0, sincos: bool = True, **settings: Any) -> Any:
    """A ViTMAEForPreTraining of transformers'."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model: Any = ViTMAEForPreTraining(ViTMAEConfig(**{**MAE, **settings}))
    embeddings = model.vit.embeddings
    if sincos:  # which some versions leave at zero in a model made from a configuration alone
        embeddings.patch_embeddings.projection._is_hf_initialized = False
        embeddings.initialize_weights()
        model.decoder.initialize_weights(embeddings.patch_embeddings.num_patches)
    return randomize(model, seed)


def save_transformers(model: Any, folder: Path, kind: str = "safetensors") -> Path:
    """A folder of `save_pretrained`, without what it prints; kind bin: as older versions wrote it."""
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
    if kind == "bin":
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def meta_weights(model: Any) -> dict[str, Tensor]:
    """Weights of a ViTMAEForPreTraining under the names of Meta's code (models_mae.py there)."""
    found = {
        "cls_token": model.vit.embeddings.cls_token,
        "pos_embed": model.vit.embeddings.position_embeddings,
        "mask_token": model.decoder.mask_token,
        "decoder_pos_embed": model.decoder.decoder_pos_embed,
    }

    def layer(name: str, module: Any) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = module.weight, module.bias

    layer("patch_embed.proj", model.vit.embeddings.patch_embeddings.projection)
    for name, blocks in (("blocks", model.vit.layers), ("decoder_blocks", model.decoder.decoder_layers)):
        for number, block in enumerate(blocks):
            attention = block.attention
            for part in ("weight", "bias"):
                three = (getattr(getattr(attention, f"{which}_proj"), part) for which in "qkv")
                found[f"{name}.{number}.attn.qkv.{part}"] = torch.cat(list(three))
            layer(f"{name}.{number}.attn.proj", attention.o_proj)
            layer(f"{name}.{number}.norm1", block.layernorm_before)
            layer(f"{name}.{number}.norm2", block.layernorm_after)
            layer(f"{name}.{number}.mlp.fc1", block.mlp.fc1)
            layer(f"{name}.{number}.mlp.fc2", block.mlp.fc2)
    layer("norm", model.vit.layernorm)
    layer("decoder_embed", model.decoder.decoder_embed)
    layer("decoder_norm", model.decoder.decoder_norm)
    layer("decoder_pred", model.decoder.decoder_pred)
    return {key: tensor.detach().clone() for key, tensor in found.items()}


STANDARD = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}  # a width whose heads are known
STANDARD |= {"decoder_hidden_size": 32, "decoder_num_attention_heads": 16, "decoder_intermediate_size": 128}


def save_training(file: Path, weights: dict[str, Tensor], **arguments: Any) -> Path:
    """A checkpoint as Meta's training writes it: with the optimizer's state, a scaler's and the arguments."""
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3}
    content = {"model": weights, "optimizer": optimizer.state_dict(), "epoch": 3, "scaler": scaler}
    torch.save({**content, "args": argparse.Namespace(**arguments)}, file)
    return file


def vit(name: str = "vit_tiny_patch16_224", seed: int = 0, **settings: Any) -> Any:
    """A Vision Transformer of timm's."""
    import timm

    small = {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 5}
    return randomize(timm.create_model(name, **{**small, **settings}), seed)


CLOSE = {"rtol": 0, "atol": 2e-5}


def same_autoencoder(ours: MaskedAutoencoder, theirs: Any) -> None:
    """Equal features of all patches, equal predictions and loss where some are hidden."""
    images = torch.randn(3, ours.encoder.in_chans, *ours.encoder.img_size)
    noise = torch.rand(3, len(ours.encoder.positions))
    with torch.no_grad():
        expected = theirs(images, noise=noise)
        visible = (expected.mask == 0).nonzero()[:, 1].view(3, -1)
        output = ours(images, visible=visible)
        torch.testing.assert_close(output.loss, expected.loss, **CLOSE)
        hidden = expected.mask[..., None]
        torch.testing.assert_close(output.prediction * hidden, expected.logits * hidden, **CLOSE)
