"""Which patches hide: samplers, mask units and schedules of the ratio.

A sampler is a function `(generator, grid, num_visible) -> (N,) int64`: every patch of the grid once,
the visible ones first. Patches are numbered row by row (the last axis fastest), and a grid may have any
number of axes: (height, width) for images, (depth, height, width) for volumes.

All randomness comes from the generator handed in, so a mask is a function of whatever that was keyed by.
Source: MAE (arXiv 2111.06377) section 3, Table 1f and Figure 6; block masking after BEiT (arXiv 2106.08254).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openmae.errors import BadValue, UserError
from openmae.own import Own, is_own

Order = NDArray[np.int64]
Sampler = Callable[[np.random.Generator, tuple[int, ...], int], Order]


def _visible_first(visible: NDArray[np.bool_]) -> Order:
    """The patches of a boolean (N,) map, visible ones first, each part in grid order."""
    return np.argsort(~visible, kind="stable")


def random(generator: np.random.Generator, grid: tuple[int, ...], num_visible: int) -> Order:
    """Uniform without replacement: the paper's choice."""
    return generator.permutation(math.prod(grid))


def block(generator: np.random.Generator, grid: tuple[int, ...], num_visible: int) -> Order:
    """Rectangular blocks hide until enough is hidden; the last block is cut to the exact number.

    A block covers at least 16/196 of the grid (BEiT's 16 of 14 x 14), its sides vary by a factor of up to
    sqrt(0.3) and 1/sqrt(0.3) about those of a square one.
    """
    num_hidden = math.prod(grid) - num_visible
    hidden = np.zeros(grid, dtype=bool)
    smallest = math.prod(grid) * 16 / 196
    while (missing := num_hidden - int(hidden.sum())) > 0:
        area = generator.uniform(min(smallest, missing), missing)
        before = hidden.copy()
        hidden[_place(generator, grid, _sides(generator, grid, area))] = True
        new = np.flatnonzero(hidden & ~before)[:: 1 if generator.random() < 0.5 else -1]  # cut at either end
        if len(new) > missing:
            hidden.flat[new[missing:]] = False
    return _visible_first(~hidden.reshape(-1))


def crop(generator: np.random.Generator, grid: tuple[int, ...], num_visible: int) -> Order:
    """The visible patches form one window, as if the image had been cropped; a row at its edge may be short."""
    area = float(num_visible)
    while math.prod(sides := _sides(generator, grid, area)) < num_visible:  # the grid cut a long side off
        area *= 1.1
    # Sides are made as short as the number allows before the window is placed and its short row is at either
    # end: rows cut off afterwards would leave the last rows of the grid hidden almost always.
    for axis in range(len(sides)):
        sides[axis] = math.ceil(num_visible * sides[axis] / math.prod(sides))
    window = (np.arange(math.prod(sides)) < num_visible).reshape(sides)
    flipped = tuple(axis for axis in range(len(grid)) if generator.random() < 0.5)
    visible = np.zeros(grid, dtype=bool)
    visible[_place(generator, grid, sides)] = np.flip(window, flipped)
    return _visible_first(visible.reshape(-1))


def grid(generator: np.random.Generator, grid: tuple[int, ...], num_visible: int) -> Order:
    """A regular lattice: one of every 2 x 2 patches at 75%, other ratios by ordered dithering.

    The lattice is the same for every image (as in the paper's Figure 6), so the generator is not used.
    """
    return np.argsort(_interleaved(grid, bit_reversed=True), kind="stable")


def uniform(generator: np.random.Generator, grid: tuple[int, ...], num_visible: int) -> Order:
    """Evenly spread and jittered: neighbouring patches form equal groups, one of each group is visible.

    At 75% on an even grid the groups are the 2 x 2 cells.
    """
    along_curve = np.argsort(_interleaved(grid, bit_reversed=False), kind="stable")
    edges = np.linspace(0, len(along_curve), num_visible + 1).round().astype(np.int64)
    chosen = along_curve[generator.integers(edges[:-1], edges[1:])]
    visible = np.zeros(len(along_curve), dtype=bool)
    visible[chosen] = True
    return _visible_first(visible)


