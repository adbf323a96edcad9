"""Draws the panel masked | reconstruction | original of images, for `pretrain` and `reconstruct`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch

from openmae.data.views.centred import centred
from openmae.data.views.statistics import Statistics
from openmae.errors import BrokenImage, UnfitImage, UserError
from openmae.model import MaskedAutoencoder
from openmae.randomness import generator
from openmae.report.sheets.pictures import panel, save_picture


def draw_panel(
    model: MaskedAutoencoder,
    statistics: Statistics,
    pictured: Sequence[tuple[str, Callable[[], bytes]]],
    out: Path,
    *,
    seed: int,
    mask_ratio: float | None = None,
    patch_stats: Literal["true", "visible"] = "true",
) -> list[str]:
    """Writes the PNG. pictured: the name of each image, and what reads its bytes; the i-th always has the same mask.
    Returns a complaint for each that cannot be read.

    Raises UserError where none can be read, OSError where `out` cannot be written.
    """
    height, width = model.encoder.img_size
    patch_height, patch_width = model.encoder.patch_size
    images, visible, shown = [], [], []
    complaints = []
    for number, (name, read) in enumerate(pictured):
        try:
            image = centred(read(), statistics.pixels, (height, width), (patch_height, patch_width))
        except BrokenImage as error:  # the settings are those that the model was trained with
            complaints.append(f"{name}: {error.what if isinstance(error, UnfitImage) else error}")
            continue
        except OSError as error:
            complaints.append(f"{name}: {error.strerror or error}")
            continue
        images.append(torch.from_numpy(image.copy()).permute(2, 0, 1))
        draws = generator(seed, "panel", index=number)
        visible.append(torch.from_numpy(model.masking.draw(draws, model.encoder.grid, mask_ratio)[0]))
        shown.append(name)
    if not images:
        raise UserError(f"none of the images can be read ({complaints[0]})", "give others")
    device = model.encoder.class_token.device
    picture = panel(
        model, statistics, torch.stack(images).to(device), torch.stack(visible).to(device), shown, patch_stats
    )
    save_picture(picture, out)
    return complaints
