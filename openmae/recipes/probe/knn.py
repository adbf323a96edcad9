"""Weighted nearest neighbours on frozen features (k = 20, temperature 0.07).

    openmae knn runs/first labelled/
    openmae knn runs/first labelled/ --layer all --pool mean,class      which layer is best
    openmae knn runs/first labelled/ --out runs/knn                     and keeps the classifier: an ordinary run

No training and hardly a setting, so a quick and honest figure; published MAE encoders are poor at it (their
features are not spread for cosine similarity), so compare it with the untrained row rather than with other methods.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from openmae.errors import UserError, said_once
from openmae.evaluate.evaluation import Evaluation
from openmae.evaluate.knn import TEMPERATURE, K
from openmae.recipes.probe.job import prove
from openmae.recipes.probe.settings import Proof


@dataclass(frozen=True)
class Knn(Proof):
    """Classify images by their nearest neighbours among frozen features; nothing is trained."""

    k: int = K
    """Neighbours that vote."""
    temperature: float = TEMPERATURE
    """A neighbour's vote is exp(cosine similarity / temperature): lower ones listen more to the nearest."""
    out: Annotated[Path | None, arg(metavar="RUN")] = None
    """Keep the classifier, encoder and the features of the labelled images, in a run folder that evaluate, predict and
    export take."""


def run(settings: Knn) -> None:
    """Prints the table; keeps it in the run folder."""
    knn(settings)


def knn(settings: Knn) -> list[Evaluation]:
    """Does so, and gives the figures."""
    _check(settings)
    return prove(settings, ["knn"], settings.k, settings.temperature, settings.out)


@said_once()
def _check(settings: Knn) -> None:
    """Raises UserError for numbers that mean nothing."""
    if settings.k < 1:
        raise UserError(f"--k is {settings.k}", "give 1 or more")
    if not (settings.temperature > 0 and math.isfinite(settings.temperature)):
        raise UserError(f"--temperature is {settings.temperature:g}", f"give a number above 0, such as {TEMPERATURE}")
