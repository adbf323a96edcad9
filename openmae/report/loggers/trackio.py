"""Trackio: a database on this machine, or a Space or server of the user's. Its TRACKIO_... variables are obeyed."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from openmae.report.loggers.logger import COLUMNS, PROJECT, Ending, LoggedRun, Row


def check() -> None:
    """Needs no login on this machine."""
    import_module("trackio")


def open_run(run: LoggedRun, kept: dict[str, Any]) -> "_Run":
    """kept["name"]: the run's, which is how it is found again."""
    return _Run(run, kept)


class _Run:
    def __init__(self, run: LoggedRun, kept: dict[str, Any]) -> None:
        import trackio

        if "name" not in kept:
            kept["name"] = _free(run)
        self._run = trackio.init(
            PROJECT,
            kept["name"],
            group=run.group,
            config={**run.config, "run_folder": run.link},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        space, server = os.environ.get("TRACKIO_SPACE_ID"), os.environ.get("TRACKIO_SERVER_URL")
        self.where = f"trackio show --project {PROJECT}"
        if space or server:
            self.where = f"https://huggingface.co/spaces/{space}" if space else str(server)
        self._images, self._table = trackio.Image, trackio.Table
        self.reached = self._run._next_step - 1  # by what its database, or its server, holds

    def line(self, step: int, seconds: float, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        self._run.log({**figures, **{name: self._images(str(file)) for name, file in pictures.items()}}, step=step)

    def flush(self) -> None:
        """It writes within a second; what a killed start has not written, the next one sends."""

    def result(self, step: int, rows: Sequence[Row], pictures: Mapping[str, Path]) -> None:
        shown = {name: self._images(str(file)) for name, file in pictures.items()}
        table = self._table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._run.log({"results": table, **shown}, step=step)

    def close(self, how: Ending) -> None:
        self._run.finish()


def _free(run: LoggedRun) -> str:
    """The folder's name, or with a number where another run has it: runs are found by name."""
    import trackio

    try:
        taken = {one.name for one in trackio.Api().runs(PROJECT)}
    except ValueError:  # there is no such project yet
        return run.name
    names = (run.name, *(f"{run.name}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)
