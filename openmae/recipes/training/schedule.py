"""How long a training lasts and how its rate goes, the same for every job."""

from rich.console import Console

from openmae.console.words import several
from openmae.errors import UserError
from openmae.recipes.training.settings import Settings
from openmae.train.loop import Plan
from openmae.train.optimizers import warmup_cosine

FEW_STEPS = 100  # of less, little can be learnt


def steps_of(settings: Settings, images: int, console: Console) -> int:
    """Optimizer steps of settings that are chosen by now; says so where they are few.

    Raises UserError where all epochs together do not fill a batch.
    """
    assert settings.epochs is not None
    assert settings.batch_size is not None
    views = settings.epochs * images
    steps = round(views / settings.batch_size)
    times = f"{settings.epochs:g} time{'s' * (settings.epochs != 1)}"
    shown = f"{views:,.0f} view{'s' * (round(views) != 1)}" if views >= 1 else "less than a view"
    said = f"{several(images, 'image')} seen {times} are {shown}"
    if steps == 0:
        raise UserError(
            f"{said}, and --batch-size {settings.batch_size:,} takes more in one step", "lower it, or raise --epochs"
        )
    if steps < FEW_STEPS:
        console.print(
            f"warning: {said}, {steps} step{'s' * (steps > 1)} in batches of {settings.batch_size:,}, which is hardly "
            "enough to learn anything: lower --batch-size, or raise --epochs",
            style="yellow",
            soft_wrap=True,
        )
    return steps


def plan_of(settings: Settings, steps: int, least_micro_batch: int = 1) -> Plan:
    """Warm-up and cosine decay over the steps; a line of the log every half percent of them, or every 50.

    least_micro_batch: how small micro-batches may become where memory runs out.
    """
    assert settings.epochs is not None
    assert settings.batch_size is not None
    assert settings.blr is not None
    assert settings.micro_batch is not None
    warmup_steps = steps * (settings.warmup_epochs or 0.0) / settings.epochs
    lr = settings.blr * settings.batch_size / 256
    return Plan(
        steps,
        settings.batch_size,
        settings.micro_batch,
        lambda step: warmup_cosine(step, steps, warmup_steps, lr),
        settings.clip_grad,
        settings.checkpoint_minutes * 60,
        log_every=max(1, min(50, steps // 200)),
        least_micro_batch=least_micro_batch,
        keep=settings.keep,
    )


def evenly(steps: int, count: int) -> set[int]:
    """`count` steps, or all, evenly from early on to the last."""
    return {max(1, round(steps * i / count)) for i in range(1, count + 1)}
