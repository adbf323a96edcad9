"""A run folder as an object: what it holds, how far it is, its curves in a notebook."""

import base64
import html
import os
from pathlib import Path
from typing import Any

from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.python.tables import table
from openmae.report.page.run import write_report
from openmae.report.plots.curves import curves, series
from openmae.train.run import read_config, read_metrics
from openmae.weights import Model, load

_SHOWN = ("Training loss", "Evaluations during training", "Effective rank of the features (RankMe)")


class Run(os.PathLike[str]):
    """A run folder, finished or not. It may be given wherever a path is: to openmae.load, as MODEL, to Path().

    path: the folder. What is read of it is read anew each time: a run may go on.
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        """Raises UserError where the folder is no run."""
        self.path = Path(path)
        self._model: tuple[int, Model] | None = None
        read_config(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """Every setting, resolved, as config.toml has it."""
        return read_config(self.path)

    @property
    def metrics(self) -> Any:
        """What was logged, a row a line of metrics.jsonl: a pandas.DataFrame where pandas is installed, else a list of
        dicts."""
        return table(read_metrics(self.path))

    @property
    def evaluations(self) -> Any:
        """Figures of `knn` and `probe` of this run, as `metrics` are given."""
        file = self.path / "evaluations.json"
        return table(read_json(file.read_bytes()) if file.exists() else [])

    @property
    def results(self) -> Any:
        """Figures of a fine-tuned model, of its own val and of what `evaluate` was given since."""
        file = self.path / "results.json"
        return read_json(file.read_bytes()) if file.exists() else []

    @property
    def pictures(self) -> list[Path]:
        """The panels, from the first to the last."""
        return sorted((self.path / "pictures").glob("*.png"))

    @property
    def report(self) -> Path:
        """report.html, written anew."""
        return write_report(self.path)

    @property
    def model(self) -> Model:
        """What openmae.load gives, read again when the run has left newer weights. Raises UserError where it has left
        none."""
        file = self.path / "model.safetensors"
        written = file.stat().st_mtime_ns if file.exists() else -1
        if self._model is None or self._model[0] != written:
            self._model = written, load(self.path)
        return self._model[1]

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return int(self.config.get("steps", 0))

    @property
    def step(self) -> int:
        """The last that was logged or saved."""
        reached, _ = series(read_metrics(self.path), "step")
        saved = [int(place.name.removeprefix("step-")) for place in (self.path / "checkpoints").glob("step-*")]
        return max([0, *map(int, reached), *saved])

    @property
    def is_complete(self) -> bool:
        """Whether all of its steps are taken."""
        return 0 < self.steps <= self.step

    @property
    def state(self) -> str:
        """`complete`, or how far it is."""
        if self.is_complete:
            return "complete"
        return f"stopped at step {self.step:,} of {self.steps:,}; the same call goes on from there"

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}): {self.state}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """For notebooks."""
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def _repr_html_(self) -> str:
        """Its state, the last figures and its curves, inline: nothing is fetched from anywhere."""
        lines = read_metrics(self.path)
        drawn = {title: svg for title, svg in curves(lines).items() if title in _SHOWN or title.endswith("on val")}
        pictures = "".join(f'<img alt="{html.escape(title)}" src="{inline(svg)}">' for title, svg in drawn.items())
        return f"<p><b>{html.escape(str(self.path))}</b>: {html.escape(self.state)}</p><div>{pictures}</div>"


def finished(value: Any) -> Any:
    """What was given for a model. Raises UserError for a run that was stopped: the cells that follow it in a notebook
    would go on with half a model."""
    if isinstance(value, Run) and not value.is_complete:
        raise UserError(
            f"the run in {value.path} has taken {value.step:,} of its {value.steps:,} steps",
            f"make its call again to train it to its end, or give its path, {str(value.path)!r}, to use it as it is",
        )
    return value


def inline(svg: str) -> str:
    """A picture as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
