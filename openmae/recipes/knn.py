"""Weighted nearest neighbours on frozen features (k = 20, temperature 0.07).

    openmae knn runs/first labelled/

No training and hardly a setting, so a quick and honest figure; published MAE encoders are poor at it (their
features are not spread for cosine similarity), so compare it with the untrained row rather than with other methods.
"""

from dataclasses import dataclass

from openmae.errors import UserError
from openmae.recipes.proof import Proof, prove


@dataclass(frozen=True)
class Knn(Proof):
    """Classify images by their nearest neighbours among frozen features; nothing is trained."""

    k: int = 20
    """Neighbours that vote."""


def run(settings: Knn) -> None:
    """Prints the table; keeps it in the run folder."""
    if settings.k < 1:
        raise UserError(f"--k is {settings.k}: give 1 or more")
    prove(settings, ["knn"], settings.k)
