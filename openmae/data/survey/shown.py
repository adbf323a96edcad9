"""What images show, all of it read once: what does not fit its image, what has no pixels, how much there is of what."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from openmae.console import words
from openmae.data.annotations.annotations import Annotations, ignored_of
from openmae.data.annotations.objects import Objects
from openmae.data.loading.pool import Hand, ordered
from openmae.data.survey.findings import EXAMPLES, MAX_BROKEN, Finding, most_broken
from openmae.errors import BrokenImage

_CHUNK = 16  # images a worker judges in one go
_SMALL = 16  # pixels of an object that is hardly to be seen


@dataclass(frozen=True)
class Shown:
    """What n images of a split show. reasons: why what tells of an image is not used, by its index; counts (n, classes)
    objects of each class, or pixels where classes of pixels are known; empty, small, twice (n,): how many objects of
    each image have no pixels, have fewer than 16, or are there twice; crowds (n,): how many of them are crowds."""

    right: Annotations
    reasons: dict[int, str]
    counts: NDArray[np.int64]
    empty: NDArray[np.int64]
    small: NDArray[np.int64]
    twice: NDArray[np.int64]
    crowds: NDArray[np.int64]

    @property
    def are_pixels(self) -> bool:
        """Whether pixels are counted, and no objects."""
        return self.right.kind == "classes"


@dataclass(frozen=True)
class _One:
    counts: NDArray[np.int64]
    empty: int = 0
    small: int = 0
    twice: int = 0
    crowds: int = 0
    reason: str = ""


def look_at(
    right: Annotations, sizes: NDArray[np.int64], workers: int, say: Callable[[int], None] = lambda done: None
) -> Shown:
    """Reads all annotations. sizes (n, 2): of the images, upright, 0 of those that cannot be read, which are passed
    over. `say` hears how many are done."""
    count = len(right)
    chunks = (range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))
    found: list[_One] = []
    for part in ordered(partial(_look_at, right, sizes), chunks, workers):
        found += part
        say(len(found))
    numbers = np.array([(one.empty, one.small, one.twice, one.crowds) for one in found], np.int64).reshape(-1, 4)
    reasons = {index: one.reason for index, one in enumerate(found) if one.reason}
    counts = np.stack([one.counts for one in found]) if found else np.zeros((0, len(right.names)), np.int64)
    return Shown(right, reasons, counts, *numbers.T)


def _look_at(right: Annotations, sizes: NDArray[np.int64], chunk: Sequence[int], hand: Hand) -> list[_One]:
    found = []
    for index in chunk:
        size = (int(sizes[index, 0]), int(sizes[index, 1]))
        nothing = np.zeros(len(right.names), np.int64)
        try:
            hand.take(index)
            if not size[0]:
                found.append(_One(nothing))
            elif right.kind == "classes":
                mask = right.mask(index, size)
                values = np.bincount(mask[mask != ignored_of(mask)].ravel(), minlength=len(right.names))
                found.append(_One(values.astype(np.int64)))
            else:
                found.append(_of(right.objects(index, size), right.listed(index), len(right.names)))
        except (OSError, BrokenImage) as error:
            found.append(_One(nothing, reason=str(error) or type(error).__name__))
    return found


def _of(objects: Objects, listed: int, classes: int) -> _One:
    if objects.pieces is None:
        areas = (objects.boxes[:, 2] - objects.boxes[:, 0]) * (objects.boxes[:, 3] - objects.boxes[:, 1])
    else:
        areas = np.array([piece.mask.sum() for piece in objects.pieces], np.float32)
    same = np.column_stack([objects.boxes, objects.classes, areas])
    return _One(
        np.bincount(objects.classes, minlength=classes).astype(np.int64),
        empty=max(0, listed - len(objects)),
        small=int((areas < _SMALL).sum()),
        twice=len(same) - len(np.unique(same, axis=0)) if len(same) else 0,
        crowds=int(objects.crowd.sum()),
    )


def judge_shown(name: str, shown: Shown, called: Callable[[int], str]) -> Iterator[Finding]:
    """What is wrong with one split. name: of it, empty where there is one set; called: what an image is called."""
    of = f" of {name}" if name else ""
    total = len(shown.counts)
    if shown.reasons:
        broken = len(shown.reasons)
        examples = [f"{called(index)}: {reason}" for index, reason in shown.reasons.items()][:EXAMPLES]
        yield Finding(
            "error" if broken > most_broken(MAX_BROKEN, total) else "warning",
            f"the annotations of {words.images(broken)}{of} cannot be used ({broken / total:.2%})",
            f"mend them, or take the images out; training stops at more than `max_broken={MAX_BROKEN:g}`",
            tuple(examples),
        )
    empty = "training leaves them out: look whether they are of another image"
    twice = "take one of each out, or what is found once is judged twice"
    for counts, what, advice in (
        (shown.empty, "no pixel in the image", empty),
        (shown.twice, "a twin of the same place and class", twice),
    ):
        if (count := int(counts.sum())) > 0:
            examples = [called(int(index)) for index in np.flatnonzero(counts)[:EXAMPLES]]
            have = "has" if count == 1 else "have"
            yield Finding("warning", f"{words.several(count, 'object')}{of} {have} {what}", advice, tuple(examples))
    if (small := int(shown.small.sum())) > 0 and not shown.are_pixels:
        share = small / max(1, int(shown.counts.sum()))
        yield Finding(
            "note",
            f"{words.several(small, 'object')}{of} {'has' if small == 1 else 'have'} fewer than {_SMALL} pixels "
            f"({share:.1%})",
            "a patch of 16 x 16 pixels hardly sees them: enlarge the images, or choose a smaller `patch_size`",
            tuple(called(int(index)) for index in np.flatnonzero(shown.small)[:EXAMPLES]),
        )
    usable = np.array([index not in shown.reasons for index in range(total)], np.bool_)
    nothing = np.asarray(usable & ~shown.counts.any(1))
    if nothing.any():
        count, what = int(nothing.sum()), "no pixel that is judged" if shown.are_pixels else "no object"
        yield Finding(
            "note",
            f"{words.images(count)}{of} {'shows' if count == 1 else 'show'} {what}",
            "nothing to do, if that is so",
            tuple(called(int(index)) for index in np.flatnonzero(nothing)[:EXAMPLES]),
        )


def judge_classes(splits: Sequence[tuple[str, Shown]]) -> Iterator[Finding]:
    """Classes that a split lacks."""
    names = splits[0][1].right.names
    for split, shown in splits:
        lacking = [name for name, count in zip(names, shown.counts.sum(0).tolist(), strict=True) if not count]
        if not lacking:
            continue
        of = f" in {split}" if split else ""
        is_val = split not in ("", "train")
        yield Finding(
            "warning" if is_val else "note",
            f"{len(lacking):,} of the {len(names):,} classes {'does' if len(lacking) == 1 else 'do'} not occur{of} "
            f"({', '.join(lacking[:EXAMPLES])}{', ...' * (len(lacking) > EXAMPLES)})",
            "nothing judges whether they are learnt" if is_val else "nothing learns them: take them out of the list",
        )
