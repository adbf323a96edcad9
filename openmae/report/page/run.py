"""report.html of a run: one file that needs nothing else, built from the run folder alone."""

import io
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openmae.console.words import duration
from openmae.data.formats.header import check_size
from openmae.errors import BrokenImage, UserError
from openmae.files.parsing import read_json
from openmae.files.study import RESULTS, is_study
from openmae.files.whole import write_file
from openmae.report.page.ablation import ablation_page, is_ablation
from openmae.report.page.compared import COMPARED, compared_section
from openmae.report.page.folds import CROSS_VALIDATION, folds_section
from openmae.report.page.html import (
    data_uri,
    details,
    escaped,
    facts,
    page,
    pairs_table,
    paragraph,
    picture,
    section,
    settings_table,
    small,
)
from openmae.report.page.results import error_of, results_sections, shown_figure, shown_figures, stands_out
from openmae.report.page.study import study_page
from openmae.report.page.sweep import SWEEP, sweep_page
from openmae.report.plots.curves import curves, is_number, series
from openmae.train.run import read_config, read_metrics

MOST_EARLIER_PICTURES = 12
MOST_BROKEN_FILES = 200
KINDS = {"knn": "kNN", "linear": "linear probe"}
_BESIDE = {"top5": "top-5", "balanced_accuracy": "balanced", "auroc": "AUROC"}  # figures that come with the first
_FIGURES = {"multi-label": "mean_ap", "regression": "r2"}  # that a task is judged by, where not by top-1 accuracy


def write_report(run: Path) -> Path:
    """Writes run/report.html, complete or as it was before, from what the run folder holds; gives its path.

    A folder of runs that a sweep or a study left gets a page too. What the folder lacks is left out. Raises UserError
    where the folder is no run, one of its files is damaged, or the page cannot be written.
    """
    name = run.resolve().name
    if (run / "config.toml").exists():
        body = _run_page(run)
    elif is_study(run):
        found = _read_json(run / RESULTS)
        body = ablation_page(found) if is_ablation(found) else study_page(found)
    elif (run / SWEEP).exists():
        body = sweep_page(_read_json(run / SWEEP))
    else:
        body = _run_page(run)  # says what is missing
    file = run / "report.html"
    try:
        write_file(file, page(name, body))
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror})", "make room or choose another folder") from error
    return file


def training_seconds(run: Path) -> float | None:
    """Time that the run spent in steps so far; None where its log does not tell. Raises UserError for no run."""
    return _training_seconds(read_config(run), read_metrics(run))


def _run_page(run: Path) -> list[str]:
    config = read_config(run)
    metrics = read_metrics(run)
    starts = _starts(run)
    model = _read_json(run / "model.json")
    model = model if isinstance(model, dict) else {}
    kind = model.get("kind")
    is_classifier = kind == "classifier"
    return [
        facts(
            {
                **(_classifier_facts(model, metrics) if is_classifier else {}),
                **_best_facts(_read_json(run / "best" / "model.json")),
                **_facts(config, metrics, starts),
            }
        ),
        compared_section(_read_json(run / COMPARED)),
        folds_section(_read_json(run / CROSS_VALIDATION)),
        *results_sections(run, _read_json(run / "results.json")),
        _evaluations(run),
        _curves(metrics, kind),
        _pictures(run / "pictures"),
        _broken_files(run / "broken.txt"),
        section("Settings", settings_table(config)),
        _model(model),
        _environment(starts),
    ]


# ---------------------------------------------------------------- sections


def _classifier_facts(model: dict[str, Any], metrics: list[dict[str, Any]]) -> dict[str, str]:
    """What was learnt, from what, and how well the val images are done at the end."""
    task, names = model.get("task"), _list(model.get("class_names"))
    count = {"classification": f", {len(names):,} classes", "multi-label": f", {len(names):,} labels"}.get(
        str(task), ""
    )
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


def _facts(config: dict[str, Any], metrics: list[dict[str, Any]], starts: list[dict[str, Any]]) -> dict[str, str]:
    found = {"Status": _status(config, metrics)}
    if "from" in config:
        found["Began with"] = str(config["from"])
    _, losses = series(metrics, "loss")
    if len(losses):
        found["Final loss" if found["Status"] == "complete" else "Loss"] = f"{losses[-1]:.4f}"
    if seconds := _training_seconds(config, metrics):
        found["Training time"] = duration(seconds)
    if device := _device(config, starts):
        found["Device"] = device
    _, dropped = series(metrics, "dropped")
    if len(dropped) and dropped[-1]:
        found["Steps dropped, not finite"] = f"{dropped[-1]:,.0f}"
    return found


