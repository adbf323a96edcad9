"""Weights & Biases, also offline. WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_DIR and all its others are obeyed."""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openmae.errors import UserError
from openmae.report.loggers.logger import COLUMNS, PROJECT, Ending, LoggedRun, Row, typed


def check() -> None:
    """Raises UserError without a login."""
    import wandb

    if _mode() != "online":
        return
    try:
        wandb.login(verify=False)
    except (wandb.errors.UsageError, wandb.errors.AuthenticationError, ValueError) as error:
        raise UserError(
            f"`log='wandb'` needs a login ({str(error).splitlines()[0].rstrip('.')})",
            "run `wandb login` once, or set WANDB_API_KEY, or WANDB_MODE=offline to upload later by `wandb sync`",
        ) from error


def _mode() -> str:
    import wandb

    return str(wandb.setup().settings.mode)


def open_run(run: LoggedRun, kept: dict[str, Any]) -> "_Run":
    """kept["id"]: the run's. kept["offline"]: the folder that an offline start has written."""
    return _Run(run, kept)


class _Run:
    """Online the server knows what it has. An offline folder cannot be gone on with, so each start writes one that
    holds the whole run, and the one before it goes."""

    def __init__(self, run: LoggedRun, kept: dict[str, Any]) -> None:
        import wandb

        kept.setdefault("id", secrets.token_hex(4))
        is_offline = _mode() == "offline"
        if is_offline and "offline" in kept:
            shutil.rmtree(kept.pop("offline"), ignore_errors=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            group=os.environ.get("WANDB_RUN_GROUP", run.group),
            dir=os.environ.get("WANDB_DIR", str(run.folder / "logged")),
            id=kept["id"],
            resume=None if is_offline else "allow",
            config={**run.config, "run_folder": str(run.folder)},
            notes=f"Run folder: {run.link}",
            settings=wandb.Settings(
                console="off", disable_code=True, disable_git=True, x_disable_stats=True, x_save_requirements=False
            ),
        )
        self._images, self._table = wandb.Image, wandb.Table
        if is_offline:
            kept["offline"] = str(Path(self._run.dir).parent)
            self.where = f"wandb sync {typed(Path(kept['offline']))}, which uploads it"
        else:
            self.where = str(self._run.url)
        self.reached = int(self._run.step) - 1 if self._run.resumed else -1

    def line(self, step: int, seconds: float, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        shown = {name: self._images(str(file)) for name, file in pictures.items()}
        self._run.log({"_timestamp": seconds, **figures, **shown}, step=step)

    def flush(self) -> None:
        """It writes as it goes on; what a start has not sent, the next one sends, as it asks the server."""

    def result(self, step: int, rows: Sequence[Row], pictures: Mapping[str, Path]) -> None:
        shown = {name: self._images(str(file)) for name, file in pictures.items()}
        table = self._table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._run.log({"results": table, **shown}, step=max(step, self._run.step))
        for of, figure, value in rows:
            if of != "training":  # whose last figures are there by now
                self._run.summary[f"{of}/{figure}"] = value

    def close(self, how: Ending) -> None:
        self._run.finish(exit_code=0 if how == "complete" else 1)
