"""A linear classifier on frozen features: logistic regression, its strength chosen on a part of the training set.

    openmae probe runs/first labelled/

On ImageNet-1K with the paper's own LARS recipe (Table 9) linear probes of MAE give 68.0 / 75.8 / 76.6% (B/L/H).
"""

from dataclasses import dataclass

from openmae.recipes.proof import Proof, prove


@dataclass(frozen=True)
class Probe(Proof):
    """Train a linear classifier on frozen features."""


def run(settings: Probe) -> None:
    """Prints the table; keeps it in the run folder."""
    prove(settings, ["linear"])
