"""The model against two independent implementations, and the contract that every variant keeps."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from openmae.masking import MASKS, Masking
from openmae.model import (
    SIZES,
    Architecture,
    MaskedAutoencoder,
    create_model,
    patchify,
    sincos_positions,
    take,
    unpatchify,
)
from tests.models import randomize, tiny, vit


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def images_for(model: MaskedAutoencoder, batch: int = 3) -> Tensor:
    return torch.randn(batch, model.encoder.in_chans, *model.encoder.img_size)


# ---------------------------------------------------------------- the same numbers as transformers


MAE_SIZES = {
    "grey": {
        "image_size": 32,
        "patch_size": 8,
        "num_channels": 1,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 64,
    },
    "four-channels": {
        "image_size": 80,
        "patch_size": 16,
        "num_channels": 4,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "decoder_hidden_size": 48,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 6,
        "decoder_intermediate_size": 96,
    },
}


def reference_mae(size: str, norm_pix_loss: bool) -> nn.Module:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining  # seconds that the other tests need not wait

    config = ViTMAEConfig(**MAE_SIZES[size], norm_pix_loss=norm_pix_loss, layer_norm_eps=1e-6)
    reference = ViTMAEForPreTraining(config)
    # Some versions of transformers leave the position tables zero in a model made from a configuration
    # alone, because they take them for loaded; what fills them is called here once more.
    embeddings = reference.vit.embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    reference.decoder.initialize_weights(embeddings.patch_embeddings.num_patches)
    randomize(reference)
    return reference.eval()


def ours_from_mae(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients of a ViTMAEForPreTraining under our names and in our layouts.

    Takes what it converts out of `tensors`, so that what is left there was overlooked.
    """
    ours = {}

    def norm_or_linear(name: str, theirs: str) -> None:
        for part in ("weight", "bias"):
            ours[f"{name}.{part}"] = tensors.pop(f"{theirs}.{part}")

    def blocks(name: str, theirs: str) -> None:
        number = 0
        while f"{theirs}.{number}.mlp.fc1.weight" in tensors:
            block, layer = f"{name}.{number}", f"{theirs}.{number}"
            for part in ("weight", "bias"):
                ours[f"{block}.attn.qkv.{part}"] = torch.cat(
                    [tensors.pop(f"{layer}.attention.{which}_proj.{part}") for which in "qkv"]
                )
            norm_or_linear(f"{block}.attn.proj", f"{layer}.attention.o_proj")
            norm_or_linear(f"{block}.norm1", f"{layer}.layernorm_before")
            norm_or_linear(f"{block}.norm2", f"{layer}.layernorm_after")
            norm_or_linear(f"{block}.mlp.0", f"{layer}.mlp.fc1")
            norm_or_linear(f"{block}.mlp.2", f"{layer}.mlp.fc2")
            number += 1

    ours["encoder.class_token"] = tensors.pop("vit.embeddings.cls_token")[0]
    convolution = tensors.pop("vit.embeddings.patch_embeddings.projection.weight")  # (D, C, ph, pw)
    ours["encoder.patch_embed.weight"] = convolution.permute(0, 2, 3, 1).flatten(1)  # (D, ph * pw * C)
    ours["encoder.patch_embed.bias"] = tensors.pop("vit.embeddings.patch_embeddings.projection.bias")
    blocks("encoder.blocks", "vit.layers")
    norm_or_linear("encoder.norm", "vit.layernorm")
    norm_or_linear("decoder.embed", "decoder.decoder_embed")
    ours["decoder.mask_token"] = tensors.pop("decoder.mask_token")[0, 0]
    blocks("decoder.blocks", "decoder.decoder_layers")
    norm_or_linear("decoder.norm", "decoder.decoder_norm")
    norm_or_linear("decoder.head", "decoder.decoder_pred")
    return ours


def ours_like(reference: nn.Module) -> MaskedAutoencoder:
    config = reference.config
    model = create_model(
        img_size=config.image_size,
        patch_size=config.patch_size,
        in_chans=config.num_channels,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        decoder_embed_dim=config.decoder_hidden_size,
        decoder_depth=config.decoder_num_hidden_layers,
        decoder_num_heads=config.decoder_num_attention_heads,
        norm_pix_loss=config.norm_pix_loss,
    )
    weights = {n: p.detach().clone() for n, p in reference.named_parameters() if p.requires_grad}
    model.load_state_dict(ours_from_mae(weights), strict=True)
    assert not weights, f"not converted: {list(weights)}"
    return model


