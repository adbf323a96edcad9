"""What a run has left in its folder, as its pages need it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.train.run import last_step, read_config, read_metrics


@dataclass(frozen=True)
class Left:
    """config: every setting. metrics: what was logged. starts: of environment.json, oldest first. model: model.json.
    evaluations, results: figures of frozen features, and of what was fine-tuned, by set. What there is nothing of is
    empty."""

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    starts: Sequence[dict[str, Any]]
    model: dict[str, Any]
    evaluations: Sequence[dict[str, Any]]
    results: dict[str, Any]

    @property
    def kind(self) -> Any:
        """Of the model: classifier, detector, ..., None where it is not known."""
        return self.model.get("kind")

    @property
    def last(self) -> Any:
        """The step after which nothing more is learnt; None where it is not known."""
        return last_step(self.config, self.model)

    @property
    def asked(self) -> dict[str, Any]:
        """The settings that the user set; empty for runs that do not tell."""
        names = {name for start in self.starts for name in as_list(start.get("asked")) if isinstance(name, str)}
        return {name: value for name, value in self.config.items() if name in names}


def read_left(run: Path) -> Left:
    """Raises UserError where the folder is no run, or one of its files is damaged."""
    config, metrics = read_config(run), read_metrics(run)
    environment, model, evaluations, results = (
        read_left_json(run / name) for name in ("environment.json", "model.json", "evaluations.json", "results.json")
    )
    return Left(
        run,
        config,
        metrics,
        _dicts(environment.get("starts") if isinstance(environment, dict) else []),
        model if isinstance(model, dict) else {},
        _dicts(evaluations),
        results if isinstance(results, dict) else {},
    )


def as_list(value: Any) -> list[Any]:
    """The value, or an empty list where it is none."""
    return value if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in as_list(value) if isinstance(entry, dict)]


def read_left_json(file: Path) -> Any:
    """What the file holds, None where there is none. Raises UserError where it is damaged."""
    try:
        return read_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error})", "restore it, or remove it") from error
