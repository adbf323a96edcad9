"""What a logger is to those who follow a run."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from openmae.errors import UserError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""The loggers, in the order in which they are named, and what to install for each."""
PROJECT = "openmae"
"""What the runs are kept under where the user's environment does not say otherwise."""

NONE = "none"
"""In their place: it is logged nowhere, also where it was before."""

Ending = Literal["complete", "interrupted", "failed"]
"""How a training ended; failed also where it was killed."""
Row = tuple[str, str, float]
"""Of the final table: what the figure is of, what it is called, and the figure."""
COLUMNS = ("of", "figure", "value")


def loggers_of(text: str | None) -> tuple[str, ...]:
    """The names in a setting such as tensorboard,wandb. Raises UserError for others."""
    names = tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip() not in ("", NONE)))
    if unknown := [name for name in names if name not in PACKAGES]:
        raise UserError(f"`log` has {unknown[0]}", f"give {', '.join(PACKAGES)}, several with commas, or {NONE}")
    return names


@dataclass(frozen=True)
class LoggedRun:
    """A run as it is introduced to a logger. folder: absolute; config: its settings, as config.toml has them.

    warn: says once what a logger does without.
    """

    folder: Path
    config: Mapping[str, Any]
    warn: Callable[[str], None]

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    @property
    def group(self) -> str:
        """The name of the folder that it lies in, where it has one."""
        return self.folder.parent.name or PROJECT

    @property
    def link(self) -> str:
        """To the folder."""
        return self.folder.as_uri()


class Logger(Protocol):
    """A run that is open at one logger. All of it may raise whatever the library raises."""

    @property
    def where(self) -> str:
        """What to type, or to open, to see the run."""

    @property
    def reached(self) -> int | None:
        """The last step that the logger holds, -1 for none; None where what was sent is known better here."""

    def line(self, step: int, seconds: float, figures: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Takes a line of metrics.jsonl, written at that time (since the epoch), and the pictures of its step."""

    def flush(self) -> None:
        """Returns when the lines so far are where another start of this logger finds them."""

    def result(self, step: int, rows: Sequence[Row], pictures: Mapping[str, Path]) -> None:
        """Takes what a run has come to, in place of what it had come to before."""

    def close(self, how: Ending) -> None:
        """Sends what is left, and says how the training ended."""


def typed(folder: Path) -> str:
    """A folder as it is typed where the training was started."""
    here = Path.cwd()
    return shlex.quote(str(folder.relative_to(here) if folder.is_relative_to(here) else folder))


class Module(Protocol):
    """A file of this folder that is named as its logger."""

    def check(self) -> None:
        """Imports the library. Raises UserError where nothing can be logged from here, as without a login; asks
        nobody."""

    def open_run(self, run: LoggedRun, kept: dict[str, Any]) -> Logger:
        """kept: what the logger has to remember of this run from one start to the next; it may change it, also
        later, and a flush keeps it."""


def markdown(rows: Sequence[Row]) -> str:
    """The final table as text."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---:|"]
    lines += [f"| {cell(of)} | {cell(figure)} | {value:.6g} |" for of, figure, value in rows]
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    """Of a table in Markdown, whatever is in it."""
    return str(value).replace("|", "\\|").replace("\n", " ")
