"""How fast a training is on this machine: a few of its real steps, with its real images, before it begins."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic

from openmae.train.deaths import Deaths
from openmae.train.learner import B, M
from openmae.train.loop import Steps, Training

_NOT_COUNTED = 2  # steps: they wait for processes, memory, a compiler
_WHOLE_SHARE = 0.1  # of the time of a trial, in which a step has to fit to be tried whole
_LOOKS = 10  # at the clock: each is an exchange where several train


@dataclass(frozen=True)
class Pace:
    """What a trial found. images: that all processes together have trained on, in so many seconds of the slowest;
    waited: of these, for images."""

    images: int
    seconds: float
    waited: float

    @property
    def images_per_second(self) -> float:
        """Of all processes together."""
        return self.images / self.seconds

    def __add__(self, other: "Pace") -> "Pace":
        """One after the other."""
        return Pace(self.images + other.images, self.seconds + other.seconds, self.waited + other.waited)


def measure(training: Training[M, B], seconds: float, is_enough: Callable[[Pace], bool]) -> Pace:
    """Trains for about so many seconds, or until it is enough, and says how fast; all ranks together. The model is of
    no use afterwards.

    Steps are the real ones where some of them fit into the time, else of a micro-batch each. They begin in the middle
    of the run, whose mask ratio is near the mean where it changes. Raises as `fit` does.
    """
    schedule, ranks = training.schedule, training.learner.ranks
    training.learner.model.train()
    small, trial = schedule.micro_batch * ranks.size, None
    if small < schedule.batch_size:
        trial = _Trial(replace(training, schedule=replace(schedule, batch_size=small)))
        each = schedule.batch_size / trial.take(1).images_per_second
        trial = trial if each > seconds * _WHOLE_SHARE else None
    trial = trial or _Trial(training)
    found = trial.take(1)
    while found.seconds < seconds and not is_enough(found):
        found += trial.take(max(1, round(seconds / _LOOKS / trial.seconds_a_step)))
    return found


class _Trial(Generic[M, B]):
    """Takes steps, each of which leaves the weights as they are: the rate is 0."""

    def __init__(self, training: Training[M, B]) -> None:
        self.ranks, self.seconds_a_step = training.learner.ranks, 0.0
        deaths = Deaths(training.run.path, self.ranks)
        self.steps = Steps(replace(training, rest=None, batches_from=_again_and_again(training)), deaths)
        self.steps.survive(0)
        self.number = training.schedule.steps // 2
        with deaths.under_way("step", 0):  # as the run's first one
            self.take(1)
        self.take(_NOT_COUNTED - 1)

    def take(self, count: int) -> Pace:
        """So many more; the same for all ranks."""
        began, images, waited = time.perf_counter(), 0, 0.0
        for _ in range(count):
            self.ranks.at(f"trial step {self.number + 1}")
            taken = self.steps.take(self.number)
            self.number += 1
            images, waited = images + len(taken.indices), waited + taken.waited
            _ = taken.loss  # waits for a GPU
        told = self.ranks.gather((images, time.perf_counter() - began, waited))
        found = Pace(sum(one[0] for one in told), max(one[1] for one in told), max(one[2] for one in told))
        self.seconds_a_step = found.seconds / count
        return found


def _again_and_again(training: Training[M, B]) -> Callable[[int, int], Iterator[B]]:
    """The training's batches, from the first ones on where they end."""

    def batches_from(step: int, micro_batch: int) -> Iterator[B]:
        while True:
            yield from training.batches_from(step, micro_batch)
            step = 0

    return batches_from
