"""What a classifier says of a set of images, judged, and kept in its run: results.json, results/, report.html."""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from openmae.console.words import encodable
from openmae.data.sources.source import Source
from openmae.errors import UserError
from openmae.evaluate.corruptions import DEFINITION
from openmae.evaluate.judge import Judged
from openmae.files.address import whole_address
from openmae.files.disk import writing_results
from openmae.files.parsing import read_json, to_json
from openmae.files.whole import locked, write_file
from openmae.report.page.run import write_report
from openmae.report.sheets.layout import as_jpeg
from openmae.report.sheets.samples import draw_result

_BEST, _WORST = 2, 6  # images in a sheet of outlines
_MOST_NAMES = 200  # unreadable images that are kept


def keep_result(run: Path, judged: Judged, found: dict[str, Any], data: str, split: str, asked: str = "") -> None:
    """Keeps what `judge` found in the run: figures in results.json beside those of other sets, pictures in results/,
    all of it in report.html.

    data, split, asked: the set as the user gave it; split "all" where it is not divided; asked: as `set_name` takes it.
    Raises UserError where something cannot be written.
    """
    name = set_name(data, split, asked)
    drawn = draw_result(judged, found, run / "results" / folder_name(name))
    pictures = {file.stem: str(file.relative_to(run)) for file in drawn}
    update_results(run, name, "clean", {**found, "pictures": pictures})


def check_results(run: Path) -> None:
    """Raises UserError, before anything long begins, where the run's results are damaged or could not be written."""
    with writing_results(run), locked(run / "results.json"):
        read_results(run)


def set_name(data: str, split: str, asked: str = "") -> str:
    """What a set of images is called in results.json: its whole address, the split, and what else was asked of it that
    was not when the model learnt, as Selection.beside says it."""
    place = whole_address(data)
    return encodable((place if split == "all" else f"{place} ({split})") + asked)


def keep_drawn(
    run: Path, name: str, found: dict[str, Any], charts: Mapping[str, str], sheet: Image.Image | None
) -> dict[str, Any]:
    """Keeps figures of images in which something is outlined, with their pictures, all of it in report.html; gives the
    figures. name: of the set, as `set_name` gives it; charts: SVG by kind, empty where there is nothing to draw. Raises
    UserError where something cannot be written."""
    folder = run / "results" / folder_name(name)
    files = {f"{kind}.svg": svg.encode() for kind, svg in charts.items() if svg}
    if sheet is not None:
        files["outlines.jpg"] = as_jpeg(sheet)
    with writing_results(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            write_file(folder / file, content)
    places = {Path(file).stem: str((folder / file).relative_to(run)) for file in files}
    update_results(run, name, "clean", {**found, "pictures": places})
    return found


def best_and_worst(own: Mapping[int, float]) -> dict[int, str]:
    """Which images a sheet shows, the best ones, then the worst, and what is to be said before the figure of each:
    "best: ", "worst: ", or, of one that is as good as the worst, or as bad as the best, nothing. own: the figure of
    each image, the first of equal ones the worst."""
    order = sorted(own, key=lambda place: own[place])
    best = order[: -_BEST - 1 : -1]
    low, high = min(own.values(), default=0.0), max(own.values(), default=0.0)
    called = {place: "best: " if own[place] > low else "" for place in best}
    return called | {place: "worst: " if own[place] < high else "" for place in order[:_WORST] if place not in called}


def unread_names(images: Source, unreadable: Sequence[tuple[int, str]]) -> list[str]:
    """Of images that were of no use, as results.json has them."""
    return [encodable(images.name(index)) for index, _ in unreadable[:_MOST_NAMES]]


def result_picture(run: Path, name: str, kind: str, svg: str) -> str:
    """Writes a picture of the results on the set `name`; gives its place in the run."""
    file = run / "results" / folder_name(name) / f"{kind}.svg"
    with writing_results(run):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, svg.encode())
    return str(file.relative_to(run))


def read_results(run: Path) -> dict[str, Any]:
    """What results.json holds; empty where there is none. Raises UserError where it is damaged."""
    file = run / "results.json"
    try:
        found = read_json(file.read_bytes()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error})", "move it away") from error
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise UserError(f"{file} is damaged (it does not hold sets of images)", "move it away")
    return found


def update_results(run: Path, name: str, part: str, value: dict[str, Any]) -> None:
    """Puts one part, "clean" or "corruptions", of what is known of a set in place of what was; writes report.html.

    Other processes may do so at the same time. Raises UserError where it cannot be written.
    """
    with writing_results(run), locked(run / "results.json"):
        results = read_results(run)
        entry = {**results.get(name, {}), part: value}
        if part == "clean" and not _is_of(entry.get("corruptions"), value):
            entry.pop("corruptions", None)
        write_file(run / "results.json", to_json({**results, name: entry}, indent=1))
        write_report(run)


def earlier_corruptions(run: Path, name: str, clean: dict[str, Any], seed: int) -> dict[str, dict[int, float]]:
    """Errors by kind and severity that are kept of this set, this model, this seed and these corruptions."""
    entry = read_results(run).get(name, {})
    found = entry.get("corruptions") if isinstance(entry, dict) else None
    if (
        not isinstance(found, dict)
        or found.get("seed") != seed
        or found.get("definition") != DEFINITION
        or not _is_of(found, clean)
    ):
        return {}
    return {kind: {int(severity): error for severity, error in of.items()} for kind, of in found["errors"].items()}


def _is_of(corruptions: Any, clean: dict[str, Any]) -> bool:
    """Whether they were measured of the model and the images that gave the clean result: to the loss of both, with
    room for a GPU that adds in another order."""
    if not isinstance(corruptions, dict):
        return False
    same = all(corruptions.get(key) == clean.get(key) for key in ("images", "outputs"))
    return same and math.isclose(corruptions.get("clean_loss", math.nan), clean["figures"]["loss"], rel_tol=1e-4)


def folder_name(name: str) -> str:
    """A folder's name for a set, different for different sets."""
    readable = re.sub(r"[^\w.-]+", "-", Path(name).name, flags=re.ASCII).strip("-.")[:40]
    return f"{readable}-{zlib.crc32(name.encode()):08x}".lstrip("-")
