"""Panels: what a tile holds, what a reconstruction may know, and that every kind of model has one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor, nn

from openmae.data.formats.channels import PixelFormat
from openmae.data.views.statistics import Statistics
from openmae.masking import Masking
from openmae.model import MaskedAutoencoder, create_model, patchify, take
from openmae.report.sheets.layout import ROWS_IN_ONE_BLOCK, Row, elide, sheet, tile_size, wrap
from openmae.report.sheets.neighbours import CaptionedImage, captioned_sheet
from openmae.report.sheets.outlines import IGNORED_COLOUR, colours, overlay
from openmae.report.sheets.pictures import GREY, columns, fill, footer, panel, save_picture, stretched


class Oracle(nn.Module):
    """A decoder that knows the answer."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target

    def forward(self, states: list[Tensor], places: Tensor, queries: Tensor) -> Tensor:
        return take(self.target, queries)


def small_model(in_chans: int = 3, img_size: tuple[int, int] = (32, 32), **options: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return create_model(
        "vit_tiny",
        img_size=img_size,
        patch_size=8,
        in_chans=in_chans,
        embed_dim=16,
        depth=1,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        **options,  # type: ignore[arg-type]
    ).eval()


def statistics_of(model: MaskedAutoencoder) -> Statistics:
    channels = model.encoder.in_chans
    mean, std = (tuple(first + step * c for c in range(channels)) for first, step in ((0.3, 0.02), (0.2, 0.01)))
    return Statistics(mean, std, PixelFormat(channels))


def some_images(model: MaskedAutoencoder, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, model.encoder.in_chans, *model.encoder.img_size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def some_visible(model: MaskedAutoencoder, count: int) -> Tensor:
    rng = np.random.default_rng(2)
    return torch.from_numpy(np.stack([model.masking.draw(rng, model.encoder.grid)[0] for _ in range(count)]))


def hidden_pixels(model: MaskedAutoencoder, visible: Tensor) -> np.ndarray:
    """(n, H, W) True where hidden, written out patch by patch."""
    (height, width), (ph, pw) = model.encoder.img_size, model.encoder.patch_size
    hidden = np.ones((len(visible), height, width), dtype=bool)
    for image, row in enumerate(visible.tolist()):
        for patch in row:
            top, left = patch // (width // pw) * ph, patch % (width // pw) * pw
            hidden[image, top : top + ph, left : left + pw] = False
    return hidden


def arrays(tiles: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(tile) for tile in tiles])


def draw(model: MaskedAutoencoder, count: int, **options: object) -> Image.Image:
    names = [f"image {i}.png" for i in range(count)]
    return panel(model, statistics_of(model), some_images(model, count), some_visible(model, count), names, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize("img_size", [(32, 32), (24, 40)])
def test_tiles_hold_what_their_columns_say(img_size: tuple[int, int]) -> None:
    model = small_model(img_size=img_size)
    images, visible = some_images(model, 3), some_visible(model, 3)
    (masked, reconstruction, original), errors = columns(model, statistics_of(model), images, visible)
    true = images.permute(0, 2, 3, 1).numpy()
    hidden = hidden_pixels(model, visible)

    assert [c.title for c in (masked, reconstruction, original)] == [
        f"{hidden.mean():.0%} masked",
        "reconstruction",
        "original",
    ]
    assert (arrays(masked.tiles)[hidden] == GREY).all()
    assert (arrays(masked.tiles)[~hidden] == true[~hidden]).all()
    assert (arrays(reconstruction.tiles)[~hidden] == true[~hidden]).all()
    assert (arrays(reconstruction.tiles)[hidden] != true[hidden]).mean() > 0.9  # this model knows nothing
    assert (arrays(original.tiles) == true).all()
    assert len(errors) == 3


@pytest.mark.parametrize("target", ["pixel", "patch", "channel"])
def test_an_oracle_reconstructs_the_original(target: str) -> None:
    model = small_model(norm_pix_loss=target != "pixel", norm_pix_by="channel" if target == "channel" else "patch")
    images, visible = some_images(model, 2), some_visible(model, 2)
    pixels = statistics_of(model).normalize(images)
    model.decoder = Oracle(model.target(pixels, patchify(pixels, model.encoder.patch_size)))  # type: ignore[assignment]
    (_, reconstruction, original), errors = columns(model, statistics_of(model), images, visible)
    difference = arrays(reconstruction.tiles).astype(int) - arrays(original.tiles)
    assert abs(difference).max() <= 1
    assert errors == pytest.approx([0, 0], abs=1e-9)


def test_a_pca_oracle_reconstructs_what_its_components_span() -> None:
    model = small_model(in_chans=1, target="pca")  # 64 components of 64 values: nothing is lost
    images, visible = some_images(model, 2), some_visible(model, 2)
    pixels = statistics_of(model).normalize(images)
    patches = patchify(pixels, model.encoder.patch_size)
    model.target.fit(torch.randn(100, 64, generator=torch.Generator().manual_seed(0)))  # type: ignore[operator]
    model.decoder = Oracle(model.target(pixels, patches))  # type: ignore[assignment]
    (_, reconstruction, original), _ = columns(model, statistics_of(model), images, visible)
    assert abs(arrays(reconstruction.tiles).astype(int) - arrays(original.tiles)).max() <= 1


def test_visible_statistics_let_nothing_of_a_hidden_patch_through() -> None:
    model = small_model()
    images, visible = some_images(model, 2), some_visible(model, 2)
    hidden = torch.from_numpy(hidden_pixels(model, visible))[:, None].expand_as(images)
    other = images.where(~hidden, 255 - images // 3)

    def tiles(patch_stats: str, pixels: Tensor) -> np.ndarray:
        shown, _ = columns(model, statistics_of(model), pixels, visible, patch_stats)  # type: ignore[arg-type]
        return arrays(shown[1].tiles)

    assert (tiles("visible", images) == tiles("visible", other)).all()
    assert (tiles("true", images) != tiles("true", other)).any()  # so this test would notice


def test_visible_statistics_favour_near_patches() -> None:
    model = small_model(masking=Masking(mask_ratio=0.5))
    dark_to_bright = torch.linspace(20, 230, 32).round().to(torch.uint8).expand(1, 3, 32, 32).contiguous()
    grid = torch.arange(16).view(4, 4)
    visible = torch.cat([grid[:, 0], grid[:, 3]])[None]  # outer columns
    model.decoder = Oracle(torch.zeros(1, 16, 192))  # type: ignore[assignment]
    (_, reconstruction, _), _ = columns(model, statistics_of(model), dark_to_bright, visible, "visible")
    shown = arrays(reconstruction.tiles)[0].mean(axis=(0, 2)).reshape(4, 8).mean(axis=1)
    assert shown[0] < shown[1] < shown[2] < shown[3]


def test_the_error_is_the_training_loss() -> None:
    model = small_model()
    images, visible = some_images(model, 3), some_visible(model, 3)
    _, errors = columns(model, statistics_of(model), images, visible)
    with torch.no_grad():
        loss = model(statistics_of(model).normalize(images), visible=visible).loss
    assert np.mean(errors) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("target", ["pixel", "norm_pix", "pca"])
def test_pictures_that_look_grey_are_filled_in_with_grey(target: str) -> None:
    model = small_model(target=target)
    images, visible = some_images(model, 3), some_visible(model, 3)
    hidden = torch.from_numpy(hidden_pixels(model, visible))[:, None].expand_as(images)
    coloured = fill(model, statistics_of(model), images, visible).predicted
    images[0] = images[0, :1]  # grey
    images[1] = torch.where(hidden[1], images[1], images[1, :1])  # grey but for what nobody sees
    images[2] = torch.where(hidden[2], images[2, :1], images[2])  # whose colours are seen
    found = fill(model, statistics_of(model), images, visible).predicted
    assert coloured is not None
    assert found is not None
    differ = [bool((one.amax(0) - one.amin(0) > 0).any()) for one in found]
    assert differ == [False, False, True]
    assert (coloured[2].amax(0) - coloured[2].amin(0) > 0).any()
    assert "Where all that is visible is grey" in footer(model, "true")
    assert "Where all that is visible is grey" not in footer(small_model(1, target=target), "true")


def test_all_hidden_patches_are_predicted_where_training_predicts_some() -> None:
    model = small_model(decoder="cross", masking=Masking(predict_fraction=0.25))
    nn.init.constant_(model.decoder.head.bias, 100.0)
    images, visible = some_images(model, 1), some_visible(model, 1)
    (_, reconstruction, _), _ = columns(model, statistics_of(model), images, visible)
    assert (arrays(reconstruction.tiles)[hidden_pixels(model, visible)] == 255).all()


def test_hog_tiles_differ_only_where_patches_hide() -> None:
    model = small_model(target="hog")
    images, visible = some_images(model, 2), some_visible(model, 2)
    shown, _ = columns(model, statistics_of(model), images, visible)
    assert [c.title for c in shown[1:]] == ["predicted HOG", "true HOG", "original"]
    predicted, true = (arrays(column.tiles) for column in shown[1:3])
    scale = predicted.shape[1] // 32
    hidden = hidden_pixels(model, visible).repeat(scale, axis=1).repeat(scale, axis=2)
    assert (predicted[~hidden] == true[~hidden]).all()
    assert (predicted[hidden] != true[hidden]).any()


@pytest.mark.parametrize(("rows", "expected"), [(True, "horizontal"), (False, "vertical")])
def test_hog_strokes_lie_along_the_edge(rows: bool, expected: str) -> None:
    model = small_model(in_chans=1, target="hog")
    stripes = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    stripes[..., 1::4] = 255
    stripes[..., 2::4] = 255
    images = stripes.transpose(2, 3).contiguous() if rows else stripes
    shown, _ = columns(model, statistics_of(model), images, some_visible(model, 1))
    tile = arrays(shown[2].tiles)[0].astype(float)
    cell = tile[:16, :16]
    found = "horizontal" if abs(np.diff(cell, axis=0)).sum() > abs(np.diff(cell, axis=1)).sum() else "vertical"
    assert found == expected


# ---------------------------------------------------------------- whole panels


@pytest.mark.parametrize("target", ["pixel", "pca", "hog"])
@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 12])
def test_every_target_and_channel_count_has_a_panel(target: str, in_chans: int) -> None:
    picture = draw(small_model(in_chans, (24, 40), target=target), 2)
    assert picture.mode == "RGB"
    assert min(picture.size) > 200


def test_the_panel_holds_the_tiles_enlarged_by_a_whole_factor() -> None:
    model = small_model()
    picture = np.asarray(draw(model, 2))
    for image in some_images(model, 2).permute(0, 2, 3, 1).numpy():
        tile = image.repeat(4, axis=0).repeat(4, axis=1)
        starts = np.argwhere((picture == tile[0, 0]).all(-1))
        assert any(
            np.array_equal(picture[row : row + 128, column : column + 128], tile)
            for row, column in starts
            if row + 128 <= len(picture)
        )


@pytest.mark.parametrize("patch_stats", ["true", "visible"])
def test_a_panel_leaves_the_model_as_it_was(patch_stats: str) -> None:
    model = small_model()
    model.train()
    model.encoder.blocks[0].eval()
    before = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    draw(model, 1, patch_stats=patch_stats)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_panel_is_drawn_in_float32_whatever_surrounds_it() -> None:
    model = small_model()
    plain = draw(model, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert draw(model, 1).tobytes() == plain.tobytes()


def test_a_diverged_model_has_a_panel() -> None:
    model = small_model()
    nn.init.constant_(model.decoder.head.bias, math.nan)
    assert draw(model, 1).size


def test_what_does_not_fit_is_refused() -> None:
    model = small_model()
    images, visible = some_images(model, 2), some_visible(model, 2)
    with pytest.raises(ValueError, match="2 images, 2 rows of visible patches and 1 names"):
        panel(model, statistics_of(model), images, visible, ["only one"])
    with pytest.raises(ValueError, match="this model takes images"):
        panel(model, statistics_of(model), images[..., :16], visible, ["a", "b"])


def test_save_picture_makes_the_folder_and_leaves_nothing_beside(tmp_path: Path) -> None:
    picture = draw(small_model(), 1)
    save_picture(picture, tmp_path / "pictures" / "a.png")
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["a.png"]
    with Image.open(tmp_path / "pictures" / "a.png") as opened:
        assert opened.tobytes() == picture.tobytes()


# ---------------------------------------------------------------- words


def test_the_footer_says_what_the_picture_borrows() -> None:
    model = small_model()
    assert "taken from the original, so this picture shows more than the model knows" in footer(model, "true")
    assert "estimated from the visible patches" in footer(model, "visible")
    assert "taken from the original" not in footer(model, "visible")
    for target, said in (("pixel", "as the model predicts"), ("pca", "96 leading"), ("hog", "back into pixels")):
        other = small_model(target=target, norm_pix_loss=False)
        for patch_stats in ("true", "visible"):
            assert said in footer(other, patch_stats)  # type: ignore[arg-type]
            assert "taken from the original" not in footer(other, patch_stats)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("in_chans", "said"), [(1, ""), (2, "Of 2 channels the first"), (3, ""), (4, "Of 4 channels the first three")]
)
def test_the_footer_says_which_channels_are_left_out(in_chans: int, said: str) -> None:
    text = footer(small_model(in_chans), "true")
    assert said in text
    assert ("channels" in text) == bool(said)


# ---------------------------------------------------------------- layout


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((32, 32), (128, 128)),
        ((96, 96), (192, 192)),
        ((20, 40), (160, 80)),
        ((224, 224), (224, 224)),
        ((448, 224), (112, 224)),
        ((1, 4000), (224, 1)),
    ],
)
def test_tile_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert tile_size(size) == expected


