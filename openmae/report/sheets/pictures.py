"""Panels of masked | reconstruction | original, labelled with what they show and what they borrow.

Shapes: n images, C channels, H x W pixels, N patches, V visible, P values in a patch, K values of its target.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from openmae.data.views.statistics import Statistics
from openmae.files.whole import write_file
from openmae.model import MaskedAutoencoder, Output, patchify, take, unpatchify
from openmae.report.sheets.layout import Row, sheet
from openmae.targets import HOG, NormPix, NormPixByChannel, OwnTarget, Pixel

PatchStats = Literal["true", "visible"]
GREY = 128
TAIL = 0.005  # share of the values of an image of more than 8 bits that is shown as black, and as white
NARROW = 0.5  # share of the range of 8 bits; images whose values but for the tails span less are stretched as well
NOISE = 2.5 / 255  # span up to which an image of 8 bits is as good as flat
CELL = 16  # px of a HOG glyph before it is resized to the tile


@dataclass(frozen=True)
class Column:
    """A title and one tile for each image, in the images' own size (HOG glyphs: any size)."""

    title: str
    tiles: list[Image.Image]


def panel(
    model: MaskedAutoencoder,
    statistics: Statistics,
    images: Tensor,
    visible: Tensor,
    names: Sequence[str],
    patch_stats: PatchStats = "true",
) -> Image.Image:
    """One row an image: masked | reconstruction | original, with name, error and a footer that says what is shown.

    images: (n, C, H, W) of the model's size, as the data has them (uint8, uint16 or float32), n >= 1. visible: (n, V)
    int64 patches to show; all others are predicted. names: what to call the images. patch_stats: see `columns`.
    The error of a row is the training loss over its hidden patches. The model's device and mode stay as they are.
    Raises ValueError where shapes or counts do not fit.
    """
    if not len(images) == len(visible) == len(names):
        raise ValueError(f"{len(images)} images, {len(visible)} rows of visible patches and {len(names)} names differ")
    shown, errors = columns(model, statistics, images, visible, patch_stats)
    rows = [
        Row([column.tiles[number] for column in shown], name, f"error {errors[number]:#.3g}")
        for number, name in enumerate(names)
    ]
    height, width = images.shape[-2:]
    said = footer(model, patch_stats, stretched(statistics.denormalize(statistics.normalize(images)), images.dtype))
    return sheet([column.title for column in shown], rows, (height, width), said)


def columns(
    model: MaskedAutoencoder,
    statistics: Statistics,
    images: Tensor,
    visible: Tensor,
    patch_stats: PatchStats = "true",
) -> tuple[list[Column], list[float]]:
    """The columns of a panel, and each image's error: mean squared, in the target's units, over hidden patches.

    patch_stats: where the norm_pix target takes a hidden patch's mean and standard deviation from: "true", from
    the original, or "visible", from the visible patches, so that nothing of a hidden patch reaches its picture.
    Arguments as for `panel`. Raises ValueError where shapes do not fit.
    """
    found = fill(model, statistics, images, visible, patch_stats)
    masked = found.original.where(~found.hidden, GREY)
    shown = [Column(f"{_percent(found.output.mask)} masked", tiles(masked))]
    if isinstance(model.target, HOG):
        shown += glyphs(model, found)
    elif found.predicted is not None:
        pasted = found.original.where(~found.hidden, found.predicted)
        shown.append(Column("reconstruction", tiles(pasted)))
    shown.append(Column("original", tiles(found.original)))
    return shown, found.errors.mean(dim=1).tolist()


@dataclass(frozen=True)
class Filled:
    """What a model makes of images: what is shown of them, and how right it is.

    original: (n, C, H, W) uint8, as shown. hidden: (n, C, H, W) True = hidden. predicted: (n, C, H, W) uint8, on the
    scale of the original, whose visible patches mean nothing; None of targets that are no pixels.
    errors: (n, Q) mean squared, in the target's units, of the hidden patches `output.queries`. target: (n, N, K).
    """

    original: Tensor
    hidden: Tensor
    predicted: Tensor | None
    errors: Tensor
    output: Output
    target: Tensor


