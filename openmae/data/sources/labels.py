"""Labels that are written beside the images (in a column, a .cls file, an array): their numbers and names."""

from abc import ABC
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from openmae.data.sources.source import Source
from openmae.errors import UserError

NO_LABEL = -1
SEPARATORS = ";|"  # between the labels of an image that has several
_MOST_DIGITS = 18


class LabelledSource(Source, ABC):
    """A source whose labels were read when it was opened.

    numbers: (n,) index into `classes`, NO_LABEL where an image has none; or None where no image has one.
    """

    numbers: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    label_advice: str
    """How to give this kind of source labels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, in label order. Raises UserError unless there are labels of two or more classes."""
        if self.numbers is None:
            raise UserError(f"{self.location} has no labels", self.label_advice)
        if missing := int((self.numbers == NO_LABEL).sum()):
            first = self.name(int((self.numbers == NO_LABEL).argmax()))
            raise UserError(
                f"{missing:,} of the {len(self):,} images of {self.location} have no label, or one that is not among "
                f"the names given ({first}{', ...' if missing > 1 else ''})",
                "label them, or take them out",
            )
        if len(self) and self.numbers.min() == self.numbers.max():
            raise UserError(
                f"all images of {self.location} have the label '{self.classes[self.numbers[0]]}'",
                "give images of two classes or more",
            )
        return self.classes

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) index into class_names. Raises UserError where there are no labels."""
        _ = self.class_names  # raises where the labels are of no use
        assert self.numbers is not None
        return self.numbers


def label_text(value: object) -> str:
    """A label as text, empty for none; several are joined, and a lone separator says that there are none of them.
    Tables with gaps keep whole numbers as floats."""
    if isinstance(value, list | tuple):
        return SEPARATORS[0].join(map(label_text, value)) or SEPARATORS[0]
    if value is None or value != value:  # not a number
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def is_number(text: str) -> bool:
    """Whether it is digits, and not so many that Python declines to count with them."""
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def number_labels(
    texts: Iterable[str], names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Numbers (n,) and class names of labels as they were found; empty is no label, nor is -1 among whole numbers.
    Where an image has several labels, none of them is one of the labels too.

    names: the class names where a file gives them: then a number counts in them, text is one of them, and what is
    neither is no label. Otherwise the classes are the labels that occur, sorted (by number where all are numbers).
    Returns None for the numbers where there is no label at all.
    """
    codes: dict[str, int] = {}
    found = np.fromiter((codes.setdefault(text, len(codes)) for text in texts), np.int64)
    none = ("", "-1") if all(is_number(text) for text in codes if text not in ("", "-1")) else ("",)
    labels = [text for text in codes if text not in none]
    if not labels:
        return None, ()
    if names is None and "" in codes and any(mark in text for text in labels for mark in SEPARATORS):
        labels.append("")
    all_numbers = all(is_number(text) for text in labels)
    classes = sorted(labels, key=int if all_numbers else str) if names is None else list(names)
    position = {str(i) if all_numbers and names else name: i for i, name in enumerate(classes)}
    return np.array([position.get(text, NO_LABEL) for text in codes])[found], tuple(classes)
