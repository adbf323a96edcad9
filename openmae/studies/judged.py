"""What the parts of a study that judge have found: of each model and seed, and of two models on the same images."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openmae.studies.figures import CORRUPTED, FINETUNED, RANKME, RANKME_WITHOUT, Figure
from openmae.studies.intervals import Interval, between, between_parts
from openmae.studies.outcomes import Outcome, read_outcomes
from openmae.studies.study import Study

FOLDER = "judged"


@dataclass(frozen=True)
class Judged:
    """The models of a study, by the names of what trained them. Each file is read once.

    seeds: those that are done. untrained: models that no seed trained, so that all share what was found of one, but
    where it is fine-tuned. Methods raise UserError where a file is damaged or gone.
    """

    study: Study
    seeds: Sequence[int]
    untrained: Collection[str] = ()
    _read: dict[Path, dict[str, Outcome]] = field(default_factory=dict, repr=False)

    def file(self, model: str, seed: int, figure: str = "") -> Path:
        """Where what was said of each image is kept; the part that judged is called as it."""
        name = model if model in self.untrained and not figure.startswith(FINETUNED) else f"{model}-seed-{seed}"
        has_own = figure.startswith((FINETUNED, CORRUPTED))
        return self.study.path / FOLDER / f"{f'{figure}-' * has_own}{name}.npz"

    def by_seed(self, model: str, figure: Figure) -> list[float]:
        """The figures, one a seed, or one for all; without those of images that do not tell."""
        seeds = self.seeds if model not in self.untrained or figure.name.startswith(FINETUNED) else self.seeds[:1]
        if figure.name == RANKME.name:
            return [self._figures(model, seed)[RANKME.name] for seed in seeds]
        found = [self._outcome(model, seed, figure).figure() for seed in seeds]
        return [one for one in found if math.isfinite(one)]

    def apart(self, better: str, other: str, figure: Figure, level: float, seed: int) -> Interval:
        """How much better one model is than the other, over the seeds. seed: draws the images anew, the same for all
        that are compared with it."""
        if figure.name == RANKME.name:
            parts = [[self._figures(model, one) for model in (better, other)] for one in self.seeds]
            whole = [(one[RANKME.name], two[RANKME.name]) for one, two in parts]
            without = [(np.array(one[RANKME_WITHOUT]), np.array(two[RANKME_WITHOUT])) for one, two in parts]
            return between_parts(whole, without, level)
        pairs = [(self._outcome(better, one, figure), self._outcome(other, one, figure)) for one in self.seeds]
        return between(pairs, level, seed)

    def _figures(self, model: str, seed: int) -> dict[str, Any]:
        """Of the part that judged it."""
        return self.study.parts[f"{FOLDER}/{self.file(model, seed).stem}"]["figures"]

    def _outcome(self, model: str, seed: int, figure: Figure) -> Outcome:
        file = self.file(model, seed, figure.name)
        if file not in self._read:
            self._read[file] = read_outcomes(file)
        return self._read[file][figure.name]
