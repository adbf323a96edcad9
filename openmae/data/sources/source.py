"""Where images come from: a source gives their number, their bytes by index, their names, labels and a fingerprint."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from openmae.console.words import in_a_line
from openmae.errors import BrokenImage
from openmae.randomness import MOST_DRAWN

LabelKind = Literal["written", "folders", "listed"]
"""Where labels come from. written: text or numbers beside the images, which may mean classes, several labels at once,
or numbers. folders: names of class folders; listed: classes that a file lists by name, in its order (classes.txt, a
ClassLabel); both are names, whatever they look like."""


class Names(Sequence[str]):
    """A table of strings in two arrays: its text and 8 bytes a string, which processes share without a copy.

    A list of strings costs 60 bytes a string more, and every process that reads it gets a copy, for Python
    counts references inside the strings.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, strings: Iterable[str | bytes]) -> "Names":
        """The table of these strings, in this order."""
        text, ends = bytearray(), bytearray()
        for string in strings:
            text += string if isinstance(string, bytes) else os.fsencode(string)
            ends += len(text).to_bytes(8, "little")
        return cls(np.frombuffer(text, np.uint8), np.frombuffer(ends, "<i8"))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.text[start : self.ends[index]].tobytes())


class Source(ABC):
    """Images by index, 0 to len - 1. The order is the source's own and the same every time it is opened."""

    location: str
    """What to call it in messages: the DATA that was given."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """What image `index` is called: a path, or its key in a shard or table. It may be no text: `shown` is safe to
        print, console.words.encodable of it to keep as UTF-8."""

    def file(self, index: int) -> str | None:
        """The file on this machine that holds image `index` and nothing else, None where there is none such."""
        return None

    @property
    def all_names(self) -> Names | None:
        """What all images are called, where that is at hand in one table."""
        return None

    def shown(self, index: int) -> str:
        """Its name as it stands in a sentence or in a line of a table."""
        return in_a_line(self.name(index))

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded image. Raises OSError where it cannot be read, BrokenImage where there is nothing to read."""

    def read_many(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        """Each image's bytes, or what was raised instead. A remote source fetches them at the same time."""
        found: list[bytes | OSError | BrokenImage] = []
        for index in indices:
            try:
                found.append(self.read(index))
            except (OSError, BrokenImage) as error:
                found.append(error)
        return found

    def read_each(self, indices: Sequence[int]) -> Iterator[bytes | OSError | BrokenImage]:
        """As read_many, but an image is read when its turn comes, where reading several at once gains nothing."""
        for index in indices:
            yield from self.read_many([index])

    @property
    def singly(self) -> "Source":
        """The same images, to read one of them without others that are read at once for the sake of speed."""
        return self

    @property
    def bytes_far(self) -> float | None:
        """Mean size in bytes of the encoded images, where they come from a server; None where they do not."""
        return None

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when an image is added, removed, renamed or changes its size in bytes."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in label order, as sources.labels.class_name gives them. Raises
        UserError unless there are labels of two or more."""

    @property
    def label_kind(self) -> LabelKind:
        """Where the labels come from, if there are any."""
        return "written"

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int64]:
        """(n,) index into class_names. Raises UserError where there are no labels."""

    @property
    def packed_as(self) -> Mapping[str, Any]:
        """How the files were read that `openmae pack` made these of, as Reading's to_dict says it; empty of others."""
        return {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth saying of how it was read, a sentence each."""
        return ()

    @property
    def together(self) -> NDArray[np.int64] | None:
        """(n,) the same number for images that belong together, which no split may divide; None where none do."""
        return None

    def take(self, indices: NDArray[np.int64]) -> "Subset":
        """These images only, in this order."""
        return Subset(self, indices)

    def without(self, indices: NDArray[np.int64]) -> "Subset":
        """All images but these, in the order they have."""
        if len(self) <= MOST_DRAWN:
            return self.take(np.delete(np.arange(len(self)), indices))
        return Without(self, indices)


class Remade(Source):
    """Another source's images in another form, one for one: what `read` gives is the subclass's."""

    def __init__(self, source: Source) -> None:
        self.source, self.location = source, source.location

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """As the source calls it."""
        return self.source.name(index)

    @property
    def bytes_far(self) -> float | None:
        """The source's."""
        return self.source.bytes_far

    @property
    def fingerprint(self) -> str:
        """The source's."""
        return self.source.fingerprint

    @property
    def class_names(self) -> tuple[str, ...]:
        """The source's."""
        return self.source.class_names

    @property
    def label_kind(self) -> LabelKind:
        """The source's."""
        return self.source.label_kind

    @property
    def together(self) -> NDArray[np.int64] | None:
        """The source's."""
        return self.source.together

    @property
    def labels(self) -> NDArray[np.int64]:
        """The source's."""
        return self.source.labels

    @property
    def packed_as(self) -> Mapping[str, Any]:
        """The source's."""
        return self.source.packed_as


class Subset(Source):
    """Some images of another source."""

    def __init__(self, whole: Source, indices: NDArray[np.int64]) -> None:
        self.whole, self.indices = whole, indices
        self.location = whole.location

    def __len__(self) -> int:
        return len(self.indices)

    def _of(self, index: int) -> int:
        """Which image of the whole source image `index` is."""
        return int(self.indices[index])

    def name(self, index: int) -> str:
        """As the whole source calls it."""
        return self.whole.name(self._of(index))

    def file(self, index: int) -> str | None:
        """The whole source's."""
        return self.whole.file(self._of(index))

    def read(self, index: int) -> bytes:
        """As the whole source reads it."""
        return self.whole.read(self._of(index))

    def read_many(self, indices: Sequence[int]) -> list[bytes | OSError | BrokenImage]:
        """As the whole source reads them."""
        return self.whole.read_many([self._of(index) for index in indices])

    def read_each(self, indices: Sequence[int]) -> Iterator[bytes | OSError | BrokenImage]:
        """As the whole source reads them."""
        return self.whole.read_each([self._of(index) for index in indices])

    @property
    def bytes_far(self) -> float | None:
        """The whole source's."""
        return self.whole.bytes_far

    @cached_property
    def fingerprint(self) -> str:
        """Of the whole source and of which images these are."""
        return hashlib.sha256(self.whole.fingerprint.encode() + self.indices.tobytes()).hexdigest()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The whole source's."""
        return self.whole.class_names

    @property
    def label_kind(self) -> LabelKind:
        """The whole source's."""
        return self.whole.label_kind

    @property
    def together(self) -> NDArray[np.int64] | None:
        """Of these images."""
        groups = self.whole.together
        return None if groups is None else groups[self.indices]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Of these images."""
        return self.whole.labels[self.indices]

    @property
    def packed_as(self) -> Mapping[str, Any]:
        """The whole source's."""
        return self.whole.packed_as


class Without(Subset):
    """All images of another source but a few; which they are is computed, where a list of many would be large."""

    def __init__(self, whole: Source, left_out: NDArray[np.int64]) -> None:
        self.whole, self.left_out = whole, np.unique(left_out)
        self.location = whole.location

    def __len__(self) -> int:
        return len(self.whole) - len(self.left_out)

    def _of(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        before = self.left_out - np.arange(len(self.left_out))  # of each one left out, how many stay before it
        return index + int(np.searchsorted(before, index, side="right"))

    @property
    def indices(self) -> NDArray[np.int64]:  # type: ignore[override]
        """(n,) computed for whoever needs all."""
        return np.delete(np.arange(len(self.whole)), self.left_out)

    @cached_property
    def fingerprint(self) -> str:
        """Of the whole source and of which images are left out."""
        return hashlib.sha256(b"without" + self.whole.fingerprint.encode() + self.left_out.tobytes()).hexdigest()