@pytest.mark.parametrize("size", [(32, 32), (224, 16), (16, 224)])
@pytest.mark.parametrize("count", [1, ROWS_IN_ONE_BLOCK + 1, 16])
def test_nothing_touches_the_border_or_lies_upon_another(size: tuple[int, int], count: int) -> None:
    height, width = size
    colours = [(10 * (number + 1), 0, 255 - 10 * number) for number in range(count)]
    rows = [Row([Image.new("RGB", (width, height), c)] * 3, "name " * 60, "error 0.123") for c in colours]
    picture = np.asarray(sheet(["75% masked", "reconstruction", "original"], rows, size, "word " * 80))
    found = dict(zip(*np.unique(picture.astype(int) @ [65536, 256, 1], return_counts=True), strict=True))
    for border in (picture[:8], picture[-8:], picture[:, :8], picture[:, -8:]):
        assert (border == 255).all()
    tile_width, tile_height = tile_size(size)
    for red, green, blue in colours:  # every pixel of every tile is still there
        assert found[65536 * red + 256 * green + blue] == 3 * tile_width * tile_height


def test_a_sheet_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="one image or more"):
        sheet(["a"], [], (8, 8), "")


def test_names_are_shortened_in_the_middle() -> None:
    font = ImageFont.load_default(14)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert elide("cat.png", font, 200) == "cat.png"
    short = elide("folder/" * 100 + "last.png", font, 200)
    assert short.startswith("folder")
    assert short.endswith("last.png")
    assert font.getlength(short) <= 200
    assert elide("two\nlines\udc80", font, 200) == "two?lines?"


