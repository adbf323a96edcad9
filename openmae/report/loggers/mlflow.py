"""MLflow. MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and its others are obeyed."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from openmae.report.loggers.logger import COLUMNS, PROJECT, Ending, LoggedRun, Row, markdown

_STATUS = {"complete": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_MOST = 900  # figures in a request; a server takes 1,000
_LONGEST = 500  # letters of a setting, which the oldest servers take


def check() -> None:
    """Needs no login that could be looked for: a server that asks for one refuses later."""
    import_module("mlflow")


def open_run(run: LoggedRun, kept: dict[str, Any]) -> "_Run":
    """kept["id"]: the run's."""
    return _Run(run, kept)


class _Run:
    """What is sent twice is there once: a figure is known by its name, step, time and value."""

    def __init__(self, run: LoggedRun, kept: dict[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._client, self._metrics, self.reached, self._warn = MlflowClient(), list[Any](), None, run.warn
        found = None
        if "id" in kept:
            try:
                found = self._client.get_run(kept["id"])
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        if found is None:  # here for the first time, or its store is another one now
            found, self.reached = self._begun(run), -1
        else:
            self._client.update_run(found.info.run_id, status="RUNNING")
        kept["id"] = self._id = found.info.run_id
        self._introduce(run, set(found.data.params))
        store = str(self._client.tracking_uri)
        self.where = f"mlflow ui --backend-store-uri {shlex.quote(store)}"
        if store.startswith("http"):
            self.where = f"{store.rstrip('/')}/#/experiments/{found.info.experiment_id}/runs/{self._id}"

    def _begun(self, run: LoggedRun) -> Any:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = os.environ.get("MLFLOW_EXPERIMENT_ID") or (
            self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        )
        tags = {"mlflow.note.content": f"Run folder: {run.link}", "run_folder": str(run.folder), "group": run.group}
        return self._client.create_run(number, run_name=run.name, tags=tags)

    def _introduce(self, run: LoggedRun, known: set[str]) -> None:
        """What it is not told yet: a setting cannot be told anew."""
        from mlflow.entities import Param

        settings = {_name(key): str(value)[:_LONGEST] for key, value in run.config.items()}
        params = [Param(key, value) for key, value in settings.items() if key not in known]
        for at in range(0, len(params), 100):
            self._client.log_batch(self._id, params=params[at : at + 100])
        self._file(run.folder / "config.toml", None)

    def line(self, step: int, seconds: float, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        from mlflow.entities import Metric

        when = round(1000 * seconds)
        self._metrics += [Metric(_name(name), value, when, step) for name, value in figures.items()]
        if len(self._metrics) > _MOST:
            self._send()
        for name, file in pictures.items():
            self._file(file, name)

    def _file(self, file: Path, place: str | None) -> None:
        """Where files go is another place than where figures do, and may be closed to us."""
        try:
            self._client.log_artifact(self._id, str(file), place)
        except Exception as error:
            self._warn(f"pictures and tables are not taken ({type(error).__name__}: {error})")

    def flush(self) -> None:
        self._send()

    def _send(self) -> None:
        for at in range(0, len(self._metrics), _MOST):
            self._client.log_batch(self._id, metrics=self._metrics[at : at + _MOST])
        self._metrics.clear()

    def result(self, step: int, rows: Sequence[Row], pictures: Mapping[str, Path]) -> None:
        table = {"columns": list(COLUMNS), "data": [list(row) for row in rows]}
        with TemporaryDirectory() as folder:
            for name, text in (("results.md", markdown(rows)), ("results.json", json.dumps(table, indent=1))):
                (Path(folder) / name).write_text(text)
                self._file(Path(folder) / name, None)
        for name, file in pictures.items():
            self._file(file, str(Path(name).parent))

    def close(self, how: Ending) -> None:
        self._send()
        self._client.set_terminated(self._id, _STATUS[how])


def _name(key: str) -> str:
    """With the letters that it takes."""
    return re.sub(r"[^\w./ -]", "_", key)
