"""What a study of trainings opens: DATA, and what judges."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from openmae.console.words import several
from openmae.data.opening import Data, open_data
from openmae.data.sources.source import Source
from openmae.errors import UserError
from openmae.files.address import whole_address
from openmae.studies.base import AskedData
from openmae.studies.judging import Labelled, Means, no_labels, open_labelled, unlabelled

LEAST_IMAGES = 20


@dataclass(frozen=True)
class Opened:
    """DATA and what judges. labelled: of the first seed; None where there are no labels."""

    data: Data
    labelled: Labelled | None
    unlabelled: Source

    @property
    def fingerprint(self) -> str:
        """Of all images."""
        judging = self.unlabelled.fingerprint if self.labelled is None else self.labelled.fingerprint
        return hashlib.sha256(f"{self.data.train.fingerprint} {judging}".encode()).hexdigest()


def open_all(settings: AskedData, means: Means, needs_labels: str = "") -> Opened:
    """DATA, and what judges. needs_labels: what cannot do without them, as a sentence begins; "" where others judge
    then. Raises UserError."""
    selection = settings.selection if settings.labels is None else replace(settings.selection, label_column=None)
    data = open_data(settings.data, selection, settings.reading)
    if len(data.train) < LEAST_IMAGES:
        raise UserError(
            f"{settings.data} has {several(len(data.train), 'image')}", f"give {LEAST_IMAGES} or more to learn from"
        )
    labelled = None
    try:
        labelled = open_labelled(settings.labels or settings.data, means, settings.seed, means.console)
    except UserError as error:
        if needs_labels:
            raise UserError(f"{needs_labels}, and there are no labels ({error.what})", "give --labels") from error
        if settings.labels is not None or settings.task is not None:
            raise
        no_labels(error, means.console)
    return Opened(data, labelled, unlabelled(data, settings.seed))


def what_decides(settings: AskedData, opened: Opened, own: dict[str, Any]) -> dict[str, Any]:
    """What decides the figures: a study goes on only with the same. own: of one command alone. More seeds may come."""
    names = "minutes epochs pool task seed precision".split()
    return {
        "data": whole_address(settings.data),
        "labels": None if settings.labels is None else whole_address(settings.labels),
        "images": opened.fingerprint[:16],
        "answers": None if opened.labelled is None else opened.labelled.answers[:16],
        **own,
        "set": sorted(settings.set),
        **{name: getattr(settings, name) for name in names},
        "selection": settings.selection.to_dict(),
        "reading": settings.reading.to_dict(),
    }
