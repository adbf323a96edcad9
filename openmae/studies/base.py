"""What all trainings of a study have in common: DATA as it was looked at, and what pretrain would choose for it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rich.console import Console

from openmae.data.opening import Data
from openmae.data.survey.sample import Survey, survey
from openmae.errors import of_user
from openmae.machine.device import memory_of
from openmae.recipes.asked import asked_of_data
from openmae.recipes.plan.speed import dry_run
from openmae.recipes.pretrain.build import Pretraining, build
from openmae.recipes.pretrain.choose import choose, one_channel, settle
from openmae.recipes.pretrain.job import held_out
from openmae.recipes.pretrain.settings import Pretrain
from openmae.studies.judging import Asked, Means
from openmae.train.cost import flops

MEASURED_SECONDS = 10.0  # of the steps that tell the speed
_QUIET = Console(quiet=True)


class AskedData(Asked, Protocol):
    """What a study of trainings is asked of what they learn from, and of what judges."""

    # ruff: noqa: D102
    @property
    def data(self) -> str: ...
    @property
    def labels(self) -> str | None: ...
    @property
    def label_column(self) -> str | None: ...
    @property
    def set(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Base:
    """What all trainings have in common. asked: as it was asked, with what is open; images: that are learnt from."""

    asked: Pretrain
    look: Survey
    data: Data
    images: int
    means: Means

    def chosen(self, asked: Pretrain, images: int) -> Pretrain:
        """The settings with what is open chosen. Raises UserError for what cannot be."""
        try:
            return choose(asked, self.look, images, self.means.device, memory_of(self.means.device), _QUIET)
        except ValueError as error:
            raise of_user(error) from error

    def usual(self, epochs: float | None) -> Pretrain:
        """What all rows begin from."""
        return self.chosen(replace(self.asked, epochs=epochs), self.images)

    def measured(self) -> dict[str, Any]:
        """How fast the usual training is here, in operations a second, by steps of random images as `plan` takes
        them."""
        planned = self.planned(self.asked, self.images)
        schedule = planned.course.schedule
        model, _ = build(planned)
        speed = dry_run(
            model,
            self.means.device,
            schedule.precision,
            schedule.batch_size,
            schedule.micro_batch,
            flops(model.architecture).work(planned.grad_checkpointing),
            time.perf_counter() + MEASURED_SECONDS,
            _QUIET,
        )
        return {"rate": speed.rate, "said": speed.said}

    def planned(self, asked: Pretrain, images: int) -> Pretraining:
        """What follows. Raises UserError for what cannot be built or trained."""
        try:
            return settle(self.chosen(asked, images), images, _QUIET)
        except ValueError as error:
            raise of_user(error) from error


def base_of(settings: AskedData, common: Mapping[str, Any], data: Data, means: Means) -> Base:
    """DATA is looked at. Raises UserError."""
    own = {**asked_of_data(settings), "label_column": None if settings.labels else settings.label_column}
    asked = Pretrain(
        data=settings.data,
        pictures=1,
        evaluations=0,
        keep=1,
        precision=settings.precision,
        device=settings.device,
        workers=settings.workers,
        **own,
        **common,
    )
    source = data.train
    look = survey(
        source, settings.seed, asked.in_chans, asked.bands, means.workers, depth=asked.pixel_type, reading=asked.reading
    )
    images = len(source) if data.has_splits else len(source) - held_out(len(source))
    return Base(asked, one_channel(asked, look), data, images, means)