def _status(config: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    steps, _ = series(metrics, "step")
    reached = int(steps.max()) if len(steps) else 0
    total = config.get("steps")
    if not is_number(total):
        return f"at step {reached:,}"
    return "complete" if reached >= total else f"at step {reached:,} of {total:,}"


def _training_seconds(config: dict[str, Any], metrics: list[dict[str, Any]]) -> float | None:
    """Time spent in steps, from their speed: pauses between the starts of a run do not count."""
    steps, speeds = series(metrics, "images_per_second")
    batch_size = config.get("batch_size", 0)
    if not len(steps) or not is_number(batch_size) or not (speeds > 0).all():
        return None
    with np.errstate(over="ignore"):
        seconds = float((np.diff(steps, prepend=0) * batch_size / speeds).sum())
    return seconds if is_number(seconds) else None


def _device(config: dict[str, Any], starts: list[dict[str, Any]]) -> str:
    if not starts:
        return ""
    last = starts[-1]
    count = last.get("processes")
    together = f", {count} processes" if is_number(count) and count > 1 else ""
    gpus = [str(gpu) for gpu in _list(last.get("gpus"))]
    if gpus and config.get("device") != "cpu":
        each = (f"{gpus.count(gpu)} x {gpu}" if gpus.count(gpu) > 1 else gpu for gpu in dict.fromkeys(gpus))
        return ", ".join(each) + together
    cores = f", {last['cores']} cores" if last.get("cores") else ""
    return f"{last['processor']}{cores}{together}" if last.get("processor") else ""


def _evaluations(run: Path) -> str:
    found = _read_json(run / "evaluations.json")
    found = [entry for entry in found if _is_evaluation(entry)] if isinstance(found, list) else []
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in found:
        key = tuple(str(entry.get(name, "")) for name in ("data", "task", "train_images", "val_images", "classes"))
        groups.setdefault(key, []).append(entry)
    layers = (
        picture(file.read_bytes(), "image/svg+xml", "Figures over layers") for file in sorted(run.glob("layers-*.svg"))
    )
    return section("What the features know", *(_evaluation_table(group) for group in groups.values()), *layers)


def _is_evaluation(entry: Any) -> bool:
    return isinstance(entry, dict) and "kind" in entry and is_number(_judged_by(entry))


def _judged_by(entry: dict[str, Any]) -> Any:
    """The figure of its task."""
    return entry.get(_FIGURES.get(str(entry.get("task")), "top1"))


def _evaluation_table(entries: list[dict[str, Any]]) -> str:
    """Entries of one data set: a row for each kind of features, a column for each kind of evaluation, and the
    effective rank of the features where it is known."""
    kinds = sorted({str(entry["kind"]) for entry in entries}, key=lambda kind: (kind not in KINDS, kind))
    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for entry in entries:  # a later figure replaces an earlier one of the same kind
        cells.setdefault(_features(entry), {})[str(entry["kind"])] = entry
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


def _features(entry: dict[str, Any]) -> tuple[str, str]:
    """What the row is called, and in small print how the features were taken."""
    parts = [f"layer {entry['layer']}" if entry.get("layer") is not None else "", entry.get("pool") or ""]
    return str(entry.get("features", "")), ", ".join(str(part) for part in parts if part)


def _figure_cell(entry: dict[str, Any] | None, of_kind: list[dict[str, Any]]) -> str:
    """The figure with its error, bold where it is better than all others of its kind by more than that; others beside
    it small."""
    if entry is None:
        return ""
    figure, error = _judged_by(entry), error_of(entry)
    is_number_of_labels = entry.get("task") == "regression"
    said = f"{figure:.3f}" if is_number_of_labels else f"{100 * figure:.1f}%"
    if error is not None:
        said += f" ± {error:.3f}" if is_number_of_labels else f" ± {100 * error:.1f}"
    others = [(_judged_by(one), error_of(one)) for one in of_kind if one is not entry]
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


def _curves(metrics: list[dict[str, Any]], kind: Any) -> str:
    figures = "".join(
        picture(svg.encode(), "image/svg+xml", f"{title} over training steps") for title, svg in curves(metrics).items()
    )
    if not figures:
        return ""
    advice = (
        "<p>The loss shows that training goes on, but it ranks features poorly: judge a run by its kNN and linear "
        "figures (<code>openmae knn</code>, <code>openmae probe</code>), and compare losses only between runs of "
        "the same target and masking.</p>"
    )
    if kind in ("segmenter", "detector"):
        advice = paragraph(
            "The loss is of windows that are drawn larger and smaller and mirrored, and no measure of what is found: "
            "the figures on val are. Where these fall while the loss falls, fewer epochs would have done."
        )
    elif kind == "classifier":
        advice = paragraph(
            "Where the settings below have augmentation, mixup, cutmix or label smoothing, training images are harder "
            "than val images, and the training loss may stay far above the val loss. A val loss that rises while the "
            "training loss falls says that fewer epochs would have done."
        )
    return section("Curves", advice, f'<div class="curves">{figures}</div>')


def _pictures(folder: Path) -> str:
    files = sorted(folder.glob("*.png"), key=lambda file: (_step(file), file.name))
    earlier = files[:-1]
    if len(earlier) > MOST_EARLIER_PICTURES:  # evenly spread, the first among them
        places = range(MOST_EARLIER_PICTURES)
        earlier = [earlier[place * len(earlier) // MOST_EARLIER_PICTURES] for place in places]
    shown = "".join(_figure(file, small=True) for file in earlier)
    left_out = f", {len(earlier)} of {len(files) - 1}" if len(earlier) < len(files) - 1 else ""
    return section(
        "Reconstructions",
        *(_figure(file, small=False) for file in files[-1:]),
        details(f"Earlier in training{left_out}", shown) if shown else "",
    )


def _figure(file: Path, small: bool) -> str:
    """The picture with its step; "" where it is damaged. Small ones are JPEG, a tenth of the bytes."""
    try:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
            check_size(height, width, 4)
            image.load()
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=85)
    except (OSError, SyntaxError, ValueError, BrokenImage, Image.DecompressionBombError):  # of damaged files
        return ""
    uri = data_uri(buffer.getvalue(), "image/jpeg") if small else data_uri(data, "image/png")
    step = _step(file)
    title = f"step {step:,}" if step >= 0 else file.stem
    return (
        f'<figure><figcaption>{escaped(title)}</figcaption><img class="card" width="{width}" height="{height}" '
        f'alt="Masked images, reconstructions and originals, {escaped(title)}" src="{uri}"></figure>'
    )


def _step(file: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", file.stem)
    return int(match[1]) if match else -1


def _broken_files(file: Path) -> str:
    if not file.exists():
        return ""
    lines = [line for line in file.read_text(errors="replace").split("\n") if "\t" in line]
    if not lines:
        return ""
    pairs = (line.partition("\t") for line in lines[:MOST_BROKEN_FILES])
    more = len(lines) - MOST_BROKEN_FILES
    said = "1 file was left out: it cannot be used" if len(lines) == 1 else f"{len(lines):,} files were left out"
    rest = f"<p class='faint'>and {more:,} more, listed in broken.txt</p>" if more > 0 else ""
    return section("Broken files", details(said, pairs_table((path, reason) for path, _, reason in pairs) + rest))


def _model(info: dict[str, Any]) -> str:
    if not info:
        return ""
    if info.get("licence") is None:
        info = {**info, "licence": "not stated; the weights belong to whoever trained them"}
    return section("Model", details("model.json", settings_table(info)))


def _environment(starts: list[dict[str, Any]]) -> str:
    tables = []
    for number, start in enumerate(starts, 1):
        command = start.get("command")
        shown = {**start, "command": shlex.join(map(str, command))} if isinstance(command, list) else start
        which = f"start {number} of {len(starts)}: " if len(starts) > 1 else ""
        tables.append(details(f"{which}{start.get('started', 'environment.json')}", settings_table(shown)))
    return section("Environment", *tables)


# ---------------------------------------------------------------- reading


def _starts(run: Path) -> list[dict[str, Any]]:
    """The starts of environment.json, oldest first."""
    found = _read_json(run / "environment.json")
    starts = _list(found.get("starts")) if isinstance(found, dict) else []
    return [start for start in starts if isinstance(start, dict)]


def _list(value: Any) -> list[Any]:
    """The value, or an empty list where it is none."""
    return value if isinstance(value, list) else []


def _read_json(file: Path) -> Any:
    """What the file holds, None where there is none. Raises UserError where it is damaged."""
    try:
        return read_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error})", "restore it, or remove it") from error
