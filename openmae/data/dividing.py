"""What train and val must not have in common: a group of images, a file, and, what is only said, an image."""

import numpy as np
from numpy.typing import NDArray

from openmae.console.words import in_a_line, several
from openmae.data.note import Note
from openmae.data.opening import Data
from openmae.data.sources.groups import groups_of, numbered
from openmae.data.sources.identity import linked, same_content, same_file
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source, Subset
from openmae.data.sources.table import TableSource
from openmae.errors import UserError
from openmae.randomness import generator

_HELD_OUT = 5  # one part of so many
_SHOWN = 3  # names in a sentence


def check_apart(data: Data, train: Source, val: Source) -> None:
    """Raises UserError where the two have a group or a file in common: what was learnt would be what is judged."""
    if (learnt := groups_of(train, data.selection)) is not None:
        torn = sorted({*learnt} & {*(groups_of(val, data.selection) or ())})
        if torn:
            more = f" and {len(torn) - _SHOWN:,} more" if len(torn) > _SHOWN else ""
            raise UserError(
                f"{len(torn):,} group{'s are' if len(torn) > 1 else ' is'} both in train and in val of "
                f"{data.location} ({in_a_line(', '.join(torn[:_SHOWN]))}{more}), so val would judge what was learnt",
                "divide it by groups, or have it divided anew by `splits='none'`",
            )
    if (found := same_file(train, val)) is not None:
        names = train.shown(found[0]), val.shown(found[1])
        is_table = isinstance(train.whole if isinstance(train, Subset) else train, TableSource)
        raise UserError(
            f"{data.location} has rows for {names[0]} in train and in val, so val would judge what was learnt by heart"
            if names[0] == names[1]
            else f"{names[0]} in train and {names[1]} in val of {data.location} are one file, so val would judge what "
            "was learnt by heart",
            "keep one of its rows (several labels go into one cell, with ; between them)"
            if is_table
            else "take it out of one of them",
        )


def notes_on_copies(train: Source, val: Source) -> list[Note]:
    """What to say of images that are in both, byte for byte, where looking costs little."""
    pairs = same_content(train, val)
    if not pairs:
        return []
    first = f"{train.shown(pairs[0][0])} = {val.shown(pairs[0][1])}"
    what = (
        f"{len(pairs):,} image{'s' if len(pairs) > 1 else ''} of val {'are' if len(pairs) > 1 else 'is'} in train too, "
    )
    return [
        Note(f"{what}byte for byte ({first})", "figures on val are too good by them: openmae check lists them", True)
    ]


def together(data: Data) -> NDArray[np.int64] | None:
    """(n,) the group of each of all images, where some are to stay together: as asked for, as they lie in one sample of
    shards, as windows of one image, or because some files are links to others; else None."""
    return together_of(data.all, data.selection)


def together_of(source: Source, selection: Selection) -> NDArray[np.int64] | None:
    """The same of the images of a source."""
    groups = groups_of(source, selection)
    if groups is not None:
        return numbered(groups)
    links = linked(source)
    if links is None and (samples := source.together) is not None:
        return np.unique(samples, return_inverse=True)[1].astype(np.int64)
    return links


def whole_groups(groups: NDArray[np.int64], order: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """(n,) the images of whole groups that are about so many together, looked at in the order of their images. groups:
    (n,); one alone is never taken, for nothing would be left."""
    sizes, chosen, have = np.bincount(groups), list[int](), 0
    for group in dict.fromkeys(groups[order].tolist()):
        if abs(have + sizes[group] - count) < abs(have - count) and have + sizes[group] < len(groups):
            chosen.append(group)
            have += int(sizes[group])
    if not chosen and len(present := np.flatnonzero(sizes)) > 1:  # all are larger than twice as many
        chosen = [int(present[sizes[present].argmin()])]
    return np.isin(groups, chosen)


def without_a_fifth(
    data: Data, groups: NDArray[np.int64], labels: NDArray[np.int64] | None, seed: int
) -> tuple[Source, Source]:
    """(the images without a fifth, that fifth), both of whole groups, with about a fifth of each class and some of each
    in both. labels (n,): of all images; None where there are no classes. Raises UserError where groups do not allow it.
    """
    everything = data.all
    classes = np.zeros(len(everything), np.int64) if labels is None else labels
    names = ["all images"] if labels is None else [f"the images of class '{name}'" for name in everything.class_names]
    order = generator(seed, "held out").permutation(int(groups.max()) + 1)
    chosen = _whole_groups(groups, classes, order)
    is_val = np.isin(groups, chosen)
    for label in np.unique(classes):
        members = is_val[classes == label]
        if members.all() or not members.any():
            few = len(np.unique(groups[classes == label]))
            asked, selection = names[label], data.selection
            if selection.tile and selection.group_by is None and selection.group_column is None:
                raise UserError(
                    f"{asked.replace('images', 'windows')} of {data.location} are of {several(few, 'image')}, so they "
                    "cannot be both learnt and judged, for windows of one image stay together",
                    "give each class two images or more",
                )
            count = "one group" if few == 1 else f"{few} groups, which other classes need on the other side"
            raise UserError(
                f"{asked} of {data.location} lie in {count}, so they cannot be both learnt and judged",
                "give each class groups enough, or say by `group_by` and `group_column` what belongs together",
            )
    return divided(everything, is_val)


def divided(everything: Source, is_val: NDArray[np.bool_]) -> tuple[Source, Source]:
    """(the others, those of val). is_val: (n,)"""
    return everything.take(np.flatnonzero(~is_val)), everything.take(np.flatnonzero(is_val))


def _whole_groups(groups: NDArray[np.int64], classes: NDArray[np.int64], order: NDArray[np.int64]) -> list[int]:
    """Groups, looked at in this order, that together have about a fifth of each class, some of each, and not all."""
    width = int(classes.max()) + 1
    cells, counts = np.unique(groups * width + classes, return_counts=True)
    starts = np.searchsorted(cells, np.arange(int(groups.max()) + 2) * width)
    left = np.bincount(classes, minlength=width).astype(np.float64)  # in train
    goal = np.maximum(left / _HELD_OUT, 1e-9)
    have = np.zeros(width)
    chosen: list[int] = []

    def of(group: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        part = slice(starts[group], starts[group + 1])
        return cells[part] % width, counts[part]

    def gain(group: int) -> float:
        """How much nearer to the goal it leads; minus infinity where it takes the last images of a class."""
        own, number = of(group)
        if (left[own] - number <= 0).any():
            return -np.inf
        return float((((goal - have)[own] ** 2 - (goal[own] - have[own] - number) ** 2) / goal[own]).sum())

    def choose(group: int) -> None:
        own, number = of(group)
        have[own] += number
        left[own] -= number
        chosen.append(group)

    for group in order.tolist():
        if gain(group) > 0:
            choose(group)
    for label in np.flatnonzero((have == 0) & (left > 0)).tolist():
        if have[label] == 0:
            candidates = np.unique(groups[classes == label])
            best = max(candidates.tolist(), key=gain)
            if gain(best) > -np.inf:
                choose(best)
    return chosen


def in_order_of_groups(
    groups: NDArray[np.int64], order: NDArray[np.int64], members: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Some images, those of a group beside each other, and the groups in the order of the first of them in `order`."""
    _, first, which = np.unique(groups[order], return_index=True, return_inverse=True)
    rank = np.empty(len(groups), np.int64)
    rank[order] = first[which]
    return members[np.argsort(rank[members], kind="stable")]
