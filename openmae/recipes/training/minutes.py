"""How long a training may take: what of it fits into the time, and whether it then keeps to it.

The number of steps is settled once, before the first one, from the speed that a trial found; it stands in config.toml
with the epochs, so that the run is the same however often it is stopped. It is not planned anew when the machine turns
out slower or faster: that is said, and the schedule stays.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from openmae.console.words import duration, several
from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.files.whole import write_file
from openmae.recipes.training.settings import shown
from openmae.train.pace import Pace

FILE = "pace.json"
"""Of the run folder: the time that it was planned for, and the speed that was measured."""
_RESERVE = 0.02  # of the time: checkpoints, pictures, the report
_CLEARLY = 1.25  # times slower or faster than measured, from which on it is said,
_TOLD_FROM = 10  # and steps that were taken by then
_TRIAL_SHARE = 0.02
_TRIAL = (2.0, 40.0)  # seconds at least and at most
_AMPLE_SECONDS, _AMPLE = 0.5, 3.0  # of a trial that ends early: what it took, and how many times all epochs would fit
_MUCH = 0.2  # of the time


@dataclass(frozen=True)
class Plan:
    """minutes: of the whole command. seconds: those of its steps and of what is looked at between them. epochs, steps:
    that it has."""

    minutes: float
    seconds: float
    epochs: float
    steps: int


@dataclass(frozen=True)
class Budget:
    """What a training may take.

    minutes: of the whole command. is_bound: nobody asked for them, so that fewer will do. wished: epochs that are
    chosen where time is no matter. images: that are learnt from. beside: of images trained on, what is looked at
    meanwhile, in images that could be trained on in the same time; it grows with them.
    """

    minutes: float
    is_bound: bool
    wished: float
    images: int
    beside: Callable[[float], float]

    def seconds(self, views: float, pace: Pace) -> float:
        """What so many images take, with all that comes beside."""
        return (views + self.beside(views)) / pace.images_per_second / (1 - _RESERVE)

    def is_ample(self, pace: Pace) -> bool:
        """Whether what is wished fits, even if the pace is not exact yet."""
        would = self.seconds(self.wished * self.images, pace)
        return self.is_bound and pace.seconds >= _AMPLE_SECONDS and would < self.minutes * 60 / _AMPLE

    def planned(self, batch_size: int, pace: Pace, used: float) -> tuple[Plan, str]:
        """The plan, and what is said of it. used: seconds of the minutes that are over when the steps begin. Raises
        UserError where not even a step fits."""
        wished = round(self.wished * self.images / batch_size)
        steps = self._most(self.minutes * 60 - used, pace, batch_size)
        if steps == 0 and not self.is_bound:
            one = self.seconds(batch_size, pace)
            least = math.ceil((used + one) / 6) / 10
            raise UserError(
                f"--minutes {shown(self.minutes)} are over before the first step: opening the images and measuring "
                f"took {duration(used)}, and a step of {several(batch_size, 'image')} with what is looked at after it "
                f"{max(1.0, one):.0f} s",
                f"give {least:g} at the least, and for a training that learns something many times that",
            )
        fits = wished <= steps
        epochs = self.wished if fits and self.is_bound else epochs_of(max(1, steps), batch_size, self.images)
        steps = round(epochs * self.images / batch_size)
        seconds = self.seconds(steps * batch_size, pace)
        rate = f"{pace.images_per_second:,.3g}" if pace.images_per_second < 100 else f"{pace.images_per_second:,.0f}"
        waited = pace.waited / pace.seconds
        said = f"{rate} images/s{f', {waited:.0%} of the time spent waiting for them' if waited > _MUCH else ''}: "
        length = f"{shown(epochs)} epochs of {several(self.images, 'image')}, {several(steps, 'step')}"
        if fits and self.is_bound:
            return Plan(self.minutes, seconds, epochs, steps), f"{said}{length}, take about {duration(seconds)}"
        said += f"{duration(self.minutes * 60)} are enough for {length}"
        if not fits:
            whole = self.seconds(wished * batch_size, pace)
            said += f"; {shown(self.wished)} epochs would take {duration(whole)}: --epochs {shown(self.wished)}"
        return Plan(self.minutes, seconds, epochs, steps), said

    def _most(self, seconds: float, pace: Pace, batch_size: int) -> int:
        """Steps, 0 or more, that fit into so many seconds."""
        low, high = 0, int(max(0.0, seconds) * pace.images_per_second / batch_size)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.seconds(middle * batch_size, pace) <= seconds
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def trial_seconds(minutes: float) -> float:
    """How long a trial may take."""
    least, most = _TRIAL
    return min(most, max(least, _TRIAL_SHARE * minutes * 60))


def epochs_of(steps: int, batch_size: int, images: int) -> float:
    """Epochs that make no more than so many steps, in four digits, and one step at least."""
    epochs = steps * batch_size / images
    unit = 10.0 ** (math.floor(math.log10(epochs)) - 3)
    short = float(f"{math.floor(epochs / unit) * unit:.4g}")
    return short if round(short * images / batch_size) else epochs


def refuse_both(minutes: float | None, epochs: float | None) -> None:
    """Raises UserError where both say how long a run is that begins."""
    if minutes is not None and epochs is not None:
        raise UserError(
            f"--minutes {shown(minutes)} and --epochs {shown(epochs)} both say how long, on the command line or in the "
            "--config file",
            "give one of them",
        )


def check_same(minutes: float | None, run: Path) -> None:
    """Raises UserError where a run that goes on was not planned for so many minutes."""
    if minutes is None:
        return
    plan = kept_plan(run)
    if plan is None or plan.minutes != minutes:
        was = "by --epochs" if plan is None else f"for {shown(plan.minutes)} minutes"
        raise UserError(
            f"{run} holds a run that was planned {was}, and --minutes is {shown(minutes)}",
            "leave --minutes out to go on with it, or choose another --out",
        )


def keep_plan(run: Path, plan: Plan | None) -> None:
    """Notes it in the run folder; nothing where the time does not decide. Raises OSError."""
    if plan is None:
        (run / FILE).unlink(missing_ok=True)
    else:
        write_file(run / FILE, json.dumps(asdict(plan), indent=1).encode())


def kept_plan(run: Path) -> Plan | None:
    """What the run folder says; None where it says nothing, or is damaged."""
    try:
        values = read_json((run / FILE).read_bytes())
        plan = Plan(**{name: values[name] for name in ("minutes", "seconds", "epochs", "steps")})
        return plan if min(plan.minutes, plan.seconds, plan.steps) > 0 else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


class Punctual:
    """Says so where a run is clearly slower or faster than it was planned for, once, and again when that changes."""

    def __init__(self, plan: Plan | None, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan, self.console, self.clock = plan, console, clock
        self.began: tuple[int, float] | None = None
        self.said = 1.0

    def begin(self, step: int) -> None:
        """The steps from this one on begin now; of several calls the first counts."""
        self.began = self.began or (step, self.clock())

    def tell(self, step: int) -> None:
        """After this step."""
        if self.plan is None or self.began is None or step < self.began[0] + _TOLD_FROM:
            return
        seconds = (self.clock() - self.began[1]) * self.plan.steps / (step - self.began[0])
        times = seconds / self.plan.seconds
        if 1 / _CLEARLY < times / self.said < _CLEARLY or step >= self.plan.steps:
            return
        self.said = times
        how = "slower" if times > 1 else "faster"
        self.console.print(
            f"The machine is {how} than when it was measured: all {self.plan.steps:,} steps take about "
            f"{duration(seconds)} rather than {duration(self.plan.seconds)}, for the schedule stays as it was planned",
            style="yellow" if times > 1 else None,
            soft_wrap=True,
        )
