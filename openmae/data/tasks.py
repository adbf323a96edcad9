"""What is to be learnt of each image: its class, several labels at once, or a number."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.labels import has_several, natural_key, number_of, several
from openmae.data.sources.source import LabelKind, Source
from openmae.errors import UserError

Task = Literal["classification", "multi-label", "regression"]
_LARGEST = float(np.finfo(np.float32).max)
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")  # as numbers are written in half of the world
VALUE = "value"  # what the one output of a regression is called


@dataclass(frozen=True)
class Answers:
    """The labels of a source as numbers.

    names: the classes or labels in the order of the outputs; (VALUE,) for a regression.
    values: (n,) int64 class of each image, -1 for one that is not among the names; (n, K) float32, 1 for each label
        that applies; (n, 1) float32 number.
    groups: (n,) the same number for images that belong together; None where none do.
    """

    task: Task
    names: tuple[str, ...]
    values: NDArray[np.int64] | NDArray[np.float32]
    groups: NDArray[np.int64] | None = None

    def at(self, rows: NDArray[np.int64]) -> "Answers":
        """Of these images."""
        return replace(self, values=self.values[rows], groups=None if self.groups is None else self.groups[rows])


@dataclass(frozen=True)
class Taken:
    """What labels are taken for, and the reason, a clause."""

    task: Task
    why: str

    def __str__(self) -> str:
        what = {"classification": "classes", "multi-label": "several at once", "regression": "numbers to predict"}
        return f"Labels are taken for {what[self.task]}: {self.why}"


def taken_for(sources: Sequence[Source], task: Task | None = None) -> Taken:
    """What the labels of these sources together are taken for, where nobody says, and why.

    Names of class folders and listed classes are classes. Labels that were written are several where one has a ; or |
    in it, a number where all are numbers and not all whole, unless they are written as codes are, and else classes.
    task: what is asked for.
    Raises UserError where there are no labels, or some are nan among numbers.
    """
    if task is not None:
        return Taken(task, f"`task='{task}'` is asked for")
    names = dict.fromkeys(name for source in sources for name in source.class_names)
    kinds = {source.label_kind for source in sources}
    return taken_for_names(list(names), kinds.pop() if len(kinds) == 1 else "written", sources[0].location)


def taken_for_names(names: Sequence[str], kind: LabelKind, location: str) -> Taken:
    """What labels of these names are taken for, as `taken_for` says, and why."""
    if kind == "folders":
        return Taken("classification", "names of folders are classes" + _whatever(names))
    if kind == "listed":
        return Taken("classification", "the classes are listed by their names" + _whatever(names))
    if joined := next((name for name in names if has_several(name)), None):
        return Taken("multi-label", f"'{joined}' has a ; or | in it (`task='classification'` if it is one name)")
    numbers = {name: number_of(name) for name in names if name}
    words = [name for name, number in numbers.items() if number is None]
    if not words:
        return _of_numbers([name for name in names if name])
    if words and all(number is not None or _COMMA.fullmatch(name) for name, number in numbers.items()):
        raise UserError(
            f"labels of {location} are numbers with a comma ({words[0]})",
            "write them with a point; or say by `task='classification'` that they are names",
        )
    if len(words) < len(numbers) and all(_is_none(word) for word in words):
        raise UserError(
            f"labels of {location} are numbers, but for {some(words)}",
            "leave the cell empty where there is no label; or say by `task='classification'` that they are names",
        )
    return Taken("classification", f"'{words[0]}' is no number")


def task_of(source: Source) -> Task:
    """What the labels say themselves; see `taken_for`. Raises UserError where there are no labels."""
    return taken_for([source]).task


def _of_numbers(names: Sequence[str]) -> Taken:
    """Of labels that are all numbers."""
    broken = next((name for name in names if not float(name).is_integer()), None)
    if broken is None:
        said = "all are whole numbers (`task='regression'` if they measure something)"
        if "-1" in names and len(names) > 2:
            said += ", and -1 is one of them: where it stands for no label, leave the cell empty"
        return Taken("classification", said)
    if code := _code(names):
        return Taken(
            "classification",
            f"they are written as codes are, not as numbers ({code}; `task='regression'` if they measure something)",
        )
    return Taken(
        "regression",
        f"all are numbers, {len(names):,} different ones, and '{broken}' is not whole "
        "(`task='classification'` if they are names)",
    )


def _code(names: Sequence[str]) -> str:
    """What shows that numbers are codes, as ICD's are, for no program and no table writes a number so: 008.5; or 250.00
    beside 401.9. Empty where nothing does."""
    for name in names:
        whole, _, digits = name.lstrip("+-").partition(".")
        if len(whole) > 1 and whole[0] == "0":
            return f"'{name}'"
        if len(digits) > 1 and digits.isdecimal() and digits[-1] == "0":
            other = next((one for one in names if len(one.partition(".")[2]) != len(digits)), None)
            if other is not None:
                return f"'{name}' beside '{other}'"
    return ""


def _whatever(names: Sequence[str]) -> str:
    """What has to be said of names that look like something else."""
    numbers = [number_of(name) for name in names]
    if all(number is not None for number in numbers) and not all(float(number or 0).is_integer() for number in numbers):
        return ", also such as are numbers (`task='regression'` if these measure something)"
    if any(map(has_several, names)):
        return ", also such as have a ; or | (`task='multi-label'` if these are several)"
    return ""


def _is_none(word: str) -> bool:
    """What programs write where there is no number."""
    return word.lower().strip("-+") in ("nan", "na", "n/a", "<na>", "none", "null", "nat", "inf", "infinity")


def outputs_of(source: Source, task: Task) -> tuple[str, ...]:
    """What the outputs of a new model are called, in their order: listed classes as they are listed, others as people
    count, numbers by their value."""
    if task == "regression":
        return (VALUE,)
    if source.label_kind == "listed" and task == "classification":
        return source.class_names
    names = _named_once(source, task)
    if source.label_kind == "written" and all(number_of(name) is not None for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names, key=natural_key))


def outputs_before(source: Source, task: Task) -> tuple[str, ...]:
    """As `outputs_of`, in the order of models of version 0.1, which a run of that time keeps."""
    names = _named_once(source, task)
    return tuple(names if task == "classification" else sorted(names))


def _named_once(source: Source, task: Task) -> list[str]:
    if task == "regression":
        return [VALUE]
    if task == "classification":
        return list(source.class_names)
    return list(dict.fromkeys(word for text in source.class_names for word in several(text)))


def answers(source: Source, task: Task, names: Sequence[str] | None = None) -> Answers:
    """The source's labels for a task.

    names: the outputs' names, as a model has them; default: those of `outputs_of`.
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
    known = list(outputs_of(source, task) if names is None else names)
    position = {name: number for number, name in enumerate(known)}
    if task == "multi-label":
        entries = [several(text) for text in texts]
        words = {word for entry in entries for word in entry}
        _check_one_output_each(source, words, known)
        if unknown := words - position.keys():
            raise _unknown(source, unknown, known)
        hot = np.zeros((len(texts), len(known)), np.float32)
        for row, entry in zip(hot, entries, strict=True):
            row[[position[word] for word in entry]] = 1
        return Answers(task, tuple(known), hot[labels])
    if unknown := {*occurring(source)} - position.keys():
        raise _unknown(source, unknown, known)
    _check_one_output_each(source, occurring(source), known)
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


def occurring(source: Source) -> list[str]:
    """The classes that images have."""
    return [source.class_names[label] for label in np.unique(source.labels)]


def _checked(text: str, label: int, source: Source) -> float:
    number = number_of(text)
    if number is None or not abs(number) <= _LARGEST:
        first = source.shown(int((source.labels == label).argmax()))
        raise UserError(
            f"{source.location} has the label '{text}' ({first}), which is no number to predict",
            "mend it, or take its images out",
        )
    return number


def _unknown(source: Source, unknown: set[str], known: Sequence[str]) -> UserError:
    """What to say of labels that are none of those known."""
    return UserError(
        f"{source.location} has labels that are not among the {len(known)} known ones ({some(sorted(unknown))}; known "
        f"are {some(list(known))})",
        "rename them, or take their images out",
    )


def some(names: Sequence[str]) -> str:
    """The first few, for a sentence."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
