"""The one pass over all files, by this process or by several."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice

from rich.console import Console

from openmae.console.progress import Say, counting
from openmae.console.words import pace
from openmae.data.formats.reading import Reading
from openmae.data.sources.source import Source
from openmae.data.survey.inspection import Inspection, Looked, inspect, inspection, looked_at, looked_of, of_looked
from openmae.distributed.share import Share
from openmae.recipes.check.settings import Check
from openmae.recipes.in_parts.folder import PartsFolder
from openmae.recipes.in_parts.survey import READ_AS, add, is_shared, surveyed
from openmae.recipes.in_parts.work import PART_SECONDS

_UNIT = 64  # images: shares are whole multiples of it


@contextmanager
def inspected(
    sources: Mapping[str, Source], settings: Check, reading: Reading, share: Share, workers: int, console: Console
) -> Iterator[list[Inspection] | None]:
    """What the files of each split are; None where other processes still read some of them."""
    total = sum(map(len, sources.values()))
    if not is_shared(share, settings.out):
        began = time.monotonic()
        found = []
        for name, source in sources.items():
            with counting(f"reading {name}".strip(), len(source), console) as say:
                found.append(inspect(source, workers, say, reading))
        console.print(f"{settings.data}: {pace(total, time.monotonic() - began)}")
        yield found
        return
    assert settings.out is not None
    stop = share.span(total, _UNIT).stop

    def read(parts: PartsFolder, say: Say) -> None:
        _read(parts, _looked(sources, range(parts.stop, stop), workers, reading), say)

    fingerprints = " ".join(source.fingerprint for source in sources.values())
    about = {"data_fingerprint": fingerprints, READ_AS: repr(reading)}
    with surveyed("check", settings.out, about, share, _UNIT, total, read, console) as whole:
        if whole is None:
            yield None
            return
        all_of_them = chain.from_iterable(
            looked_of(part.more(), {index - part.start: reason for index, reason in part.left_out})
            for part in whole.finished
        )
        yield [inspection(islice(all_of_them, len(source)), len(source), reading) for source in sources.values()]


def _looked(sources: Mapping[str, Source], numbers: range, workers: int, reading: Reading) -> Iterator[list[Looked]]:
    """The files of these numbers, counted over all splits, a few at a time."""
    before = 0
    for source in sources.values():
        own = range(max(0, numbers.start - before), min(len(source), numbers.stop - before))
        if own:
            yield from looked_at(source, own, workers, reading)
        before += len(source)


def _read(parts: PartsFolder, found: Iterator[list[Looked]], say: Say) -> None:
    """Adds parts of what is found; a kill costs some seconds of it."""
    start, since = parts.stop, time.monotonic()
    waiting: list[Looked] = []
    try:
        for some in found:
            waiting += some
            say(parts.stop + len(waiting) - start)
            if time.monotonic() - since >= PART_SECONDS:
                _keep(parts, waiting)
                waiting, since = [], time.monotonic()
    finally:
        _keep(parts, waiting)


def _keep(parts: PartsFolder, waiting: list[Looked]) -> None:
    if waiting:
        reasons = [(parts.stop + place, one.reason) for place, one in enumerate(waiting) if one.reason]
        add(parts, parts.stop + len(waiting), reasons, of_looked(waiting))
