"""How good a detector is on annotated images: average precision, class by class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from openmae.evaluate.average_precision import check_counting
from openmae.evaluate.detection import Judged, judge
from openmae.recipes.evaluate.annotated import AnnotatedSet, evaluated, show_classes
from openmae.recipes.evaluate.objects import found_of, keep_objects
from openmae.recipes.evaluate.settings import Evaluate
from openmae.weights import Loaded


def evaluate_detector(settings: Evaluate, loaded: Loaded, console: Console) -> dict[str, Any]:
    """As `evaluated`."""
    check_counting()
    return evaluated(settings, loaded, _Detecting(), console)


@dataclass
class _Detecting:
    doing: str = "detecting"
    smaller: str = "give --device cpu"

    def judge(self, seen: AnnotatedSet, device: torch.device, workers: int, say: Callable[[float], None]) -> Judged:
        """Of whole images, in tiles where they are larger than a window."""
        model, statistics = seen.loaded.detector.to(device), seen.loaded.statistics
        return judge(model, statistics, seen.annotated, device, workers, say=say)

    def found(self, seen: AnnotatedSet, judged: Judged) -> dict[str, Any]:
        """With the images that were done best and worst, where they are kept."""
        if seen.run is None:
            return found_of(judged, seen.annotated)
        pixels, side = seen.loaded.statistics.pixels, seen.loaded.detector.side
        return keep_objects(seen.run, judged, seen.annotated, pixels, side, seen.name)

    def show(self, found: dict[str, Any], console: Console) -> None:
        """A row for each class that occurs; how many objects count."""
        shares = {"ap": "AP", "ap50": "AP50", "recall": "found at all"}
        show_classes(found["objects"], "objects", shares, "ap50", console)
        if found["counted"] > 100:
            console.print(
                f"The {found['counted']:,} surest objects of an image count; COCO's own figures count 100.",
                soft_wrap=True,
            )