@pytest.mark.parametrize("norm_pix_loss", [True, False], ids=["norm_pix", "pixel"])
@pytest.mark.parametrize("size", MAE_SIZES)
def test_same_loss_predictions_and_gradients_as_transformers(size: str, norm_pix_loss: bool) -> None:
    reference = reference_mae(size, norm_pix_loss)
    model = ours_like(reference)
    images = images_for(model) * 0.5 + 0.3
    patches = len(model.encoder.positions)
    noise = torch.rand(len(images), patches)
    # The visible patches in the order of their noise, not of their places: the order must not matter.
    visible = noise.argsort(dim=1)[:, : int(patches * 0.25)]

    expected = reference(images, noise=noise)
    expected.loss.backward()
    out = model(images, visible=visible)
    out.loss.backward()

    torch.testing.assert_close(out.loss, expected.loss, rtol=1e-5, atol=1e-5)
    assert torch.equal(out.mask, expected.mask.bool())
    torch.testing.assert_close(out.prediction[out.mask], expected.logits[expected.mask.bool()], rtol=1e-5, atol=1e-5)
    theirs = {n: p.grad for n, p in reference.named_parameters() if p.requires_grad}
    gradients = ours_from_mae(theirs)
    assert not theirs
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        largest = gradients[name].abs().max().item()
        assert largest > 1e-4, f"{name} hardly has a gradient, so comparing it shows nothing"
        torch.testing.assert_close(
            parameter.grad,
            gradients[name],
            rtol=1e-5,
            atol=1e-5 * largest,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("size", MAE_SIZES)
def test_same_positions_as_transformers(size: str) -> None:
    reference = reference_mae(size, norm_pix_loss=True)
    model = ours_like(reference)
    for ours, theirs in (
        (model.encoder.positions, reference.vit.embeddings.position_embeddings),
        (model.decoder.positions, reference.decoder.decoder_pos_embed),
    ):
        assert theirs[0, 0].count_nonzero() == 0  # the class token's
        torch.testing.assert_close(ours, theirs[0, 1:].detach(), rtol=0, atol=1e-7)
        assert ours.dtype == torch.float32


@pytest.mark.parametrize(("grid", "dim"), [((3, 5), 16), ((7,), 10), ((2, 3, 4), 24), ((2, 2, 3), 16)])
def test_positions_are_what_the_formula_says(grid: tuple[int, ...], dim: int) -> None:
    n = dim // (2 * len(grid))
    expected = np.zeros((int(np.prod(grid)), dim))
    for row, place in enumerate(np.ndindex(*grid)):
        for part, coordinate in enumerate(reversed(place)):  # the column comes first
            for k in range(n):
                angle = coordinate / 10000 ** (k / n)
                expected[row, 2 * n * part + k] = np.sin(angle)
                expected[row, 2 * n * part + n + k] = np.cos(angle)
    torch.testing.assert_close(sincos_positions(grid, dim), torch.from_numpy(expected).float(), rtol=0, atol=1e-7)
    assert len(np.unique(expected, axis=0)) == len(expected)


# ---------------------------------------------------------------- the same numbers as timm


@pytest.mark.parametrize(
    ("img_size", "patch_size", "in_chans", "class_token"),
    [((32, 32), (8, 8), 3, True), ((24, 64), (4, 16), 2, True), ((32, 32), (8, 8), 1, False)],
    ids=["square", "oblong-two-channels", "no-class-token"],
)
def test_unmasked_encoder_agrees_with_timm(
    img_size: tuple[int, int], patch_size: tuple[int, int], in_chans: int, class_token: bool
) -> None:
    from timm.models.vision_transformer import VisionTransformer  # seconds that the other tests need not wait

    shape = {"img_size": img_size, "patch_size": patch_size, "in_chans": in_chans}
    shape |= {"embed_dim": 24, "depth": 3, "num_heads": 4, "mlp_ratio": 4.0}
    model = tiny(**shape, class_tokens=int(class_token))
    randomize(model)
    timm = VisionTransformer(**shape, num_classes=0, class_token=class_token, global_pool="").eval()

    encoder = model.encoder
    weights = dict(encoder.named_parameters())
    theirs = {
        "pos_embed": encoder.positions[None],
        "patch_embed.proj.weight": weights.pop("patch_embed.weight")
        .unflatten(1, (*patch_size, in_chans))
        .permute(0, 3, 1, 2),
        "patch_embed.proj.bias": weights.pop("patch_embed.bias"),
    }
    token = weights.pop("class_token")
    if class_token:
        theirs["cls_token"] = token[None]
        theirs["pos_embed"] = torch.cat([torch.zeros(1, 1, 24), encoder.positions[None]], dim=1)
    theirs |= {n.replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2"): w for n, w in weights.items()}
    timm.load_state_dict(theirs, strict=True)

    images = images_for(model)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(images), timm.forward_features(images), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- the contract of every variant


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "cross": {"decoder": "cross"},
    "cross-reads-three-layers": {"decoder": "cross", "decoder_layers": 3},
    "encoder-mask-token": {"encoder_mask_token": True},
    "encoder-mask-token-predict-fraction": {
        "encoder_mask_token": True,
        "masking": Masking(predict_fraction=0.25),
    },
    "pixel": {"norm_pix_loss": False},
    "norm-pix-by-channel": {"norm_pix_by": "channel"},
    "pca": {"target": "pca"},
    "hog": {"target": "hog"},
    "no-class-token": {"class_tokens": 0},
    "no-class-token-cross": {"class_tokens": 0, "decoder": "cross"},
    "four-class-tokens": {"class_tokens": 4},
    "four-class-tokens-cross": {"class_tokens": 4, "decoder": "cross"},
    **{f"{channels}-channels": {"in_chans": channels} for channels in (1, 2, 4, 12)},
    "two-channels-hog": {"in_chans": 2, "target": "hog"},
    "oblong": {"img_size": (16, 48), "patch_size": (4, 8)},
    "oblong-cross-hog": {"img_size": (20, 24), "patch_size": (5, 8), "target": "hog", "decoder": "cross"},
    "one-axis": {"img_size": (32,), "patch_size": (4,)},
    "one-axis-cross": {"img_size": (32,), "patch_size": (4,), "decoder": "cross"},
    "three-axes": {"img_size": (4, 8, 8), "patch_size": (2, 4, 4), "norm_pix_loss": False},
    "three-axes-cross": {"img_size": (4, 8, 8), "patch_size": (2, 2, 4), "decoder": "cross"},
    **{f"mask-{mask}": {"masking": Masking(mask=mask)} for mask in MASKS},
    **{f"mask-unit-2-{mask}": {"img_size": 64, "masking": Masking(mask=mask, mask_unit=2)} for mask in MASKS},
    "mask-unit-2-three-axes": {
        "img_size": (8, 16, 16),
        "patch_size": (2, 4, 4),
        "masking": Masking(mask_unit=2),
    },
    "predict-fraction": {"masking": Masking(predict_fraction=0.25)},
    "predict-fraction-cross": {"decoder": "cross", "masking": Masking(predict_fraction=0.25)},
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> MaskedAutoencoder:
    model = tiny(**VARIANTS[request.param])
    if VARIANTS[request.param].get("target") == "pca":
        model.target.fit(torch.randn(400, model.encoder.patch_embed.in_features))
    return model


def test_every_variant_gives_what_output_promises(variant: MaskedAutoencoder) -> None:
    images = images_for(variant)
    total = len(variant.encoder.positions)
    count, predicted = variant.masking.counts(variant.encoder.grid)
    visible, queries = variant.draw(len(images))
    assert visible.shape == (3, count)
    assert queries.shape == (3, predicted)

    out = variant(images, visible, queries)
    values = variant.target.values
    assert out.loss.shape == ()
    assert out.loss.dtype == torch.float32
    assert out.predicted.shape == (3, predicted, values)
    assert out.prediction.shape == (3, total, values)
    assert out.mask.shape == (3, total)
    assert out.mask.dtype == torch.bool
    for shown, mask in zip(visible, out.mask, strict=True):
        assert torch.equal((~mask).nonzero().flatten(), shown)
    asked = torch.zeros_like(out.mask).scatter(1, queries, True)
    assert not (asked & ~out.mask).any()
    assert torch.equal(out.prediction[asked].view_as(out.predicted), out.predicted)
    assert out.prediction[~asked].count_nonzero() == 0

    target = take(variant.target(images, patchify(images, variant.encoder.patch_size)), queries)
    torch.testing.assert_close(out.loss, ((out.predicted - target) ** 2).mean())

    features = variant.encode(images)
    assert features.shape == (3, variant.encoder.class_tokens + total, 24)
    assert features.isfinite().all()


def test_every_variant_sends_finite_gradients_to_every_parameter(variant: MaskedAutoencoder) -> None:
    variant(images_for(variant)).loss.backward()
    for name, parameter in variant.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if parameter.numel():  # a class token table of no tokens has none
            assert parameter.grad.count_nonzero() > 0, name


@torch.no_grad()
def test_every_variant_is_a_function_of_image_and_visible_set(variant: MaskedAutoencoder) -> None:
    images = images_for(variant)
    visible, queries = variant.draw(len(images))
    out = variant(images, visible, queries)

    assert torch.equal(variant(images, visible, queries).loss, out.loss)

    # Neither the order in which the visible patches are named nor the other images of the batch matter.
    shuffled = visible[:, torch.randperm(visible.shape[1])]
    torch.testing.assert_close(variant(images, shuffled, queries).predicted, out.predicted)
    alone = variant(images[1:2], visible[1:2], queries[1:2])
    torch.testing.assert_close(alone.predicted, out.predicted[1:2])

    torch.manual_seed(5)
    first = variant(images)
    torch.manual_seed(5)
    second = variant(images)
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.loss, second.loss)
    everything = variant(images, visible)
    assert everything.predicted.shape[1] == len(variant.encoder.positions) - visible.shape[1]


def test_every_variant_runs_under_autocast_with_a_float32_loss(variant: MaskedAutoencoder) -> None:
    images = images_for(variant)
    visible, queries = variant.draw(len(images))
    exact = variant(images, visible, queries).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = variant(images, visible, queries)
    assert out.loss.dtype == torch.float32
    assert out.predicted.dtype == torch.bfloat16
    torch.testing.assert_close(out.loss, exact, rtol=0.05, atol=0)
    out.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in variant.parameters())


