"""Encoders made to fit other images: each rule by what it promises, over many sizes, and beside timm's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from openmae.errors import UserError
from openmae.heads import Encoder
from openmae.model import Architecture, MaskedAutoencoder, ViT
from openmae.recipes.export.formats import hf as export_hf
from openmae.weights import Loaded, load_model, model_json
from openmae.weights.fitting import Channels, fitted, fitted_autoencoder, kernels_for, resized_kernels
from openmae.weights.shapes import photo_statistics
from tests.models import randomize, tiny

QUICK = settings(max_examples=25, deadline=None)
EXACT = {"rtol": 0, "atol": 1e-5}


def encoder(**changes: Any) -> ViT:
    torch.manual_seed(0)
    model = tiny(**changes)
    randomize(model)
    return model.encoder.eval()


def fit(vit: ViT, **changes: Any) -> tuple[ViT, list[str]]:
    shape = {"img_size": vit.img_size, "patch_size": vit.patch_size, "channels": Channels(vit.in_chans)}
    return fitted(vit, **{**shape, **changes})


def test_what_fits_stays_what_it_is() -> None:
    vit = encoder()
    assert fit(vit) == (vit, [])
    assert fit(vit, channels=Channels(3, (4, 3, 2), (4, 3, 2))) == (vit, [])


# ---------------------------------------------------------------- channels


@QUICK
@given(st.integers(1, 6), st.integers(1, 13), st.integers(0, 2**16))
def test_a_grey_image_gives_what_it_gave(had: int, wanted: int, seed: int) -> None:
    vit = encoder(in_chans=had)
    grey = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    new, lines = fit(vit, channels=Channels(wanted))
    with torch.no_grad():
        torch.testing.assert_close(new(grey.expand(-1, wanted, -1, -1)), vit(grey.expand(-1, had, -1, -1)), **EXACT)
    assert (not lines) == (had == wanted)
    assert not lines or lines[0].startswith(f"channels: {had} to {wanted}, kernels ")


@QUICK
@given(st.data())
def test_bands_that_the_encoder_knows_keep_their_kernels(data: st.DataObject) -> None:
    had = data.draw(st.integers(1, 4))
    wanted = data.draw(st.integers(had, 13))
    bands = tuple(data.draw(st.permutations(range(1, 14)))[:wanted])
    own = tuple(data.draw(st.permutations(bands))[:had])
    vit = encoder(in_chans=had)
    new, lines = fit(vit, channels=Channels(wanted, bands, own))
    places = [bands.index(band) for band in own]
    images = torch.zeros(2, wanted, 32, 32)
    images[:, places] = torch.randn(2, had, 32, 32)
    theirs = images[:, places] * had / wanted
    if wanted > had:  # the others begin with the mean
        images[:, [n for n in range(wanted) if n not in places]] = 1.5
        theirs = theirs + 1.5 * (wanted - had) / wanted
    with torch.no_grad():
        torch.testing.assert_close(new(images), vit(theirs), **EXACT)
        grey = torch.randn(2, 1, 32, 32)
        torch.testing.assert_close(new(grey.expand(-1, wanted, -1, -1)), vit(grey.expand(-1, had, -1, -1)), **EXACT)
    assert (not lines) == (bands == own)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (Channels(4, None, (1, 2)), "was trained with 3 channels, and its bands are given as 1, 2"),
        (Channels(4, None, (1, 2, 2)), "give 3 different numbers"),
        (Channels(4, (1, 2, 3, 8), (4, 3, 2)), "band 4 of the encoder's is none of the images', which are 1, 2, 3, 8"),
    ],
)
def test_bands_that_do_not_go_together(channels: Channels, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(encoder(), channels=channels)


def test_three_to_four_keeps_each_colours_share() -> None:
    kernels, _ = kernels_for(torch.tensor([2.0, 3.0, 5.0]).view(1, 3, 1, 1), Channels(4))
    assert kernels.flatten().tolist() == [1.0, 3.0, 5.0, 1.0]
    kernels, _ = kernels_for(torch.tensor([2.0, 3.0, 5.0]).view(1, 3, 1, 1), Channels(2))
    assert kernels.flatten().tolist() == [7.0, 3.0]


# ---------------------------------------------------------------- patches


@QUICK
@given(*[st.integers(2, 20)] * 4)
def test_patches_of_another_size_are_timms(old_h: int, old_w: int, new_h: int, new_w: int) -> None:
    from timm.layers.patch_embed import resample_patch_embed

    kernels = torch.randn(3, 2, old_h, old_w, generator=torch.Generator().manual_seed(old_h))
    torch.testing.assert_close(
        resized_kernels(kernels, (new_h, new_w)), resample_patch_embed(kernels, [new_h, new_w]), rtol=1e-4, atol=1e-4
    )


@QUICK
@given(st.integers(2, 16), st.integers(2, 16), st.integers(0, 9), st.integers(0, 9))
def test_an_enlarged_patch_gives_what_it_gave(height: int, width: int, more: int, wider: int) -> None:
    """FlexiViT, section 3.4: the pseudo-inverse loses nothing where patches grow."""
    size = (height + more, width + wider)
    kernels, patches = torch.randn(4, 3, height, width), torch.randn(5, 3, height, width)
    large = F.interpolate(patches, size, mode="bicubic", antialias=True)
    theirs = torch.einsum("bchw,dchw->bd", patches, kernels)
    ours = torch.einsum("bchw,dchw->bd", large, resized_kernels(kernels, size))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_no_kernel_for_smaller_patches_is_nearer_in_the_mean() -> None:
    """The error over white noise is |B' new - old|: it is least where what is left of it resizes to nothing."""
    kernels = torch.randn(4, 3, 8, 8)
    patches = torch.zeros_like(kernels, requires_grad=True)
    small = F.interpolate(patches, (4, 4), mode="bicubic", antialias=True)
    (small * resized_kernels(kernels, (4, 4))).sum().backward()
    assert patches.grad is not None
    left = F.interpolate(patches.grad - kernels, (4, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- positions, and all at once


@pytest.mark.parametrize("learned", [False, True])
def test_positions_are_those_of_a_resized_encoder(learned: bool) -> None:
    vit = encoder().with_learned_positions() if learned else encoder()
    new, lines = fit(vit, img_size=(48, 64))
    torch.testing.assert_close(new.positions, vit.resized((48, 64)).positions, rtol=0, atol=0)
    how = "interpolated (bicubic)" if learned else "computed between those it was trained at"
    assert lines == [f"positions: 4 x 4 to 6 x 8, {how}"]
    back, _ = fit(fitted(vit, img_size=(16, 16), patch_size=(4, 4), channels=Channels(3))[0])
    torch.testing.assert_close(back.positions, vit.positions, rtol=0, atol=0)  # the grid is the same
    assert back.position_grid is None


@QUICK
@given(st.sampled_from([4, 6, 8, 12, 16]), st.integers(2, 5), st.integers(2, 5), st.integers(1, 5), st.booleans())
def test_all_at_once_trains_on(patch: int, rows: int, columns: int, channels: int, learned: bool) -> None:
    vit = encoder().with_learned_positions() if learned else encoder()
    sides = (rows * patch, columns * patch)
    new, lines = fit(vit, img_size=sides, patch_size=(patch, patch), channels=Channels(channels))
    assert (new.img_size, new.patch_size, new.in_chans) == (sides, (patch, patch), channels)
    assert new.class_tokens == vit.class_tokens
    same = {"patch_embed.weight", "positions"}
    for name, value in vit.state_dict().items():
        assert name in same or torch.equal(new.state_dict()[name], value)
    begun = [line.split(":")[0] for line in lines]
    expected = {"patches": patch != 8, "channels": channels != 3, "positions": (rows, columns) != (4, 4)}
    assert begun == [name for name, is_said in expected.items() if is_said]
    assert torch.isfinite(new(torch.randn(1, channels, *sides))).all()


def test_an_image_and_its_patches_enlarged_together_give_what_they_gave() -> None:
    vit = encoder()
    images = torch.randn(2, 3, 4, 8, 4, 8).permute(0, 1, 2, 4, 3, 5)  # (B, C, rows, columns, 8, 8)
    large = F.interpolate(images.flatten(0, 3)[:, None], (16, 16), mode="bicubic", antialias=True)
    large = large.view(2, 3, 4, 4, 16, 16)
    new, lines = fit(vit, img_size=(64, 64), patch_size=(16, 16))
    assert lines == ["patches: 8 x 8 to 16 x 16 pixels, by the pseudo-inverse of resizing (FlexiViT)"]

    def whole(pieces: torch.Tensor) -> torch.Tensor:
        return pieces.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)

    with torch.no_grad():
        torch.testing.assert_close(new(whole(large)), vit(whole(images)), rtol=0, atol=1e-4)


# ---------------------------------------------------------------- with a decoder


def around(vit: ViT, source: MaskedAutoencoder, **changes: Any) -> Architecture:
    had = source.architecture.to_dict()
    of_encoder = vit.arguments()
    rest = {name: value for name, value in had.items() if name not in of_encoder and name != "masking"}
    return Architecture(**{**rest, **of_encoder, "masking": source.masking, **changes})


def autoencoder(**changes: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = tiny(**changes)
    randomize(model)
    return model.eval()


@pytest.mark.parametrize("decoder", ["self", "cross"])
def test_a_decoder_that_fits_is_kept_whole(decoder: str) -> None:
    source = autoencoder(decoder=decoder)
    found = fitted_autoencoder(source, source.encoder, source.architecture)
    assert (found.lines, found.fresh) == (["decoder: kept"], frozenset())
    images, visible = torch.randn(2, 3, 32, 32), torch.tensor([[0, 3, 5, 9]] * 2)
    assert torch.equal(found.model(images, visible=visible).loss, source(images, visible=visible).loss)


@pytest.mark.parametrize("decoder", ["self", "cross"])
def test_a_decoder_for_another_grid_is_kept_and_its_positions_lie_between(decoder: str) -> None:
    source = autoencoder(decoder=decoder)
    vit, _ = fit(source.encoder, img_size=(64, 64))
    found = fitted_autoencoder(source, vit, around(vit, source))
    assert (found.lines, found.fresh) == (["decoder: kept"], frozenset())
    ours, theirs = (model.decoder.positions.view(side, side, -1) for model, side in ((found.model, 8), (source, 4)))
    middle = (ours[1::2, 1::2][:-1, :-1] - ours[2::2, 2::2]) ** 2  # those about the middle of four of theirs
    assert ours.shape[:2] == (8, 8)
    assert theirs.shape[:2] == (4, 4)
    assert middle.mean() < ((theirs[1:, 1:] - theirs[:-1, :-1]) ** 2).mean()
    again = Architecture.from_dict(found.model.architecture.to_dict()).build()
    torch.testing.assert_close(again.decoder.positions, found.model.decoder.positions, rtol=0, atol=0)
    torch.testing.assert_close(again.encoder.positions, vit.positions, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fitting", "changes", "line"),
    [
        ({"channels": Channels(1)}, {}, "decoder: kept, but for its last layer, which begins afresh: patches hold"),
        ({"channels": Channels(3, None, (3, 2, 1))}, {}, "decoder: kept, but for its last layer"),
        ({}, {"target": "hog"}, "begins afresh: `target` was norm_pix and is hog"),
        ({}, {"decoder_depth": 1}, "decoder: begins afresh, `decoder_depth` was 2 and is 1"),
        ({}, {"decoder": "cross"}, "decoder: begins afresh, `decoder` was self and is cross"),
    ],
)
def test_what_begins_afresh_is_said(fitting: dict[str, Any], changes: dict[str, Any], line: str) -> None:
    source = autoencoder()
    vit, _ = fit(source.encoder, **fitting)
    found = fitted_autoencoder(source, vit, around(vit, source, **changes), torch.Generator().manual_seed(1))
    assert len(found.lines) == 1
    assert line in found.lines[0]
    names = {name for name, _ in found.model.named_parameters()}
    if "last layer" in line or "target" in line:
        assert found.fresh == {"decoder.head.weight", "decoder.head.bias"}
    else:
        assert found.fresh == {name for name in names if name.startswith("decoder.")}
    kept = {name: value for name, value in source.state_dict().items() if name.startswith("decoder.blocks.0")}
    same = [torch.equal(found.model.state_dict()[name], value) for name, value in kept.items() if "cross" not in line]
    assert all(same) == ("last layer" in line or "target" in line) or not same


def test_an_encoder_alone_gets_a_fresh_decoder() -> None:
    source = autoencoder()
    found = fitted_autoencoder(Encoder(source.encoder), source.encoder, source.architecture)
    assert found.lines == ["decoder: begins afresh, there is none to go on with"]
    assert found.fresh == {name for name, _ in source.named_parameters() if name.startswith("decoder.")}
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.model.encode(images), source.encode(images))


def test_a_decoder_that_reads_mask_tokens_keeps_them() -> None:
    source = autoencoder(encoder_mask_token=True)
    found = fitted_autoencoder(source, source.encoder, source.architecture)
    assert found.fresh == frozenset()
    assert found.model.encoder_mask_token is not None
    assert source.encoder_mask_token is not None
    assert torch.equal(found.model.encoder_mask_token, source.encoder_mask_token)


def test_a_fitted_autoencoder_goes_to_transformers_and_back(tmp_path: Path) -> None:
    source = autoencoder()
    vit, _ = fit(source.encoder, img_size=(48, 48))
    model = fitted_autoencoder(source, vit, around(vit, source)).model.eval()
    statistics = photo_statistics(3)[0]
    loaded = Loaded(model, statistics, model_json(model, statistics, {}), "it")
    export_hf.write_mae(loaded, tmp_path / "hf")
    images = torch.randn(2, 3, 48, 48)
    assert export_hf.compare_mae(loaded, tmp_path / "hf", images).difference < 1e-4
    again = load_model(tmp_path / "hf").autoencoder
    assert again.architecture.position_grid == (4, 4)
    assert not again.architecture.decoder_learned_positions
    torch.testing.assert_close(again.decoder.positions, model.decoder.positions, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(again.encode(images), model.encode(images), **EXACT)
