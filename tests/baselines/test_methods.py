"""The methods on a small ViT: what they see, what they cost, what follows a step, how a collapse ends."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn.metrics import pairwise_distances_argmin
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from openmae.baselines.beit import BEiT
from openmae.baselines.byol import BYOL
from openmae.baselines.dae import DAE, STD
from openmae.baselines.dino import DINO
from openmae.baselines.method import Collapsed, Method, Size, features
from openmae.baselines.methods import METHODS, forward_passes, local_size
from openmae.baselines.mocov3 import MoCoV3
from openmae.baselines.supervised import Supervised
from openmae.data.loading.stream import Batch
from openmae.data.tasks import Answers
from openmae.errors import UserError
from openmae.masking import Masking
from openmae.model import create_model, patchify, sincos_positions, take
from tests.models import vit

SIZE = Size(images=40, batch_size=8, steps=20, seed=0)
RIGHT = Answers("classification", ("a", "b"), torch.arange(40).remainder(2).numpy())


def made(name: str) -> Method:
    torch.manual_seed(0)
    method = (
        Supervised(vit(patch_size=4), SIZE, RIGHT) if name == "supervised" else METHODS[name](vit(patch_size=4), SIZE)
    )
    method.start()
    return method


def batch(method: Method, start: int = 0, count: int = 8) -> tuple[list[Tensor], Batch]:
    """Normalised views of random images, and what a stream says of them."""
    torch.manual_seed(start)
    sides = [local_size(ARCHITECTURE, seen.side) for seen in method.views] or [(32, 32)]
    views = [torch.randn(count, 3, *side) for side in sides]
    hidden = torch.rand(count, 64).argsort(dim=1)
    split = 64 if method.masking is None else method.masking.counts((8, 8))[0]
    noise = torch.rand(count, method.noise * 3 * 32 * 32)
    empty: list[Any] = []
    return views, Batch(views[0], hidden[:, :split], hidden[:, split:], noise, torch.arange(count), start, empty)


ARCHITECTURE = replace(
    create_model("vit_tiny", img_size=32, patch_size=4, embed_dim=32, depth=4, num_heads=2).architecture
)


@pytest.mark.parametrize("name", METHODS)
def test_what_an_image_costs_is_what_torch_counts(name: str) -> None:
    method = made(name)
    if isinstance(method, BEiT):
        method.words.normal_()
    views, seen = batch(method)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        method.encoder(torch.zeros(8, 3, 32, 32))
    whole = counted.get_total_flops()
    with FlopCounterMode(display=False) as counted:
        method.loss(views, seen).backward()
    passes = counted.get_total_flops() / whole
    heads = {"dino": 4.0, "beit": 0.7}.get(name, 0.4)  # large beside an encoder so narrow
    assert -0.1 < passes - forward_passes(name, ARCHITECTURE) < heads


def test_the_papers_counts() -> None:
    base = create_model("vit_base").architecture
    found = {name: forward_passes(name, base) for name in ("random", "mae", *METHODS)}
    assert found["random"] == 0
    assert found["mae"] == pytest.approx(1.6, abs=0.1)
    published = {"supervised": 3, "dae": 3, "beit": 3, "simclr": 6, "byol": 8, "mocov3": 8}
    assert {name: found[name] for name in published} == pytest.approx(published)
    assert found["dino"] == pytest.approx(8 + 8 * 3 * (96 / 224) ** 2, abs=0.5)  # with ten local crops 13.6


def test_a_local_crop_is_seen_as_by_an_encoder_of_its_size() -> None:
    encoder, size = vit(patch_size=4), local_size(ARCHITECTURE, 96 / 224)
    assert size == (12, 12)
    crops = torch.randn(2, 3, *size)
    positions = sincos_positions((3, 3), encoder.embed_dim, encoder.grid)
    torch.testing.assert_close(
        features(encoder, crops, positions), encoder.resized(size)(crops)[:, encoder.class_tokens :].mean(1)
    )


@pytest.mark.parametrize("name", ["byol", "mocov3", "dino"])
def test_a_target_begins_as_the_network_and_follows_steps_that_were_taken(name: str) -> None:
    method = made(name)
    average = method.teacher if isinstance(method, DINO) else method.target  # type: ignore[union-attr]
    theirs = dict(average.parts[0].named_parameters())
    for key, weight in method.encoder.named_parameters():
        assert torch.equal(theirs[key], weight)
    method.loss(*batch(method)).backward()
    assert all(weight.grad is None for weight in average.parameters())
    learnt = method.encoder.blocks[0].mlp[0].weight
    before = learnt.detach().clone()
    with torch.no_grad():
        learnt.add_(1.0)
        kept = {key: value.clone() for key, value in method.state_dict().items()}
        method.moved(torch.zeros(()))
        assert all(torch.equal(value, kept[key]) for key, value in method.state_dict().items())
        method.moved(torch.ones(()))
    torch.testing.assert_close(theirs["blocks.0.mlp.0.weight"], before + 0.01)  # momentum 0.99 at the first step


def test_moco_v3_leaves_the_patch_projection() -> None:
    method = made("mocov3")
    method.loss(*batch(method)).backward()
    assert {key for key, weight in method.encoder.named_parameters() if weight.grad is None} == {
        "patch_embed.weight",
        "patch_embed.bias",
    }


def test_dinos_centre_and_watch_do_not_depend_on_micro_batches() -> None:
    """In whichever order they come, after some for which memory was too small."""
    whole, parts = made("dino"), made("dino")
    views, seen = batch(whole)
    whole.loss(views, seen)
    for start, count in ((0, 5), (5, 3), (4, 4), (0, 4)):
        some = replace(seen, images=seen.images[start : start + count], start=start)
        parts.loss([view[start : start + count] for view in views], some)
    for method in (whole, parts):
        with torch.no_grad():
            method.moved(torch.ones(()))
    assert isinstance(whole, DINO)
    assert isinstance(parts, DINO)
    assert whole.centre.abs().sum() > 0
    torch.testing.assert_close(whole.centre, parts.centre)
    torch.testing.assert_close(whole.watched[:2], parts.watched[:2])


@pytest.mark.parametrize(("one", "share", "how"), [(True, 5, "one prototype"), (False, 2, "all prototypes alike")])
def test_dino_that_says_the_same_of_all_images_has_collapsed(one: bool, share: int, how: str) -> None:
    method = made("dino")
    assert isinstance(method, DINO)
    with torch.no_grad():
        for part in (method.head, method.teacher.parts[1]):
            part.layers[-1].weight.zero_()  # what comes before it makes no difference any more
            if one:
                part.layers[-1].bias.copy_(method.head.last.weight[0])
        for step in range(SIZE.steps // share):
            assert method.check()["teacher_information"] == pytest.approx(0, abs=1e-4)
            method.loss(*batch(method, 8 * step))
            method.moved(torch.ones(()))
    with pytest.raises(Collapsed, match=f"DINO has collapsed: the teacher says {how}"):
        method.check()
    assert issubclass(Collapsed, UserError)


def test_byol_whose_projections_point_the_same_way_has_collapsed() -> None:
    method = made("byol")
    assert isinstance(method, BYOL)
    assert method.check() == {"spread": 1.0}
    with torch.no_grad():
        last = method.target.parts[1][-1]  # type: ignore[index]
        last.weight.zero_()
        last.bias.fill_(1.0)
        method.loss(*batch(method))
        assert float(method.seen_spread) == pytest.approx(0, abs=1e-5)
        for _ in range(70):
            method.moved(torch.ones(()))
    with pytest.raises(Collapsed, match="point the same way"):
        method.check()


def test_what_a_denoising_autoencoder_sees() -> None:
    method = made("dae")
    assert isinstance(method, DAE)
    (images,), seen = batch(method)
    spoilt = patchify(method.spoilt(images, seen.queries, seen.noise), (4, 4))
    assert (take(spoilt, seen.queries) == 0).all()
    assert seen.queries.shape[1] == 32
    noise = take(spoilt, seen.visible) - take(patchify(images, (4, 4)), seen.visible)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(STD, abs=0.01)
    assert method.spoilt(images, seen.queries, torch.zeros_like(seen.noise)).isfinite().all()


def test_beits_words_are_the_nearest_means_and_hidden_pixels_are_not_seen() -> None:
    method = made("beit")
    assert isinstance(method, BEiT)
    patches = torch.randn(700, 48)
    method.fit_words(patches)
    again = made("beit")
    assert isinstance(again, BEiT)
    again.fit_words(patches)
    assert torch.equal(method.words, again.words)
    theirs = method.words[pairwise_distances_argmin(patches.numpy(), method.words.numpy())]
    torch.testing.assert_close(method.words[method.words_of(patches)], theirs)  # some means of so few are the same
    (images,), seen = batch(method)
    method.words.normal_()  # none of them twice
    loss = method.loss([images], seen)
    hidden = torch.zeros(8, 64, 48).scatter(1, seen.queries[..., None].expand(-1, -1, 48), 1.0)
    shades = (0.3 * hidden).reshape(8, 8, 8, 4, 4, 3).permute(0, 5, 1, 3, 2, 4).reshape(8, 3, 32, 32)
    method.words.add_(0.3)  # every hidden patch, and every word, is a little brighter: which is which stays the same
    torch.testing.assert_close(method.loss([images + shades], seen), loss)


def test_supervised_needs_classes() -> None:
    with pytest.raises(UserError, match="DATA has no labels"):
        Supervised(vit(), SIZE)
    with pytest.raises(UserError, match="DATA has numbers"):
        Supervised(vit(), SIZE, Answers("regression", ("value",), RIGHT.values[:, None]))


def test_beit_hides_blocks() -> None:
    assert BEiT.masking == Masking(0.4, "block")
    assert MoCoV3.masking is None