@pytest.mark.parametrize("name", ["", "Größe.png", "снимок.png", "一.png", "a\nb\t\udcff.png", "x" * 5000])
def test_any_file_name_can_be_drawn(name: str) -> None:
    assert sheet(["a"], [Row([Image.new("L", (8, 8))], name, "error 1.00")], (8, 8), "said").size


def test_wrapped_lines_fit_and_lose_no_word() -> None:
    font = ImageFont.load_default(14)
    assert isinstance(font, ImageFont.FreeTypeFont)
    text = "the quick brown fox jumps over the lazy dog " * 5
    lines = wrap(text, font, 150)
    assert " ".join(lines) == text.strip()
    assert all(font.getlength(line) <= 150 for line in lines)


@pytest.mark.parametrize(("dtype", "white"), [("uint16", 65535), ("float32", 1.0)])
def test_deep_images_are_shown_over_their_own_range(dtype: str, white: float) -> None:
    model = small_model(in_chans=1)
    ramp = torch.linspace(0.02, 0.04, 32 * 32).view(1, 1, 32, 32)  # a fiftieth of what 16 bits hold
    images = (ramp * white).round().to(torch.uint16) if dtype == "uint16" else ramp * white
    shown, _ = columns(model, statistics_of(model), images, some_visible(model, 1))
    original = np.asarray(shown[-1].tiles[0]).astype(int)
    expected = np.clip((ramp[0, 0].numpy() - 0.0201) / (0.0399 - 0.0201), 0, 1) * 255
    assert np.abs(original - expected).max() <= 2
    assert "black or white" in stretched(
        statistics_of(model).denormalize(statistics_of(model).normalize(images)), images.dtype
    )
    flat, _ = columns(model, statistics_of(model), images * 0, some_visible(model, 1))
    assert not np.asarray(flat[-1].tiles[0]).any()


