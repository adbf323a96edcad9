"""What a file of weights leaves unsaid about its model, found by looking at them; what cannot be found is refused."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openmae.data.formats.channels import PixelFormat
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError
from openmae.model import SIZES, sincos_positions

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation that photo models are trained with
_SAME = 1e-5  # at most this between positions that are called sine-cosine ones
_HEADS = {width: heads for width, _, heads in SIZES.values()}


@dataclass(frozen=True)
class Heads:
    """Attention heads as the user gives them, of files that do not say it: weights are the same for any number."""

    encoder: int | None = None
    decoder: int | None = None

    def __post_init__(self) -> None:
        """Raises UserError for none or fewer."""
        for name, number in (("num_heads", self.encoder), ("decoder_num_heads", self.decoder)):
            if number is not None and number < 1:
                raise UserError(f"`{name}` is {number}", "give 1 or more")


NOT_GIVEN = Heads()


def count_blocks(keys: Collection[str], prefix: str) -> int:
    """How many blocks' weights there are, `prefix` 0 to the highest number."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.")
    return max((int(found[1]) + 1 for key in keys if (found := pattern.match(key))), default=0)


def required(weights: Mapping[str, Tensor], key: str, axes: int, name: str) -> Tensor:
    """That weight. Raises UserError where it is missing or has another number of axes."""
    if key not in weights:
        raise UserError(f"{name} does not fit its model: {key} is missing")
    if weights[key].ndim != axes or 0 in weights[key].shape:
        raise UserError(f"{name} does not fit its model: {key} is {tuple(weights[key].shape)}, not of {axes} axes")
    return weights[key]


def heads_of(width: int, name: str) -> int:
    """Attention heads of a standard width; weights do not tell. Raises UserError for another width."""
    if width not in _HEADS:
        raise UserError(
            f"{name} does not say how many attention heads it has, and {width} is no standard width",
            "give `num_heads`, or a folder with its config.json",
        )
    return _HEADS[width]


def usual_heads(width: int) -> int | None:
    """Attention heads of a standard width."""
    return _HEADS.get(width)


def assumed_heads(heads: int) -> str:
    """What is assumed of them where nothing says how many, in words."""
    return f"attention heads: {heads}, as a model of this width mostly has"


def grid_of_positions(positions: Tensor) -> tuple[tuple[int, int] | None, bool]:
    """The grid (rows, columns) that positions (N, D) are for, and whether they are learned.

    Sine-cosine ones tell their grid themselves; learned ones are taken for a square's, None where N is no square.
    """
    for grid in _grids(len(positions)):
        if are_sincos(positions, grid):
            return grid, False
    side = math.isqrt(len(positions))
    return ((side, side) if side * side == len(positions) else None), True


def mlp_ratio_of(*widths: tuple[int, int]) -> float:
    """The ratio from which a model with MLPs of these (hidden, model) widths follows; of several, the widest's.

    A quotient may come out a hair too small for its product to be rounded down to the whole number again.
    """
    ratio = max(hidden / width for hidden, width in widths)
    return ratio if all(int(width * ratio) >= hidden for hidden, width in widths) else math.nextafter(ratio, math.inf)


def are_sincos(positions: Tensor, grid: tuple[int, ...], counted_in: tuple[int, ...] | None = None) -> bool:
    """Whether positions (N, D) are the fixed ones of that grid. counted_in: see `sincos_positions`."""
    count, width = positions.shape
    if width % 4 or count != math.prod(grid):
        return False
    with torch.device("cpu"):  # where the weights are, whatever is being built around this
        return torch.allclose(positions.float(), sincos_positions(grid, width, counted_in), rtol=0, atol=_SAME)


def decoder_learns_positions(places: Tensor, grid: tuple[int, ...], counted_in: tuple[int, ...] | None = None) -> bool:
    """Whether a decoder's positions (1 + N, E), the class token's in front, are others than the fixed ones."""
    return bool(places[0].any()) or not are_sincos(places[1:], grid, counted_in)


def photo_statistics(in_chans: int) -> tuple[Statistics, str]:
    """(what most models of 8-bit images are trained with, ImageNet's for colour, 0.5 for others; that in words)."""
    mean, std = IMAGENET if in_chans == 3 else ((0.5,) * in_chans, (0.5,) * in_chans)
    said = "input statistics: " + ("ImageNet's" if in_chans == 3 else "mean 0.5, deviation 0.5")
    return Statistics(mean, std, PixelFormat(in_chans, None, "uint8")), said


def stated_statistics(values: Mapping[str, Any], in_chans: int, name: str) -> Statistics:
    """Of `mean` and `std` as another library keeps them: a number for each channel; and of `pixel_type` and `bands`,
    which exports of ours keep there. Raises UserError for others."""
    try:
        found = Statistics.from_dict(
            {
                "in_chans": in_chans,
                "pixel_type": values.get("pixel_type", "uint8"),
                **{key: values.get(key) for key in ("mean", "std", "bands")},
            }
        )
        if not all(math.isfinite(number) for number in found.mean + found.std) or min(found.std) <= 0:
            raise ValueError("a deviation must be above 0")
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{name} states a mean and a deviation that cannot be used ({error})", "mend its config"
        ) from error


def _grids(count: int) -> Iterator[tuple[int, int]]:
    """Grids of so many patches, the squarest first."""
    for rows in range(math.isqrt(count), 0, -1):
        if count % rows == 0:
            yield rows, count // rows
            yield count // rows, rows
