"""What a model was found to be worth on a set of images, as sections of a run's page.

results.json holds an entry for each set under the name that the page gives it; everything in an entry may be missing.
"""

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openmae.report.page.html import details, escaped, numbers_table, pairs_table, paragraph, picture, section
from openmae.report.page.left import read_left_json
from openmae.report.page.mistakes import mistakes_part
from openmae.report.plots.curves import is_number

MOST_OPEN_ROWS = 20  # longer tables are folded
MOST_ROWS = 1000
MOST_PAIRS = 10
_WIDE = 400  # points: pictures that are not drawn smaller on a phone, but moved to and fro
_KINDS = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}

_FIGURES = {  # what the figures are called, the one to judge by first
    "mask_ap50": ("Mask AP50", "{:.2%}"),
    "mask_ap": ("Mask AP", "{:.2%}"),
    "mask_ap75": ("Mask AP75", "{:.2%}"),
    "box_ap50": ("Box AP50", "{:.2%}"),
    "box_ap": ("Box AP", "{:.2%}"),
    "box_ap75": ("Box AP75", "{:.2%}"),
    "miou": ("mIoU", "{:.2%}"),
    "dice": ("Mean Dice", "{:.2%}"),
    "pixel_accuracy": ("Pixel accuracy", "{:.2%}"),
    "mean_accuracy": ("Mean class accuracy", "{:.2%}"),
    "top1": ("Top-1 accuracy", "{:.2%}"),
    "mean_ap": ("Mean average precision", "{:.2%}"),
    "r2": ("R²", "{:.4f}"),
    "auroc": ("AUROC", "{:.2%}"),
    "top5": ("Top-5 accuracy", "{:.2%}"),
    "balanced_accuracy": ("Balanced accuracy", "{:.2%}"),
    "mean_f1": ("Mean F1", "{:.2%}"),
    "mae": ("Mean absolute error", "{:.4g}"),
    "rmse": ("Root mean squared error", "{:.4g}"),
    "loss": ("Negative log-likelihood", "{:.4f}"),
    "calibration_error": ("Expected calibration error", "{:.2%}"),
}

_OVERLAPS = {"iou": "IoU", "dice": "Dice", "accuracy": "accuracy"}  # shares of a class, and their titles
_FOUND = {"ap": "AP", "ap50": "AP50", "recall": "found at all"}
_COUNTED = {"segmentation": "pixels", "detection": "objects"}
_HOW = {
    "segmentation": "IoU of a class is what is rightly found over all that is labelled or found so, Dice twice that "
    "over the sum of both; the first figures are means over the classes that occur or are found.",
    "detection": "Average precision (AP) counts all that is found, and so does “found at all”. The matrix, sizes, and "
    "images are of what is surely said, with a score of 0.5 or more: “nothing” as a column are objects that were "
    "missed, as a row what was found where nothing of that kind is labelled.",
}


def shown_figures(figures: Mapping[str, Any], images: Any = None, errors: Any = None) -> dict[str, str]:
    """Names and values as people read them, the one to judge by first; what is no number is left out.

    errors: their standard errors, by name. images: of how many; a share of them has one for all that.
    """
    found = {}
    for name, (label, _) in _FIGURES.items():
        if not is_number(value := figures.get(name)):
            continue
        error = errors.get(name) if isinstance(errors, dict) else None
        if error is None and name in ("top1", "top5") and is_number(images) and images > 0 and 0 <= value <= 1:
            error = standard_error(value, images)
        found[label] = shown_value(name, value, error if is_number(error) else None)
    return found


def shown_figure(name: str, value: float, error: float | None) -> str:
    """One figure with its name and its standard error, where it has one: Top-1 accuracy 93.20% ± 0.40."""
    return f"{_FIGURES[name][0]} {shown_value(name, value, error)}"


def name_of(figure: str) -> str:
    """What a figure is called: Top-1 accuracy."""
    return _FIGURES[figure][0]


def called(figure: str) -> str:
    """The same within a sentence: top-1 accuracy, R²; the loss, which is not of every task the same, by its name."""
    name = "loss" if figure == "loss" else name_of(figure)
    return name if name[1].isupper() or not name[1].isascii() else name[0].lower() + name[1:]


def is_share(figure: str) -> bool:
    """Whether it is one of 0..1, which is shown in percent."""
    return figure in _FIGURES and _FIGURES[figure][1].endswith("%}")


def shown_value(name: str, value: float, error: float | None) -> str:
    """The same without its name: 93.20% ± 0.40."""
    shape = _FIGURES[name][1]
    said = shape.format(value)
    if error is None:
        return said
    return f"{said} ± {100 * error:.2f}" if is_share(name) else f"{said} ± {error:.2g}"


