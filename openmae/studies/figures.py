"""What models are judged by in a study."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from openmae.data.tasks import Task
from openmae.evaluate.corruptions import DEFINITION
from openmae.report.plots.differences import said_bounds
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
        """+1.9 to +4.7; of two seeds, which have no bounds, what each of them gave."""
        return said_bounds(asdict(found), self.in_points)


AGREEMENT = Figure("agreement", "neighbour agreement")
RANKME = Figure("rankme", "RankMe", in_points=False, decides=False)
RANKME_WITHOUT = "rankme_without"
"""Beside RankMe in what a part finds: the same with each of some groups of images left out."""
FINETUNED = "finetuned"
"""Begins the name of a figure that a model gets by being trained with labels, with another seed each time."""


CORRUPTED = "corrupted"
"""Begins the name of a figure of frozen features, by a linear classifier; `FINETUNED-corrupted` of a model that was
fine-tuned."""
_CALLED: dict[Task, str] = {"classification": "top-1", "multi-label": "mean AP", "regression": "R²"}


def finetuned_figure(task: Task, labels: str) -> Figure:
    """Of models that were fine-tuned on a part of the labels, as --labels has it."""
    return Figure(f"{FINETUNED}-{labels}", f"fine-tuned {_CALLED[task]}, {labels}", task != "regression")


def corrupted_figure(kinds: Sequence[str], labels: str | None) -> Figure:
    """The mean error on corrupted images; less is better. kinds: of ImageNet-C's. labels: of the fine-tuning, None
    for a linear classifier. Its name has all that decides it, so that another one is judged anew."""
    which = hashlib.sha256(f"{DEFINITION} {' '.join(sorted(kinds))}".encode()).hexdigest()[:8]
    if labels is None:
        return Figure(f"{CORRUPTED}-{which}", "linear corruption error", decides=False)
    name = f"{FINETUNED}-{CORRUPTED}-{labels}-{which}"
    return Figure(name, "fine-tuned corruption error", decides=False)


def figures_of(task: Task | None, labels: str | None) -> list[Figure]:
    """What models are judged by. task: of the labels, None where there are none. labels: of how few fine-tuning gets,
    None for no fine-tuning."""
    if task is None:
        return [AGREEMENT, RANKME]
    called, shares = _CALLED[task], task != "regression"
    found = [Figure("knn", f"kNN {called}", shares), Figure("linear", f"linear {called}", shares)]
    if labels is not None:
        found.append(Figure(FINETUNED, f"fine-tuned {called} ({labels.replace('-', ' ')})", shares))
    return found
