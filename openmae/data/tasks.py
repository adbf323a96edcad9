"""What is to be learnt of each image: its class, several labels at once, or a number."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openmae.data.opening import Data
from openmae.data.sources.labels import SEPARATORS
from openmae.data.sources.source import Source, Subset
from openmae.data.sources.table import TableSource
from openmae.errors import UserError
from openmae.randomness import generator

Task = Literal["classification", "multi-label", "regression"]
_LARGEST = float(np.finfo(np.float32).max)
VALUE = "value"  # what the one output of a regression is called


@dataclass(frozen=True)
class Answers:
    """The labels of a source as numbers.

    names: the classes or labels in the order of the outputs; (VALUE,) for a regression.
    values: (n,) int64 class of each image, -1 for one that is not among the names; (n, K) float32, 1 for each label
        that applies; (n, 1) float32 number.
    """

    task: Task
    names: tuple[str, ...]
    values: NDArray[np.int64] | NDArray[np.float32]


def task_of(source: Source) -> Task:
    """What the labels say themselves: regression where they are numbers and not all whole, multi-label where one has
    a ; or | in it. Raises UserError where there are no labels."""
    names = source.class_names
    if any(mark in name for name in names for mark in SEPARATORS):
        return "multi-label"
    numbers = [_number(name) for name in names]
    if all(number is not None for number in numbers) and not all(float(n or 0).is_integer() for n in numbers):
        return "regression"
    return "classification"


def answers(source: Source, task: Task, names: Sequence[str] | None = None) -> Answers:
    """The source's labels for a task.

    names: the outputs' names, as a model has them; default: those that occur, sorted.
    Raises UserError where a label is none of the names, or is no number where one is asked for.
    """
    texts = source.class_names
    labels = source.labels
    if task == "regression":
        return Answers(
            task,
            (VALUE,),
            np.array([_checked(text, i, source) for i, text in enumerate(texts)], np.float32)[labels, None],
        )
    if task == "multi-label":
        entries = [_words(text) for text in texts]
        known = sorted({word for entry in entries for word in entry}) if names is None else list(names)
        position = {name: number for number, name in enumerate(known)}
        _check_one_output_each(source, {word for entry in entries for word in entry}, known)
        hot = np.zeros((len(texts), len(known)), np.float32)
        for row, entry in zip(hot, entries, strict=True):
            for word in entry:
                if word not in position:
                    raise _unknown(source, {word}, known)
                row[position[word]] = 1
        return Answers(task, tuple(known), hot[labels])
    known = list(texts if names is None else names)
    position = {name: number for number, name in enumerate(known)}
    if unknown := {*_occurring(source)} - position.keys():
        raise _unknown(source, unknown, known)
    _check_one_output_each(source, _occurring(source), known)
    numbers = np.array([position.get(text, -1) for text in texts], np.int64)
    return Answers(task, tuple(known), numbers[labels])


def _check_one_output_each(source: Source, labels: Iterable[str], names: Sequence[str]) -> None:
    """Raises UserError for a label of several outputs, as models of others have them: ImageNet has two cranes."""
    counts = Counter(names)
    for label in labels:
        if counts[label] > 1:
            raise UserError(
                f"{source.location} has the label {label}, which {counts[label]} outputs of the model have for a name",
                "take its images out, or mend the names in the model's config",
            )


def split_for(data: Data, task: Task | None, seed: int) -> tuple[Task, Source, Source]:
    """(task, train, val) of labelled DATA; task None: as the labels say.

    Without splits a fifth is held out by the seed: of each class, or of all images where there are no classes.
    Raises UserError where labels are missing or do not fit the task, differ between the splits, or a class has too few
    images.
    """
    if data.has_splits:
        train, val = data.train, data.val
        task = task or task_of(train)
        if task == "classification":
            _check_classes(train, val, data.location)
    else:
        task = task or task_of(data.all)
        hold_out = _without_a_fifth_of_each_class if task == "classification" else _without_a_fifth
        train, val = hold_out(data, seed)
    _check_apart(train, val)
    return task, train, val


def _check_classes(train: Source, val: Source, location: str) -> None:
    """Raises UserError where what was learnt could not be judged: the splits' classes are not the same two or more."""
    learnt, judged = {*_occurring(train)}, {*_occurring(val)}
    if unknown := judged - learnt:
        raise UserError(
            f"{val.location} has classes that {train.location} lacks ({', '.join(sorted(unknown))})", "mend the labels"
        )
    if len(learnt) < 2 or len(judged) < 2:
        raise UserError(f"a split of {location} has one class", "give each split two or more")
    if missing := learnt - judged:
        raise UserError(
            f"{val.location} has no image of the class{'es' if len(missing) > 1 else ''} "
            f"{_some(sorted(missing))}, so nothing could judge it",
            "add some, or take the class out of train",
        )