def fill(
    model: MaskedAutoencoder,
    statistics: Statistics,
    images: Tensor,
    visible: Tensor,
    patch_stats: PatchStats = "true",
) -> Filled:
    """Arguments and errors as for `columns`. Of the images the visible patches alone are encoded."""
    device = model.encoder.positions.device
    images, visible = images.to(device), visible.to(device)
    with _inference(model, device):
        pixels = statistics.normalize(images)
        output = model(pixels, visible=visible)
        patches = patchify(pixels, model.encoder.patch_size)
        target = model.target(pixels, patches)  # (n, N, K)
        errors = (output.predicted - take(target, output.queries)).square().mean(dim=2)
        hidden = unpatchify(output.mask[..., None].expand_as(patches), model.encoder.grid, model.encoder.patch_size)
        low, high = _shown_range(statistics.denormalize(pixels), images.dtype)

        predicted = None
        if not isinstance(model.target, HOG | OwnTarget):  # from whose values there is no way back to a picture
            found = statistics.denormalize(_predicted_pixels(model, output, patches, patch_stats))
            predicted = to_uint8((grey_as_seen(found, images, hidden) - low) / (high - low))
        original = to_uint8((statistics.denormalize(pixels) - low) / (high - low))
        return Filled(original, hidden, predicted, errors, output, target)


def as_shown(statistics: Statistics, images: Tensor) -> Tensor:
    """Images (n, C, H, W) as the data has them -> (n, C, H, W) uint8, as they are shown."""
    scaled = statistics.denormalize(statistics.normalize(images))
    low, high = _shown_range(scaled, images.dtype)
    return to_uint8((scaled - low) / (high - low))


def footer(model: MaskedAutoencoder, patch_stats: PatchStats, contrast: str = "") -> str:
    """What a panel of this model shows, borrows and leaves out, in a few sentences. contrast: as `stretched` says."""
    parts = (_said_of_target(model, patch_stats), _said_of_channels(model), contrast)
    return " ".join(part for part in parts if part)