@torch.no_grad()
def test_hidden_pixels_never_reach_the_encoder(variant: MaskedAutoencoder) -> None:
    images = images_for(variant)
    visible, queries = variant.draw(len(images))
    out = variant(images, visible, queries)
    patches = patchify(images, variant.encoder.patch_size)
    hidden = out.mask
    poisoned = patches.clone()
    poisoned[hidden] = torch.nan  # it would survive every multiplication by zero

    states, places = variant.encode_visible(patches, visible, queries, hidden)
    again, places_again = variant.encode_visible(poisoned, visible, queries, hidden)
    assert len(states) == len(variant.layers_read)
    assert torch.equal(places, places_again)
    for state, other in zip(states, again, strict=True):
        assert torch.equal(state, other)

    images_changed = unpatchify(patches + 100 * hidden[..., None], variant.encoder.grid, variant.encoder.patch_size)
    assert torch.equal(variant(images_changed, visible, queries).predicted, out.predicted)
    # And the visible ones do reach it: the comparison above can fail.
    shown = patches.clone()
    shown[~hidden] += 1
    assert not torch.equal(variant.encode_visible(shown, visible, queries, hidden)[0][-1], states[-1])


class Shifted(nn.Module):
    """A target with something added to it at chosen patches."""

    per_patch = False  # asks for all of them

    def __init__(self, target: nn.Module, shift: Tensor) -> None:
        super().__init__()
        self.target, self.shift = target, shift

    def forward(self, images: Tensor, patches: Tensor) -> Tensor:
        return self.target(images, patches) + self.shift[..., None]


