"""What a classifier says of a set of images, judged, and kept in its run: results.json, results/, report.html."""

import io
import json
import math
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from openmae.data.order import generator
from openmae.data.parsing import read_json
from openmae.data.source import Source
from openmae.data.tasks import Answers
from openmae.errors import UserError
from openmae.evaluate.features import CentredImages
from openmae.evaluate.metrics import (
    Bin,
    balanced_accuracy,
    calibration,
    calibration_error,
    class_figures,
    confused_pairs,
    label_figures,
)
from openmae.evaluate.predict import measure
from openmae.report.gallery import Group, Tile, gallery, view_tiles
from openmae.report.page import write_report
from openmae.report.result_pictures import (
    confusion_picture,
    overview_picture,
    reliability_picture,
    scatter_picture,
)
from openmae.train.checkpoint import locked, write_file

MOST_PAIRS = 20  # most confused ones that are kept
MOST_NAMES = 200  # unreadable images and absent classes that are kept
_MISTAKES, _RIGHT, _PAIRS, _EXAMPLES = 12, 6, 5, 6  # images and groups in the pictures


@dataclass(frozen=True)
class Judged:
    """Scores (n, K) of those of the images that could be read, `indices` (n,) among them; the answers of all images.

    outputs: "present" where outputs of classes without images were left out; absent: those classes, or those that
    count although they have no images.
    """

    images: CentredImages
    scores: Tensor
    indices: NDArray[np.int64]
    answers: Answers
    outputs: str = "all"
    absent: Sequence[str] = field(default=())

    @property
    def right(self) -> Answers:
        """The answers in the order of the scores."""
        return replace(self.answers, values=self.answers.values[self.indices])

    @property
    def source(self) -> Source:
        """Where the images come from."""
        return self.images.source

    def unreadable(self) -> list[str]:
        """Names of the images that have no scores."""
        missing = np.setdiff1d(np.arange(len(self.images)), self.indices)
        return [self.source.name(index) for index in missing.tolist()]

    def probabilities(self) -> NDArray[np.float64]:
        """(n, K), 0..1; of several labels each on its own."""
        scores = self.scores.double()
        return (scores.sigmoid() if self.answers.task == "multi-label" else scores.softmax(1)).numpy()


