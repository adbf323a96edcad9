"""Attention heads, of which weights of any number have the same shapes: said where they are assumed, and given."""

from pathlib import Path
from typing import Any

import pytest
import torch

import openmae
from openmae.errors import UserError
from openmae.weights import load_model
from tests.commands import Run, refused
from tests.weights import foreign
from tests.weights.foreign import CLOSE


def tiny_of_twelve(**settings: Any) -> Any:
    """A ViT of timm's with twelve heads, as MAE-Lite's and TinyMIM's of this width have."""
    return foreign.vit(num_heads=12, **settings)


def autoencoder_of_twelve() -> Any:
    return foreign.mae(
        **{**foreign.STANDARD, "num_attention_heads": 12, "decoder_num_attention_heads": 4}, layer_norm_eps=1e-6
    )


@pytest.mark.parametrize("kind", ["bare", "training", "fine-tuned", "fine-tuned by training"])
def test_heads_that_are_given(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    theirs = tiny_of_twelve(num_classes=5 if "tuned" in kind else 0)
    if "training" in kind:
        foreign.save_training(file, theirs.state_dict(), model="mae_vit_tiny_patch16")
    else:
        torch.save({"model": theirs.state_dict()}, file)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(images) if "tuned" in kind else theirs.forward_features(images)
        assumed = load_model(file)
        assert assumed.info["provenance"]["assumed"][0] == "attention heads: 3, as a model of this width mostly has"
        assert "attention heads: 3" in assumed.origin
        assert (assumed.model(images) - expected).abs().max() > 0.01
        given = load_model(file, num_heads=12)
        torch.testing.assert_close(given.model(images), expected, **CLOSE)
        torch.testing.assert_close(openmae.load(file, num_heads=12)(images), expected, **CLOSE)
    assert "attention heads" not in given.origin
    architecture = given.info["architecture"]
    assert architecture.get("encoder", architecture)["num_heads"] == 12


def test_heads_of_encoder_and_decoder(tmp_path: Path) -> None:
    theirs = autoencoder_of_twelve()
    weights = foreign.meta_weights(theirs)
    file = foreign.save_training(tmp_path / "a.pth", weights, model="mae_vit_tiny_patch16", norm_pix_loss=False)
    loaded = load_model(file, num_heads=12, decoder_num_heads=4)
    assert "attention heads" not in loaded.origin
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(images, noise=torch.rand(2, 16, generator=torch.Generator().manual_seed(1)))
        visible = (expected.mask == 0).nonzero()[:, 1].view(2, -1)
        torch.testing.assert_close(loaded.autoencoder(images, visible=visible).loss, expected.loss, **CLOSE)
    assert "decoder's attention heads: 16, as Meta's code has" in load_model(file).origin


@pytest.mark.parametrize("model", ["mae_vit_base_patch16", "mae_vit_base_patch16_dec512d8b", "vit_base_patch16"])
def test_models_of_metas_code_have_the_heads_that_it_gives_them(model: str, tmp_path: Path) -> None:
    theirs = foreign.vit("vit_base_patch16_224", depth=1, num_classes=0)
    foreign.save_training(tmp_path / "a.pth", theirs.state_dict(), model=model)
    loaded = load_model(tmp_path / "a.pth")
    assert loaded.encoder.num_heads == 12
    assert "attention heads" not in loaded.origin


def test_a_width_that_no_standard_model_has(tmp_path: Path) -> None:
    theirs = foreign.vit(embed_dim=96, num_heads=6)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"96 is no standard width: give `num_heads`"):
        load_model(tmp_path / "a.pth")
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(openmae.load(tmp_path / "a.pth", num_heads=6)(images), theirs(images), **CLOSE)


@pytest.mark.parametrize(
    ("heads", "complaint"),
    [
        ({"num_heads": 0}, "`num_heads` is 0: give 1 or more"),
        ({"num_heads": -3}, "`num_heads` is -3"),
        ({"num_heads": 7}, "no multiple of its 7 heads"),
        ({"decoder_num_heads": 4}, "has no decoder: leave `decoder_num_heads` out"),
    ],
)
def test_heads_that_cannot_be(heads: dict[str, int], complaint: str, tmp_path: Path) -> None:
    torch.save(tiny_of_twelve().state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=complaint):
        load_model(tmp_path / "a.pth", **heads)


def test_a_model_that_says_its_heads(tmp_path: Path, finished: Path) -> None:
    folder = foreign.save_transformers(foreign.mae(), tmp_path / "hf")
    assert load_model(folder, num_heads=3, decoder_num_heads=2).encoder.num_heads == 3
    with pytest.raises(UserError, match="says that its `num_heads` is 3, not 4"):
        load_model(folder, num_heads=4)
    with pytest.raises(UserError, match="says that its `decoder_num_heads` is 2, not 4"):
        load_model(folder, decoder_num_heads=4)
    with pytest.raises(UserError, match="says that its `num_heads` is"):
        load_model(finished, num_heads=12)


def test_commands_take_them(tmp_path: Path, run: Run, data: Path) -> None:
    torch.save(tiny_of_twelve(num_classes=0).state_dict(), tmp_path / "a.pth")
    out = tmp_path / "ours.safetensors"
    code, said, _ = run("export", tmp_path / "a.pth", "--to", "safetensors", "--out", out)
    assert code == 0
    assert "attention heads: 3, as a model of this width mostly has" in said
    assert "--num-heads says otherwise" in said
    assert load_model(out).info["provenance"]["assumed"][0].startswith("attention heads: 3")  # it is kept
    code, said, _ = run("export", tmp_path / "a.pth", "--num-heads", 12, "--to", "safetensors", "--out", out, "--force")
    assert code == 0
    assert "attention heads" not in said
    assert load_model(out).encoder.num_heads == 12
    refused(run("knn", out, data, "--num-heads", 3), "says that its --num-heads is 12, not 3")
    fresh = ("finetune", "vit_tiny", data, "--out", tmp_path / "r", "--from-scratch", "--num-heads", 12)
    refused(run(*fresh), "--num-heads is for weights that do not say it")