def _without_a_fifth_of_each_class(data: Data, seed: int) -> tuple[Source, Source]:
    """(the images without a fifth of each class, that fifth)"""
    everything = data.all
    train: list[int] = []
    val: list[int] = []
    for label, name in enumerate(everything.class_names):
        members = np.flatnonzero(everything.labels == label)
        if len(members) == 0:
            continue
        if len(members) < 2:
            numbers = all(text.isdecimal() for text in everything.class_names)
            hint = ", or, if the labels are numbers to predict, `task='regression'`" if numbers else ""
            raise UserError(f"class '{name}' of {data.location} has one image", f"give each class two or more{hint}")
        members = generator(seed, "held out", index=label).permutation(members)
        held_out = max(1, len(members) // 5)
        val.extend(members[:held_out])
        train.extend(members[held_out:])
    return everything.take(np.sort(train)), everything.take(np.sort(val))


def _without_a_fifth(data: Data, seed: int) -> tuple[Source, Source]:
    """(the images without a fifth of all, that fifth)"""
    everything = data.all
    if len(everything) < 2:
        raise UserError(f"{data.location} has one image", "give two or more")
    order = generator(seed, "held out").permutation(len(everything))
    held_out = max(1, len(everything) // 5)
    return everything.take(np.sort(order[held_out:])), everything.take(np.sort(order[:held_out]))


def _check_apart(train: Source, val: Source) -> None:
    """Raises UserError where a table names a file for both, which would be judged by what was learnt from it."""
    sources = [source.whole if isinstance(source, Subset) else source for source in (train, val)]
    if not all(isinstance(source, TableSource) for source in sources):  # others cannot name a file twice
        return
    learnt = {train.name(index) for index in range(len(train))}
    for index in range(len(val)):
        if (name := val.name(index)) in learnt:
            raise UserError(
                f"{sources[0].location} has rows for {name} in train and in val, so val would judge what was learnt by "
                "heart",
                "keep one of its rows (several labels go into one cell, with ; between them)",
            )


def _occurring(source: Source) -> list[str]:
    return [source.class_names[label] for label in np.unique(source.labels)]


def _words(text: str) -> list[str]:
    for mark in SEPARATORS:
        text = text.replace(mark, SEPARATORS[0])
    return [word.strip() for word in text.split(SEPARATORS[0]) if word.strip()]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _checked(text: str, label: int, source: Source) -> float:
    number = _number(text)
    if number is None or not abs(number) <= _LARGEST:
        first = source.name(int((source.labels == label).argmax()))
        raise UserError(
            f"{source.location} has the label '{text}' ({first}), which is no number to predict",
            "mend it, or take its images out",
        )
    return number


def _unknown(source: Source, unknown: set[str], known: Sequence[str]) -> UserError:
    """What to say of labels that are none of those known."""
    return UserError(
        f"{source.location} has labels that are not among the {len(known)} known ones ({_some(sorted(unknown))}; known "
        f"are {_some(list(known))})",
        "rename them, or take their images out",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
