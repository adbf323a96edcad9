"""Whatever labels a source has, where most commands want one of each image."""

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.joined import Joined
from openmae.data.sources.labels import NO_LABEL, LabelledSource
from openmae.data.sources.source import Remade, Source, Subset
from openmae.data.sources.windows import Windows
from openmae.errors import UserError

Labels = tuple[NDArray[np.int64], tuple[str, ...]]
"""(n,) index into the names, NO_LABEL where an image has none; no names where none has one."""


def known_labels(source: Source) -> Labels:
    """Those of its images that have one."""
    if isinstance(source, Subset):
        numbers, names = known_labels(source.whole)
        return numbers[source.indices], names
    if isinstance(source, Remade):
        return known_labels(source.source)
    if isinstance(source, Windows):
        numbers, names = known_labels(source.source)
        return numbers[source.places.of], names
    if isinstance(source, Joined):
        return _joined([known_labels(part) for part in source.parts])
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
