"""What is kept of a segmenter that was judged: figures, classes, and the images that it did best and worst."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openmae.console.words import encodable
from openmae.data.annotations.annotations import BACKGROUND, Annotated
from openmae.data.views.outlined import IGNORED
from openmae.data.views.statistics import Statistics
from openmae.evaluate.confusion import overlap_figures, overlaps
from openmae.evaluate.segmentation import HEADLINE, Judged, read_each, segmented
from openmae.files.disk import writing_results
from openmae.files.whole import write_file
from openmae.recipes.evaluate.keep import folder_name, update_results
from openmae.report.plots.results import shares_picture
from openmae.report.sheets.layout import as_jpeg
from openmae.report.sheets.outlines import Shown, outline_sheet
from openmae.transfer.segmenter import Segmenter

_BEST, _WORST = 2, 6  # images in the sheet
_MOST_NAMES = 200  # unreadable images that are kept


def found_of(judged: Judged, annotated: Annotated) -> dict[str, Any]:
    """All figures, as plain values for results.json."""
    names, error = annotated.right.names, judged.error()
    return {
        "task": "segmentation",
        "images": len(judged.indices),
        "unreadable": [encodable(annotated.images.name(index)) for index, _ in judged.unreadable[:_MOST_NAMES]],
        "figures": {name: value for name, value in judged.figures().items() if np.isfinite(value)},
        "errors": {} if error is None else {HEADLINE: error},
        "overlaps": [asdict(one) for one in overlaps(judged.counts.sum(0), names)],
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
    found = found_of(judged, annotated)
    folder = run / "results" / folder_name(name)
    pictures = {"confusion": shares_picture(judged.counts.sum(0), annotated.right.names)}
    with writing_results(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for kind, svg in pictures.items():
            write_file(folder / f"{kind}.svg", svg.encode())
        write_file(folder / "outlines.jpg", as_jpeg(_sheet(judged, annotated, model, statistics)))
    drawn = {**{kind: f"{kind}.svg" for kind in pictures}, "outlines": "outlines.jpg"}
    places = {kind: str((folder / file).relative_to(run)) for kind, file in drawn.items()}
    update_results(run, name, "clean", {**found, "pictures": places})
    return found


def _sheet(judged: Judged, annotated: Annotated, model: Segmenter, statistics: Statistics) -> Image.Image:
    """The images that were done best, and those that were done worst, by their own mIoU."""
    own = np.array([overlap_figures(counts)[HEADLINE] for counts in judged.counts])
    order = np.argsort(own, kind="stable")
    order = order[np.isfinite(own[order])]
    chosen = dict.fromkeys([*order[: -_BEST - 1 : -1].tolist(), *order[:_WORST].tolist()])
    device = next(model.parameters()).device
    shown = []
    indices = [int(judged.indices[place]) for place in chosen]
    for place, read in zip(chosen, read_each(annotated, statistics.pixels, indices, 0), strict=True):
        if read.image is not None and read.mask is not None:
            found: NDArray[np.uint8] = segmented(model, statistics, read.image, device)
            note = f"mIoU {own[place]:.0%}"
            shown.append(Shown(read.image, read.mask, found, annotated.images.shown(read.index), note))
    names = annotated.right.names
    return outline_sheet(shown, names, IGNORED, names[0] == BACKGROUND)
