"""Ways that were compared by cross-validation: cross-validation.json of a run, as a section of its page.

{"metric": "top1", "folds": 5, "labels": 60, "taken": "gently", "ways": [{"name", "folds", "figure", "error", "loss",
"loss_error", "settings"}, ...]}: figures over the labels of so many folds, all of them where the way was not left out
on the way there, each told by a model that had not learnt it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from openmae.report.page.html import numbers_table, paragraph, section
from openmae.report.page.results import name_of, shown_value
from openmae.report.plots.curves import is_number

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
            row["name"] + (f" ({_tried(found, row)} of {found['folds']} folds)" if _is_out(found, row) else ""),
            shown_value(metric, row["figure"], row["error"]) if is_number(row["figure"]) else "-",
            shown_value(loss, row["loss"], row["loss_error"]) if is_number(row["loss"]) else "-",
            row["settings"],
        )
        for row in found["ways"]
    ]
    return ("way", name_of(metric), name_of(loss), "settings"), rows


def _tried(found: Mapping[str, Any], row: Mapping[str, Any]) -> int:
    """On how many folds a way was tried; older runs, in which it was all of them, do not say it."""
    return int(row.get("folds", found["folds"]))


def _is_out(found: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return _tried(found, row) < found["folds"]


def taken_way(found: Mapping[str, Any]) -> str:
    """Which way was taken, a sentence."""
    least = "error" if loss_name(found["metric"]) == "rmse" else "loss"
    said = f"Taken: {found['taken']}, which has the least {least}, or as good as that and changes features less."
    if any(_is_out(found, row) for row in found["ways"]):
        said += " What is clearly behind is not tried on more folds, nor is the last one that is left."
    return said


def folds_section(found: Any) -> str:
    """The table and the sentence; "" where nothing was compared."""
    try:
        titles, rows = ways_table(found)
        told = (
            f"Figures are of labels that a model had not learnt: {found['labels']:,} in {found['folds']} folds, "
            "each left out in turn."
        )
        return section("Which way to fine-tune", numbers_table(titles, rows), paragraph(f"{told} {taken_way(found)}"))
    except (TypeError, LookupError, ValueError):
        return ""