@torch.no_grad()
def test_loss_depends_on_hidden_patches_only(variant: MaskedAutoencoder) -> None:
    images = images_for(variant)
    visible, queries = variant.draw(len(images))
    out = variant(images, visible, queries)
    target = variant.target

    variant.target = Shifted(target, 1000.0 * ~out.mask)
    assert torch.equal(variant(images, visible, queries).loss, out.loss)
    variant.target = Shifted(target, 1000.0 * out.mask)
    assert variant(images, visible, queries).loss > 1e5
    assert out.prediction[~out.mask].count_nonzero() == 0


@torch.no_grad()
def test_loss_weighs_every_hidden_patch_and_image_alike() -> None:
    model = tiny()
    images = images_for(model)
    out = model(images)
    target = model.target(images, patchify(images, (8, 8)))
    errors = [
        np.mean([(out.prediction[b, n] - target[b, n]).square().mean().item() for n in out.mask[b].nonzero()])
        for b in range(3)
    ]
    assert out.loss.item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_mask_ratio_of_a_call_goes_before_the_models() -> None:
    model = tiny()
    assert (~model(images_for(model), mask_ratio=0.5).mask).sum(1).tolist() == [8, 8, 8]
    assert (~model(images_for(model)).mask).sum(1).tolist() == [4, 4, 4]


# ---------------------------------------------------------------- the decoders


@torch.no_grad()
def test_cross_decoder_queries_do_not_see_each_other() -> None:
    for layers in (1, 3):
        model = tiny(decoder="cross", decoder_layers=layers)
        randomize(model)
        images = images_for(model)
        visible, queries = model.draw(len(images))
        everything = model(images, visible)
        some = queries[:, [7, 2, 5]]
        torch.testing.assert_close(
            model(images, visible, some).predicted, take(everything.prediction, some), rtol=1e-5, atol=1e-5
        )


