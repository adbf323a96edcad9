"""What is kept of a segmenter that was judged: figures, classes, and the images that it did best and worst."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openmae.data.annotations.annotations import BACKGROUND, Annotated
from openmae.data.views.outlined import IGNORED
from openmae.data.views.statistics import Statistics
from openmae.evaluate.confusion import most_confused, overlap_figures, overlaps
from openmae.evaluate.segmentation import HEADLINE, Judged, read_each, segmented
from openmae.recipes.evaluate.keep import best_and_worst, keep_drawn, unread_names
from openmae.report.plots.results import shares_picture
from openmae.report.sheets.outlines import Shown, outline_sheet, step_of
from openmae.transfer.segmenter import Segmenter


def found_of(judged: Judged, annotated: Annotated) -> dict[str, Any]:
    """All figures, as plain values for results.json."""
    names, error = annotated.right.names, judged.error()
    return {
        "task": "segmentation",
        "images": len(judged.indices),
        "unreadable": unread_names(annotated.images, judged.unreadable),
        "figures": {name: value for name, value in judged.figures().items() if np.isfinite(value)},
        "errors": {} if error is None else {HEADLINE: error},
        "overlaps": [asdict(one) for one in overlaps(judged.counts.sum(0), names)],
        "confused": most_confused(judged.counts.sum(0), names),
    }


def keep_outlines(
    run: Path,
    judged: Judged,
    annotated: Annotated,
    model: Segmenter,
    statistics: Statistics,
    name: str,
) -> dict[str, Any]:
    """Keeps it in the run, with pictures, all of it in report.html; gives the figures.

    name: of the set, as `set_name` gives it. The model is in evaluation. Raises
    UserError where something cannot be written.
    """
    charts = {"confusion": shares_picture(judged.counts.sum(0), annotated.right.names)}
    sheet = _sheet(judged, annotated, model, statistics)
    return keep_drawn(run, name, found_of(judged, annotated), charts, sheet)


def _sheet(judged: Judged, annotated: Annotated, model: Segmenter, statistics: Statistics) -> Image.Image:
    """The images that were done best, and those that were done worst, by their own mIoU."""
    figures = [overlap_figures(counts)[HEADLINE] for counts in judged.counts]
    own = {place: figure for place, figure in enumerate(figures) if np.isfinite(figure)}
    chosen = best_and_worst(own)
    device = next(model.parameters()).device
    shown = []
    indices = [int(judged.indices[place]) for place in chosen]
    for place, read in zip(
        chosen, read_each(annotated, statistics.pixels, indices, 0, max(model.encoder.img_size)), strict=True
    ):
        if read.image is not None and read.mask is not None:
            note, name = f"{chosen[place]}mIoU {own[place]:.0%}", annotated.images.shown(read.index)
            image, right, found = read.image, read.mask, judged.small.get(read.index)
            if found is None:
                found = segmented(model, statistics, image, device)
            else:
                step = step_of((image.shape[0], image.shape[1]))
                image, right = image[::step, ::step], right[::step, ::step].copy()
            shown.append(Shown(image, right, found, name, note))
    names = annotated.right.names
    return outline_sheet(shown, names, IGNORED, names[0] == BACKGROUND)
