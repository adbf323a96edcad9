"""Fine-tuning beside what is simpler: compared.json of a run, as a section of its page, and in a sentence.

{"metric": "top1", "images": 132, "rows": [{"name", "figure", "error", "weights"}, ...]}: error, the standard error over
the images, is None where so few have none; weights: the folder inside the run, "" the run itself.
"""

import math
from collections.abc import Mapping
from typing import Any

from openmae.report.page.html import numbers_table, paragraph, section
from openmae.report.page.results import name_of, shown_value
from openmae.report.plots.curves import is_number

COMPARED = "compared.json"
FINETUNED, BEST, SCRATCH = "fine-tuned", "fine-tuned, its best look at val", "from scratch"
PLAIN = {"linear probe on raw pixels": "pixels as they are", "linear probe on histograms": "colours and texture"}
"""What needs no encoder: its row, and what that goes by."""
_KNN_NOTE = "Its bank of labelled images was not kept with this run: openmae knn MODEL DATA --out RUN keeps one"


def heading(found: Mapping[str, Any]) -> str:
    """What the figures are: Top-1 accuracy on 132 val images."""
    return f"{name_of(found['metric'])} on {found['images']:,} val images"


def verdict(found: Mapping[str, Any], run: str) -> str:
    """Which to use, in a sentence or two; "" where the figures cannot tell. The best look is no row of its own here: it
    was chosen by these images."""
    rows = [row for row in found["rows"] if row["name"] != BEST and is_number(row["figure"])]
    own = next((row for row in rows if row["weights"] == ""), None)  # the probe where that is what the run leaves
    others = sorted((row for row in rows if row is not own), key=lambda row: -row["figure"])
    if own is None or not others:
        return ""
    other, name = others[0], own["name"]
    one = "fine-tuned one" if name == FINETUNED else name
    ahead = own["figure"] - other["figure"]
    if own["error"] is None or other["error"] is None:
        return ""
    chance = math.hypot(own["error"], other["error"])
    where = f"{run}/{other['weights']}" if other["weights"] else None
    if abs(ahead) <= chance:
        also = f"; the {other['name']} is in {where}" if where else ""
        return (
            f"{name[0].upper()}{name[1:]} and {other['name']} differ by less than chance does on {found['images']:,} "
            f"images: nothing here says which is better{also}."
        )
    if ahead > 0:
        return f"Use the {one}, {run}: it is ahead of {other['name']} by more than its error."
    if where:
        return f"Use {where}: the {other['name']} is ahead of the {one} by more than its error."
    said = f"The {other['name']} is ahead of the {one} by more than its error"
    if other["name"] in PLAIN:
        return f"{said}: {PLAIN[other['name']]} tell more of these labels. No model of that is kept."
    return f"{said}. {_KNN_NOTE}."


def compared_section(found: Any) -> str:
    """The table and the sentence; "" where there is nothing to compare."""
    try:
        rows = [row for row in found["rows"] if is_number(row["figure"])]
        if len(rows) < 2:
            return ""
        cells = [
            (row["name"], shown_value(found["metric"], row["figure"], row["error"]), _place(row["weights"]))
            for row in rows
        ]
        table = numbers_table(("", heading(found), "weights"), cells)
        said = verdict({**found, "rows": rows}, "this run")
        return section("Fine-tuning and what is simpler", table, paragraph(said))
    except (TypeError, LookupError, ValueError):
        return ""


def _place(weights: str | None) -> str:
    return "-" if weights is None else weights or "this folder"
