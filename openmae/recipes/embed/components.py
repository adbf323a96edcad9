"""What patches have in common, as colours: the first three principal components of their vectors, as red, green and
blue, beside the images (as in Oquab et al., DINOv2, arXiv 2304.07193, figure 1, without its step that removes the
background).

Shapes: n images that are shown, h x w patches of each, D width of the encoder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from openmae.console.words import encodable
from openmae.data.loading.in_order import CentredImages
from openmae.errors import BrokenImage
from openmae.recipes.embed.file import read_grids
from openmae.report.sheets.layout import ROWS_IN_ONE_BLOCK
from openmae.report.sheets.neighbours import CaptionedImage, captioned_sheet
from openmae.report.sheets.pictures import save_picture

_PAIRS = 3  # in a row of the sheet
_MOST_IMAGES = _PAIRS * ROWS_IN_ONE_BLOCK
_TAIL = 0.01  # share of the patches that may be darker, and brighter, than a colour goes


def draw_components(out: Path, images: CentredImages, left_out: Sequence[int], picture: Path, console: Console) -> None:
    """Draws some of the images, evenly over the file, with the components of their grids in `out`. Raises OSError, and
    UserError where the file is damaged."""
    indices = np.delete(np.arange(len(images)), left_out)
    rows = np.unique(np.linspace(0, len(indices) - 1, min(_MOST_IMAGES, len(indices))).round().astype(int)).tolist()
    grids = read_grids(out, rows)
    colours, shares = components(grids)
    down, across = images.patch_size
    tiles: list[CaptionedImage] = []
    for row, colour in zip(rows, colours, strict=True):
        index = int(indices[row])
        try:
            pixels = images.view(images.source.read(index))
        except (OSError, BrokenImage):  # it was readable when it was embedded
            pixels = None
        name = "/".join(Path(encodable(images.source.name(index))).parts[-2:])
        tiles.append(CaptionedImage(pixels, "", name))
        tiles.append(CaptionedImage(colour.repeat(down, axis=0).repeat(across, axis=1), "", ""))
    sheet = [tiles[at : at + 2 * _PAIRS] for at in range(0, len(tiles), 2 * _PAIRS)]
    told = ", ".join(f"{share:.1%}" for share in shares)
    footer = (
        "Beside each image the first three principal components of the vectors of all patches shown here, as red, "
        f"green and blue ({told} of their variance): patches of one colour are alike to the model. The images are "
        "shown as the model sees them, cut to its size."
    )
    save_picture(captioned_sheet([""] * len(sheet[0]), sheet, footer), picture)
    console.print(f"Picture of the patches: {picture}", highlight=False, soft_wrap=True)


def components(grids: NDArray[np.float32]) -> tuple[NDArray[np.uint8], list[float]]:
    """Vectors (n, h, w, D) -> colours (n, h, w, 3), and the shares of the variance, 0..1, that the three tell.

    Each component goes from its darkest to its brightest values but for the tails; of a vector of fewer than three
    numbers, or vectors that are all the same, what is missing is grey. The sign, which nothing determines, is such that
    the largest weight is above 0.
    """
    vectors = grids.reshape(-1, grids.shape[-1]).astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(vectors))
    variances, directions = variances[::-1][:3].clip(0), directions[:, ::-1][:, :3]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(directions.shape[1])])
    values = centred @ directions  # (n h w, 3)
    low, high = np.quantile(values, (_TAIL, 1 - _TAIL), axis=0)
    spread = high - low
    scaled = np.where(spread > 1e-9, (values - low) / np.where(spread > 1e-9, spread, 1), 0.5).clip(0, 1)
    colours = np.full((len(values), 3), 128, np.uint8)
    colours[:, : scaled.shape[1]] = (255 * scaled).round()
    total = float(centred.var(axis=0).sum())
    return colours.reshape(*grids.shape[:3], 3), [float(one / total) if total else 0.0 for one in variances]