@lru_cache(maxsize=8)
def _units(grid: tuple[int, ...], unit: int) -> Order:
    """(U, P) the patches of each mask unit of `unit` patches a side."""
    sides = [side // unit for side in grid]
    patches = np.arange(math.prod(grid)).reshape([n for side in sides for n in (side, unit)])
    axes = range(len(grid))
    patches = patches.transpose([2 * a for a in axes] + [2 * a + 1 for a in axes])
    return patches.reshape(math.prod(sides), -1)


def _sides(generator: np.random.Generator, grid: tuple[int, ...], area: float) -> list[int]:
    """The sides of a window of about `area` patches, randomly stretched, no longer than the grid's."""
    stretch = generator.uniform(-1, 1, len(grid)) * 0.5 * math.log(1 / 0.3)
    stretch -= stretch.mean()  # keeps the area
    side = area ** (1 / len(grid))
    return [min(length, max(1, math.ceil(side * factor))) for length, factor in zip(grid, np.exp(stretch), strict=True)]


def _place(generator: np.random.Generator, grid: tuple[int, ...], sides: list[int]) -> tuple[slice, ...]:
    """A window of these sides at a random place."""
    starts = [int(generator.integers(0, length - size + 1)) for length, size in zip(grid, sides, strict=True)]
    return tuple(slice(start, start + size) for start, size in zip(starts, sides, strict=True))


def _interleaved(grid: tuple[int, ...], bit_reversed: bool) -> NDArray[np.int64]:
    """(N,) the bits of each patch's coordinates interleaved: the Z-order curve, or, with the bits
    reversed, the ranks of an ordered-dither (Bayer) matrix."""
    bits = max(1, (max(grid) - 1).bit_length())
    if bits * len(grid) > 62:
        raise ValueError(f"grid {grid} is too large")
    code = np.zeros(math.prod(grid), dtype=np.int64)
    for axis, place in enumerate(np.indices(grid).reshape(len(grid), -1)):
        for bit in range(bits):
            target = (bits - 1 - bit if bit_reversed else bit) * len(grid) + axis
            code |= ((place.astype(np.int64) >> bit) & 1) << target
    return code


def _as_order(found: Any, grid: tuple[int, ...], num_visible: int, name: str) -> Order:
    """What a mask of somebody's own gave, (N,) every patch once, the visible ones first. Raises UserError."""
    given, patches = np.asarray(found), math.prod(grid)
    if given.dtype == bool and given.size == patches:
        hidden = given.reshape(-1)
        if int(hidden.sum()) == patches - num_visible:
            return _visible_first(~hidden)
        raise UserError(
            f"the mask {name} hides {int(hidden.sum())} of {patches} patches, and {patches - num_visible} have to hide",
            f"hide so many, or give `mask_ratio={hidden.mean():.4g}`",
        )
    if given.dtype.kind in "iu" and np.array_equal(np.sort(given.reshape(-1)), np.arange(patches)):
        return given.reshape(-1).astype(np.int64)
    raise UserError(
        f"the mask {name} gives an array {given.shape} of {given.dtype}",
        f"give a boolean map of the {' x '.join(map(str, grid))} patches, True where one hides, or the numbers of all, "
        "the visible ones first",
    )


MASKS: dict[str, Sampler] = {"random": random, "block": block, "grid": grid, "crop": crop, "uniform": uniform}
SCHEDULES: dict[str, Callable[[float, float], float]] = {  # (progress, draw), both in [0, 1) -> share of the way
    "constant": lambda progress, draw: 0.0,
    "linear": lambda progress, draw: progress,
    "cosine": lambda progress, draw: 0.5 - 0.5 * math.cos(math.pi * progress),
    "random": lambda progress, draw: draw,
}


@dataclass(frozen=True)
class Masking:
    """How the patches of an image are hidden.

    mask_ratio: share of patches hidden, above 0 and below 1; V = int(N * (1 - mask_ratio)) stay visible.
    mask: the sampler, a key of MASKS; or one's own, an `Own` whose `made` is a Sampler or gives a boolean map of the
        grid, True where a patch hides.
    mask_unit: patches hide in aligned units of `mask_unit` patches a side (Pixio, CVPR 2026).
    mask_schedule: how the ratio moves from `mask_ratio` to `mask_ratio_end`, a key of SCHEDULES:
        constant, linear or cosine over training, or random (uniform between the two, one draw a step).
    predict_fraction: share of the hidden patches that is predicted, above 0 and up to 1
        (CrossMAE, arXiv 2401.14391).

    Raises ValueError for values outside these ranges.
    """

    mask_ratio: float = 0.75
    mask: str = "random"
    mask_unit: int = 1
    mask_schedule: Literal["constant", "linear", "cosine", "random"] = "constant"
    mask_ratio_end: float | None = None
    predict_fraction: float = 1.0

    def __post_init__(self) -> None:
        for name, ratio in (("mask_ratio", self.mask_ratio), ("mask_ratio_end", self.mask_ratio_end)):
            if ratio is not None and not 0 < ratio < 1:
                raise BadValue(
                    f"{name} is {ratio:g}, but some patches must hide and some must stay",
                    "give a number above 0 and below 1, such as 0.75",
                )
        choices: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("mask", self.mask, MASKS),
            ("mask_schedule", self.mask_schedule, SCHEDULES),
        )
        for name, value, known in choices:
            if value not in known and not (name == "mask" and is_own(value)):
                raise BadValue(f"{name} is '{value}'", f"choose one of {', '.join(known)}")
        if not 0 < self.predict_fraction <= 1:
            raise ValueError(f"predict_fraction is {self.predict_fraction:g}; give a number above 0 and up to 1")
        if self.mask_unit < 1:
            raise ValueError(f"mask_unit is {self.mask_unit}; give 1 or more")
        if (self.mask_schedule == "constant") != (self.mask_ratio_end is None):
            raise BadValue(
                "mask_ratio_end goes with a mask_schedule of linear, cosine or random, and these need it",
                "give both or neither",
            )

    def ratio(self, progress: float, draw: float) -> float:
        """The mask ratio after a share `progress` of training, `draw` being the step's uniform number."""
        end = self.mask_ratio if self.mask_ratio_end is None else self.mask_ratio_end
        return self.mask_ratio + (end - self.mask_ratio) * SCHEDULES[self.mask_schedule](progress, draw)

    @property
    def least_ratio(self) -> float:
        """The smallest that it ever is."""
        return self.mask_ratio if self.mask_ratio_end is None else min(self.mask_ratio, self.mask_ratio_end)

    def counts(self, grid: tuple[int, ...], ratio: float | None = None) -> tuple[int, int]:
        """(visible, predicted) patches on a grid, at `mask_ratio` or the ratio given.

        Raises ValueError where the grid has no whole mask units, or nothing would stay visible or hidden.
        """
        if any(side % self.mask_unit for side in grid):
            raise BadValue(
                f"a grid of {' x '.join(map(str, grid))} patches has no whole mask units of {self.mask_unit} "
                "patches a side",
                "choose a mask_unit that divides it",
            )
        units = math.prod(grid) // self.mask_unit ** len(grid)
        ratio = self.mask_ratio if ratio is None else ratio
        # 1e-9: 10 * (1 - 0.9) is 0.99999... in floating point, and means 1.
        visible = int(units * (1 - ratio) + 1e-9) if math.isfinite(ratio) else 0
        if not 0 < visible < units:
            raise BadValue(
                f"a mask_ratio of {ratio:g} on {units} mask units leaves {visible} visible",
                "choose a ratio further from 0 and 1, a smaller patch_size or a larger img_size",
            )
        size = self.mask_unit ** len(grid)
        hidden = (units - visible) * size
        return visible * size, max(1, round(hidden * self.predict_fraction))

    def draw(
        self,
        generator: np.random.Generator,
        grid: tuple[int, ...],
        ratio: float | None = None,
        unfit: NDArray[np.bool_] | None = None,
    ) -> tuple[Order, Order]:
        """One image's mask: (V,) visible patches and (Q,) hidden patches to predict, both ascending.

        unfit: (N,) patches that are neither shown nor asked for. They hide first; V and Q stay what they are, so some
        of the others are asked for more than once, as evenly as it goes. Raises ValueError where too few are left.
        """
        visible, predicted = self.counts(grid, ratio)
        unit = self.mask_unit
        coarse = tuple(side // unit for side in grid)
        order = self._order(generator, coarse, visible // unit ** len(grid))
        if unfit is not None:
            if not self.leaves_enough(unfit, grid, ratio):
                raise ValueError(f"{int((~unfit).sum())} patches of {len(unfit)} can be used: too few for this mask")
            order = order[np.argsort(unfit[_units(grid, unit)[order]].any(1), kind="stable")]
        patches = order if unit == 1 else _units(grid, unit)[order].reshape(-1)
        queries = patches[visible:]
        if unfit is not None:
            queries = queries[~unfit[queries]]
            if len(queries) < predicted:
                return np.sort(patches[:visible]), np.sort(np.resize(generator.permutation(queries), predicted))
        if predicted < len(queries):
            queries = generator.choice(queries, predicted, replace=False, shuffle=False)
        return np.sort(patches[:visible]), np.sort(queries)

    def _order(self, generator: np.random.Generator, grid: tuple[int, ...], num_visible: int) -> Order:
        """Raises UserError where the mask is somebody's own and is not here, or gives something else than a mask."""
        if not is_own(self.mask):
            return MASKS[self.mask](generator, grid, num_visible)
        if not isinstance(self.mask, Own):
            raise UserError(
                f"the mask of this model was made by whoever trained it ({self.mask}), and is not kept with it",
                "give it by openmae.load(MODEL, mask=...), or choose the visible patches yourself",
            )
        return _as_order(self.mask.made(generator, grid, num_visible), grid, num_visible, self.mask.name)

    def leaves_enough(self, unfit: NDArray[np.bool_], grid: tuple[int, ...], ratio: float | None = None) -> bool:
        """Whether, beside the patches (N,) that are unfit, there are enough to show and at least one to ask for."""
        visible, _ = self.counts(grid, ratio)
        units = unfit[_units(grid, self.mask_unit)]
        shown = visible // units.shape[1]
        whole = int((~units.any(1)).sum())
        return whole >= shown and int((~unfit).sum()) > visible