def judge(judged: Judged) -> dict[str, Any]:
    """All figures, as plain values for results.json."""
    right = judged.right
    figures = {name: value for name, value in measure(judged.scores, right).items() if math.isfinite(value)}
    names = [_printable(name) for name in judged.unreadable()]
    found: dict[str, Any] = {
        "task": right.task,
        "images": len(judged.indices),
        "unreadable": names[:MOST_NAMES],
        "outputs": judged.outputs,
        "absent": list(judged.absent[:MOST_NAMES]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    if right.task == "multi-label":
        labels = label_figures(judged.scores.numpy(), right.values.astype(np.float32), right.names)
        figures["mean_f1"] = float(np.mean([one.f1 for one in labels]))
        found["labels"] = [asdict(one) for one in labels]
    if right.task == "classification":
        values, (predicted, confidence) = right.values.astype(np.int64), _said(judged)
        bins = calibration(confidence, predicted == values)
        figures["balanced_accuracy"] = balanced_accuracy(values, predicted)
        figures["calibration_error"] = calibration_error(bins)
        images = np.bincount(values, minlength=len(right.names))
        found["classes"] = [asdict(one) for one in class_figures(values, predicted, right.names)]
        found["confused"] = [
            {
                "label": right.names[pair.label],
                "predicted": right.names[pair.predicted],
                "times": pair.times,
                "share": pair.times / int(images[pair.label]),
            }
            for pair in confused_pairs(values, predicted)[:MOST_PAIRS]
        ]
        found["calibration"] = [asdict(one) for one in bins]
    return {**found, "figures": figures}


def keep_result(run: Path, judged: Judged, found: dict[str, Any], data: str, split: str) -> None:
    """Keeps what `judge` found in the run: figures in results.json beside those of other sets, pictures in results/,
    all of it in report.html.

    data, split: the set as the user gave it; split "all" where it is not divided.
    Raises UserError where something cannot be written.
    """
    name = set_name(data, split)
    drawn = draw_result(judged, found, run / "results" / _as_folder(name))
    pictures = {file.stem: str(file.relative_to(run)) for file in drawn}
    update_results(run, name, "clean", {**found, "pictures": pictures})


def whole_address(data: str) -> str:
    """The same for the same DATA, from wherever it is named."""
    return data if "://" in data else str(Path(data).resolve())


def check_results(run: Path) -> None:
    """Raises UserError, before anything long begins, where the run's results are damaged or could not be written."""
    with _writing(run), locked(run / "results.json"):
        read_results(run)


def set_name(data: str, split: str) -> str:
    """What a set of images is called in results.json: its whole address, and the split."""
    place = whole_address(data)
    return _printable(place if split == "all" else f"{place} ({split})")


def result_picture(run: Path, name: str, kind: str, svg: str) -> str:
    """Writes a picture of the results on the set `name`; gives its place in the run."""
    file = run / "results" / _as_folder(name) / f"{kind}.svg"
    with _writing(run):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, svg.encode())
    return str(file.relative_to(run))


def read_results(run: Path) -> dict[str, Any]:
    """What results.json holds; empty where there is none. Raises UserError where it is damaged."""
    file = run / "results.json"
    try:
        found = read_json(file.read_bytes()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}): move it away") from error
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise UserError(f"{file} is damaged (it does not hold sets of images): move it away")
    return found


def update_results(run: Path, name: str, part: str, value: dict[str, Any]) -> None:
    """Puts one part, "clean" or "corruptions", of what is known of a set in place of what was; writes report.html.

    Other processes may do so at the same time. Raises UserError where it cannot be written.
    """
    with _writing(run), locked(run / "results.json"):
        results = read_results(run)
        entry = {**results.get(name, {}), part: value}
        if part == "clean" and not _is_of(entry.get("corruptions"), value):
            entry.pop("corruptions", None)
        write_file(run / "results.json", json.dumps({**results, name: entry}, indent=1).encode())
        write_report(run)


def earlier_corruptions(run: Path, name: str, clean: dict[str, Any], seed: int) -> dict[str, dict[int, float]]:
    """Errors by kind and severity that are kept of this set, this model and this seed."""
    entry = read_results(run).get(name, {})
    found = entry.get("corruptions") if isinstance(entry, dict) else None
    if not isinstance(found, dict) or found.get("seed") != seed or not _is_of(found, clean):
        return {}
    return {kind: {int(severity): error for severity, error in of.items()} for kind, of in found["errors"].items()}


def _is_of(corruptions: Any, clean: dict[str, Any]) -> bool:
    """Whether they were measured of the model and the images that gave the clean result: to the loss of both, with
    room for a GPU that adds in another order."""
    if not isinstance(corruptions, dict):
        return False
    same = all(corruptions.get(key) == clean.get(key) for key in ("images", "outputs"))
    return same and math.isclose(corruptions.get("clean_loss", math.nan), clean["figures"]["loss"], rel_tol=1e-4)