def save_picture(image: Image.Image, path: Path) -> None:
    """Writes a PNG that is complete or absent, making its folder where needed. Raises OSError."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, buffer.getvalue())


# ---------------------------------------------------------------- words


def _said_of_target(model: MaskedAutoencoder, patch_stats: PatchStats) -> str:
    error = "Error: mean squared error over the hidden patches, as in training"
    flat = f"{error}; flat patches of the right brightness score about 1."
    target = model.target
    greys = " Where all that is visible is grey, so is what is filled in." if model.encoder.in_chans == 3 else ""
    if isinstance(target, OwnTarget):
        return f"This model predicts {target.name}, which cannot be turned back into pixels. {error}."
    if isinstance(target, HOG):
        return (
            "This model predicts histograms of oriented gradients (HOG), which cannot be turned back into pixels: "
            "each stroke is an edge, the brighter the stronger, scaled alike in both columns. Dim strokes: visible "
            f"patches, as they are. {error}."
        )
    if isinstance(target, NormPix):
        what, tints = "brightness and", ""
        if isinstance(target, NormPixByChannel):
            what = "colour, brightness and" if model.encoder.in_chans > 1 else what
        elif model.encoder.in_chans > 1:
            tints = f" Tints are the model's own: a patch has one brightness for all colours.{greys}"
        source = (
            "are taken from the original, so this picture shows more than the model knows."
            if patch_stats == "true"
            else "are estimated from the visible patches around it: nothing of what is hidden enters the "
            "reconstruction."
        )
        return (
            f"The model predicts only the pattern within a hidden patch. The {what} contrast of each hidden patch "
            f"{source}{tints} {flat}"
        )
    if isinstance(target, Pixel):
        shown = "Hidden patches are shown as the model predicts them, visible ones as they are in the input."
        return f"{shown}{greys} {error}."
    return (
        f"Of a hidden patch the model predicts only the {target.values} leading principal components, of "
        f"{len(target.mean)}; finer detail is not predicted and not shown.{greys} {error}."
    )


def _said_of_channels(model: MaskedAutoencoder) -> str:
    channels = model.encoder.in_chans
    if channels == 2:
        return "Of 2 channels the first is shown, in grey."
    if channels > 3:
        return f"Of {channels} channels the first three are shown, as red, green and blue."
    return ""


def stretched(values: Tensor, dtype: torch.dtype) -> str:
    """What is done to the contrast of images (n, C, H, W) of `dtype`, given on the scale of their statistics, to show
    them: a sentence; "" where they are shown as they are."""
    low, high = _shown_range(values, dtype)
    beyond = f"Values outside the middle {100 - 200 * TAIL:g}% of an image's own are shown as black or white"
    if dtype != torch.uint8:
        return f"{beyond}."
    times = (1 / (high - low))[high - low < 1].flatten().tolist()
    if not times:
        return ""
    many = f"{len(times)} of {len(low)} images" if len(times) < len(low) else "All images"
    ends = (
        f"{min(times):.2g}" if f"{min(times):.2g}" == f"{max(times):.2g}" else f"{min(times):.2g} to {max(times):.2g}"
    )
    return (
        f"{many} use less than half of the range from black to white: here their contrast is {ends} times what it is. "
        f"{beyond} in them."
    )


def _percent(mask: Tensor) -> str:
    return f"{mask.float().mean().item():.0%}"


# ---------------------------------------------------------------- pixels


@contextmanager
def _inference(model: MaskedAutoencoder, device: torch.device) -> Iterator[None]:
    """No gradients, float32, evaluation mode; every module's own mode comes back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _predicted_pixels(model: MaskedAutoencoder, output: Output, patches: Tensor, patch_stats: PatchStats) -> Tensor:
    """(n, C, H, W) normalised pixels; those of visible patches mean nothing."""
    assert not isinstance(model.target, HOG | OwnTarget), "they have no pixels"
    encoder = model.encoder
    mean, std = model.target.statistics(patches) if isinstance(model.target, NormPix) else (patches[..., :1],) * 2
    if patch_stats == "visible" and model.target.needs_statistics:
        mean, std = estimated_statistics(mean, std, output.mask, encoder.grid, encoder.patch_size)
    predicted = model.target.to_pixels(output.prediction, mean, std)
    return unpatchify(predicted, encoder.grid, encoder.patch_size)


def estimated_statistics(
    mean: Tensor, std: Tensor, mask: Tensor, grid: tuple[int, ...], patch_size: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Statistics (n, N, 1 or C) of every patch from those of the other visible ones, near ones weighing more.

    Weights are 1 / distance^2 between patch centres (Shepard's interpolation). mask: (n, N), True = hidden.
    """
    sides = [torch.arange(g, device=mask.device) * float(p) for g, p in zip(grid, patch_size, strict=True)]
    places = torch.cartesian_prod(*sides)  # (N, 2)
    squared = (places[:, None] - places).square().sum(-1)  # (N, N)
    weights = torch.where(squared > 0, 1 / squared, 0)
    visible = (~mask).float()[..., None]  # (n, N, 1)
    total = weights @ visible
    return (weights @ (mean * visible)) / total, (weights @ (std * visible)) / total


def _shown_range(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(n, 1, 1, 1) the values of each image that are shown as black and as white. 8-bit images that use half of their
    range or more are shown as they are; of others, dark ones and deeper ones, which may use a hundredth of it, all but
    the tails.

    values: (n, C, H, W) the images of `dtype`, on the scale of their statistics.
    """
    # Sorted, since torch.quantile refuses large images.
    ordered = values.flatten(1).sort(dim=1).values
    last = ordered.shape[1] - 1
    low, high = ordered[:, round(TAIL * last)], ordered[:, round((1 - TAIL) * last)]
    if dtype == torch.uint8:
        is_narrow = (high - low < NARROW) & (high - low > NOISE)
        low, high = low.where(is_narrow, 0.0), high.where(is_narrow, 1.0)
    high = torch.maximum(high, low + 1e-6 * (1 + low.abs()))  # flat images are black
    return low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1)


def grey_as_seen(predicted: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Predicted pixels (n, C, H, W) as they are shown: of a picture of three channels of which all that is visible is
    grey, in grey. images: as the data has them; hidden: True = hidden; both of that shape."""
    if images.shape[1] != 3:
        return predicted
    is_grey = ((images == images[:, :1]) | hidden).flatten(1).all(dim=1)[:, None, None, None]
    return torch.where(is_grey, predicted.mean(dim=1, keepdim=True), predicted)


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels of 0..1 -> 0..255; a diverged model's NaN becomes black."""
    return (pixels * 255).nan_to_num().round().clamp(0, 255).to(torch.uint8)


def tiles(images: Tensor) -> list[Image.Image]:
    """(n, C, H, W) uint8 -> grey or colour pictures of the channels that can be shown."""
    shown = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    arrays = shown.permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array if array.shape[-1] == 3 else array[..., 0]) for array in arrays]


