"""The classifier beside timm's ViT of the same weights: outputs, pooling, drop path."""

from functools import partial

import pytest
import timm
import torch

from openmae.heads import Classifier, learn_last_blocks
from tests.models import vit


def timms(model: Classifier, **changes: object) -> torch.nn.Module:
    """timm's ViT with the classifier's weights."""
    encoder = model.encoder
    twin = timm.models.vision_transformer.VisionTransformer(
        img_size=encoder.img_size,
        patch_size=encoder.patch_size,
        embed_dim=encoder.embed_dim,
        depth=encoder.depth,
        num_heads=encoder.num_heads,
        num_classes=model.head.out_features,
        global_pool="avg" if model.pool == "mean" else "token",
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        **changes,
    )
    weights = {}
    for key, weight in model.state_dict().items():
        value = weight
        name = key.removeprefix("encoder.").replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2")
        if name == "patch_embed.weight":  # ours flattens (row, column, channel)
            value = value.view(-1, *encoder.patch_size, encoder.in_chans).permute(0, 3, 1, 2)
        name = name.replace("patch_embed.", "patch_embed.proj.")
        if key.startswith("norm."):
            name = key.replace("norm.", "fc_norm.")
        elif name.startswith("norm.") and model.pool == "mean":
            continue
        weights["cls_token" if name == "class_token" else name] = value[None] if name == "class_token" else value
    weights["pos_embed"] = torch.cat([torch.zeros(1, encoder.embed_dim), encoder.positions])[None]
    twin.load_state_dict(weights)
    return twin


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_scores_are_those_of_timms_vit(pool: str) -> None:
    model = Classifier(vit(), 5, pool)  # type: ignore[arg-type]
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(model(images), timms(model)(images), atol=2e-5, rtol=1e-4)


def test_the_features_are_what_the_head_reads() -> None:
    model = Classifier(vit(), 5, batch_norm=True)
    images = torch.randn(8, 3, 32, 32)
    features = model.features(images)
    standardised = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(model(images), model.head(standardised), atol=1e-4, rtol=1e-4)


def test_without_noise_and_in_evaluation_nothing_is_dropped() -> None:
    model = Classifier(vit(), 5, drop_path=0.9)
    images, noise = torch.randn(4, 3, 32, 32), torch.rand(4, 8)
    whole = model(images)
    assert not torch.allclose(model(images, noise), whole)
    assert torch.equal(model.eval()(images, noise), whole)


def test_drop_path_leaves_branches_out_and_keeps_the_mean() -> None:
    model = Classifier(vit(), 5, drop_path=0.6)
    keep = model.branches_kept(torch.rand(20_000, 8, generator=torch.Generator().manual_seed(0)))  # (B, 4, 2)
    rates = [0.0, 0.2, 0.4, 0.6]  # timm's torch.linspace(0, rate, depth)
    for block, rate in enumerate(rates):
        values = keep[:, block].unique()
        assert values.tolist() == pytest.approx([0.0, 1 / (1 - rate)] if rate else [1.0])
        assert keep[:, block].mean().item() == pytest.approx(1, abs=0.02)
        assert (keep[:, block] == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert torch.corrcoef(keep[:, 3].T)[0, 1].abs() < 0.03  # the two branches are drawn apart


def test_a_dropped_block_passes_its_input_on() -> None:
    model = Classifier(vit(depth=1), 5, drop_path=0.5)
    images = torch.randn(2, 3, 32, 32)
    model.drop_path = 0.999
    noise = torch.tensor([[0.0, 0.0], [0.9995, 0.9995]])
    # One block: linspace(0, rate, 1) is 0, so nothing is dropped in a model of one block, as in timm.
    assert torch.equal(model(images, noise), model(images))
    deep = Classifier(vit(depth=2), 5, drop_path=0.999)
    tokens = deep.encoder.embed(torch.randn(1, 16, 192))
    states = list(deep.encoder.states(tokens, torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])))
    assert torch.equal(states[1], states[2])
    assert not torch.equal(states[0], states[1])


def test_frozen_blocks_are_never_left_out() -> None:
    model = Classifier(vit(), 5, drop_path=0.9)
    learn_last_blocks(model, 1)
    keep = model.branches_kept(torch.zeros(6, 8))
    assert torch.equal(keep[:, :3], torch.ones(6, 3, 2))
    assert torch.equal(keep[:, 3], torch.zeros(6, 2))


def learning(model: Classifier) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("pool", ["mean", "class"])
@pytest.mark.parametrize("blocks", [0, 0.5, 1, 3, 4])
def test_which_parameters_learn(pool: str, blocks: float) -> None:
    model = Classifier(vit(), 5, pool)  # type: ignore[arg-type]
    learn_last_blocks(model, blocks)
    names = {name for name, _ in model.named_parameters()}
    head = {name for name in names if name.startswith(("head.", "norm."))}
    last = "encoder.blocks.3."
    expected = {
        0: set(),
        0.5: {name for name in names if name.startswith((last + "mlp", last + "norm2"))},
        1: {name for name in names if name.startswith(last)},
        3: {name for name in names if name.startswith("encoder.blocks.") and "blocks.0." not in name},
        4: {name for name in names if name.startswith(("encoder.blocks", "encoder.patch", "encoder.class"))},
    }[blocks]
    final = {"encoder.norm.weight", "encoder.norm.bias"} if pool == "class" and blocks else set()
    assert learning(model) == head | expected | final


def test_frozen_weights_get_no_gradient_and_no_graph() -> None:
    model = Classifier(vit(), 5)
    learn_last_blocks(model, 1)
    states = list(model.encoder.states(model.encoder.embed(torch.randn(2, 16, 192))))
    assert [state.requires_grad for state in states] == [False, False, False, False, True]


@pytest.mark.parametrize("blocks", [-1, 0.25, 1.5, 5])
def test_impossible_numbers_of_blocks(blocks: float) -> None:
    with pytest.raises(ValueError, match=r"0\.5, or a whole number up to this encoder's 4"):
        learn_last_blocks(Classifier(vit(), 5), blocks)


def test_a_class_token_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="choose pool 'mean'"):
        Classifier(vit(class_tokens=0), 5, "class")


def test_arguments_build_the_same_model() -> None:
    import json

    model = Classifier(vit().resized((48, 32)), 7, "class", batch_norm=True)
    twin = Classifier.from_arguments(json.loads(json.dumps(model.arguments())))
    twin.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 48, 32)
    assert torch.equal(twin.eval()(images), model.eval()(images))
