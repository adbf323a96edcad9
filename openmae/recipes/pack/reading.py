"""How `openmae pack` reads what leaves it open, and what it keeps of it."""

from dataclasses import replace

from rich.console import Console

from openmae.data.formats.header import Depth
from openmae.data.formats.reading import Reading
from openmae.data.opening import Data
from openmae.data.shards.packing import Packing
from openmae.data.sources.source import Source
from openmae.data.survey.inspection import suspected_of
from openmae.data.survey.readings import choose_reading, known_reading
from openmae.data.survey.sample import MOST_LOOKED_AT, PEEK, evidence, look
from openmae.data.views.statistics import DEPTHS
from openmae.evaluate.suited import say_choice
from openmae.machine.workers import reading_workers
from openmae.recipes.nodata import say_taken
from openmae.recipes.pack.settings import Pack


def packing_for(data: Data, settings: Pack, console: Console) -> Packing:
    """How images are read and kept, by a sample of them; says what was chosen. Raises UserError where nobody can tell
    how arrays lie.

    Alpha is kept, and so are pages, unless it is said what becomes of them: training decides.
    """
    source, workers = data.train, reading_workers(settings.workers)
    asked = known_reading(source, settings.reading)
    choice = choose_reading(evidence(look(source, 0, workers, PEEK, asked)), asked)
    if choice.why or choice.questions:  # as many as a training would ask
        choice = choose_reading(evidence(look(source, 0, workers, MOST_LOOKED_AT, asked)), asked)
    reading = replace(choice.settled(("alpha", "layout")).reading, alpha=asked.alpha, pages=asked.pages)
    said = {name: why for name, why in choice.why.items() if getattr(reading, name) is not None}
    say_choice(replace(choice, reading=reading, why=said), console)
    if reading.nodata is None:  # what is made smaller would be mixed with its neighbours
        taken = [one for one in suspected_of(source, workers, reading) if one.is_usual]
        say_taken(taken, console)
        reading = replace(reading, nodata=tuple(one.value for one in taken) or None)
    return Packing(settings.most_pixels, settings.quality, reading, _deepest_number(source, reading, workers))


def _deepest_number(source: Source, reading: Reading, workers: int) -> Depth:
    """Of images whose numbers mean something, as DICOM's do."""
    if reading.dicom_units is None:
        return "uint8"
    headers = (one.header for one in look(source, 0, workers, MOST_LOOKED_AT, reading))
    depths: list[Depth] = [header.depth for header in headers if header is not None and header.exact]
    return max(depths, key=DEPTHS.index, default="uint8")
