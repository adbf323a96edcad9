"""The label of each image as text, for a table: whatever there is, where other commands want labels of all images."""

import hashlib
import json

import numpy as np

from openmae.data.sources.known_labels import known_labels
from openmae.data.sources.labels import NO_LABEL
from openmae.data.sources.source import Source


class LabelTexts:
    """labels[i] is the label of image i of a source, None where it has none."""

    def __init__(self, source: Source) -> None:
        self._numbers, self._names = known_labels(source)

    def __getitem__(self, index: int) -> str | None:
        number = int(self._numbers[index])
        return None if number == NO_LABEL else self._names[number]

    @property
    def fingerprint(self) -> str:
        """Of them all."""
        found = hashlib.sha256(json.dumps(self._names).encode())
        found.update(self._numbers.astype("<i8").tobytes())
        return found.hexdigest()[:16]

    @property
    def classes(self) -> int:
        """How many labels occur, 0 where there is none."""
        return len(np.unique(self._numbers[self._numbers != NO_LABEL]))
