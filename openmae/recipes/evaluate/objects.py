"""What is kept of a detector that was judged: figures, classes, and the images that it did best and worst."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openmae.data.annotations.annotations import Annotated
from openmae.data.formats.channels import PixelFormat
from openmae.evaluate.average_precision import SURE
from openmae.evaluate.confusion import most_confused
from openmae.evaluate.detection import Judged, read_objects
from openmae.recipes.evaluate.keep import best_and_worst, keep_drawn, unread_names
from openmae.report.plots.objects import precision_recall_picture, sizes_picture
from openmae.report.plots.results import shares_picture
from openmae.report.sheets.objects import ShownObjects, object_sheet


def found_of(judged: Judged, annotated: Annotated) -> dict[str, Any]:
    """All figures, as plain values for results.json."""
    return {
        "task": "detection",
        "images": len(judged.seen),
        "counted": judged.most,
        "unreadable": unread_names(annotated.images, judged.unreadable),
        "figures": {name: value for name, value in judged.figures().items() if np.isfinite(value)},
        "errors": {} if judged.error is None else {judged.headline: judged.error},
        "objects": [asdict(one) for one in judged.first.classes()],
        "confused": most_confused(judged.first.confused, judged.names),
    }


def keep_objects(
    run: Path, judged: Judged, annotated: Annotated, pixels: PixelFormat, side: int | None, name: str
) -> dict[str, Any]:
    """Keeps it in the run, with pictures, all of it in report.html; gives the figures.

    pixels, side: as the images were read, side as `Detector.side`. name: of the set, as `set_name` gives it. Raises
    UserError where something cannot be written.
    """
    compared = judged.first
    charts = {
        "precision_recall": precision_recall_picture(compared.curves()),
        "sizes": sizes_picture(*compared.sizes()),
        "confusion": shares_picture(compared.confused, (*judged.names, "nothing"), "objects"),
    }
    sheet = _sheet(judged, annotated, pixels, side)
    return keep_drawn(run, name, found_of(judged, annotated), charts, sheet)


def _sheet(judged: Judged, annotated: Annotated, pixels: PixelFormat, side: int | None) -> Image.Image | None:
    """The images that were done best, and those that were done worst, by their own F1; of what was surely
    said."""
    own = dict(sorted(judged.first.of_images().items()))
    chosen = best_and_worst(own)
    said = {one.index: one for one in judged.seen if one.index in chosen}
    shown = []
    for index, read in zip(chosen, read_objects(annotated, pixels, [*chosen], 0, side), strict=True):
        if read.objects is not None:
            sure = said[index].objects(SURE)
            note = f"{chosen[index]}F1 {own[index]:.0%}{'' if len(sure.boxes) else ', nothing found'}"
            shown.append(ShownObjects(read.image, read.objects, sure, annotated.images.shown(read.index), note))
    return object_sheet(shown, judged.names) if shown else None
