"""What a model was measured to be worth, as the tables of its card."""

from pathlib import Path
from typing import Any

from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.report.card.text import escaped, place_name, section, table
from openmae.report.page.evaluations import KINDS
from openmae.report.page.results import error_of, shown_figures
from openmae.report.plots.curves import is_number, series

_JUDGED_BY = {"multi-label": ("mean_ap", "mean average precision"), "regression": ("r2", "R²")}


def figures_section(run: Path | None, metrics: list[dict[str, Any]], kind: str) -> str:
    """Results of a fine-tuned model, figures of frozen features, and the loss; "" where there are none."""
    if run is None:
        return ""
    results, features = _results(_read(run / "results.json")), _features(_read(run / "evaluations.json"))
    _, losses = series(metrics, "loss")
    lines = []
    if len(losses):
        lines.append(f"The training loss at the end is {losses[-1]:.4f}.")
        if kind == "autoencoder":
            lines.append(
                "It can be compared between runs of the same data, target and mask only, and ranks features poorly."
            )
    note = "All of these are of one run and one seed, and of images of the same source." if results or features else ""
    return section("Figures", *results, *features, note, " ".join(lines))


def _results(found: Any) -> list[str]:
    """A table for each set of images that results.json has figures of."""
    parts = []
    for name, entry in found.items() if isinstance(found, dict) else ():
        clean = entry.get("clean") if isinstance(entry, dict) else None
        figures = clean.get("figures") if isinstance(clean, dict) else None
        if not isinstance(clean, dict) or not isinstance(figures, dict):
            continue
        images = clean.get("images")
        said = f"Of {images:,} images of {escaped(place_name(str(name)))}:" if is_number(images) else ""
        parts += [said, table(("figure", "value"), shown_figures(figures, images, clean.get("errors")).items())]
    return parts


def _features(found: Any) -> list[str]:
    """A table for each set of images whose frozen features were measured."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for entry in found if isinstance(found, list) else ():
        if isinstance(entry, dict) and is_number(entry.get(_judge(entry)[0])):
            key = tuple(str(entry.get(name)) for name in ("data", "task", "train_images", "val_images"))
            groups.setdefault(key, []).append(entry)
    return [part for entries in groups.values() for part in _table_of(entries)]


def _table_of(entries: list[dict[str, Any]]) -> list[str]:
    figure, said = _judge(entries[0])
    kinds = [kind for kind in KINDS if any(entry.get("kind") == kind for entry in entries)]
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        at = [f"layer {entry['layer']}" if entry.get("layer") is not None else "", str(entry.get("pool") or "")]
        name = ", ".join([str(entry.get("features")), *filter(None, at)])
        value = f"{entry[figure]:.3f}" if figure == "r2" else f"{entry[figure]:.1%}"
        if (error := error_of(entry)) is not None:
            value += f" ± {error:.3f}" if figure == "r2" else f" ± {100 * error:.1f}"
        rows.setdefault(name, {})[str(entry.get("kind"))] = value
    first = entries[0]
    counts = [
        f"{first[key]:,} {what}"
        for key, what in (
            ("train_images", "labelled images"),
            ("val_images", "held-out images"),
            ("classes", "classes"),
        )
        if is_number(first.get(key))
    ]
    about = f"Frozen features, judged by {said} on {escaped(place_name(str(first.get('data'))))}"
    return [
        f"{about} ({', '.join(counts)}):" if counts else f"{about}:",
        table(
            ("features", *(KINDS[kind] for kind in kinds)),
            ((n, *(r.get(k, "") for k in kinds)) for n, r in rows.items()),
        ),
    ]


def _judge(entry: dict[str, Any]) -> tuple[str, str]:
    """The figure of its task, and what it is called."""
    return _JUDGED_BY.get(str(entry.get("task")), ("top1", "top-1 accuracy"))


def _read(file: Path) -> Any:
    """What the file holds, None where there is none. Raises UserError where it is damaged."""
    try:
        return read_json(file.read_bytes()) if file.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error})", "restore it, or move it away") from error
