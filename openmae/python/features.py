"""openmae.embed, knn and probe: what frozen features are, and what they know."""

from __future__ import annotations  # help() shows Data, not what it stands for

import csv
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.console.terminal import worded
from openmae.console.words import printable
from openmae.errors import UserError
from openmae.python.keywords import settings_of, taking, with_keywords
from openmae.python.kinds import AnyModel, Data, Place, at_home, data_of
from openmae.python.run import finished
from openmae.python.tables import table
from openmae.recipes.embed import job as embedding
from openmae.recipes.embed.file import read_vectors
from openmae.recipes.embed.settings import Embed
from openmae.recipes.probe.knn import Knn
from openmae.recipes.probe.knn import knn as judged_by_neighbours
from openmae.recipes.probe.linear import Probe
from openmae.recipes.probe.linear import probe as judged_by_a_probe

_OF_VECTORS = ("vector", "vectors", "rows", "columns")  # columns of the parquet file


@dataclass(frozen=True)
class Features:
    """What openmae.embed gives, an image a row.

    vectors: (n, D) float32; of pool="patches" (n, rows, columns, D). labels: (n,) texts; None where DATA has none;
    where single images have none they are None.
    paths: (n,) what each image is called. file: where they are kept, None where nowhere. places: (n, 4) of windows
    (`tile`) x, y, width and height in the image, -1 of images that are whole; None where all are.
    """

    vectors: NDArray[np.float32]
    labels: NDArray[Any] | None
    paths: list[str]
    file: Path | None
    places: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.vectors)


@taking(Embed)
def embed(model: AnyModel, data: Data, *, out: Place | None = None, **settings: Any) -> Features:
    """Gives a vector for each image, for scikit-learn or whatever takes an array: `vectors`, `labels`, `paths`.

    out: a .npy or .parquet to keep them in; the same call finds them there, and goes on with what was not finished.
    Without, they are in memory alone.
    """
    with tempfile.TemporaryDirectory(prefix="openmae-") as folder:
        place = Path(folder) / "features.npy" if out is None else out
        given = {"model": finished(model), "data": data_of(data), "out": place}
        asked = settings_of("embed", Embed, {**given, **settings, **at_home(given, settings)})
        if out is None and (asked.duplicates or asked.outliers or (asked.search and asked.picture is None)):
            raise UserError("search, duplicates and outliers write files beside out", "give out='features.npy'")

        def said(text: str) -> str:
            text = printable(with_keywords(text)).replace(f"{folder}/features.npy", "in memory")
            return text.replace(f"{folder}/features-pca.png", "not kept (give picture='patches.png')")

        with worded(said):
            embedding.run(asked)
        return _read(asked.out, is_kept=out is not None)


def _read(file: Path, is_kept: bool) -> Features:
    rows: Sequence[Sequence[Any]]
    if file.suffix.lower() == ".parquet":
        from pyarrow import parquet

        names = [name for name in parquet.read_schema(file).names if name not in _OF_VECTORS]
        rows = list(zip(*parquet.read_table(file, columns=names).to_pydict().values(), strict=True))
    else:
        with file.with_suffix(".csv").open(encoding="utf-8", newline="") as text:
            names, *rows = ([_uncelled(cell) or None for cell in row] for row in csv.reader(text))
    vectors = np.concatenate([*read_vectors(file)])
    labels = [row[1] for row in rows]
    known = None if all(label is None for label in labels) else np.array(labels)  # of objects where some are None
    places = None
    if len(names) > 2:
        places = np.array([[-1 if cell is None else int(cell) for cell in row[2:]] for row in rows], np.int64)
    return Features(vectors, known, [row[0] or "" for row in rows], file if is_kept else None, places)


def _uncelled(text: str) -> str:
    """Without the mark by which a spreadsheet takes it for no formula."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r")) else text


@taking(Knn)
def knn(model: AnyModel, data: Data, **settings: Any) -> Any:
    """Asks what frozen features know, by nearest neighbours; gives the figures, a row for each kind of features: a
    pandas.DataFrame where pandas is installed, else a list of dicts.

    They are kept in the run too, where MODEL is one.
    """
    given = {"model": finished(model), "data": data_of(data)}
    asked = settings_of("knn", Knn, {**given, **settings, **at_home(given, settings)})
    return table([found.to_dict() for found in judged_by_neighbours(asked)])


@taking(Probe)
def probe(model: AnyModel, data: Data, **settings: Any) -> Any:
    """Asks what frozen features know, by a linear classifier; gives the figures as openmae.knn does."""
    given = {"model": finished(model), "data": data_of(data)}
    asked = settings_of("probe", Probe, {**given, **settings, **at_home(given, settings)})
    if asked.recipe == "paper":
        raise UserError("recipe='paper' is a training", "openmae probe MODEL DATA --recipe paper --out RUN does it")
    return table([found.to_dict() for found in judged_by_a_probe(asked)])
