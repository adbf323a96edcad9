"""Write a run's report.html anew from its folder.

openmae report runs/first
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openmae.console.terminal import make_console
from openmae.report.page.run import write_report


@dataclass(frozen=True)
class Report:
    """Write RUN/report.html anew: curves, pictures, settings, figures, in one file that needs no other."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """A run folder."""


def run(settings: Report) -> None:
    """Writes the page and says where it is."""
    make_console().print(f"{write_report(settings.run)}")
