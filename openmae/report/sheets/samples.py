"""Pictures of a judged model: its figures, and images that it gets right and wrong."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.evaluate.judge import Judged
from openmae.evaluate.metrics import Bin
from openmae.files.disk import writing_results
from openmae.files.whole import write_file
from openmae.randomness import generator
from openmae.report.plots.results import MOST_NAMED, confusion_picture, reliability_picture
from openmae.report.sheets.gallery import Group, Tile, gallery, view_tiles
from openmae.report.sheets.layout import as_jpeg
from openmae.report.sheets.mistakes import mistakes

_MISTAKES, _RIGHT = 12, 6  # images in the pictures


def draw_result(judged: Judged, found: dict[str, Any], folder: Path) -> list[Path]:
    """Writes every picture that the result gives into the folder; gives their paths. Raises UserError."""
    right = judged.right
    drawn: dict[str, str] = {}
    groups: list[Group] = []
    if right.task == "regression":
        values, scores = right.values[:, 0].astype(np.float32), judged.scores[:, 0].numpy()
        from openmae.report.plots.figures import scatter_picture  # here, and below: matplotlib is large

        drawn["scatter"] = scatter_picture(values, scores)
        groups = _number_samples(judged, values, scores)
    elif right.task == "multi-label":
        groups = _label_samples(judged)
    else:
        labels, (predicted, _) = right.values.astype(np.int64), judged.predicted()
        drawn["confusion"] = confusion_picture(labels, predicted, right.names)
        if len(right.names) > MOST_NAMED:
            from openmae.report.plots.figures import overview_picture

            drawn["overview"] = overview_picture(labels, predicted)
        bins = [Bin(**one) for one in found["calibration"]]
        drawn["reliability"] = reliability_picture(bins, found["figures"]["calibration_error"])
        groups = _class_samples(judged)
    written = []
    with writing_results(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("scatter", "confusion", "overview", "reliability"):
            if svg := drawn.get(name):
                write_file(folder / f"{name}.svg", svg.encode())
                written.append(folder / f"{name}.svg")
        if any(group.tiles for group in groups):
            write_file(folder / "samples.jpg", as_jpeg(gallery(groups, judged.images.img_size)))
            written.append(folder / "samples.jpg")
        if right.task == "classification":
            write_file(folder / "mistakes.json", json.dumps(mistakes(judged)).encode())
            written.append(folder / "mistakes.json")
    return written


def _class_samples(judged: Judged) -> list[Group]:
    """The most confident mistakes, and some that are right."""
    right, (predicted, confidence) = judged.right, judged.predicted()
    wrong = np.flatnonzero(predicted != right.values)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    fine = generator(0, "few").permutation(np.flatnonzero(predicted == right.values))[:_RIGHT]

    def captions(rows: NDArray[np.int64]) -> list[tuple[str, str]]:
        return [
            (f"{right.names[predicted[row]]} {confidence[row]:.0%}", f"is {right.names[int(right.values[row])]}")
            for row in rows.tolist()
        ]

    return [
        _group(
            judged,
            f"The most confident of {len(wrong):,} mistakes: what the model says and how surely, what the label is",
            worst,
            captions(worst),
        ),
        _group(judged, "Right ones, chosen at random", fine, captions(fine)),
    ]


def _label_samples(judged: Judged) -> list[Group]:
    """The images with the label that the model is most wrong about."""
    right, shares = judged.right, judged.probabilities()
    gaps = np.abs(shares - right.values)
    worst = np.argsort(-gaps.max(1), kind="stable")[:_MISTAKES]
    captions = []
    for row in worst.tolist():
        label = int(gaps[row].argmax())
        has = [name for name, value in zip(right.names, right.values[row], strict=True) if value]
        verb = "misses" if right.values[row, label] else "says"
        captions.append((f"{verb} {right.names[label]} ({shares[row, label]:.0%})", f"is {', '.join(has) or 'none'}"))
    return [
        _group(
            judged, "The most confident mistakes: what the model says or misses, and its probability", worst, captions
        )
    ]


def _number_samples(judged: Judged, values: NDArray[np.float32], scores: NDArray[np.float32]) -> list[Group]:
    """The images whose numbers are missed by most."""
    order = np.argsort(-np.abs(values - scores), kind="stable")
    worst = order[:_MISTAKES]
    fine = generator(0, "few").permutation(order[_MISTAKES:])[:_RIGHT]

    def captions(rows: NDArray[np.int64]) -> list[tuple[str, str]]:
        return [(f"predicted {scores[row]:.6g}", f"is {values[row]:.6g}") for row in rows.tolist()]

    return [
        _group(judged, "The largest errors", worst, captions(worst)),
        _group(judged, "Of the others, at random", fine, captions(fine)),
    ]


def _group(judged: Judged, title: str, rows: NDArray[np.int64], captions: Sequence[tuple[str, str]]) -> Group:
    tiles = view_tiles(judged.images, judged.indices[rows].tolist())
    return Group(title, [Tile(tile, *words) for tile, words in zip(tiles, captions, strict=True)])
