"""What is kept of a detector that was judged: figures, classes, and the images that it did best and worst."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openmae.console.words import encodable
from openmae.data.annotations.annotations import Annotated
from openmae.data.views.statistics import Statistics
from openmae.evaluate.average_precision import SURE
from openmae.evaluate.detected import detected
from openmae.evaluate.detection import Judged, read_objects
from openmae.files.disk import writing_results
from openmae.files.whole import write_file
from openmae.recipes.evaluate.keep import folder_name, update_results
from openmae.report.plots.objects import precision_recall_picture, sizes_picture
from openmae.report.plots.results import shares_picture
from openmae.report.sheets.layout import as_jpeg
from openmae.report.sheets.objects import ShownObjects, object_sheet
from openmae.transfer.detector import Detector

_BEST, _WORST = 2, 6  # images in the sheet
_MOST_NAMES = 200  # unreadable images that are kept


def found_of(judged: Judged, annotated: Annotated) -> dict[str, Any]:
    """All figures, as plain values for results.json."""
    return {
        "task": "detection",
        "images": len(judged.seen),
        "counted": judged.most,
        "unreadable": [encodable(annotated.images.name(index)) for index, _ in judged.unreadable[:_MOST_NAMES]],
        "figures": {name: value for name, value in judged.figures().items() if np.isfinite(value)},
        "errors": {} if judged.error is None else {judged.headline: judged.error},
        "objects": [asdict(one) for one in judged.first.classes()],
    }


def keep_objects(
    run: Path, judged: Judged, annotated: Annotated, model: Detector, statistics: Statistics, name: str
) -> dict[str, Any]:
    """Keeps it in the run, with pictures, all of it in report.html; gives the figures.

    name: of the set, as `set_name` gives it. The model is in evaluation. Raises UserError where something cannot be
    written.
    """
    found = found_of(judged, annotated)
    folder = run / "results" / folder_name(name)
    compared = judged.first
    pictures = {
        "precision_recall": precision_recall_picture(compared.curves()),
        "sizes": sizes_picture(*compared.sizes()),
        "confusion": shares_picture(compared.confused, (*judged.names, "nothing"), "objects"),
    }
    drawn = {kind: f"{kind}.svg" for kind, svg in pictures.items() if svg}
    with writing_results(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for kind, file in drawn.items():
            write_file(folder / file, pictures[kind].encode())
        if (picture := _sheet(judged, annotated, model, statistics)) is not None:
            drawn["outlines"] = "outlines.jpg"
            write_file(folder / "outlines.jpg", as_jpeg(picture))
    places = {kind: str((folder / file).relative_to(run)) for kind, file in drawn.items()}
    update_results(run, name, "clean", {**found, "pictures": places})
    return found


def _sheet(judged: Judged, annotated: Annotated, model: Detector, statistics: Statistics) -> Image.Image | None:
    """The images that were done best, and those that were done worst, by their own F1; of what is surely said."""
    own = judged.first.of_images()
    order = sorted(own, key=lambda index: (own[index], index))
    chosen = list(dict.fromkeys([*order[: -_BEST - 1 : -1], *order[:_WORST]]))
    device = next(model.parameters()).device
    shown = []
    for index, read in zip(chosen, read_objects(annotated, statistics.pixels, chosen, 0), strict=True):
        if read.objects is not None:
            found = detected(model, statistics, read.image, device, judged.most)
            sure = found.take(found.scores >= SURE).objects
            note = f"F1 {own[index]:.0%}"
            shown.append(ShownObjects(read.image, read.objects, sure, annotated.images.shown(read.index), note))
    return object_sheet(shown, judged.names) if shown else None