def standard_error(share: float, images: float) -> float:
    """Of a share 0..1 that was counted among so many images."""
    return math.sqrt(share * (1 - share) / images)


def error_of(entry: Mapping[str, Any]) -> float | None:
    """The standard error of the figure that an entry of evaluations.json is judged by; of an older one's accuracy, by
    its images. None where it is not known."""
    if is_number(error := entry.get("error")):
        return float(error)
    share, images = entry.get("top1"), entry.get("val_images")
    if "error" in entry or not is_number(share) or not is_number(images) or images < 2 or not 0 <= share <= 1:
        return None
    return standard_error(share, images)


def stands_out(figure: float, error: float | None, others: Iterable[tuple[float, float | None]]) -> bool:
    """Whether it is larger than each of the others by more than the standard error of their difference, as if they were
    of different images; of the same ones, as they mostly are, that is rather too much than too little. Not where an
    error is unknown, or there is nothing to compare with."""
    known = [*others]
    return bool(known) and all(
        error is not None and of is not None and figure - other > math.hypot(error, of) for other, of in known
    )


def results_sections(run: Path, results: Any) -> list[str]:
    """A section for each set of images that results.json has something of, in its order."""
    if not isinstance(results, dict):
        return []
    found = []
    for name, entry in results.items():
        if not isinstance(entry, dict):
            continue
        clean, corrupted = (entry.get(part) for part in ("clean", "corruptions"))
        parts = _clean(run, clean) if isinstance(clean, dict) else []
        parts += _corruptions(run, corrupted) if isinstance(corrupted, dict) else []
        found.append(section(f"Results on {name}", *parts))
    return found


def _clean(run: Path, clean: dict[str, Any]) -> list[str]:
    figures = clean.get("figures")
    pictures, errors = clean.get("pictures"), clean.get("errors")
    drawn = pictures if isinstance(pictures, dict) else {}
    return [
        paragraph(_said_of_images(clean)),
        pairs_table(shown_figures(figures, clean.get("images"), errors).items()) if isinstance(figures, dict) else "",
        _figure(run, drawn, "scatter", "Predicted over true values"),
        paragraph(_HOW.get(str(clean.get("task")), "")),
        _confusion(run, drawn),
        _side_by_side(
            _figure(run, drawn, "precision_recall", "Precision over recall, by the overlap that is asked for"),
            _figure(run, drawn, "sizes", "Objects found and missed, by their size"),
        ),
        _figure(run, drawn, "overview", "Confusion matrix of all classes"),
        _class_table(clean.get("classes")),
        _shares_table(clean.get("overlaps"), "pixels", _OVERLAPS),
        _shares_table(clean.get("objects"), "objects", _FOUND),
        _label_table(clean.get("labels")),
        _confused_table(clean.get("confused"), _COUNTED.get(str(clean.get("task")), "times")),
        _gallery(_figure(run, drawn, "outlines", "The images done best and worst: as they are, as labelled, as found")),
        _figure(run, drawn, "samples", "Images with what the model says and what their label is"),
        _figure(run, drawn, "reliability", "Reliability diagram: accuracy over confidence"),
    ]


def _said_of_images(clean: dict[str, Any]) -> str:
    parts = [f"{clean['images']:,} images"] if is_number(clean.get("images")) else []
    unreadable = clean.get("unreadable")
    if isinstance(unreadable, list) and unreadable:
        parts.append(f"{len(unreadable):,} could not be read ({', '.join(map(str, unreadable[:3]))}, ...)")
    absent = clean.get("absent")
    if isinstance(absent, list) and absent:
        counted = "their outputs are left out" if clean.get("outputs") == "present" else "their outputs count"
        parts.append(f"no image of {len(absent):,} of the model's classes ({_some(absent)}), {counted}")
    return "; ".join(parts) + "." if parts else ""


def _some(names: list[Any]) -> str:
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")


def _class_table(classes: Any) -> str:
    if not isinstance(classes, list):
        return ""
    rows = [
        (
            str(one.get("name")),
            f"{one['images']:,}",
            f"{one['accuracy']:.1%}",
            f"{one['precision']:.1%}" if is_number(one.get("precision")) else "",
            f"{one['taken_for']} ({one.get('times')})" if one.get("taken_for") is not None else "",
        )
        for one in classes
        if isinstance(one, dict) and is_number(one.get("images")) and is_number(one.get("accuracy"))
    ]
    return _folded("Each class", ("class", "images", "accuracy", "precision", "mostly taken for"), rows)


