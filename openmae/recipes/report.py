"""Write a run's report.html anew from its folder, put runs side by side, or send a run to where a team looks.

openmae report runs/first
openmae report runs/first runs/second --out compare.html
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from openmae.console.terminal import make_console
from openmae.errors import UserError
from openmae.report.loggers.following import Followers
from openmae.report.loggers.logger import loggers_of
from openmae.report.loggers.sent import is_free, log_file
from openmae.report.page.beside import write_beside
from openmae.report.page.left import read_left
from openmae.report.page.run import write_report


@dataclass(frozen=True)
class Report:
    """Write RUN/report.html anew: curves, pictures, settings, figures, in one file that needs no other. With several
    RUNs, a page that has them side by side."""

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]]
    """A run folder, or several."""
    out: Path | None = None
    """The page of several runs, such as compare.html."""
    log: Annotated[str | None, arg(metavar="LOGGER")] = None
    """Then send the run, or what is not there yet, to tensorboard, wandb, mlflow or trackio; several with commas
    (docs/logging.md)."""

    def __post_init__(self) -> None:
        """Raises UserError for a logger that does not exist, or what goes with one run or with several alone."""
        loggers_of(self.log)
        if not self.runs:
            raise UserError("a run is missing", "name its folder: openmae report RUN")
        if len(self.runs) > 1 and self.out is None:
            raise UserError("there is no place for a page of several runs", "give one: --out compare.html")
        if len(self.runs) > 1 and self.log is not None:
            raise UserError("one run is sent at a time", "name one, or leave out --log")
        if len(self.runs) == 1 and self.out is not None:
            raise UserError("a run's page is in its folder, and --out is for several runs", "leave it out, or name two")


def run(settings: Report) -> None:
    """Writes the page, says where it is, and sends what is asked for. Raises UserError."""
    console = make_console()
    if settings.out is not None:
        write_beside(settings.runs, settings.out)
        console.print(f"{settings.out}")
        return
    (folder,) = settings.runs
    console.print(f"{write_report(folder)}")
    if names := loggers_of(settings.log):
        _send(folder, names, console)


def _send(run: Path, names: tuple[str, ...], console: Console) -> None:
    """All of them at once, until all is sent. Raises UserError where it could not be."""
    left = read_left(run)
    reached = max((int(line.get("step", 0)) for line in left.metrics), default=-1)
    if reached < 0:
        raise UserError(f"{run} has no figures yet", "train in it first")
    for name in names:
        if not is_free(run, name):
            raise UserError(f"{run} is being sent to {name} at this moment", "wait for it")
    with Followers(console, aside="") as followers:
        followers.start(names)
        followers.agree()
        followers.follow(run, "", goes_on=True)
        failed = followers.end("complete" if reached == left.last else "interrupted", None)
    for name in names:
        if name in failed:
            raise UserError(f"not all of {run} could be sent to {name}", f"what it said is in {log_file(run, name)}")
        console.print(f"Sent to {name}: all of {run}, to step {reached:,}", soft_wrap=True)