# ---------------------------------------------------------------- HOG


def glyphs(model: MaskedAutoencoder, found: Filled) -> list[Column]:
    """Predicted and true histograms of a HOG target as strokes, on one scale for each image."""
    target, grid, output, true = model.target, model.encoder.grid, found.output, found.target
    assert isinstance(target, HOG)
    cells = _by_cell(target, grid, true)  # (n, rows, columns, 9)
    mixed = _by_cell(target, grid, output.prediction.where(output.mask[..., None], true))
    rows, columns = (grid[axis] * target.cells[axis] for axis in (0, 1))
    dim = output.mask.view(-1, *grid).repeat_interleave(target.cells[0], 1).repeat_interleave(target.cells[1], 2)
    light = dim.float().clamp_min(0.45).view(-1, rows, columns, 1)
    bright = 0.6 * cells.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)  # brings out the weaker edges
    return [
        Column("predicted HOG", _glyphs(mixed / bright * light)),
        Column("true HOG", _glyphs(cells / bright * light)),
    ]


def _by_cell(target: HOG, grid: tuple[int, ...], values: Tensor) -> Tensor:
    """(n, N, K) histograms -> (n, cell rows, cell columns, 9), summed over channels."""
    ch, cw = target.cells
    split = values.view(len(values), *grid, ch, cw, -1, target.orientations).clamp_min(0).sum(5)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(len(values), grid[0] * ch, grid[1] * cw, -1)


def _glyphs(strength: Tensor) -> list[Image.Image]:
    """(n, rows, columns, 9) strengths of 0..1 -> pictures of CELL pixels a cell, white strokes on black."""
    strokes = torch.from_numpy(_strokes(strength.shape[-1]))  # (9, CELL, CELL)
    pictures = []
    for image in strength.clamp(0, 1).cpu():
        light = (image[..., None, None] * strokes).amax(2)  # (rows, columns, CELL, CELL)
        rows, columns = light.shape[:2]
        flat = light.permute(0, 2, 1, 3).reshape(rows * CELL, columns * CELL)
        pictures.append(Image.fromarray(to_uint8(flat).numpy()))
    return pictures


def _strokes(orientations: int) -> NDArray[np.float32]:
    """(orientations, CELL, CELL): a smooth line along the edge, that is, across each bin's middle gradient."""
    angle = (np.arange(orientations) + 0.5) * np.pi / orientations
    place = np.arange(CELL) - (CELL - 1) / 2
    down, right = place[:, None], place[None, :]
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    across, along = right * cos + down * sin, right * sin - down * cos
    width = np.clip(1.6 - np.abs(across), 0, 1)
    return (width * np.clip(CELL / 2 - np.abs(along), 0, 1)).astype(np.float32)
