"""Whether images have the values that a model learnt from, said before anything is made of them."""

from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.data.sources.source import Source
from openmae.data.survey.levels import Apart, Levels, apart, unlike
from openmae.data.survey.nodata import to_give
from openmae.data.survey.sample import sample_levels
from openmae.data.views.statistics import Statistics
from openmae.errors import UserError


def check_levels(
    name: str, statistics: Statistics, source: Source, workers: int, console: Console, seen: Levels | None = None
) -> None:
    """Looks at a few of the images, unless it has `seen` what they are like; says what is odd. Raises UserError where
    the model `name`, which expects such statistics, could see nothing in them."""
    levels = sample_levels(source, statistics.pixels, workers) if seen is None else seen
    say_apart(apart(levels.sizes, levels.depths), console)
    check_expected(name, statistics, levels, source.location, console)


def check_expected(name: str, statistics: Statistics, levels: Levels, what: str, console: Console) -> None:
    """Says where images, called `what`, are odd for a model. Raises UserError where it could see nothing in them."""
    unsaid = [one for one in levels.suspected if one.is_usual]
    known = statistics.pixels.reading.nodata
    if unsaid and known != ():
        values = to_give(unsaid[0], unsaid, known)
        raise UserError(
            f"{what}: {unsaid[0]}: it looks like no-data, which {name} would take for pixels",
            f"give --nodata {' '.join(values)}, or --nodata without a value if it is none",
        )
    found = unlike(levels, statistics)
    if found is None:
        return
    if found.impossible:
        raise UserError(
            f"{what}: not what {name} learnt from: {found.what}",
            "give it images of the depth and unit that it learnt from, or pre-train a model on these",
        )
    console.print(f"warning: {what}: not quite what {name} learnt from: {found.what}", style="yellow", soft_wrap=True)


def say_apart(found: Apart | None, console: Console) -> None:
    """Says so where images are of two scales."""
    if found is not None:
        console.print(
            f"warning: {with_flags(found.what)}: openmae check names them; bring them to one scale, or keep them apart",
            style="yellow",
            soft_wrap=True,
        )
