"""How good a segmenter is on annotated images: overlap, class by class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from openmae.evaluate.segmentation import Judged, judge
from openmae.evaluate.tiled import TILES
from openmae.recipes.evaluate.annotated import AnnotatedSet, evaluated, show_classes
from openmae.recipes.evaluate.outlined import found_of, keep_outlines
from openmae.recipes.evaluate.settings import Evaluate
from openmae.report.sheets.outlines import step_of
from openmae.weights import Loaded


def evaluate_segmenter(settings: Evaluate, loaded: Loaded, console: Console) -> dict[str, Any]:
    """As `evaluated`."""
    return evaluated(settings, loaded, _Segmenting(min(TILES, settings.batch_size)), console)


@dataclass
class _Segmenting:
    """tiles: that go through the model at once."""

    tiles: int
    doing: str = "segmenting"
    smaller: str = "give a smaller --batch-size"

    def judge(self, seen: AnnotatedSet, device: torch.device, workers: int, say: Callable[[float], None]) -> Judged:
        """Of whole images, in tiles."""
        model, statistics = seen.loaded.segmenter.to(device), seen.loaded.statistics
        return judge(
            model, statistics, seen.annotated, device, workers, batch_size=self.tiles, step_of=step_of, say=say
        )

    def found(self, seen: AnnotatedSet, judged: Judged) -> dict[str, Any]:
        """With the images that were done best and worst, where they are kept."""
        if seen.run is None:
            return found_of(judged, seen.annotated)
        model, statistics = seen.loaded.segmenter, seen.loaded.statistics
        return keep_outlines(seen.run, judged, seen.annotated, model, statistics, seen.name)

    def show(self, found: dict[str, Any], console: Console) -> None:
        """A row for each class."""
        shares = {"iou": "IoU", "dice": "Dice", "accuracy": "accuracy"}
        show_classes(found["overlaps"], "pixels", shares, "iou", console)
