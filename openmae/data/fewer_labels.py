"""A part of the labels: `--labels 10%`, `--labels 20-per-class`, `--labels 60`."""

import numpy as np
from numpy.typing import NDArray

from openmae.data.dividing import in_order_of_groups
from openmae.data.sources.groups import group_numbers
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.tasks import Task
from openmae.errors import UserError
from openmae.randomness import generator


def asked_labels(train: Source, wanted: str | None, task: Task, seed: int, selection: Selection) -> Source:
    """All training images, or the part that `fewer_labels` takes of them and of the groups that the selection makes.
    Raises UserError."""
    if wanted is None:
        return train
    return fewer_labels(train, wanted, task, seed, group_numbers(train, selection))


def fewer_labels(train: Source, wanted: str, task: Task, seed: int, groups: NDArray[np.int64] | None = None) -> Source:
    """A part of the training images, the same for the same seed: "10%" of each class (one image at least),
    "20-per-class", or "60" in all, of each class in proportion (one at least). Where images have no class of their own,
    a share is one of all images.

    groups (n,): the same number for images that belong together; those of few groups are taken then, as few labelled
        patients have them.

    Raises UserError for another text, and where there are fewer images, of a class or in all, than asked for.
    """
    share, count, in_all = _asked(wanted)
    if in_all is not None and in_all > len(train):
        raise UserError(
            f"there are {len(train):,} labelled images to learn from, fewer than `labels={wanted!r}` asks for",
            f"give {len(train)} or less",
        )
    first = generator(seed, "fewer labels").permutation(len(train))

    def drawn(members: NDArray[np.int64], index: int) -> NDArray[np.int64]:
        if groups is not None:
            return in_order_of_groups(groups, first, members)
        return generator(seed, "fewer labels", index=index).permutation(members)

    if task != "classification":
        if count is not None:
            what = f"`labels={wanted!r}` is for images of one class each"
            raise UserError(what, "give a share such as 10%, or a number of images such as 60")
        order = drawn(np.arange(len(train)), 0)
        return train.take(np.sort(order[: in_all or max(1, round(len(train) * share))]))
    labels = train.labels
    classes = np.unique(labels)
    if in_all is not None and in_all < len(classes):
        raise UserError(
            f"`labels={wanted!r}` is less than the {len(classes)} classes have with one image each",
            f"give {len(classes)} or more",
        )
    chosen: list[NDArray[np.int64]] = []
    turns: list[NDArray[np.float64]] = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        if in_all is not None:  # the first of each, then whichever class has the least of its share
            chosen.append(drawn(members, int(label)))
            turns.append((np.arange(len(members)) + 0.5) / len(members))
            turns[-1][0] = -1.0
            continue
        take = max(1, round(len(members) * share)) if count is None else count
        if take > len(members):
            raise UserError(
                f"class '{train.class_names[label]}' has {len(members)} images in train, fewer than "
                f"`labels={wanted!r}` asks for",
                f"give {len(members)}-per-class or less",
            )
        chosen.append(drawn(members, int(label))[:take])
    found = np.concatenate(chosen)
    if in_all is not None:
        found = found[np.argsort(np.concatenate(turns), kind="stable")[:in_all]]
    return train.take(np.sort(found))


def _asked(wanted: str) -> tuple[float, int | None, int | None]:
    """(share, number a class, number in all), of which one is asked for."""
    try:
        if wanted.endswith("%") and 0 < (percent := float(wanted[:-1])) <= 100:
            return percent / 100, None, None
        if wanted.endswith("-per-class") and (count := int(wanted.removesuffix("-per-class"))) > 0:
            return 1.0, count, None
        if wanted.isdecimal() and (count := int(wanted)) > 0:
            return 1.0, None, count
    except ValueError:
        pass
    raise UserError(
        f"`labels` is '{wanted}'", "give a share such as 10%, a number such as 20-per-class, or one in all such as 60"
    )
