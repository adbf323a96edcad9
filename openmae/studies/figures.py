"""What models are judged by in a study."""

from dataclasses import dataclass

from openmae.data.tasks import Task
from openmae.report.page.study import signed
from openmae.studies.intervals import Interval


@dataclass(frozen=True)
class Figure:
    """One that models are judged by. said: as a sentence calls it. in_points: a share 0..1, told in points of a
    hundred. decides: whether its rise alone is a gain."""

    name: str
    said: str
    in_points: bool = True
    decides: bool = True

    def amount(self, value: float) -> str:
        """3.3 points, 0.041."""
        return f"{100 * abs(value):.1f} points" if self.in_points else f"{abs(value):.3g}"

    def bounds(self, found: Interval) -> str:
        """+1.9 to +4.7"""
        return f"{signed(found.low, self.in_points)} to {signed(found.high, self.in_points)}"


AGREEMENT = Figure("agreement", "neighbour agreement")
RANKME = Figure("rankme", "RankMe", in_points=False, decides=False)
RANKME_WITHOUT = "rankme_without"
"""Beside RankMe in what a part finds: the same with each of some groups of images left out."""
FINETUNED = "finetuned"
"""The name of the figure that a model gets by being trained with labels, with another seed each time."""


def figures_of(task: Task | None, labels: str | None) -> list[Figure]:
    """What models are judged by. task: of the labels, None where there are none. labels: of how few fine-tuning gets,
    None for no fine-tuning."""
    if task is None:
        return [AGREEMENT, RANKME]
    called = {"classification": "top-1", "multi-label": "mean AP", "regression": "R²"}[task]
    shares = task != "regression"
    found = [Figure("knn", f"kNN {called}", shares), Figure("linear", f"linear {called}", shares)]
    if labels is not None:
        found.append(Figure(FINETUNED, f"fine-tuned {called} ({labels.replace('-', ' ')})", shares))
    return found
