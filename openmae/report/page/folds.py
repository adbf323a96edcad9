"""Ways that were compared by cross-validation: cross-validation.json of a run, as a section of its page.

{"metric": "top1", "folds": 5, "labels": 60, "taken": "gently", "ways": [{"name", "figure", "error", "loss",
"loss_error", "settings"}, ...]}: figures over all labels, each told by a model that had not learnt it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from openmae.report.page.html import numbers_table, paragraph, section
from openmae.report.page.results import name_of, shown_value

CROSS_VALIDATION = "cross-validation.json"
_LOSS = {"r2": "rmse"}  # what decides is called, of numbers; of labels it is "loss"


def loss_name(metric: str) -> str:
    """What the finer figure is, which decides."""
    return _LOSS.get(metric, "loss")


def ways_table(found: Mapping[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Titles, and a row for each way."""
    metric = found["metric"]
    loss = loss_name(metric)
    rows: list[Sequence[str]] = [
        (
            row["name"],
            shown_value(metric, row["figure"], row["error"]) if math.isfinite(row["figure"]) else "-",
            shown_value(loss, row["loss"], row["loss_error"]) if math.isfinite(row["loss"]) else "-",
            row["settings"],
        )
        for row in found["ways"]
    ]
    return ("way", name_of(metric), name_of(loss), "settings"), rows


def taken_way(found: Mapping[str, Any]) -> str:
    """Which way was taken, a sentence."""
    least = "error" if loss_name(found["metric"]) == "rmse" else "loss"
    return f"Taken: {found['taken']}, which has the least {least}, or as good as that and changes features less."


def folds_section(found: Any) -> str:
    """The table and the sentence; "" where nothing was compared."""
    try:
        titles, rows = ways_table(found)
        told = (
            f"Each of {found['labels']:,} labels was told by a model that had not learnt it, in {found['folds']} folds."
        )
        return section("Which way to fine-tune", numbers_table(titles, rows), paragraph(f"{told} {taken_way(found)}"))
    except (TypeError, LookupError, ValueError):
        return ""
