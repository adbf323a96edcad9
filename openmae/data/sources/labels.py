"""Labels that are written beside the images (in a column, a .cls file, an array): their numbers and names."""

import math
import re
import unicodedata
from abc import ABC
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from openmae.console.words import in_a_line
from openmae.data.sources.source import LabelKind, Source
from openmae.errors import UserError

NO_LABEL = -1
SEPARATORS = ";|"  # between the labels of an image that has several
_MOST_DIGITS = 18
_MOST_COUNTED = 4000  # digits inside a name, of which Python declines to count more
_DIGITS = re.compile(r"(\d+)")


class LabelledSource(Source, ABC):
    """A source whose labels were read when it was opened.

    numbers: (n,) index into `classes`, NO_LABEL where an image has none; or None where no image has one.
    """

    numbers: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    label_advice: str
    """How to give this kind of source labels."""
    kind: LabelKind = "written"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, in label order. Raises UserError unless there are labels of two or more classes."""
        if self.numbers is None:
            raise UserError(f"{self.location} has no labels", self.label_advice)
        if missing := int((self.numbers == NO_LABEL).sum()):
            first = self.shown(int((self.numbers == NO_LABEL).argmax()))
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
    def label_kind(self) -> LabelKind:
        """As it was found when the labels were read."""
        return self.kind

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) index into class_names. Raises UserError where there are no labels."""
        _ = self.class_names  # raises where the labels are of no use
        assert self.numbers is not None
        return self.numbers


def class_name(text: str) -> str:
    """What a class is called that is written so: text that is safe to show and to keep, the same however its accents
    are (macOS takes them apart)."""
    return in_a_line(unicodedata.normalize("NFC", text))


def natural_key(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sorts names as people count, numbers inside them by their value and capitals as small letters: 2, 10, a2, A10.

    As timm's reader of folders orders classes; names that it takes for equal (1 and 01) are sorted by their letters.
    """
    parts = _DIGITS.split(name.lower())
    values = [int(digits[:_MOST_COUNTED]) for digits in parts[1::2]]
    return list(zip(parts[::2], [*values, -1], strict=True)), name


def label_text(value: object) -> str:
    """A label as text, empty for none; several are joined, and a lone separator says that there are none of them.
    Tables with gaps keep whole numbers as floats."""
    if isinstance(value, list | tuple):
        return SEPARATORS[0].join(map(label_text, value)) or SEPARATORS[0]
    if value is None or value != value:  # not a number
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def several(text: str) -> list[str]:
    """The labels of an image that may have several."""
    for mark in SEPARATORS:
        text = text.replace(mark, SEPARATORS[0])
    return [word.strip() for word in text.split(SEPARATORS[0]) if word.strip()]


def has_several(text: str) -> bool:
    """Whether it is written as several labels, or as none of them."""
    return any(mark in text for mark in SEPARATORS)


def number_of(text: str) -> float | None:
    """The number that a label is, if it is one: neither nan nor inf, and written as tables write it."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def is_number(text: str) -> bool:
    """Whether it is digits, and not so many that Python declines to count with them."""
    return text.isdecimal() and len(text) <= _MOST_DIGITS


def number_labels(
    texts: Iterable[str], names: Sequence[str] | None = None
) -> tuple[NDArray[np.int64] | None, tuple[str, ...], LabelKind]:
    """Numbers (n,) and class names of labels as they were found, and whether they are listed; empty is no label.
    Where an image has several labels, none of them is one of the labels too.

    names: the class names where a file gives them: then a number counts in them, text is one of them, and what is
    neither, such as -1, is no label. Otherwise the classes are the labels that occur, sorted (by number where all are
    numbers). A column of 0 and 1 for each label, 0;0;1, is read as the numbers of those that apply.
    Returns None for the numbers where there is no label at all.
    """
    codes: dict[str, int] = {}
    found = np.fromiter((codes.setdefault(text, len(codes)) for text in texts), np.int64)
    are_columns = _are_columns(codes)
    shown = [_applying(text) if are_columns else class_name(text) for text in codes]
    if not any(text and (names is None or text != "-1") for text in shown):
        return None, (), "written"
    if names is not None:
        listed = [class_name(name) for name in names]
        if not any(map(has_several, shown)):
            return np.array(_places(shown, listed))[found], tuple(listed), "listed"
        shown = [_named(text, listed) for text in shown]
    labels = list(dict.fromkeys(text for text in shown if text))
    if "" in codes and any(map(has_several, labels)):
        labels.append("")
    classes = sorted(labels, key=int if all(map(is_number, labels)) else str)
    position = {name: i for i, name in enumerate(classes)}
    return np.array([position.get(text, NO_LABEL) for text in shown])[found], tuple(classes), "written"


def _places(labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where each label is in a list of names, by its number where all are numbers; NO_LABEL for what is not."""
    if all(is_number(text) for text in labels if text not in ("", "-1")):
        return [int(text) if is_number(text) and int(text) < len(names) else NO_LABEL for text in labels]
    position = {name: i for i, name in enumerate(names)}
    return [position.get(text, NO_LABEL) for text in labels]


def _named(text: str, names: Sequence[str]) -> str:
    """Several labels of an image by their names; those that are not among the names stay as they are."""
    words = several(text)
    places = _places(words, names)
    return SEPARATORS[0].join(
        word if place == NO_LABEL else names[place] for word, place in zip(words, places, strict=True)
    ) or (SEPARATORS[0] if text else "")


def _are_columns(texts: Iterable[str]) -> bool:
    """Whether each is a 0 or 1 for each label, of which there are the same number everywhere. As numbers of labels they
    would say nothing: all images would have the labels 0 and 1."""
    rows = [text.split(SEPARATORS[0]) for text in texts if text]
    return len({len(row) for row in rows}) == 1 and len(rows[0]) > 1 and all({*row} <= {"0", "1"} for row in rows)


def _applying(text: str) -> str:
    """0;1;1 -> 1;2: the numbers of those that apply."""
    applying = [str(at) for at, word in enumerate(text.split(SEPARATORS[0])) if word == "1"]
    return SEPARATORS[0].join(applying) or (SEPARATORS[0] if text else "")
