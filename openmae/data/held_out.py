"""Which labelled images are learnt from and which judge: DATA's own splits, or a part that is held out, the same images
every time."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from openmae.data.dividing import check_apart, divided, together, without_a_fifth
from openmae.data.opening import Data
from openmae.data.sources.groups import group_numbers
from openmae.data.sources.labels import number_of
from openmae.data.sources.notes import mask_folders
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.tasks import Answers, Taken, Task, answers, occurring, some, taken_for
from openmae.errors import UserError
from openmae.randomness import generator


def split_for(data: Data, task: Task | None, seed: int) -> tuple[Taken, Source, Source]:
    """(what labels are taken for, train, val) of labelled DATA; task None: as the labels say.

    Without splits a fifth is held out by the seed: of each class, or of all images where there are no classes; of whole
    groups, where images belong together.
    Raises UserError where labels are missing or do not fit the task, differ between the splits, a class has too few
    images, or is called as the masks of another are while nobody says the task, or the splits have a file or a group
    in common.
    """
    sources = [data.train, data.val] if data.has_splits else [data.all]
    if task is None:
        _check_no_masks(sources, data.location)
    taken = taken_for(sources, task)
    if data.has_splits:
        train, val = sources
        if taken.task == "classification":
            _check_classes(train, val, data.location)
    elif (groups := together(data)) is not None:
        labels = data.all.labels if taken.task == "classification" else None
        train, val = without_a_fifth(data, groups, labels, seed)
    else:
        hold_out = _without_a_fifth_of_each_class if taken.task == "classification" else without_a_fifth_of_all
        train, val = hold_out(data.all, seed)
    check_apart(data, train, val)
    return taken, train, val


def answers_to_learn(train: Source, task: Task, selection: Selection, names: Sequence[str] | None = None) -> Answers:
    """What is right for the images that are learnt from, and which of them belong together: what is cross-validated
    among them leaves out whole groups. names: as `answers` takes them. Raises UserError."""
    return replace(answers(train, task, names), groups=group_numbers(train, selection))


def _check_no_masks(sources: Sequence[Source], location: str) -> None:
    """Raises UserError where images and their masks would be told apart, which anything can."""
    names = dict.fromkeys(name for one in sources if one.label_kind == "folders" for name in one.class_names)
    if masks := mask_folders(names):
        raise UserError(
            f"of the class folders of {location} ({some(list(names))}) {masks[0]} is called like masks of the images",
            "learn them by openmae segment; leave them out by `exclude`; or, if they are a class, say "
            "`task='classification'`",
        )


def _check_classes(train: Source, val: Source, location: str) -> None:
    """Raises UserError where what was learnt could not be judged: the splits' classes are not the same two or more."""
    learnt, judged = {*occurring(train)}, {*occurring(val)}
    if unknown := judged - learnt:
        of_table = train.location == val.location
        said = ("val", f"train of {location}") if of_table else (val.location, train.location)
        are_numbers = all(number_of(name) is not None for name in learnt | judged)
        advice = "mend the labels" + ", or, if they are numbers to predict, give `task='regression'`" * are_numbers
        raise UserError(f"{said[0]} has classes that {said[1]} lacks ({', '.join(sorted(unknown))})", advice)
    if len(learnt) < 2 or len(judged) < 2:
        raise UserError(f"a split of {location} has one class", "give each split two or more")
    if missing := learnt - judged:
        raise UserError(
            f"{val.location} has no image of the class{'es' if len(missing) > 1 else ''} "
            f"{some(sorted(missing))}, so nothing could judge it",
            "add some, or take the class out of train",
        )


def _without_a_fifth_of_each_class(everything: Source, seed: int) -> tuple[Source, Source]:
    """(the images without a fifth of each class, that fifth)"""
    is_val = np.zeros(len(everything), bool)
    for label, name in enumerate(everything.class_names):
        members = np.flatnonzero(everything.labels == label)
        if len(members) == 0:
            continue
        if len(members) < 2:
            numbers = all(text.isdecimal() for text in everything.class_names)
            hint = ", or, if the labels are numbers to predict, `task='regression'`" if numbers else ""
            raise UserError(
                f"class '{name}' of {everything.location} has one image", f"give each class two or more{hint}"
            )
        members = generator(seed, "held out", index=label).permutation(members)
        is_val[members[: max(1, len(members) // 5)]] = True
    return divided(everything, is_val)


def without_a_fifth_of_all(everything: Source, seed: int) -> tuple[Source, Source]:
    """(the images without a fifth of all, that fifth)"""
    if len(everything) < 2:
        raise UserError(f"{everything.location} has one image", "give two or more")
    is_val = np.zeros(len(everything), bool)
    is_val[generator(seed, "held out").permutation(len(everything))[: max(1, len(everything) // 5)]] = True
    return divided(everything, is_val)
