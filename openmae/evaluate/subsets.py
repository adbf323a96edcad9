"""Which of a model's outputs are judged by which images: labels are matched by name, and DATA may have fewer classes.

Folders in the layout of ImageNet-A and ImageNet-R hold 200 of ImageNet's 1000 classes, by WordNet id. Their published
evaluations take the highest of those 200 outputs and leave the others out (Hendrycks et al., arXiv 1907.07174 and
2006.16241, and the code released with them); ImageNet-Sketch has all 1000.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openmae.console.words import in_a_line
from openmae.data.sources.folder import ImageFolder
from openmae.data.sources.labels import class_name
from openmae.data.sources.source import Source, Subset
from openmae.data.tasks import Answers, Task, answers
from openmae.errors import UserError

Classes = Literal["present", "all"]


@dataclass(frozen=True)
class Question:
    """What is asked of a model. right: the answers, in the order of the outputs asked; outputs (k,): which of the
    model's these are; absent: classes of the model that no image has."""

    right: Answers
    outputs: NDArray[np.int64]
    absent: tuple[str, ...]


def question(source: Source, task: Task, names: Sequence[str], classes: Classes | None = None) -> Question:
    """Matches the source's labels to the model's outputs `names`, by name.

    classes: for classification, which outputs count: "present", those of the classes that have images here; "all";
        None is "present".
    Raises UserError where a label is none of the names, labels are missing, or all images have the same one.
    """
    if task != "classification" and classes is not None:
        raise UserError(f"`classes` is for classification, and this model's task is {task}", "leave it out")
    _refuse_one_folder(source)
    right = answers(source, task, [class_name(name) for name in names])  # as those of the source are
    if (right.values == right.values[:1]).all():
        if task == "regression":
            raise UserError(f"all images of {source.location} have the same value", "give images that differ in it")
        raise UserError(
            f"all images of {source.location} have the same label, so that 100% would mean nothing",
            "give images of two classes or more",
        )
    everything = np.arange(len(right.names), dtype=np.int64)
    if task != "classification":
        return Question(right, everything, ())
    present = np.unique(right.values.astype(np.int64))
    absent = tuple(right.names[number] for number in np.setdiff1d(everything, present))
    if classes == "all":
        return Question(right, everything, absent)
    position = np.zeros(len(right.names), np.int64)
    position[present] = np.arange(len(present))
    kept = tuple(right.names[number] for number in present)
    return Question(replace(right, names=kept, values=position[right.values]), present, absent)


def _refuse_one_folder(source: Source) -> None:
    """Raises UserError for images that lie in one class folder all of them: a path has its class in front, sorted."""
    whole = source.whole if isinstance(source, Subset) else source
    if not isinstance(whole, ImageFolder):
        return
    first, last = (whole.name(index).partition("/") for index in (0, len(whole) - 1))
    if first[1] and first[0] == last[0]:
        raise UserError(
            f"all images of {source.location} lie in one folder, '{in_a_line(first[0])}', so that 100% would mean "
            "nothing",
            "give a folder with a folder for each class, two or more",
        )
