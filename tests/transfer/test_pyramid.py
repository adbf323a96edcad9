"""The backbone of maps against transformers' ViTDet, and its pyramid."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import VitDetBackbone, VitDetConfig

from openmae.model import ViT
from openmae.transfer.pyramid import Backbone, SimplePyramid, in_windows, out_of_windows
from tests.models import randomize, vit


def patches_of(size: tuple[int, int], depth: int = 8, **changes: Any) -> ViT:
    """An encoder of 4-pixel patches, without class tokens, as ViTDet's."""
    plain = vit(img_size=size, patch_size=4, depth=depth, class_tokens=0)
    encoder = ViT(**{**plain.arguments(), **changes})
    randomize(encoder)
    return encoder


def as_vitdet(backbone: Backbone) -> VitDetBackbone:
    """Transformers' with the same weights."""
    encoder, depth = backbone.encoder, backbone.encoder.depth
    side = max(encoder.grid)
    config = VitDetConfig(
        hidden_size=encoder.embed_dim,
        num_hidden_layers=depth,
        num_attention_heads=encoder.num_heads,
        mlp_ratio=4,
        hidden_act="gelu",
        layer_norm_eps=encoder.norm_eps,
        image_size=side * 4,
        pretrain_image_size=side * 4,
        patch_size=4,
        window_size=backbone.window or 0,
        window_block_indices=[number for number, windowed in enumerate(backbone.windowed) if windowed],
        use_relative_position_embeddings=backbone.relative is not None,
        out_features=[f"stage{number}" for number in range(1, depth + 1)],
    )
    theirs, ours = VitDetBackbone(config), encoder.state_dict()
    weights = {
        "embeddings.projection.weight": ours["patch_embed.weight"].view(-1, 4, 4, 3).permute(0, 3, 1, 2),
        "embeddings.projection.bias": ours["patch_embed.bias"],
        "embeddings.position_embeddings": torch.cat([torch.zeros(1, encoder.embed_dim), encoder.positions])[None],
    }
    renamed = {"attn.": "attention.", "mlp.0.": "mlp.fc1.", "mlp.2.": "mlp.fc2."}
    for name, value in ours.items():
        if name.startswith("blocks."):
            theirs_name = f"encoder.layer.{name.removeprefix('blocks.')}"
            for before, after in renamed.items():
                theirs_name = theirs_name.replace(f".{before}", f".{after}")
            weights[theirs_name] = value
    if backbone.relative is not None:
        for number, tables in enumerate(backbone.relative):
            weights[f"encoder.layer.{number}.attention.rel_pos_h"] = tables.down
            weights[f"encoder.layer.{number}.attention.rel_pos_w"] = tables.across
    theirs.load_state_dict(weights)
    return theirs.eval()


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("window", [4, 3, 5, 9])  # 3 and 5 do not divide the grid of 8; 9 is larger
@torch.no_grad()
def test_maps_are_those_of_vitdet(window: int, relative: bool) -> None:
    backbone = Backbone(patches_of((32, 32)), window, relative).eval()
    randomize(backbone)
    images = torch.randn(2, 3, 32, 32)
    wanted = as_vitdet(backbone)(images).feature_maps
    found = backbone(images, list(range(1, 9)))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert backbone.windowed == [False] * 8 if window == 9 else [True, False] * 4


@pytest.mark.parametrize("changes", [{}, {"class_tokens": 2}, {"rope": 100.0}, {"layer_scale": True}])
@torch.no_grad()
def test_without_windows_it_is_the_plain_encoder(changes: dict[str, Any]) -> None:
    encoder = patches_of((16, 24), 4, **{"class_tokens": 1, **changes})
    images = torch.randn(2, 3, 16, 24)
    (found,) = Backbone(encoder, window=6)(images, [3])
    normed = encoder.norm(found.flatten(2).transpose(1, 2))
    assert torch.equal(normed, encoder(images, layer=3)[:, encoder.class_tokens :])


@torch.no_grad()
def test_own_blocks_are_those_of_the_encoder() -> None:
    """Relative positions that are zero change nothing; drop path is the classifier's; rotations go into windows."""
    encoder = patches_of((16, 16), 4, rope=100.0)
    images, noise = torch.randn(3, 3, 16, 16), torch.rand(3, 8)
    plain, own = Backbone(encoder, drop_path=0.5), Backbone(encoder, relative=True, drop_path=0.5)
    for ours, wanted in zip(own(images, [2, 4], noise), plain(images, [2, 4], noise), strict=True):
        torch.testing.assert_close(ours, wanted)
    windowed = Backbone(encoder, window=2)
    windowed.windowed = [True] * 4
    corner = patches_of((8, 8), 4, rope=100.0)
    corner.load_state_dict(encoder.state_dict())
    corner.positions.zero_()
    # angles of the whole image's upper left quarter, not of an image of its own
    corner.angles = encoder.angles.view(4, 4, -1)[:2, :2].flatten(0, 1)
    (found,), (wanted,) = windowed(images, [4]), Backbone(corner)(images[..., :8, :8], [4])
    torch.testing.assert_close(found[..., :2, :2], wanted)


def test_gradients_are_the_same_with_checkpoints() -> None:
    encoder, images = patches_of((24, 24)), torch.randn(1, 3, 24, 24)
    backbone = Backbone(encoder, window=4, relative=True)
    found: list[list[Tensor]] = []
    for again in (False, True):
        encoder.grad_checkpointing = again
        backbone.zero_grad()
        backbone(images, [8])[0].square().sum().backward()
        found.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    assert len(found[0]) > 8 * 12
    for kept, computed in zip(*found, strict=True):
        torch.testing.assert_close(kept, computed)


@pytest.mark.parametrize("grid", [(1, 1), (5, 7), (6, 4)])
def test_windows_and_back(grid: tuple[int, int]) -> None:
    x = torch.randn(2, *grid, 3)
    cut = in_windows(x, 3)
    assert torch.equal(out_of_windows(cut, grid), x)
    assert torch.equal(cut[0, 0, 0], x[0, 0, 0])
    assert cut.sum().item() == pytest.approx(x.sum().item(), abs=1e-4)


@pytest.mark.parametrize(("patch", "sides"), [(16, [32, 16, 8, 4]), (8, [16, 8, 4, 2]), (4, [8, 4, 2, 1])])
def test_the_pyramid_halves_from_a_stride_of_four(patch: int, sides: list[int]) -> None:
    levels = SimplePyramid(32, patch, 24)(torch.randn(1, 32, 8, 8))
    assert [tuple(level.shape) for level in levels] == [(1, 24, side, side) for side in sides]
    assert all(level.mean(1).abs().max() < 1e-4 for level in levels)  # normalised by place


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="images of 3 axes"):
        Backbone(vit(img_size=(8, 8, 8), patch_size=(4, 4, 4), embed_dim=48, num_heads=2))
    with pytest.raises(ValueError, match="ascending"):
        Backbone(patches_of((8, 8), 2))(torch.zeros(1, 3, 8, 8), [2, 1])
