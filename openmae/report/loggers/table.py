"""What a run has come to, as rows of a table: from its folder alone."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from openmae.files.parsing import read_json
from openmae.report.loggers.lines import Lines, figures_of
from openmae.report.loggers.logger import Row

_MOST_PICTURES = 50  # of one run's results


def final_rows(run: Path) -> list[Row]:
    """The last figures of the training, and those of every set of images that the model was judged on. What the folder
    lacks, or what is damaged there, is left out."""
    rows: list[Row] = []
    last: dict[str, float] = {}
    with closing(Lines(run / "metrics.jsonl")) as lines:
        for line in lines.new():
            last.update(figures_of(line))
    rows += [("training", name, value) for name, value in last.items()]
    results = _read(run / "results.json")
    for name, entry in results.items() if isinstance(results, dict) else ():
        clean = entry.get("clean") if isinstance(entry, dict) else None
        figures = clean.get("figures") if isinstance(clean, dict) else None
        rows += [(str(name), figure, value) for figure, value in _numbers(figures)]
    evaluations = _read(run / "evaluations.json")
    for entry in evaluations if isinstance(evaluations, list) else ():
        if isinstance(entry, dict):
            what = [entry.get(part) for part in ("kind", "features", "pool", "data")]
            layer = [f"layer {entry['layer']}"] if entry.get("layer") is not None else []
            of = ", ".join([*map(str, filter(None, what[:2])), *layer, *map(str, filter(None, what[2:]))])
            rows += [(of, figure, value) for figure, value in _numbers(entry) if figure in _JUDGED]
    return rows


def final_pictures(run: Path) -> dict[str, Path]:
    """Pictures that the model was judged by, by name; those of its training come with their steps. Drawings (SVG) are
    in the report alone: few loggers show them."""
    files = sorted(file for file in run.glob("results/**/*") if file.suffix in (".png", ".jpg"))[:_MOST_PICTURES]
    return {str(file.relative_to(run).with_suffix("")): file for file in files}


_JUDGED = ("top1", "top5", "balanced_accuracy", "auroc", "mean_ap", "r2", "mae", "rmse", "rankme")


def _numbers(figures: Any) -> list[tuple[str, float]]:
    return list(figures_of(figures).items()) if isinstance(figures, Mapping) else []


def _read(file: Path) -> Any:
    try:
        return read_json(file.read_bytes())
    except (OSError, ValueError):
        return None
