"""A training that leaves nothing but its weights in memory: to see what comes of settings before a run takes them."""

from collections.abc import Callable
from contextlib import nullcontext

from openmae.train.deaths import Deaths
from openmae.train.learner import B, M
from openmae.train.loop import Steps, Training, set_rate


def fit_aside(training: Training[M, B], hear: Callable[[], None] = lambda: None) -> None:
    """Trains to the schedule's last step as `fit` does, all ranks together, without checkpoints, log and looks.
    hear: called after each step.

    A step that is not finite does not touch the weights. Raises as `fit` does, but for Interrupted.
    """
    schedule, learner = training.schedule, training.learner
    deaths = Deaths(training.run.path, learner.ranks)
    steps = Steps(training, deaths)
    steps.survive(0)
    learner.model.train()
    for number in range(schedule.steps):
        learner.ranks.at(f"step {number + 1} aside")
        set_rate(training.optimizer, schedule.lr(number))
        with deaths.under_way("step", 0) if number == 0 else nullcontext():
            steps.take(number)
        hear()