def draw_result(judged: Judged, found: dict[str, Any], folder: Path) -> list[Path]:
    """Writes every picture that the result gives into the folder; gives their paths. Raises UserError."""
    right = judged.right
    drawn: dict[str, str] = {}
    groups: list[Group] = []
    if right.task == "regression":
        values, scores = right.values[:, 0].astype(np.float32), judged.scores[:, 0].numpy()
        drawn["scatter"] = scatter_picture(values, scores)
        groups = _number_samples(judged, values, scores)
    elif right.task == "multi-label":
        groups = _label_samples(judged)
    else:
        labels, (predicted, _) = right.values.astype(np.int64), _said(judged)
        drawn["confusion"] = confusion_picture(labels, predicted, right.names)
        drawn["overview"] = overview_picture(labels, predicted)
        bins = [Bin(**one) for one in found["calibration"]]
        drawn["reliability"] = reliability_picture(bins, found["figures"]["calibration_error"])
        groups = _class_samples(judged)
    pages = {"samples": groups, "confused": _confused_samples(judged) if right.task == "classification" else []}
    written = []
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("scatter", "confusion", "overview", "reliability"):
            if svg := drawn.get(name):
                write_file(folder / f"{name}.svg", svg.encode())
                written.append(folder / f"{name}.svg")
        for name, shown in pages.items():
            if any(group.tiles for group in shown):
                write_file(folder / f"{name}.jpg", _jpeg(gallery(shown, judged.images.img_size)))
                written.append(folder / f"{name}.jpg")
    return written


def _jpeg(picture: Image.Image) -> bytes:
    """A fifth of the bytes of a PNG: the page holds the pictures of every set."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def _said(judged: Judged) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(n,) the class that is predicted, and its probability; without n x K numbers more."""
    best, predicted = judged.scores.max(dim=1)
    return predicted.numpy(), (best - judged.scores.logsumexp(dim=1)).exp().double().numpy()


def _class_samples(judged: Judged) -> list[Group]:
    """The most confident mistakes, and some that are right."""
    right, (predicted, confidence) = judged.right, _said(judged)
    wrong = np.flatnonzero(predicted != right.values)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
    fine = generator(0, "split").permutation(np.flatnonzero(predicted == right.values))[:_RIGHT]

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


def _confused_samples(judged: Judged) -> list[Group]:
    """Of each of the most confused pairs, the images that the model is surest of."""
    right, (predicted, confidence) = judged.right, _said(judged)
    groups = []
    for pair in confused_pairs(right.values.astype(np.int64), predicted)[:_PAIRS]:
        rows = np.flatnonzero((right.values == pair.label) & (predicted == pair.predicted))
        rows = rows[np.argsort(-confidence[rows], kind="stable")][:_EXAMPLES]
        title = f"{right.names[pair.label]} taken for {right.names[pair.predicted]}: {_times(pair.times)}"
        captions = [(f"{confidence[row]:.0%}", Path(_name(judged, row)).name) for row in rows.tolist()]
        groups.append(_group(judged, title, rows, captions))
    return groups


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
    fine = generator(0, "split").permutation(order[_MISTAKES:])[:_RIGHT]

    def captions(rows: NDArray[np.int64]) -> list[tuple[str, str]]:
        return [(f"predicted {scores[row]:.6g}", f"is {values[row]:.6g}") for row in rows.tolist()]

    return [
        _group(judged, "The largest errors", worst, captions(worst)),
        _group(judged, "Of the others, at random", fine, captions(fine)),
    ]


def _group(judged: Judged, title: str, rows: NDArray[np.int64], captions: Sequence[tuple[str, str]]) -> Group:
    tiles = view_tiles(judged.images, judged.indices[rows].tolist())
    return Group(title, [Tile(tile, *words) for tile, words in zip(tiles, captions, strict=True)])


def _name(judged: Judged, row: int) -> str:
    return judged.source.name(int(judged.indices[row]))


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def _printable(text: str) -> str:
    """The text without what no JSON or page can hold: names of files may be no text."""
    return text.encode(errors="backslashreplace").decode()


def _as_folder(name: str) -> str:
    """A folder's name for a set, different for different sets."""
    readable = re.sub(r"[^\w.-]+", "-", Path(name).name, flags=re.ASCII).strip("-.")[:40]
    return f"{readable}-{zlib.crc32(name.encode()):08x}".lstrip("-")


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Turns the system's refusal into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"results cannot be written to {place} ({error.strerror}): make room, or choose a run that can be written"
        ) from error
