"""What follows, for segment and detect alike, from settings that are chosen."""

from dataclasses import replace

from rich.console import Console

from openmae.data.views.crop import Augmentation
from openmae.data.views.jitter import Jitter
from openmae.errors import of_user
from openmae.recipes.outline.job import Outlining, Trunk
from openmae.recipes.outline.settings import Decay, Outline
from openmae.recipes.training.open import kept_whole
from openmae.recipes.training.schedule import Course, course_of
from openmae.recipes.training.settings import given, pair
from openmae.train.optimizers import RateCourse, WarmupCosine, WarmupLinear, WarmupSteps


def settled(settings: Outline, images: int, console: Console) -> Outlining:
    """What follows from settings that are chosen, for so many images. Raises UserError for what cannot be trained."""
    try:
        turns = Augmentation(hflip=settings.hflip, vflip=settings.vflip == "on", rotate90=settings.rotate90 == "on")
        return Outlining(
            config=kept_whole(settings),
            course=falling(course_of(settings, images, console, 1, settings.min_lr or 0.0), settings.decay),
            model=given(settings.model),
            trunk=Trunk(
                pair(settings.img_size),
                settings.drop_path or 0.0,
                settings.blocks,
                settings.from_scratch,
                settings.grad_checkpointing == "on",
            ),
            weight_decay=settings.weight_decay or 0.0,
            layer_decay=settings.layer_decay or 1.0,
            ema_decay=settings.ema_decay or 0.0,
            jitter=Jitter(given(settings.scale), settings.resize == "fit", turns, settings.colour_jitter or 0.0),
            evaluations=settings.evaluations,
            keep_best=settings.keep_best == "on",
            patience=settings.patience,
        )
    except ValueError as error:
        raise of_user(error) from error


def falling(course: Course, decay: Decay | None) -> Course:
    """The course with a rate that falls otherwise than as half a cosine, where that is asked for."""
    cosine = course.schedule.lr
    assert isinstance(cosine, WarmupCosine)
    begun = (cosine.steps, cosine.warmup_steps, cosine.lr)
    others: dict[Decay | None, RateCourse] = {
        "linear": WarmupLinear(*begun, cosine.min_lr),
        "steps": WarmupSteps(*begun),
    }
    return replace(course, schedule=replace(course.schedule, lr=others.get(decay, cosine)))
