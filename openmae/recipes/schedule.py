"""How long a training lasts and how its rate goes, the same for every job."""

from openmae.recipes.choices import Settings
from openmae.train.loop import Plan
from openmae.train.optimizers import warmup_cosine


def steps_of(settings: Settings, images: int) -> int:
    """Optimizer steps of settings that are chosen by now."""
    assert settings.epochs is not None
    assert settings.batch_size is not None
    return max(1, round(settings.epochs * images / settings.batch_size))


def plan_of(settings: Settings, steps: int) -> Plan:
    """Warm-up and cosine decay over the steps; a line of the log every half percent of them, or every 50."""
    assert settings.epochs is not None
    assert settings.batch_size is not None
    assert settings.blr is not None
    warmup_steps = steps * (settings.warmup_epochs or 0.0) / settings.epochs
    lr = settings.blr * settings.batch_size / 256
    return Plan(
        steps,
        settings.batch_size,
        lambda step: warmup_cosine(step, steps, warmup_steps, lr),
        settings.clip_grad,
        settings.checkpoint_minutes * 60,
        log_every=max(1, min(50, steps // 200)),
    )


def evenly(steps: int, count: int) -> set[int]:
    """`count` steps, or all, evenly from early on to the last."""
    return {max(1, round(steps * i / count)) for i in range(1, count + 1)}
