"""The same numbers as other implementations, and as a CPU's, in float32 and bfloat16."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from openmae.machine.device import autocast
from openmae.machine.kinds import Precision
from openmae.weights import load_model
from tests.gpu.device import DEVICE, MARKS
from tests.models import randomize, tiny
from tests.weights import foreign

pytestmark = MARKS
SIZES = {  # heads of 64 and of 32 numbers, as those of the paper's models: fused attention takes them
    "image_size": 64,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 256,
}
CLOSE = {"fp32": 1e-4, "bf16": 3e-2}  # of the largest number


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def assert_close(one: Tensor, other: Tensor, precision: str) -> None:
    one, other = one.float().cpu(), other.float().cpu()
    assert (one - other).abs().max() <= CLOSE[precision] * other.abs().max().clamp_min(1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_autoencoder_of_transformers(tmp_path: Path, precision: Precision) -> None:
    """The loss, and its gradient at the first layer, where all errors meet."""
    theirs = foreign.mae(norm_pix_loss=True, **SIZES)
    with torch.no_grad():
        for parameter in theirs.parameters():  # or a deep network of such weights amplifies what bfloat16 rounds
            if parameter.ndim > 1:
                parameter.mul_(0.3)
    ours = load_model(foreign.save_transformers(theirs, tmp_path / "hf")).autoencoder
    assert ours is not None
    ours, theirs = ours.to(DEVICE).train(), theirs.to(DEVICE).train()
    images, noise = torch.randn(4, 3, 64, 64, device=DEVICE), torch.rand(4, 64, device=DEVICE)
    with autocast(DEVICE, precision):
        wanted = theirs(images, noise=noise)
        visible = noise.argsort(dim=1)[:, : round(0.25 * 64)]
        found = ours(images, visible)
    assert found.loss.device.type == DEVICE.type
    assert_close(found.loss, wanted.loss, precision)
    found.loss.backward()
    wanted.loss.backward()
    gradient = theirs.vit.embeddings.patch_embeddings.projection.weight.grad  # (D, C, P, P)
    assert_close(ours.encoder.patch_embed.weight.grad, gradient.permute(0, 2, 3, 1).flatten(1), precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_encoder_of_timm(tmp_path: Path, precision: Precision) -> None:
    from safetensors.torch import save_file

    theirs: Any = foreign.vit(img_size=64, num_classes=0)
    save_file({key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}, tmp_path / "timm.safetensors")
    ours = load_model(tmp_path / "timm.safetensors").encoder.to(DEVICE).eval()
    theirs, images = theirs.to(DEVICE).eval(), torch.randn(3, 3, 64, 64, device=DEVICE)
    with torch.no_grad(), autocast(DEVICE, precision):
        assert_close(ours(images), theirs.forward_features(images), precision)


@pytest.mark.parametrize("decoder", ["self", "cross"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cpu(decoder: str, precision: Precision) -> None:
    """Loss and all gradients, beside float32 on a CPU."""
    model = tiny(decoder=decoder, embed_dim=64, decoder_embed_dim=32)
    randomize(model)
    images, (visible, queries) = torch.randn(4, 3, 32, 32), model.draw(4)

    def gradients(device: torch.device, precision: Precision) -> tuple[Tensor, list[Tensor]]:
        model.to(device).zero_grad()
        with autocast(device, precision):
            loss = model(images.to(device), visible.to(device), queries.to(device)).loss
        loss.backward()
        return loss.detach().cpu(), [own.grad.cpu() for own in learned(model)]

    here, there = gradients(DEVICE, precision), gradients(torch.device("cpu"), "fp32")
    assert_close(here[0], there[0], precision)
    largest = max(float(gradient.abs().max()) for gradient in there[1])
    for one, other in zip(here[1], there[1], strict=True):
        assert (one - other).abs().max() <= CLOSE[precision] * largest


def learned(model: nn.Module) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.grad is not None]
