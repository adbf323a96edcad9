"""Everything that a comparison is to do, settled before the first part, and about how long that takes here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from openmae.console.words import duration
from openmae.files.address import whole_address
from openmae.model import Architecture
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.settings import given
from openmae.studies.base import Base
from openmae.studies.compare.corrupted import Corruptions
from openmae.studies.compare.finetuned import Tuning
from openmae.studies.compare.named import MAE, RANDOM, SUPERVISED
from openmae.studies.compare.rates import aside_of, epochs_of, held_out
from openmae.studies.compare.settings import Compare
from openmae.studies.compare.trainings import Aside, in_common, operations
from openmae.studies.figures import Figure, figures_of, finetuned_figure
from openmae.studies.judging import Labelled, Means
from openmae.studies.opened import Opened
from openmae.studies.tuning import forward
from openmae.train.cost import mean_work

_LEAST_BATCH = 32


@dataclass(frozen=True)
class Beside:
    """A released model: the file or name that was given, what its files here are called, its licence, and its forward
    pass over an image, in operations."""

    model: Path
    folder: str
    licence: str
    operations: float


@dataclass(frozen=True)
class Plan:
    """Everything that is to be done. methods: in the order of the table; asked: what all are trained with; rate:
    operations a second, None where that is not known; tunings: the fine-tunings of each model and seed."""

    settings: Compare
    opened: Opened
    means: Means
    base: Base
    methods: Sequence[str]
    beside: Sequence[Beside]
    asked: Pretrain
    architecture: Architecture
    rate: float | None
    tunings: Sequence[Tuning]
    corruptions: Corruptions | None

    @property
    def seeds(self) -> range:
        """All of them."""
        return range(self.settings.seed, self.settings.seed + self.settings.seeds)

    @property
    def trainings(self) -> list[str]:
        """The methods that train."""
        return [name for name in self.methods if name != RANDOM]

    @property
    def usual(self) -> str:
        """The row that all are compared with."""
        return MAE if MAE in self.methods else self.methods[0]

    @cached_property
    def figures(self) -> list[Figure]:
        """That judge."""
        if (labelled := self.opened.labelled) is None:
            return figures_of(None, None)
        found = figures_of(labelled.task, None)
        found += [finetuned_figure(labelled.task, one.labels) for one in self.tunings]
        return found + ([self.corruptions.figure] if self.corruptions else [])

    @property
    def how_long(self) -> str:
        """Of each training."""
        if self.settings.minutes is None:
            return f"{self.settings.epochs:g} times through all of them"
        return f"for {duration(self.settings.minutes * 60)}, whatever a method makes of them"

    # ---------------------------------------------------------------- rates

    @property
    def tries(self) -> tuple[float, ...]:
        """The rates that are tried; none where there is no choice."""
        return self.settings.times if len(self.settings.times) > 1 else ()

    @cached_property
    def chooser(self) -> Labelled | None:
        """Whose training labels choose the rates; None for each method's own loss."""
        return self.opened.labelled if held_out(self.opened.labelled, self.settings.seed) else None

    def trial(self, method: str) -> Pretrain:
        """What a trial of the method is trained with, but for its folder and rate: what pretrain would choose for a
        part of the training."""
        epochs, images = self.settings.epochs, self.base.images
        whole = epochs
        if whole is None:
            seconds = given(self.settings.minutes) * 60
            whole = 0.0 if self.rate is None else seconds * self.rate / self.operations(method) / images
        batch = self.base.asked.batch_size or _LEAST_BATCH
        return in_common(self.base, None, epochs_of(whole, epochs, len(self.tries), images, batch))

    def aside(self, method: str) -> Aside | None:
        """What a trial of the method does not see."""
        is_data = self.settings.labels is None or whole_address(self.settings.labels) == whole_address(
            self.settings.data
        )
        return aside_of(self.chooser, self.settings.seed, learns_labels=method == SUPERVISED and is_data)

    # ---------------------------------------------------------------- how long it takes here

    def operations(self, method: str) -> float:
        """Of an image's training."""
        return mean_work(self.architecture, False) if method == MAE else operations(method, self.architecture)

    def seconds_of(self, method: str, trial: Pretrain | None = None) -> float | None:
        """Of the steps of a training, or of a trial; None where nothing tells."""
        if method == RANDOM:
            return 0.0
        asked = trial or self.asked
        if asked.minutes is not None:
            return asked.minutes * 60
        if self.rate is None:
            return None
        return given(asked.epochs) * self.base.images * self.operations(method) / self.rate

    def seconds_of_tuning(self, tuning: Tuning, beside: Beside | None) -> float | None:
        """Of a fine-tuning; beside: of a model that was not trained here, whose size is its own."""
        if tuning.seconds is None or beside is None:
            return tuning.seconds
        return tuning.seconds * beside.operations / forward(self.architecture)

    @property
    def _corrupted(self) -> int:
        """Models that are judged on corrupted images: of one that stands beside, as it is or fine-tuned by each
        seed."""
        beside = len(self.seeds) if self.tunings else 1
        return len(self.methods) * len(self.seeds) + len(self.beside) * beside

    @property
    def in_all(self) -> dict[str, float | None]:
        """Seconds of what there is to do, by what it is."""
        trials = [self.seconds_of(name, self.trial(name)) for name in self.trainings for _ in self.tries]
        trainings = [self.seconds_of(name) for name in self.trainings for _ in self.seeds]
        models = [None] * len(self.methods) + [*self.beside]
        tunings = [self.seconds_of_tuning(one, model) for one in self.tunings for model in models for _ in self.seeds]
        corrupting = [self.corruptions.seconds] * self._corrupted if self.corruptions is not None else []
        found = {
            "trials of rates": trials,
            "trainings": trainings,
            "fine-tunings": tunings,
            "corrupted images": corrupting,
        }
        return {
            name: None if None in some else sum(one for one in some if one is not None)
            for name, some in found.items()
            if some
        }