def test_dark_images_are_stretched_and_the_panel_says_how_much() -> None:
    model = small_model(in_chans=1)
    ramp = torch.linspace(10, 60, 32 * 32).round().view(1, 1, 32, 32)  # a fifth of what 8 bits hold
    usual = torch.linspace(0, 255, 32 * 32).round().view(1, 1, 32, 32)
    flat = torch.full((1, 1, 32, 32), 7.0)
    images = torch.cat([ramp, usual, flat]).to(torch.uint8)
    shown, _ = columns(model, statistics_of(model), images, some_visible(model, 3))
    dark, plain, black = (np.asarray(tile).astype(int) for tile in shown[-1].tiles)
    assert np.abs(dark - np.clip((ramp[0, 0].numpy() - 10) / 50, 0, 1) * 255).max() <= 3
    np.testing.assert_array_equal(plain, usual[0, 0].numpy().astype(int))
    assert (black == 7).all()
    said = stretched(images.float() / 255, torch.uint8)
    assert "1 of 3 images use less than half" in said
    assert "contrast is 5.1 times" in said
    assert stretched(usual / 255, torch.uint8) == ""


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(16, 16, 1), (8, 32, 3), (300, 100, 13), (60, 60, 2)])
def test_any_image_can_be_shown(shape: tuple[int, int, int], dtype: str) -> None:
    image = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    names = ("имя.png", "a" * 300, "new\nline\udcff", "")
    rows = [[CaptionedImage(image, "0.5000", name) for name in names], [CaptionedImage(None, "", "gone.png")]]
    drawn = captioned_sheet([""] * 4, rows, "Footer.")
    assert drawn.size[0] > 4 * 168
    assert np.asarray(drawn).std() > 10
    flat = captioned_sheet([""], [[CaptionedImage(np.zeros(shape, dtype), "", "")]], "Footer.")
    assert np.asarray(flat).min() == 0
    with pytest.raises(ValueError, match="one image or more"):
        captioned_sheet([""], [], "Footer.")


