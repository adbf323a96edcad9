"""A training on labels that the val images judge as it goes on: the looks at them, the best weights, and when it is
enough."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from openmae.data.sources.selection import Selection
from openmae.files.address import whole_address
from openmae.recipes.training.best import BestWeights
from openmae.recipes.training.encoder import Start
from openmae.recipes.training.kind import Chosen, Here, Job, Look
from openmae.recipes.training.schedule import evenly
from openmae.train.learner import M


class Judging(Chosen, Protocol):
    """What follows from settings of such a training. model: MODEL, as it was asked for. evaluations: how many times val
    is looked at, evenly over the run. patience: looks after the best one that end the run, None for no end."""

    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def evaluations(self) -> int: ...  # noqa: D102
    @property
    def patience(self) -> int | None: ...  # noqa: D102


class JudgedJob(Job[M]):
    """figures: those of the last look at the val images. best: keeps the weights of the best look, on the lead alone;
    None where none are kept."""

    run: Judging
    start: Start

    def __init__(self, run: Judging, start: Start, here: Here, judging: int, best_by: str | None) -> None:
        """judging: how many images val has. best_by: the figure by which the best weights are kept, None for none."""
        self.run, self.start, self.here, self.course, self.judging = run, start, here, run.course, judging
        self.figures: dict[str, float] = {}
        self.looked = evenly(run.course.schedule.steps, max(1, run.evaluations))
        self.best: BestWeights | None = None
        if best_by is not None and here.ranks.leads:
            self.best = BestWeights(here.folder.path, best_by, here.folder.has_begun, here.console)

    @abstractmethod
    def look(self, whole: M, step: int) -> dict[str, Any]:
        """Judges it, keeps its weights by `keep_look`, and gives what is logged."""

    @abstractmethod
    def save_in(self, place: Path, whole: M, step: int, more: dict[str, Any]) -> None:
        """The weights in a folder, with more about where they are from. Raises OSError."""

    def looks(self) -> Mapping[int, Look[M]]:
        """The val images are judged, evenly over the run and at its end."""
        return dict.fromkeys(self.looked, self.look)

    def beside(self, views: float) -> float:
        """The val images, which only go forward, a third of a step's work."""
        return max(1, self.run.evaluations) * self.judging / 3

    def is_enough(self, step: int) -> bool:
        """Where no look of so many was better than the best."""
        if self.best is None or self.run.patience is None:
            return False
        return self.best.is_enough(self.run.patience, self.looked, step, self.course.schedule.steps)

    def save(self, whole: M, step: int) -> None:
        """With class names, input statistics, and where all is from."""
        self.save_in(self.here.folder.path, whole, step, {})

    @abstractmethod
    def found(self, best: BestWeights, step: int) -> dict[str, Any]:
        """What the last look found, as `best` takes it."""

    def keep_look(self, whole: M, step: int) -> None:
        """Keeps the weights of a look, but of the last one, which are kept anyway; and beside them where it is the best
        so far."""
        if not self.here.ranks.leads:
            return
        if step != self.last:
            try:
                self.save(whole, step)
            except OSError as problem:
                said = f"warning: no weights at step {step}: {problem}"
                self.here.console.print(said, style="yellow", soft_wrap=True)
        if self.best is not None and self.ended_at is None:
            now = self.found(self.best, step)
            self.best.look(now, lambda place, found: self.save_in(place, whole, step, {"best": found}))

    @property
    def last(self) -> int:
        """The step after which nothing more is learnt."""
        return self.course.schedule.steps if self.ended_at is None else self.ended_at

    def provenance(self, task: str, step: int, held_out: str, more: Mapping[str, Any]) -> dict[str, Any]:
        """Where weights are from, for model.json. held_out: the fingerprint of the val images."""
        model = self.run.model
        is_name = self.start.is_new or not Path(model).exists()  # of a size, of the Hub's, of timm's
        return {
            "job": task,
            "data": whole_address(self.course.data),
            "step": step,
            "seed": self.course.seed,
            "held_out": held_out,
            **({"ended_early": True} if step == self.ended_at else {}),
            **({"selection": asked} if (asked := Selection.from_dict(self.run.config).to_dict()) else {}),
            "model": model if is_name else whole_address(model),
            "pre-training": self.start.provenance,
            **more,
        }
