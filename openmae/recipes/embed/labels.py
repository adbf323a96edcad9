"""The label of each image as text, for a table: whatever there is, where other commands want labels of all images."""

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.joined import Joined
from openmae.data.sources.labels import NO_LABEL, LabelledSource
from openmae.data.sources.source import Source, Subset
from openmae.errors import UserError

Labels = tuple[NDArray[np.int64], tuple[str, ...]]


class LabelTexts:
    """labels[i] is the label of image i of a source, None where it has none."""

    def __init__(self, source: Source) -> None:
        self._numbers, self._names = _of(source)

    def __getitem__(self, index: int) -> str | None:
        number = int(self._numbers[index])
        return None if number == NO_LABEL else self._names[number]

    @property
    def classes(self) -> int:
        """How many labels occur, 0 where there is none."""
        return len(np.unique(self._numbers[self._numbers != NO_LABEL]))


def _of(source: Source) -> Labels:
    if isinstance(source, Subset):
        numbers, names = _of(source.whole)
        return numbers[source.indices], names
    if isinstance(source, Joined):
        return _joined([_of(part) for part in source.parts])
    if isinstance(source, LabelledSource):
        return _none(len(source)) if source.numbers is None else (source.numbers, source.classes)
    try:
        return source.labels, source.class_names
    except UserError:
        return _none(len(source))


def _joined(parts: list[Labels]) -> Labels:
    names = tuple(dict.fromkeys(name for _, own in parts for name in own))
    number = {name: i for i, name in enumerate(names)}
    translated = [np.array([*(number[name] for name in own), NO_LABEL])[numbers] for numbers, own in parts]
    return np.concatenate(translated), names


def _none(count: int) -> Labels:
    return np.full(count, NO_LABEL), ()