@torch.no_grad()
def test_self_decoder_queries_see_each_other() -> None:
    model = tiny()
    randomize(model)
    images = images_for(model)
    visible, queries = model.draw(len(images))
    everything = model(images, visible)
    fewer = model(images, visible, queries[:, :3]).predicted
    assert not torch.allclose(fewer, take(everything.prediction, queries[:, :3]), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_with_mask_tokens_in_the_encoder_predicting_fewer_changes_nothing() -> None:
    # Every hidden patch has its token in the encoder, whether it is predicted or not.
    model = tiny(encoder_mask_token=True)
    randomize(model)
    images = images_for(model)
    visible, queries = model.draw(len(images))
    everything = model(images, visible)
    some = queries[:, [7, 2, 5]]
    torch.testing.assert_close(
        model(images, visible, some).predicted, take(everything.prediction, some), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_each_cross_block_reads_its_own_mix_of_encoder_states() -> None:
    model = tiny(depth=4, decoder="cross", decoder_layers=3, decoder_depth=2)
    randomize(model)
    assert model.layers_read == [0, 2, 4]
    images = images_for(model)
    visible, queries = model.draw(len(images))
    patches = patchify(images, (8, 8))
    out = model(images, visible, queries)

    states = list(model.encoder.states(model.encoder.embed(take(patches, visible), visible)))
    read = [states[0], states[2], model.encoder.norm(states[4])]
    decoder = model.decoder
    x = decoder.mask_token + decoder.positions[queries]
    for mix, block in zip(decoder.mix, decoder.blocks, strict=True):
        x = block(x, mix[0] * read[0] + mix[1] * read[1] + mix[2] * read[2])
    torch.testing.assert_close(out.predicted, decoder.head(decoder.norm(x)), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- what it costs


def flops(step: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step()
    return counter.get_total_flops()


def test_a_model_without_weights_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that loads a model makes such a one first, and torch would load its compiler to compute it."""
    shapes = {name: value.shape for name, value in create_model("vit_tiny", img_size=32).state_dict().items()}

    def refuse(*given: object, **more: object) -> None:
        raise AssertionError("torch._refs computes that")

    monkeypatch.setattr(torch, "arange", refuse)
    for name in ("normal_", "uniform_"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    with torch.device("meta"), monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "reset_parameters", lambda module: None)  # of torch's own
        model = create_model("vit_tiny", img_size=32)
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    assert all(value.is_meta for value in model.state_dict().values())


def block_flops(tokens: int, dim: int, depth: int) -> int:
    """Blocks of MLP ratio 4: 12 dim^2 multiply-adds a token, and two products of (tokens, dim) matrices."""
    return 2 * depth * tokens * (12 * dim**2 + 2 * tokens * dim)


def vit_large_costs(**settings: Any) -> tuple[int, int, int]:
    """FLOPs of the encoder with 75% hidden, of the decoder after it, and of the encoder with nothing hidden."""
    with torch.device("meta"):  # shapes only: nothing is computed
        model = create_model("vit_large", **settings)
        images = torch.zeros(1, 3, 224, 224)
        patches = patchify(images, (16, 16))
        visible, queries = (torch.zeros(1, n, dtype=torch.long) for n in (49, 147))
        mask = torch.ones(1, 196, dtype=torch.bool)
        states, places = model.encode_visible(patches, visible, queries, mask)
        return (
            flops(lambda: model.encode_visible(patches, visible, queries, mask)),
            flops(lambda: model.decoder(states, places, queries)),
            flops(lambda: model.encode(images)),
        )


def test_vit_large_decoder_is_light_and_masking_saves_three_quarters() -> None:
    masked, decoding, full = vit_large_costs()
    # The counter sees all there is, attention included, and only what is needed is computed: visible patches
    # are embedded, hidden ones predicted.
    assert full == 2 * 196 * 768 * 1024 + block_flops(197, 1024, 24)
    assert masked == 2 * 49 * 768 * 1024 + block_flops(50, 1024, 24)
    last_block = block_flops(197, 512, 1) - 2 * 50 * (9 * 512 * 512 + 2 * 197 * 512)  # asked for hidden patches alone
    assert decoding == 2 * 50 * 1024 * 512 + block_flops(197, 512, 7) + last_block + 2 * 147 * 512 * 768
    assert masked / full == pytest.approx(0.25, abs=0.01)
    assert (decoding / 197) / (masked / 50) < 0.10  # MAE section 3: under 10% of the computation per token


def test_mask_tokens_in_the_encoder_cost_three_times_as_much() -> None:
    masked, decoding, full = vit_large_costs()
    with_tokens, its_decoding, _ = vit_large_costs(encoder_mask_token=True)
    assert with_tokens == full - 2 * 147 * 768 * 1024  # every place, but hidden patches are not embedded
    assert (with_tokens + its_decoding) / (masked + decoding) == pytest.approx(3.3, abs=0.15)  # MAE Table 1c


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("changes", [{}, {"decoder": "cross", "decoder_layers": 2}, {"encoder_mask_token": True}])
def test_computing_blocks_again_gives_the_same_gradients_from_less_memory(changes: dict[str, Any]) -> None:
    model = tiny(depth=3, decoder_depth=2, **changes)
    randomize(model)
    images = images_for(model)
    visible, queries = model.draw(len(images))

    def gradients() -> tuple[list[Tensor], int]:
        kept: dict[int, int] = {}
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def note(tensor: Tensor) -> Tensor:
            if (place := tensor.untyped_storage().data_ptr()) not in own:
                kept[place] = tensor.untyped_storage().nbytes()
            return tensor

        model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(images, visible, queries).loss
        loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None], sum(
            kept.values()
        )

    plain, much = gradients()
    model.checkpoint_blocks()
    again, little = gradients()
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert little < much / 2


# ---------------------------------------------------------------- reading the encoder


@torch.no_grad()
def test_encode_at_a_layer() -> None:
    model = tiny(depth=3)
    randomize(model)
    images = images_for(model)
    features = [model.encode(images, layer=layer) for layer in (1, 2, 3)]
    assert torch.equal(features[2], model.encode(images))
    tokens = model.encoder.embed(patchify(images, (8, 8)))
    for feature, state in zip(features, list(model.encoder.states(tokens))[1:], strict=True):
        assert torch.equal(feature, model.encoder.norm(state))
    assert not torch.allclose(features[0], features[1])


@pytest.mark.parametrize("layer", [-1, 0, 4])
def test_encode_refuses_layers_that_are_not_there(layer: int) -> None:
    model = tiny(depth=3)
    with pytest.raises(ValueError, match=rf"layer {layer} .* 1 to 3"):
        model.encode(images_for(model), layer=layer)


# ---------------------------------------------------------------- making a model


def test_initialization_is_the_generators_and_leaves_global_randomness_alone() -> None:
    for settings in ({}, {"decoder": "cross", "decoder_layers": 2}, {"encoder_mask_token": True}):
        first, second = tiny(**settings), tiny(**settings)
        before = torch.get_rng_state()
        first.initialize(torch.Generator().manual_seed(3))
        second.initialize(torch.Generator().manual_seed(3))
        assert torch.equal(torch.get_rng_state(), before)
        for (name, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
            assert torch.equal(one, two), name
        second.initialize(torch.Generator().manual_seed(4))
        assert not torch.equal(first.encoder.patch_embed.weight, second.encoder.patch_embed.weight)
        assert not torch.equal(first.encoder.class_token, second.encoder.class_token)


def test_initial_values_are_the_papers() -> None:
    model = create_model("vit_tiny", encoder_mask_token=True, depth=2, class_tokens=40)
    tokens = [model.encoder.class_token, model.encoder_mask_token]
    cross = create_model("vit_tiny", depth=1, decoder="cross")
    for module in [*model.modules(), *cross.modules()]:
        if isinstance(module, nn.Linear):
            bound = (6 / (module.in_features + module.out_features)) ** 0.5  # Xavier
            assert bound * 0.99 < module.weight.abs().max() <= bound
            assert module.weight.detach().std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
            assert module.bias.count_nonzero() == 0
        elif isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6
            assert (module.weight == 1).all()
            assert module.bias.count_nonzero() == 0
    for token in [*tokens, cross.decoder.mask_token, create_model("vit_tiny", depth=1).decoder.mask_token]:
        assert token.detach().std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    ("name", "dim", "depth", "heads", "patch"),
    [
        ("vit_tiny", 192, 12, 3, 16),
        ("vit_small", 384, 12, 6, 16),
        ("vit_base", 768, 12, 12, 16),
        ("vit_large", 1024, 24, 16, 16),
        ("vit_huge", 1280, 32, 16, 14),
    ],
)
def test_sizes_and_default_decoder(name: str, dim: int, depth: int, heads: int, patch: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    encoder, decoder = model.encoder, model.decoder
    assert (encoder.embed_dim, len(encoder.blocks), encoder.blocks[0].attn.num_heads) == (dim, depth, heads)
    assert encoder.patch_size == (patch, patch)
    assert encoder.blocks[0].mlp[0].out_features == 4 * dim
    expected = (128, 4, 4) if name in ("vit_tiny", "vit_small") else (512, 8, 16)
    assert (decoder.embed.out_features, len(decoder.blocks), decoder.blocks[0].attn.num_heads) == expected
    assert model.architecture.target == "norm_pix"
    assert model.masking == Masking(mask_ratio=0.75)


def test_every_size_is_tested_above() -> None:
    assert set(SIZES) == {"vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"}


def test_architecture_survives_json(variant: MaskedAutoencoder) -> None:
    architecture = Architecture.from_dict(json.loads(json.dumps(variant.architecture.to_dict())))
    assert architecture == variant.architecture
    architecture.build().load_state_dict(variant.state_dict(), strict=True)


# ---------------------------------------------------------------- what it refuses


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "vit_giant"}, "vit_giant"),
    ({"img_size": 30}, "img_size 30 x 30 .* patch_size"),
    ({"img_size": (32, 36)}, "img_size 32 x 36 .* patch_size"),
    ({"img_size": 4}, "img_size"),
    ({"img_size": 0}, "img_size"),
    ({"patch_size": 0}, "patch_size"),
    ({"patch_size": -8}, "patch_size"),
    ({"img_size": (32, 32, 32), "patch_size": (8, 8)}, "img_size 32 x 32 x 32 .* patch"),
    ({"in_chans": 0}, "in_chans"),
    ({"depth": 0}, "^depth"),
    ({"num_heads": 0}, "^num_heads"),
    ({"decoder_depth": 0}, "decoder_depth"),
    ({"decoder_num_heads": 0}, "decoder_num_heads"),
    ({"class_tokens": -1}, "class_tokens"),
    ({"mlp_ratio": 0.0}, "mlp_ratio"),
    ({"mlp_ratio": -1.0}, "mlp_ratio"),
    ({"embed_dim": 0}, "^embed_dim"),
    ({"embed_dim": 25}, "^embed_dim 25 .* 2 heads"),
    ({"embed_dim": 26}, "^embed_dim 26 .* multiple of 4"),
    ({"embed_dim": 4, "img_size": (8, 8, 8), "patch_size": (4, 4, 4)}, "^embed_dim 4 .* 3 axes"),
    ({"decoder_embed_dim": 15}, "decoder_embed_dim 15 .* 2 heads"),
    ({"decoder_embed_dim": 18}, "decoder_embed_dim 18 .* multiple of 4"),
    ({"decoder_embed_dim": 15, "decoder": "cross"}, "decoder_embed_dim 15 .* 2 heads"),
    ({"decoder": "crossed"}, "decoder .*crossed"),
    ({"target": "pixels"}, "target .*pixels"),
    ({"encoder_mask_token": True, "decoder": "cross"}, "encoder_mask_token"),
    ({"decoder_layers": 2}, "decoder 'cross'"),
    ({"decoder_layers": 0}, "decoder_layers"),
    ({"decoder_layers": 4, "decoder": "cross"}, "decoder_layers is 4"),
    ({"patch_size": 1, "in_chans": 1, "img_size": 4}, "norm_pix"),
    ({"target": "hog", "img_size": (8, 8, 8), "patch_size": (4, 4, 4)}, "HOG target"),
    ({"masking": Masking(mask_unit=3)}, "mask_unit"),
    ({"img_size": 16, "masking": Masking(mask_ratio=0.8)}, "mask_ratio of 0.8 .* 0 visible"),
    ({"img_size": 8}, "mask_ratio"),
]


@pytest.mark.parametrize(("settings", "named"), REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_what_cannot_be_built_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tiny(**settings)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 32, 40), (2, 3, 40, 32), (2, 3, 32), (3, 32, 32)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    model = tiny()
    for call in (model, model.encode):
        with pytest.raises(ValueError, match=r"images of shape \(B, 3, 32, 32\)"):
            call(torch.zeros(shape))


def test_masks_that_show_all_or_nothing_are_refused() -> None:
    model = tiny()
    images = images_for(model)
    for visible in (torch.zeros(3, 0, dtype=torch.long), torch.arange(16).expand(3, -1)):
        with pytest.raises(ValueError, match=rf"{visible.shape[1]} of 16 patches are visible"):
            model(images, visible)
    for ratio in (0.0, 0.99, 1.0, 1.5, -0.5):
        with pytest.raises(ValueError, match="mask_ratio"):
            model(images, mask_ratio=ratio)


def test_queries_without_visible_are_refused() -> None:
    # The mask would be drawn, and could show what is to be predicted.
    model = tiny()
    with pytest.raises(ValueError, match=r"queries .* visible"):
        model(images_for(model), queries=torch.arange(4).expand(3, -1))


# ---------------------------------------------------------------- other sizes


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_positions_of_another_grid_lie_between_the_old_ones(grid: tuple[int, int], old: tuple[int, int]) -> None:
    """The k-th frequency's sine of the row at exactly (i + 1/2) old / new - 1/2."""
    positions = sincos_positions(grid, 16, old).view(*grid, 16)
    rows = (torch.arange(grid[0], dtype=torch.float64) + 0.5) * old[0] / grid[0] - 0.5
    columns = (torch.arange(grid[1], dtype=torch.float64) + 0.5) * old[1] / grid[1] - 0.5
    torch.testing.assert_close(positions[:, 0, 8].double(), rows.sin(), atol=1e-6, rtol=0)  # frequency 1, row half
    torch.testing.assert_close(positions[0, :, 4].double(), columns.cos(), atol=1e-6, rtol=0)
    assert torch.equal(sincos_positions(old, 16, old), sincos_positions(old, 16))


def test_interpolated_positions_are_close_to_timms() -> None:
    """timm interpolates the table of positions, bicubically, which the slow frequencies survive nearly unharmed."""
    old = sincos_positions((14, 14), 64)
    theirs = resample_abs_pos_embed(old[None], [28, 28], num_prefix_tokens=0)[0].view(28, 28, 64)[2:-2, 2:-2]
    ours = sincos_positions((28, 28), 64, (14, 14)).view(28, 28, 64)[2:-2, 2:-2]
    assert (ours - theirs).abs().max() < 0.05
    assert (ours - sincos_positions((28, 28), 64).view(28, 28, 64)[2:-2, 2:-2]).abs().max() > 1


def test_a_resized_encoder_keeps_its_weights_and_its_own_grid() -> None:
    small = vit()
    large = small.resized((64, 32))
    assert large.grid == (8, 4)
    assert large.position_grid == (4, 4)
    for name, value in small.state_dict().items():
        assert torch.equal(large.state_dict()[name], value)
    again = large.resized((32, 32))
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(images), small(images))
    with pytest.raises(ValueError, match="whole patches"):
        small.resized((60, 32))


def test_positions_may_learn_from_where_they_are() -> None:
    fixed = vit().resized((64, 32))
    learned = fixed.with_learned_positions()
    images = torch.randn(2, fixed.in_chans, 64, 32)
    assert torch.equal(learned(images), fixed(images))
    learned(images).square().sum().backward()
    assert learned.positions.grad is not None
    assert learned.positions.grad.abs().sum() > 0
    assert learned.arguments()["learned_positions"]
    assert learned.with_learned_positions() is learned
    assert "positions" in dict(learned.named_parameters())
    assert "positions" not in dict(fixed.named_parameters())


@pytest.mark.parametrize(
    ("decoder", "loss", "described"),
    [
        ("self", 1.1849071979522705, "fe54b4efb76fe2cb3ddba93e62b206b2066db6f02e3e43a2e8648ae09598230d"),
        ("cross", 1.1660993099212646, "1be69257242e743450b24a1bf74eadefb115165831ec93ad7a28fd113c4c4924"),
    ],
)
def test_models_are_what_they_were_before_others_parts_came_in(decoder: str, loss: float, described: str) -> None:
    """Descriptions and names of weights to the letter, and numbers, of the last commit whose ViT had no such parts."""
    model = tiny(decoder=decoder).eval()
    with torch.no_grad():
        for number, (name, weights) in enumerate(model.named_parameters()):
            drawn = np.random.default_rng(number).normal(0, 0.1, weights.shape).astype(np.float32)
            weights.copy_(torch.from_numpy(drawn))
            if "norm" in name and name.endswith("weight"):
                weights.add_(1)
        images = torch.from_numpy(np.random.default_rng(9).normal(size=(2, 3, 32, 32)).astype(np.float32))
        assert model(images, visible=torch.tensor([[0, 3, 5, 9], [1, 2, 8, 15]])).loss.item() == pytest.approx(loss)
        assert model.encode(images).double().abs().sum().item() == pytest.approx(643.7046158952871)
    shapes = [[name, list(weights.shape)] for name, weights in model.state_dict().items()]
    said = json.dumps([model.architecture.to_dict(), model.encoder.arguments(), shapes])
    assert hashlib.sha256(said.encode()).hexdigest() == described
