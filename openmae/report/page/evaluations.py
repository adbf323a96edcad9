"""What a run's frozen features were found to know, as a section of its page."""

from typing import Any

from openmae.report.page.html import escaped, picture, section, small
from openmae.report.page.left import Left
from openmae.report.page.results import error_of, stands_out
from openmae.report.plots.curves import is_number

KINDS = {"knn": "kNN", "linear": "linear probe"}
_BESIDE = {"top5": "top-5", "balanced_accuracy": "balanced", "auroc": "AUROC"}  # figures that come with the first
_FIGURES = {"multi-label": "mean_ap", "regression": "r2"}  # that a task is judged by, where not by top-1 accuracy


def evaluations_section(left: Left) -> str:
    """A table for each set of images; "" where nothing is known."""
    found = [dated(entry, left) for entry in left.evaluations if is_evaluation(entry)]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in found:
        key = tuple(str(entry.get(name, "")) for name in ("data", "task", "train_images", "val_images", "classes"))
        groups.setdefault(key, []).append(entry)
    layers = (
        picture(file.read_bytes(), "image/svg+xml", "Figures over layers")
        for file in sorted(left.path.glob("layers-*.svg"))
    )
    return section("What the features know", *(_evaluation_table(group) for group in groups.values()), *layers)


def dated(entry: dict[str, Any], left: Left) -> dict[str, Any]:
    """With `earlier`, "after 14 steps", where it is of the model as it was then, and the run has gone on since."""
    step, last = entry.get("step"), left.last
    is_own = entry.get("features") in ("pre-trained", "fine-tuned")
    if is_own and isinstance(step, int) and isinstance(last, int) and step != last:
        return {**entry, "earlier": f"after {step:,} steps"}
    return entry


def is_evaluation(entry: dict[str, Any]) -> bool:
    """Whether it has a figure that its task is judged by."""
    return "kind" in entry and is_number(judged_by(entry))


def judged_by(entry: dict[str, Any]) -> Any:
    """The figure of its task."""
    return entry.get(_FIGURES.get(str(entry.get("task")), "top1"))


def _evaluation_table(entries: list[dict[str, Any]]) -> str:
    """Entries of one data set: a row for each kind of features, a column for each kind of evaluation, and the
    effective rank of the features where it is known."""
    kinds = sorted({str(entry["kind"]) for entry in entries}, key=lambda kind: (kind not in KINDS, kind))
    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for entry in entries:  # a later figure replaces an earlier one of the same kind
        cells.setdefault(features_of(entry), {})[str(entry["kind"])] = entry
    of_kind = {kind: [row[kind] for row in cells.values() if kind in row] for kind in kinds}
    has_ranks = any(is_number(entry.get("rankme")) for entry in entries)
    head = "".join(f"<th>{escaped(title)}</th>" for title in (KINDS.get(kind, kind) for kind in kinds))
    head += "<th>RankMe</th>" * has_ranks
    rows = "".join(
        f"<tr><th>{escaped(features)}{small(how)}</th>"
        + "".join(f"<td>{_figure_cell(row.get(kind), of_kind[kind])}</td>" for kind in kinds)
        + (f"<td>{_rank(row)}</td>" if has_ranks else "")
        + "</tr>"
        for (features, how), row in cells.items()
    )
    return (
        f"<p>{escaped(_said_of_data(entries))}</p>"
        f'<div class="scroll"><table class="numbers"><thead><tr><th>features</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def features_of(entry: dict[str, Any]) -> tuple[str, str]:
    """What the row is called, and in small print how the features were taken."""
    layer = f"layer {entry['layer']}" if entry.get("layer") is not None else ""
    parts = [layer, entry.get("pool"), entry.get("earlier")]
    return str(entry.get("features", "")), ", ".join(str(part) for part in parts if part)


def said_figure(entry: dict[str, Any]) -> str:
    """What its task is judged by, with its standard error where that is known: 61.2% ± 4.9."""
    figure, error = judged_by(entry), error_of(entry)
    if entry.get("task") == "regression":
        return f"{figure:.3f}" + (f" ± {error:.3f}" if error is not None else "")
    return f"{100 * figure:.1f}%" + (f" ± {100 * error:.1f}" if error is not None else "")


def _figure_cell(entry: dict[str, Any] | None, of_kind: list[dict[str, Any]]) -> str:
    """The figure with its error, bold where it is better than all others of its kind by more than that; others beside
    it small."""
    if entry is None:
        return ""
    figure, error, said = judged_by(entry), error_of(entry), said_figure(entry)
    others = [(judged_by(one), error_of(one)) for one in of_kind if one is not entry]
    shown = f"<b>{said}</b>" if stands_out(figure, error, others) else said
    return shown + "".join(
        small(f"{label} {100 * entry[name]:.1f}%") for name, label in _BESIDE.items() if is_number(entry.get(name))
    )


def _rank(row: dict[str, dict[str, Any]]) -> str:
    """The effective rank of a row's features, which does not depend on the kind of evaluation."""
    found = [entry["rankme"] for entry in row.values() if is_number(entry.get("rankme"))]
    return f"{found[-1]:.1f}" if found else ""


def _said_of_data(entries: list[dict[str, Any]]) -> str:
    """What the figures are of: "Top-1 accuracy on flowers; 400 labelled images; ..."."""
    entry = entries[0]
    names = {"multi-label": "Mean average precision", "regression": "R²"}
    what = names.get(str(entry.get("task")), "Top-1 accuracy")
    parts = [f"{what} on {entry['data']}" if entry.get("data") else what]
    for key, said in (("train_images", "labelled images"), ("val_images", "held-out images"), ("classes", "classes")):
        if is_number(entry.get(key)):
            parts.append(f"{entry[key]:,} {said}")
    if what == "Top-1 accuracy" and is_number(entry.get("classes")) and entry["classes"] > 0:
        parts.append(f"guessing gives {100 / entry['classes']:.1f}%")
        if is_number(entry.get("majority")):
            parts.append(f"always the commonest class {100 * entry['majority']:.1f}%")
    if any(error_of(one) is not None for one in entries):
        parts.append("± is the standard error over the held-out images; bold is better than all others by more")
    return "; ".join(parts) + "."
