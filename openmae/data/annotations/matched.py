"""Annotations in terms of classes that somebody else has numbered: a model's, matched by their names."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from openmae.console.words import in_a_line
from openmae.data.annotations.annotations import Annotations, Remade, ignored_of, index_type
from openmae.data.annotations.objects import Objects
from openmae.errors import UserError

_SHOWN = 4  # names in a sentence


def matched(right: Annotations, names: Sequence[str], whose: str) -> Annotations:
    """The same with the numbers that the classes have among `names`. whose: the model, for a sentence. Raises UserError
    where there is a class that is none of these."""
    if right.names == tuple(names):
        return right
    unknown = [name for name in right.names if name not in names]
    if unknown:
        raise UserError(
            f"{whose} knows no class {_listed(unknown)} of {right.location}; it knows {_listed(names)}",
            "name the classes as the model does, for instance in a classes.csv beside the masks",
        )
    return Renumbered(right, tuple(names))


@final
class Renumbered(Remade):
    """Another's, whose classes have the places that they have among `names`."""

    def __init__(self, whole: Annotations, names: tuple[str, ...]) -> None:
        super().__init__(whole)
        self.names = names
        self.places = np.array([names.index(name) for name in whole.names], np.int64)

    @property
    def fingerprint(self) -> str:
        """Of the other and of the order."""
        return hashlib.sha256(repr((self.whole.fingerprint, self.names)).encode()).hexdigest()

    def objects(self, index: int, size: tuple[int, int]) -> Objects:
        """The other's."""
        found = self.whole.objects(index, size)
        return replace(found, classes=self.places[found.classes])

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The other's."""
        mask = self.whole.mask(index, size)
        kind = index_type(len(self.names))
        table = np.full(ignored_of(mask) + 1, np.iinfo(kind).max, np.uint16)
        table[: len(self.places)] = self.places
        found = table[mask]
        return found.astype(np.uint8) if kind is np.uint8 else found


def _listed(names: Sequence[str]) -> str:
    return in_a_line(", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else ""))