def _shares_table(classes: Any, count: str, shares: Mapping[str, str]) -> str:
    """A row for each class: how many of what it has, and shares by their titles; "" where it is none."""
    if not isinstance(classes, list):
        return ""
    rows = [
        (
            str(one.get("name")),
            f"{one[count]:,}",
            *(f"{one[name]:.1%}" if is_number(one.get(name)) else "" for name in shares),
            str(one["taken_for"]) if one.get("taken_for") is not None else "",
        )
        for one in classes
        if isinstance(one, dict) and is_number(one.get(count))
    ]
    return _folded("Each class", ("class", count, *shares.values(), "mostly taken for"), rows)


def _label_table(labels: Any) -> str:
    if not isinstance(labels, list):
        return ""
    rows = [
        (
            str(one.get("name")),
            f"{one['images']:,}",
            *(f"{one[name]:.1%}" if is_number(one.get(name)) else "" for name in ("average_precision", "auroc")),
            f"{one['f1']:.1%}",
        )
        for one in labels
        if isinstance(one, dict) and is_number(one.get("images")) and is_number(one.get("f1"))
    ]
    return _folded("Each label", ("label", "images", "average precision", "AUROC", "F1"), rows)


def _gallery(shown: str) -> str:
    return f"<h3>Best and worst</h3>{shown}" if shown else ""


def _confused_table(pairs: Any, count: str) -> str:
    if not isinstance(pairs, list):
        return ""
    rows = [
        (f"{one.get('label')} taken for {one.get('predicted')}", f"{one['times']:,}", f"{one['share']:.1%}")
        for one in pairs[:MOST_PAIRS]
        if isinstance(one, dict) and is_number(one.get("times")) and is_number(one.get("share"))
    ]
    return _folded("Most often confused", ("", count, "of the class"), rows)


def _folded(title: str, head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    table = numbers_table(head, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        table += paragraph(f"and {len(rows) - MOST_ROWS:,} more, in results.json")
    if len(rows) > MOST_OPEN_ROWS:
        return details(f"{title} ({len(rows):,})", table)
    return f"<h3>{escaped(title)}</h3>{table}" if table else ""


def _corruptions(run: Path, found: dict[str, Any]) -> list[str]:
    comparable = "definition" in found  # older figures are of corruptions that AlexNet's errors are not of
    figures = {
        "Mean corruption error": found.get("mean_error"),
        "The same relative to AlexNet's": found.get("relative_error") if comparable else None,
        "Error on the images as they are": found.get("clean_error"),
    }
    pictures = found.get("pictures")
    return [
        "<h3>Under corruptions</h3>",
        pairs_table((name, f"{value:.1%}") for name, value in figures.items() if is_number(value)),
        _figure(run, pictures if isinstance(pictures, dict) else {}, "heat", "Error by kind and severity"),
    ]


def _confusion(run: Path, drawn: dict[str, Any]) -> str:
    """Who is taken for whom: where the images were kept, a table that leads to them; of many classes beside the
    picture."""
    file = _file(run, drawn, "mistakes", (".json",))
    found = read_left_json(file) if file is not None else None
    named = isinstance(found, dict) and found.get("names")
    part = mistakes_part(found, file.parent.name) if file is not None else ""
    shown = _figure(run, drawn, "confusion", "Confusion matrix: true classes in rows, predicted in columns")
    return part if part and named else shown + part


def _side_by_side(*figures: str) -> str:
    return f'<div class="curves">{"".join(figures)}</div>' if any(figures) else ""


def _figure(run: Path, pictures: dict[str, Any], name: str, alt: str) -> str:
    """The picture of that name inside the page; "" where it is not there."""
    file = _file(run, pictures, name, _KINDS)
    try:
        content = file.read_bytes() if file is not None else b""
    except OSError:
        return ""
    if file is None:
        return ""
    size = re.search(rb'<svg[^>]*? width="([0-9.]+)pt"', content[:2000])
    is_wide = file.suffix == ".jpg" or (size is not None and float(size[1]) > _WIDE)
    shown = picture(content, _KINDS[file.suffix], alt)
    return f'<figure class="wide">{shown}</figure>' if is_wide else f"<figure>{shown}</figure>"


def _file(run: Path, pictures: dict[str, Any], name: str, kinds: Container[str]) -> Path | None:
    """The file of that name and of one of the kinds, where it is in the run."""
    if not isinstance(pictures.get(name), str):
        return None
    file = run / pictures[name]
    try:
        fits = file.suffix in kinds and file.is_file() and file.resolve().is_relative_to(run.resolve())
    except OSError:  # such as a name that is too long for one
        return None
    return file if fits else None
