"""Write a run's report.html anew from its folder, or send the run to where a team looks.

openmae report runs/first
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
from openmae.report.page.run import write_report
from openmae.train.run import read_config, read_metrics


@dataclass(frozen=True)
class Report:
    """Write RUN/report.html anew: curves, pictures, settings, figures, in one file that needs no other."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """A run folder."""
    log: Annotated[str | None, arg(metavar="LOGGER")] = None
    """Then send the run, or what is not there yet, to tensorboard, wandb, mlflow or trackio; several with commas
    (docs/logging.md)."""

    def __post_init__(self) -> None:
        """Raises UserError for a logger that does not exist."""
        loggers_of(self.log)


def run(settings: Report) -> None:
    """Writes the page, says where it is, and sends what is asked for. Raises UserError."""
    console = make_console()
    console.print(f"{write_report(settings.run)}")
    if names := loggers_of(settings.log):
        _send(settings.run, names, console)


def _send(run: Path, names: tuple[str, ...], console: Console) -> None:
    """All of them at once, until all is sent. Raises UserError where it could not be."""
    steps = read_config(run).get("steps")
    reached = max((int(line.get("step", 0)) for line in read_metrics(run)), default=-1)
    if reached < 0:
        raise UserError(f"{run} has no figures yet", "train in it first")
    for name in names:
        if not is_free(run, name):
            raise UserError(f"{run} is being sent to {name} at this moment", "wait for it")
    with Followers(console, aside="") as followers:
        followers.start(names)
        followers.agree()
        followers.follow(run, "", goes_on=True)
        failed = followers.end("complete" if reached == steps else "interrupted", None)
    for name in names:
        if name in failed:
            raise UserError(f"not all of {run} could be sent to {name}", f"what it said is in {log_file(run, name)}")
        console.print(f"Sent to {name}: all of {run}, to step {reached:,}", soft_wrap=True)
