"""openmae.stats, check and pack: what images are like, what is wrong with them, and shards of them."""

from __future__ import annotations  # help() shows Data, not what it stands for

from dataclasses import asdict
from pathlib import Path
from typing import Any

from openmae.python.keywords import settings_of, taking, with_keywords
from openmae.python.kinds import Data, Place, at_home, data_of
from openmae.python.tables import table
from openmae.recipes.check import job as checking
from openmae.recipes.check.settings import Check
from openmae.recipes.pack import job as packing
from openmae.recipes.pack.settings import Pack
from openmae.recipes.stats import Stats
from openmae.recipes.stats import stats as measured


@taking(Stats)
def stats(data: Data, **settings: Any) -> dict[str, Any]:
    """Measures mean and deviation of each channel over all images, and prints more of them; gives keywords for
    openmae.pretrain: `openmae.pretrain("images", out="runs/first", **openmae.stats("images"))`.
    """
    given = {"data": data_of(data)}
    return measured(settings_of("stats", Stats, {**given, **settings, **at_home(given, settings)}))


@taking(Check)
def check(data: Data, **settings: Any) -> Any:
    """Reads every image once, and gives what was found, the worst first: a row each with `severity`, `what`, `advice`
    and `examples`, as openmae.knn gives its figures. No rows: nothing is wrong with what was looked at.
    """
    given = {"data": data_of(data)}
    asked = settings_of("check", Check, {**given, **settings, **at_home(given, settings)})
    found = [asdict(one) for one in checking.check(asked)]
    said = ("what", "advice")
    return table([{**row, **{name: with_keywords(row[name]) for name in said}} for row in found])


@taking(Pack)
def pack(data: Data, shards: Place, **settings: Any) -> Path:
    """Packs images into tar shards, which load fast, are read by other programs and need no Python of yours; gives
    their folder, to be given as data. The same call again goes on where it was.
    """
    given = {"data": data_of(data), "shards": shards}
    asked = settings_of("pack", Pack, {**given, **settings, **at_home(given, settings)})
    packing.run(asked)
    return asked.shards