def test_the_footer_is_of_the_channels_that_are_shown() -> None:
    image = np.full((8, 8, 4), 120, np.uint8)
    image[::2, :, :3], image[:4, :, 3], image[4:, :, 3] = 140, 0, 255
    told, plain = (
        np.asarray(captioned_sheet([""], [[CaptionedImage(one, "", "")]], "")).shape[0]
        for one in (image, image[..., 3:])
    )
    assert told > plain  # a line more, which says that contrast was added


def test_outlines_have_the_colour_of_what_they_are_around() -> None:
    palette = colours(4, True)
    mask = np.zeros((12, 12), np.uint8)
    mask[4:8, 4:8] = 1
    mask[10:, 10:] = 255
    drawn = np.asarray(overlay(np.full((12, 12, 3), 90, np.uint8), mask, palette, 255, True))
    for row, column in ((3, 5), (5, 3), (7, 5), (5, 7)):
        assert drawn[row, column].tolist() == palette[1].tolist()
    assert drawn[9, 11].tolist() == list(IGNORED_COLOUR)
    assert drawn[0, 0].tolist() == [90, 90, 90]


@pytest.mark.parametrize(("classes", "apart"), [(9, 20.0), (20, 10.0), (80, 6.0), (255, 2.5)])
def test_classes_have_colours_that_are_told_apart(classes: int, apart: float) -> None:
    """By CIE's own measure (of which 2.3 are just seen), as scikit-image has it; a background is black beside them."""
    palette = colours(classes, False)
    seen = rgb2lab(palette[None] / 255)[0]
    distances = deltaE_ciede2000(seen[:, None], seen[None])
    assert distances[~np.eye(classes, dtype=bool)].min() > apart
    assert np.array_equal(colours(classes + 1, True), [(0, 0, 0), *palette])
