"""evaluations.json of a run: figures of several commands, also of such as run at the same time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openmae.errors import UserError
from openmae.evaluate.evaluation import Evaluation
from openmae.files.parsing import read_json, to_json
from openmae.files.whole import locked, write_file
from openmae.report.page.run import write_report

_QUESTION = ("kind", "features", "data", "pool", "layer", "task", "k", "temperature")
_BEFORE = {"task": "classification", "k": 20, "temperature": 0.07}  # of entries that do not say


def keep(evaluations: Sequence[Evaluation], run: Path) -> None:
    """Adds the figures to the run's evaluations.json, in place of earlier ones of the same question, and writes the
    report anew.

    Raises UserError where the file is damaged or cannot be written.
    """
    file = run / "evaluations.json"
    new = [evaluation.to_dict() for evaluation in evaluations]
    asked = [_question(entry) for entry in new]
    with _locked(file):
        kept = [entry for entry in _read(file) if _question(entry) not in asked]
        write_file(file, to_json(kept + new, indent=1))
        write_report(run)


def _question(entry: dict[str, Any]) -> list[Any]:
    values = {**(_BEFORE if entry.get("kind") == "knn" else {"task": "classification"}), **entry}
    return [values.get(key) for key in _QUESTION]


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        found = read_json(file.read_bytes()) if file.exists() else []
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error})", "move it away") from error
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UserError(f"{file} is damaged (it holds no list of figures)", "move it away")
    return found


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Of no other process meanwhile. Raises UserError where the folder cannot be written."""
    try:
        with locked(file):
            yield
    except OSError as error:
        raise UserError(
            f"the figures cannot be kept in {file.parent} ({error.strerror})",
            f"make it writable, or give {file.parent}/model.safetensors in place of the folder",
        ) from error
