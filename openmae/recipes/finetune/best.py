"""By which figure the best weights of a fine-tuning are kept."""

import math

from openmae.data.tasks import Task
from openmae.errors import UserError
from openmae.evaluate.predict import FIGURES, HEADLINE
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.training.best import ENOUGH_TO_TELL
from openmae.report.page.results import called

_FEW_CLASSES = 5  # of which the five best say nothing


def check_metric(metric: str | None, task: Task, outputs: int) -> None:
    """Raises UserError where the val images of this task have no such figure."""
    known = [name for name in FIGURES[task] if name != "top5" or outputs > _FEW_CLASSES]
    if metric not in (None, "none", *known):
        raise UserError(f"--keep-best {metric} is no figure of this task ({task})", f"give one of {', '.join(known)}")


def kept_metric(settings: Finetune, task: Task, images: int) -> tuple[str, str]:
    """By which figure the best weights are kept where that is left open, or "none"; and the sentence that says so.
    images: that judge."""
    if settings.recipe == "paper":
        return "none", ""
    metric = HEADLINE[task]
    if settings.patience is not None or images >= ENOUGH_TO_TELL:
        error = f", which is known to ± {50 / math.sqrt(images):.1f} points or better" if metric == "top1" else ""
        return metric, (
            f"The weights that do best on the {images:,} val images by {called(metric)}{error}, are kept beside the "
            "last ones: --keep-best none leaves that out"
        )
    return "none", (
        f"{images:,} val images are too few to tell one look from another (from {ENOUGH_TO_TELL} on they would): the "
        "last weights are kept, and --keep-best keeps the best ones too"
    )
