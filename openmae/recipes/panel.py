"""Draws the panel masked | reconstruction | original of image files, for `pretrain` and `reconstruct`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from openmae.data.decode import BrokenImage, check_covers_patch, decode
from openmae.data.order import generator
from openmae.data.statistics import Statistics
from openmae.data.views import centred_view
from openmae.errors import UserError
from openmae.model import MaskedAutoencoder
from openmae.report.pictures import panel, save_picture

_EPOCH = 2**63  # no epoch of training, so the panel's masks are its own


def draw_panel(
    model: MaskedAutoencoder,
    statistics: Statistics,
    files: Sequence[Path],
    names: Sequence[str],
    out: Path,
    *,
    seed: int,
    mask_ratio: float | None = None,
    patch_stats: Literal["true", "visible"] = "true",
) -> list[str]:
    """Writes the PNG: the i-th image always has the same mask. Returns a complaint for each unreadable file.

    Raises UserError where none can be read, OSError where `out` cannot be written.
    """
    height, width = model.encoder.img_size
    patch_height, patch_width = model.encoder.patch_size
    images, visible, shown = [], [], []
    complaints = []
    for number, (file, name) in enumerate(zip(files, names, strict=True)):
        try:
            pixels = decode(file.read_bytes(), model.encoder.in_chans)
            check_covers_patch(pixels, (patch_height, patch_width))
        except BrokenImage as error:
            complaints.append(f"{file}: {error}")
            continue
        except OSError as error:
            complaints.append(f"{file}: {error.strerror or error}")
            continue
        images.append(centred_view(pixels, (height, width)))
        draws = generator(seed, "sample", epoch=_EPOCH, index=number)
        visible.append(torch.from_numpy(model.masking.draw(draws, model.encoder.grid, mask_ratio)[0]))
        shown.append(name)
    if not images:
        raise UserError(f"none of the images can be read ({complaints[0]}): give others")
    device = model.encoder.class_token.device
    picture = panel(
        model, statistics, torch.stack(images).to(device), torch.stack(visible).to(device), shown, patch_stats
    )
    save_picture(picture, out)
    return complaints
