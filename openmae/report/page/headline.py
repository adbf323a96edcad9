"""The few facts that a run's page begins with."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openmae.console.words import duration, several
from openmae.report.page.left import Left, as_list, read_left_json
from openmae.report.page.results import shown_figure, shown_figures
from openmae.report.plots.curves import is_number, series
from openmae.train.run import read_config, read_metrics


def headline(left: Left) -> dict[str, str]:
    """Names and short values: what was learnt and how well, how far the run is, on what. What is not known is left
    out. Raises UserError where best/model.json is damaged."""
    return {
        **(_judged_facts(left.model, left.metrics) if left.kind in _JUDGED else {}),
        **_best_facts(read_left_json(left.path / "best" / "model.json")),
        **_facts(left),
    }


def training_seconds(run: Path) -> float | None:
    """Time that the run spent in steps so far; None where its log does not tell. Raises UserError for no run."""
    return _training_seconds(read_config(run), read_metrics(run))


_JUDGED = ("classifier", "segmenter", "detector")


def _judged_facts(model: dict[str, Any], metrics: list[dict[str, Any]]) -> dict[str, str]:
    """What was learnt, from what, and how well the val images are done at the end."""
    task, names = model.get("task"), as_list(model.get("class_names"))
    of = {"classification": "class", "segmentation": "class", "detection": "class", "multi-label": "label"}
    count = f", {several(len(names), of[str(task)])}" if str(task) in of else ""
    found = {"Task": f"{task}{count}"}
    last = {re.sub("^(eval/|val_)", "", key): value for line in metrics for key, value in line.items() if "val" in key}
    for name, value in list(shown_figures(last).items())[:1]:
        found[f"{name} on val"] = value
    provenance = model.get("provenance")
    if isinstance(provenance, dict):
        found["Began with"] = str(provenance.get("model")) if "pre-training" in provenance else "fresh weights"
    return found


def _best_facts(info: Any) -> dict[str, str]:
    """The best look at the val images, where its weights are kept."""
    try:
        best = info["provenance"]["best"]
        said = shown_figure(str(best["metric"]), float(best["figure"]), best["error"])
        return {"Best on val": f"{said}, at step {best['step']:,}: its weights are in best/"}
    except (TypeError, LookupError, ValueError):
        return {}


def _facts(left: Left) -> dict[str, str]:
    config, metrics = left.config, left.metrics
    found = {"Status": _status(left)}
    if "from" in config:
        found["Began with"] = str(config["from"])
    _, losses = series(metrics, "loss")
    if len(losses):
        found["Loss" if found["Status"].startswith("at step") else "Final loss"] = f"{losses[-1]:.4f}"
    if seconds := _training_seconds(config, metrics):
        found["Training time"] = duration(seconds)
    if device := _device(config, left.starts):
        found["Device"] = device
    _, dropped = series(metrics, "dropped")
    if len(dropped) and dropped[-1]:
        found["Steps dropped, not finite"] = f"{dropped[-1]:,.0f}"
    return found


def _status(left: Left) -> str:
    steps, _ = series(left.metrics, "step")
    reached = int(steps.max()) if len(steps) else 0
    total = left.config.get("steps")
    if not is_number(total):
        return f"at step {reached:,}"
    if reached >= total:
        return "complete"
    is_over = is_number(left.last) and left.last == reached
    return f"ended early, after step {reached:,} of {total:,}" if is_over else f"at step {reached:,} of {total:,}"


def _training_seconds(config: dict[str, Any], metrics: list[dict[str, Any]]) -> float | None:
    """Time spent in steps, from their speed: pauses between the starts of a run do not count."""
    steps, speeds = series(metrics, "images_per_second")
    batch_size = config.get("batch_size", 0)
    if not len(steps) or not is_number(batch_size) or not (speeds > 0).all():
        return None
    with np.errstate(over="ignore"):
        seconds = float((np.diff(steps, prepend=0) * batch_size / speeds).sum())
    return seconds if is_number(seconds) else None


def _device(config: dict[str, Any], starts: Sequence[dict[str, Any]]) -> str:
    if not starts:
        return ""
    last = starts[-1]
    count = last.get("processes")
    together = f", {count} processes" if is_number(count) and count > 1 else ""
    gpus = [str(gpu) for gpu in as_list(last.get("gpus"))]
    if gpus and config.get("device") != "cpu":
        each = (f"{gpus.count(gpu)} x {gpu}" if gpus.count(gpu) > 1 else gpu for gpu in dict.fromkeys(gpus))
        return ", ".join(each) + together
    cores = f", {last['cores']} cores" if last.get("cores") else ""
    return f"{last['processor']}{cores}{together}" if last.get("processor") else ""
