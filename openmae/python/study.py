"""openmae.adapt, openmae.ablate, openmae.compare, and the folder of a study as an object."""

from __future__ import annotations  # help() shows Data, not what it stands for

import html
import os
from pathlib import Path
from typing import Any

from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.files.study import RESULTS, is_study
from openmae.python.keywords import settings_of, taking, with_keywords
from openmae.python.kinds import AnyModel, Data, at_home, data_of
from openmae.python.run import Run, finished, inline
from openmae.python.tables import table
from openmae.python.training import as_far_as_let
from openmae.report.page.ablation import is_ablation
from openmae.report.page.run import write_report
from openmae.report.plots.study import study_picture
from openmae.studies.ablate import job as ablating
from openmae.studies.ablate.settings import Ablate
from openmae.studies.adapt import job as adapting
from openmae.studies.adapt.settings import Adapt
from openmae.studies.compare import job as comparing
from openmae.studies.compare.settings import Compare


class Study(os.PathLike[str]):
    """The folder of a study, finished or not: the runs in it, their figures, and what follows. In a notebook it shows
    the verdict, the figures and their picture.

    path: the folder. What is read of it is read anew each time: a study may go on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises UserError where the folder holds no study."""
        self.path = Path(path)
        if not is_study(self.path):
            raise UserError(
                f"{self.path} holds no study", "give the folder that openmae.adapt, ablate or compare has written"
            )

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def results(self) -> dict[str, Any]:
        """All that was found, as results.json has it; empty before the first seed is done."""
        file = self.path / RESULTS
        return dict(read_json(file.read_bytes())) if file.exists() else {}

    @property
    def verdict(self) -> str:
        """What follows, in a sentence or two; or that nothing does yet."""
        results = self.results
        if is_ablation(results):
            return with_keywords(str(results["sentence"]))
        found = results.get("verdict") or {"sentence": "No seed is done yet: no verdict."}
        return with_keywords(" ".join(found[name] for name in ("sentence", "beside") if found.get(name)))

    @property
    def is_complete(self) -> bool:
        """Whether all of it is done."""
        if is_ablation(results := self.results):
            return bool(results["complete"])
        return str(self.results.get("verdict", {}).get("kind", "unfinished")) != "unfinished"

    @property
    def table(self) -> Any:
        """A row for each figure: its mean over the seeds for each encoder, and the gain with its bounds, low to high;
        of an ablation or a comparison, a row for each setting or method and figure, with how far it is from the usual
        one, and what the paper has, or how many images it saw. A pandas.DataFrame where pandas is installed, else a
        list of dicts. Shares are 0..1."""
        if is_ablation(results := self.results):
            make = _method if results["study"] == "compare" else _setting
            return table([make(row, one["name"]) for row in results["rows"] for one in results["figures"]])
        return table([_row(one) for one in self.results.get("figures", [])])

    @property
    def runs(self) -> dict[str, Run]:
        """The trainings, by their names."""
        return {str(one["name"]): Run(self.path / one["name"]) for one in self.results.get("runs", [])}

    @property
    def report(self) -> Path:
        """report.html, written anew."""
        return write_report(self.path)

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}): {self.verdict}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """For notebooks: nothing is fetched from anywhere."""
        svg = study_picture(self.results)
        picture = f'<div><img alt="Figures of each, and their differences" src="{inline(svg)}"></div>' if svg else ""
        rows = self.table
        shown = rows.to_html(index=False, float_format="%.4g") if hasattr(rows, "to_html") and len(rows) else ""
        said = f"<p><b>{html.escape(str(self.path))}</b>: {html.escape(self.verdict)}</p>"
        return {"text/plain": repr(self), "text/html": f"{said}{shown}{picture}"}


def _row(one: dict[str, Any]) -> dict[str, Any]:
    """Of a figure of results.json."""
    means = {name: sum(values) / len(values) if values else None for name, values in one["of"].items()}
    gain = {name: (one.get("gain") or {}).get(key) for name, key in _BOUNDS.items()}
    return {"figure": one["name"], **means, **gain}


def _setting(row: dict[str, Any], figure: str) -> dict[str, Any]:
    """Of a row of an ablation's results.json."""
    paper = row["paper"].get(figure)
    return {"setting": row["name"], **_found(row, figure), "paper": None if paper is None else paper / 100}


def _method(row: dict[str, Any], figure: str) -> dict[str, Any]:
    """Of a row of a comparison's results.json."""
    return {"method": row["name"], **_found(row, figure), "images": row["cost"].get("images")}


def _found(row: dict[str, Any], figure: str) -> dict[str, Any]:
    values, apart = row["of"].get(figure) or [], row["against"].get(figure) or {}
    return {
        "figure": figure,
        "mean": sum(values) / len(values) if values else None,
        **{name: apart.get(name) for name in ("difference", "low", "high")},
    }


_BOUNDS = {"gain": "difference", "low": "low", "high": "high"}


@taking(Adapt)
def adapt(model: AnyModel, data: Data, *, labels: Data = None, **settings: Any) -> Study:
    """Asks whether going on from released weights is worth it, and gives the study, whose `verdict` is a sentence.

    model: a Run, its path, or whatever else openmae.load takes. data: the images to go on with. labels: labelled ones
    to judge by. The same call again goes on where the study was. Interrupted in a notebook or at a prompt while it
    trains, it saves and gives the study as it is; in a script it raises openmae.Interrupted.
    """
    given = {"model": finished(model), "data": data_of(data), "labels": data_of(labels)}
    asked = settings_of("adapt", Adapt, {**given, **settings, **at_home(given, settings)})
    with as_far_as_let(lambda: is_study(asked.out)):
        adapting.run(asked)
    return Study(asked.out)


@taking(Ablate)
def ablate(data: Data, *, labels: Data = None, **settings: Any) -> Study:
    """Asks which setting is best on these images, and gives the study: `study="mask-ratio"`, or a grid of one's own,
    `vary=["mask_ratio=0.25,0.5,0.75"]`.

    data: the images to pre-train on. labels: labelled ones to judge by. The same call again goes on where the study
    was, and it is interrupted as openmae.adapt is.
    """
    given = {"data": data_of(data), "labels": data_of(labels)}
    asked = settings_of("ablate", Ablate, {**given, **settings, **at_home(given, settings)})
    with as_far_as_let(lambda: is_study(asked.out)):
        ablating.run(asked)
    return Study(asked.out)


@taking(Compare)
def compare(data: Data, *, labels: Data = None, **settings: Any) -> Study:
    """Asks which way to pre-train is best on these images, and gives the study: `methods="mae,simclr,random"`.

    data: the images to pre-train on. labels: labelled ones to judge by. The same call again goes on where the study
    was, and it is interrupted as openmae.adapt is.
    """
    given = {"data": data_of(data), "labels": data_of(labels)}
    asked = settings_of("compare", Compare, {**given, **settings, **at_home(given, settings)})
    with as_far_as_let(lambda: is_study(asked.out)):
        comparing.run(asked)
    return Study(asked.out)
