"""Heads for a class a pixel, UPerNet against transformers'."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from openmae.transfer.segmenter import Auxiliary, Linear, Segmenter, UperNet, read_blocks
from tests.models import randomize, vit


def as_theirs(head: UperNet, dim: int, channels: int) -> UperNetHead:
    """Transformers' head with the same weights."""
    config = UperNetConfig(hidden_size=channels, num_labels=5, pool_scales=[1, 2, 3, 6])
    theirs = UperNetHead(config, [dim] * 4)

    def copy(ours: nn.Sequential, own: nn.Module) -> None:
        own.conv.load_state_dict(ours[0].state_dict())
        own.batch_norm.load_state_dict(ours[1].state_dict())

    for ours, own in zip(head.pools, theirs.psp_modules.blocks, strict=True):
        copy(ours[1], own.layers[1])
    for name, own in (("pooled", theirs.bottleneck), ("fuse", theirs.fpn_bottleneck)):
        copy(getattr(head, name), own)
    for ours, own in zip(head.lateral, theirs.lateral_convs, strict=True):
        copy(ours, own)
    for ours, own in zip(head.smooth, theirs.fpn_convs, strict=True):
        copy(ours, own)
    theirs.classifier.load_state_dict(head.classifier.state_dict())
    return theirs


@pytest.mark.parametrize("learns", [False, True])
@torch.no_grad()
def test_upernet_is_that_of_transformers(learns: bool) -> None:
    head = UperNet(vit(depth=12), 5).train(learns)
    randomize(head)
    maps = [torch.randn(2, 32, side, side) for side in (16, 8, 4, 2)]
    theirs = as_theirs(head, 32, 32).train(learns)
    torch.testing.assert_close(head.classify(maps), theirs(maps), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("learns", [False, True])
@torch.no_grad()
def test_the_auxiliary_head_is_that_of_transformers(learns: bool) -> None:
    head = Auxiliary(vit(depth=12), 5).train(learns)
    randomize(head)
    assert (head.layer, head.width) == (8, 32)  # the third of UPerNet's four blocks
    config = UperNetConfig(num_labels=5, auxiliary_channels=32, auxiliary_num_convs=1, auxiliary_concat_input=False)
    theirs = UperNetFCNHead(config, [32] * 4).train(learns)
    theirs.convs[0].conv.load_state_dict(head.convolution[0].state_dict())
    theirs.convs[0].batch_norm.load_state_dict(head.convolution[1].state_dict())
    theirs.classifier.load_state_dict(head.classifier.state_dict())
    x = torch.randn(2, 32, 4, 6)
    torch.testing.assert_close(head(x), theirs([x, x, x, x]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("head", ["linear", "upernet"])
@torch.no_grad()
def test_what_training_leaves_out_is_decided_by_its_noise(head: str) -> None:
    """The same sample loses the same channels in whatever batch it is; of all of them, as many as asked."""
    model = Segmenter(vit(depth=4), 5, head, (0.0, 0.25), auxiliary=True)  # type: ignore[arg-type]
    randomize(model)
    images, noise = torch.randn(3, 3, *model.encoder.img_size), torch.rand(3, model.uniform)
    whole = [scores.clone() for scores in model.eval().told(images, noise)]
    assert torch.equal(whole[0], model(images))
    for part in model.train().modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()  # of which a batch is more than its samples
    together, alone = model.told(images, noise), model.told(images[1:2], noise[1:2])
    for ours, own, plain in zip(together, alone, whole, strict=True):
        torch.testing.assert_close(ours[1:2], own, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(ours, plain, atol=1e-2)
    drawn = torch.rand(2000, model.uniform)
    for kept, expected in zip(model._kept(drawn), (32, 32), strict=True):
        assert kept is not None
        assert kept.shape == (2000, expected)
        assert kept.unique().tolist() == pytest.approx([0, 4 / 3])
        assert kept.mean().item() == pytest.approx(1, abs=0.02)


def test_blocks_that_upernet_reads() -> None:
    assert read_blocks(12) == [4, 6, 8, 12]  # 3, 5, 7 and 11 from 0
    assert read_blocks(24) == [8, 12, 16, 24]
    assert read_blocks(2) == [1, 2]


@torch.no_grad()
def test_the_linear_head_gives_scores_every_4_pixels() -> None:
    """As one pixel shuffle of torch's does, where patches are square."""
    head = Linear(vit(patch_size=(8, 8)), 5)
    randomize(head)
    patches = torch.randn(2, 32, 4, 3)
    normed = head.norm(patches.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    scores = F.conv2d(normed, head.classifier.weight[:, :, None, None], head.classifier.bias)
    torch.testing.assert_close(head([patches]), F.pixel_shuffle(scores, 2))
    assert Linear(vit(img_size=(32, 8), patch_size=(16, 2)), 5)([patches]).shape == (2, 5, 16, 3)


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_a_segmenter_learns_where_things_are(head: str) -> None:
    """A disc of another colour; made again from what describes it, it says the same."""
    torch.manual_seed(0)
    model = Segmenter(vit(img_size=(32, 24), patch_size=(8, 8)), 2, head)  # type: ignore[arg-type]
    model.initialize(torch.Generator().manual_seed(0))
    down, across = torch.meshgrid(torch.arange(32), torch.arange(24), indexing="ij")
    middles = [(10, 8), (20, 14), (14, 12), (22, 8)]
    masks = torch.stack([((down - y) ** 2 + (across - x) ** 2 < 49).long() for y, x in middles])
    images = masks[:, None].float().expand(-1, 3, -1, -1) * 2 - 1
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(images), masks).backward()
        optimizer.step()
    model.eval()
    assert (model(images).argmax(1) == masks).float().mean() > 0.9
    again = Segmenter.from_arguments(model.arguments())
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(images), model(images))


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of linear, upernet"):
        Segmenter(vit(), 2, "psp")  # type: ignore[arg-type]
