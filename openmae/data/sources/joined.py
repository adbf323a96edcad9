"""Several sources, one after the other."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.source import LabelKind, Source
from openmae.errors import BrokenImage


class Joined(Source):
    """The images of several sources, those of the first one first. A class is known by its name."""

    def __init__(self, location: str, parts: Sequence[Source]) -> None:
        self.location, self.parts = location, tuple(parts)
        self._firsts = [0, *accumulate(len(part) for part in self.parts)]

    def __len__(self) -> int:
        return self._firsts[-1]

    def _find(self, index: int) -> tuple[int, int]:
        """The part, and the place in it."""
        part = bisect_right(self._firsts, index) - 1
        return part, index - self._firsts[part]

    def name(self, index: int) -> str:
        """As its part calls it."""
        part, place = self._find(index)
        return self.parts[part].name(place)

    def file(self, index: int) -> str | None:
        """Its part's."""
        part, place = self._find(index)
        return self.parts[part].file(place)

    def read(self, index: int) -> bytes:
        """As its part reads it."""
        part, place = self._find(index)
        return self.parts[part].read(place)

    def read_many(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        """As their parts read them."""
        found: dict[int, bytes | OSError | BrokenImage] = {}
        for number, part in enumerate(self.parts):
            mine = [index for index in indices if self._find(index)[0] == number]
            places = [index - self._firsts[number] for index in mine]
            found |= dict(zip(mine, part.read_many(places), strict=True))
        return [found[index] for index in indices]

    def read_each(self, indices: Sequence[int]) -> Iterator[bytes | OSError | BrokenImage]:
        """All at once, as read_many does."""
        return iter(self.read_many(indices))

    @property
    def bytes_far(self) -> float | None:
        """The largest of those parts that come from a server."""
        return max((size for part in self.parts if (size := part.bytes_far) is not None), default=None)

    @property
    def fingerprint(self) -> str:
        """Of the parts' fingerprints."""
        return hashlib.sha256("\n".join(part.fingerprint for part in self.parts).encode()).hexdigest()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of all parts: those of the first, then what others add. Raises UserError where a part has no labels."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.class_names))

    @property
    def label_kind(self) -> LabelKind:
        """The parts', where they are of one kind."""
        kinds = {part.label_kind for part in self.parts}
        return kinds.pop() if len(kinds) == 1 else "written"

    @property
    def together(self) -> NDArray[np.int64] | None:
        """The parts'; what lies in several parts belongs to none of the others."""
        found = [part.together for part in self.parts]
        if all(groups is None for groups in found):
            return None
        numbers, first = [], 0
        for part, groups in zip(self.parts, found, strict=True):
            numbers.append(first + (np.arange(len(part)) if groups is None else groups))
            first = int(numbers[-1].max(initial=first)) + 1
        return np.concatenate(numbers)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) index into class_names. Raises UserError where a part has no labels."""
        number = {name: i for i, name in enumerate(self.class_names)}
        return np.concatenate(
            [np.array([number[name] for name in part.class_names])[part.labels] for part in self.parts]
        )

    @property
    def packed_as(self) -> Mapping[str, Any]:
        """What all parts have alike."""
        first, *others = (part.packed_as for part in self.parts)
        return {name: word for name, word in first.items() if all(other.get(name) == word for other in others)}
