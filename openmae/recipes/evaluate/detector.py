"""How good a detector is on annotated images: average precision, class by class."""

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from openmae.console.progress import counting
from openmae.console.words import in_a_line
from openmae.errors import UserError
from openmae.evaluate.average_precision import check_counting
from openmae.evaluate.detection import judge
from openmae.machine.device import choose_device
from openmae.machine.workers import workers_for
from openmae.recipes.evaluate.annotated import open_set, say_kept, say_unreadable
from openmae.recipes.evaluate.objects import found_of, keep_objects
from openmae.recipes.evaluate.settings import Evaluate
from openmae.report.page.results import shown_figures
from openmae.weights import Loaded

_MOST_ROWS = 40  # of the table of classes; of more, those that are found worst


def evaluate_detector(settings: Evaluate, loaded: Loaded, console: Console) -> dict[str, Any]:
    """Prints the figures, keeps them in the run, and gives them as results.json has them. Raises UserError."""
    check_counting()
    device = choose_device(settings.device)
    workers = workers_for(settings.workers, device)
    seen = open_set(settings, loaded, workers, console)
    model, statistics = seen.loaded.detector.to(device), seen.loaded.statistics
    with counting("detecting", len(seen.annotated), console) as say:
        try:
            judged = judge(model, statistics, seen.annotated, device, workers, say=say)
        except torch.OutOfMemoryError as error:
            raise UserError(f"{device} ran out of memory", "give --device cpu") from error
    say_unreadable(seen.annotated.images, judged.unreadable, settings.data, console)
    if seen.run is None:
        found = found_of(judged, seen.annotated)
    else:
        found = keep_objects(seen.run, judged, seen.annotated, model, statistics, seen.name)
    show_objects(found, console)
    say_kept(seen, settings.model, console)
    return found


def show_objects(found: dict[str, Any], console: Console) -> None:
    """Prints the figures, and a row for each class that occurs."""
    for name, value in shown_figures(found["figures"], found["images"], found["errors"]).items():
        console.print(f"  {name:<28}{value:>16}")
    rows = found["objects"]
    table = Table("class", "objects", "AP", "AP50", "found at all", "mostly taken for")
    worst = sorted(rows, key=lambda one: one["ap50"])[:_MOST_ROWS]
    for one in rows if len(rows) <= _MOST_ROWS else worst:
        shares = (f"{one[name]:.1%}" for name in ("ap", "ap50", "recall"))
        taken = "-" if one["taken_for"] is None else in_a_line(one["taken_for"])
        table.add_row(in_a_line(one["name"]), f"{one['objects']:,}", *shares, taken)
    for column in table.columns[1:5]:
        column.justify = "right"
    console.print(table)
    if len(rows) > _MOST_ROWS:
        console.print(f"The {_MOST_ROWS} worst of {len(rows):,}.")
    if found["counted"] > 100:
        console.print(
            f"The {found['counted']:,} surest objects of an image count; COCO's own figures count 100.", soft_wrap=True
        )
