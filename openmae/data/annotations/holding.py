"""Whether masks hold classes or the numbers of objects: judged by looking at some of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openmae.data.annotations.label_images import grey_of
from openmae.data.annotations.mask_files import numbers_of
from openmae.errors import UserError

MasksHold = Literal["classes", "objects"]
LOOKED_AT = 64
_ONE_PART, _FROM_ONE = 0.9, 0.8  # of the numbers, of the masks, where they are of objects
_SEVERAL_PARTS = 0.8
_MANY, _HUGE = 8, 64  # numbers in a mask; different ones in all


@dataclass(frozen=True)
class Held:
    """What masks hold, and the reason, as it stands behind a colon. is_binary: whether one value stands beside 0, which
    is `foreground`."""

    holds: MasksHold
    why: str
    is_binary: bool = False
    foreground: int = 1


def held(location: str, masks: Sequence[NDArray[Any]], asked: MasksHold | None, by_folder: bool = False) -> Held:
    """Judges masks without a list of classes. asked: what somebody says of them; by_folder: whether the folders that
    they lie in are their classes. Raises UserError where it is not clear."""
    grey = [grey_of(mask) for mask in masks]
    colours = sum(mask.ndim == 3 for mask in grey)
    if asked == "objects":
        return Held("objects", "as asked")
    if colours:
        raise UserError(
            f"{colours:,} of {len(masks):,} masks of {location} that were looked at are in colour, and nothing says "
            "which colour is which class",
            "write it into a classes.csv with a first line name,r,g,b beside them, or, if each colour is an object, "
            "give `masks_hold='objects'`",
        )
    beside = [value for value in np.unique(np.concatenate([np.unique(mask) for mask in grey])).tolist() if value != 0]
    if len(beside) <= 1:
        foreground = beside[0] if beside else 1
        return Held("classes", f"there is nothing in them but 0 and {foreground}", True, foreground)
    if asked == "classes":
        return Held("classes", "as asked")
    if by_folder:
        return Held("objects", "the folders that they lie in are their classes, so their numbers are of objects")
    return _by_numbers(location, [numbers_of(mask) for mask in masks], max(beside))


def _by_numbers(location: str, masks: Sequence[NDArray[Any]], largest: int) -> Held:
    parts = [_parts(mask) for mask in masks]
    full = [part for part in parts if len(part)]
    counts = sorted(len(part) for part in full)
    numbers = {number for part in full for number in part}
    in_one = sum(count == 1 for part in full for count in part.values()) / max(1, sum(counts))
    from_one = sum(max(part) == len(part) for part in full) / max(1, len(full))
    range_of = f"{counts[0]:,} to {counts[-1]:,}" if counts and counts[0] != counts[-1] else f"{counts[0]:,}"
    looked = f"the {len(masks):,} masks that were looked at"
    if in_one >= _ONE_PART and (counts[0] != counts[-1] or len(full) == 1):
        if from_one >= _FROM_ONE and counts[-1] >= _MANY:
            return Held("objects", f"{looked} number {range_of} things each, from 1 on, and each number is one part")
        if len(numbers) > _HUGE:
            return Held("objects", f"{looked} have {len(numbers):,} different numbers, each of which is one part")
    if largest <= 255 and in_one < _SEVERAL_PARTS and len(numbers) <= _HUGE:
        return Held(
            "classes", f"{looked} have numbers up to {max(numbers)}, of which {1 - in_one:.0%} lie in several parts"
        )
    raise UserError(
        f"it is not clear whether the masks of {location} hold classes or objects ({looked} have {range_of} numbers "
        f"each, up to {max(numbers)}, {in_one:.0%} of them in one part)",
        "say it by `masks_hold`: classes or objects; or name the classes in a classes.csv beside the masks",
    )


def _parts(mask: NDArray[Any]) -> dict[int, int]:
    """How many parts that touch each number but 0 has."""
    from skimage.measure import label

    numbers, whose = np.unique(mask, return_inverse=True)
    whose = whose.reshape(mask.shape)
    regions = label(whose + (numbers[0] != 0), background=0, connectivity=2)
    _, first = np.unique(regions, return_index=True)
    of_region = mask.ravel()[first]
    found, counts = np.unique(of_region[of_region != 0], return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
