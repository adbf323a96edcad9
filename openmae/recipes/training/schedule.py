"""How a training goes: how long it lasts, in what pieces, at what rate; the same for every job."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from rich.console import Console

from openmae.console.words import several
from openmae.errors import UserError
from openmae.recipes.training.settings import Settings, given
from openmae.train.loop import Schedule
from openmae.train.optimizers import RateCourse, WarmupCosine

FEW_STEPS = 100  # of less, little can be learnt


@dataclass(frozen=True)
class Course:
    """What every training is told, none of it open.

    data: DATA as it was given. max_broken: share of the files, 0 to 1, that may be broken. earlier: steps after which
    the run was complete before it was made longer. shuffle_block: as an `Order` has it.
    """

    data: str
    seed: int
    schedule: Schedule
    shard: bool
    max_broken: float
    earlier: tuple[int, ...] = ()
    shuffle_block: int | None = None

    @property
    def first_steps(self) -> int:
        """Of the run before it was made longer."""
        return (*self.earlier, self.schedule.steps)[0]

    def after(self, ends: Sequence[tuple[int, float]], epochs: float, warmup_epochs: float) -> "Course":
        """The same course where the run was complete after so many (steps, epochs) before: each part has a warm-up and
        a decay of its own. epochs: of all parts together."""
        if not ends:
            return self
        whole, parts, begin, since = self.schedule.lr, list[RateCourse](), 0, 0.0
        assert isinstance(whole, RateCourse)
        for end, until in (*ends, (self.schedule.steps, epochs)):
            warmup = min((end - begin) * warmup_epochs / (until - since), (end - begin) / 2)
            parts.append(replace(whole, steps=end - begin, warmup_steps=warmup))
            begin, since = end, until
        earlier = tuple(steps for steps, _ in ends)
        lr = InParts(tuple(parts), (*earlier, self.schedule.steps))
        return replace(self, schedule=replace(self.schedule, lr=lr), earlier=earlier)


@dataclass(frozen=True)
class InParts:
    """One schedule after the other, each of which ends at its step."""

    parts: tuple[RateCourse, ...]
    ends: tuple[int, ...]

    def __call__(self, step: int) -> float:
        """Of step 0..ends[-1] - 1."""
        part = min(bisect_right(self.ends, step), len(self.parts) - 1)
        return self.parts[part](step - (self.ends[part - 1] if part else 0))


def course_of(
    settings: Settings, images: int, console: Console, least_micro_batch: int = 1, min_lr: float = 0.0
) -> Course:
    """Of settings that are chosen by now: warm-up and cosine decay over the steps; a line of the log every half percent
    of them, or every 50.

    images: that are learnt from. least_micro_batch: how small micro-batches may become where memory runs out. min_lr:
    the rate at the end.
    Says so where the steps are few. Raises UserError where all epochs together do not fill a batch.
    """
    epochs, batch_size = given(settings.epochs), given(settings.batch_size)
    more = "--epochs" if settings.minutes is None else "--minutes"
    steps = steps_of(epochs, images, batch_size, more, console)
    warmup_steps = steps * (settings.warmup_epochs or 0.0) / epochs if epochs else 0.0
    lr = given(settings.blr) * batch_size / 256
    schedule = Schedule(
        steps,
        batch_size,
        given(settings.micro_batch),
        WarmupCosine(steps, warmup_steps, lr, min_lr),
        inf if settings.clip_grad is None else settings.clip_grad,
        settings.checkpoint_minutes * 60,
        log_every=max(1, min(50, steps // 200)),
        least_micro_batch=least_micro_batch,
        keep=settings.keep,
        precision="bf16" if settings.precision == "bf16" else "fp32",
        profile=settings.profile,
    )
    return Course(given(settings.data), settings.seed, schedule, settings.shard, settings.max_broken)


def steps_of(epochs: float, images: int, batch_size: int, more: str, console: Console) -> int:
    """Optimizer steps; says so where they are few. more: the flag that gives more of them. Raises UserError where all
    epochs together do not fill a batch."""
    if epochs == 0:
        return 0
    views = epochs * images
    steps = round(views / batch_size)
    times = f"{epochs:g} time{'s' * (epochs != 1)}"
    shown = f"{views:,.0f} view{'s' * (round(views) != 1)}" if views >= 1 else "less than a view"
    said = f"{several(images, 'image')} seen {times} are {shown}"
    if steps == 0:
        raise UserError(f"{said}, and --batch-size {batch_size:,} takes more in one step", f"lower it, or raise {more}")
    if steps < FEW_STEPS:
        console.print(
            f"warning: {said}, {steps} step{'s' * (steps > 1)} in batches of {batch_size:,}, which is hardly enough to "
            f"learn anything: lower --batch-size, or raise {more}",
            style="yellow",
            soft_wrap=True,
        )
    return steps


def evenly(steps: int, count: int) -> set[int]:
    """`count` steps, or all, evenly from early on to the last."""
    return {max(1, round(steps * i / count)) for i in range(1, count + 1)}
