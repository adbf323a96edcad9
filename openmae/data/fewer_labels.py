"""A part of the labels: `--labels 10%`, `--labels 20-per-class`."""

import numpy as np
from numpy.typing import NDArray

from openmae.data.dividing import in_order_of_groups
from openmae.data.sources.source import Source
from openmae.data.tasks import Task
from openmae.errors import UserError
from openmae.randomness import generator


def fewer_labels(train: Source, wanted: str, task: Task, seed: int, groups: NDArray[np.int64] | None = None) -> Source:
    """A part of the training images, the same for the same seed: "10%" of each class (one image at least), or
    "20-per-class". Where images have no class of their own, a share is one of all images.

    groups (n,): the same number for images that belong together; those of few groups are taken then, as few labelled
        patients have them.

    Raises UserError for another text, and where a class has fewer images than asked for.
    """
    share, count = _asked(wanted)
    first = generator(seed, "fewer labels").permutation(len(train))

    def drawn(members: NDArray[np.int64], index: int) -> NDArray[np.int64]:
        if groups is not None:
            return in_order_of_groups(groups, first, members)
        return generator(seed, "fewer labels", index=index).permutation(members)

    if task != "classification":
        if count is not None:
            raise UserError(f"`labels={wanted!r}` is for images of one class each", "give a share such as 10%")
        order = drawn(np.arange(len(train)), 0)
        return train.take(np.sort(order[: max(1, round(len(train) * share))]))
    labels = train.labels
    chosen: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        take = max(1, round(len(members) * share)) if count is None else count
        if take > len(members):
            raise UserError(
                f"class '{train.class_names[label]}' has {len(members)} images in train, fewer than "
                f"`labels={wanted!r}` asks for",
                f"give {len(members)}-per-class or less",
            )
        chosen.append(drawn(members, int(label))[:take])
    return train.take(np.sort(np.concatenate(chosen)))


def _asked(wanted: str) -> tuple[float, int | None]:
    """(share, None) or (1, number a class)."""
    try:
        if wanted.endswith("%") and 0 < (percent := float(wanted[:-1])) <= 100:
            return percent / 100, None
        if wanted.endswith("-per-class") and (count := int(wanted.removesuffix("-per-class"))) > 0:
            return 1.0, count
    except ValueError:
        pass
    raise UserError(f"`labels` is '{wanted}'", "give a share such as 10%, or a number such as 20-per-class")
