"""The rate of each method: chosen among a few multiples of the one that `pretrain` would choose, by short trainings.

All of a method's trials together take a tenth of what one of its trainings takes, and come to it: they are run once,
with the first seed, and all seeds have the rate that was best. A trial is judged by training labels that are held out,
never by the images that judge in the end: of these a fifth is told by its nearest neighbours among the others.
Without labels it is the method's own loss on training images that the trial did not see.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openmae.baselines.method import Collapsed
from openmae.commandline.flags import with_flags
from openmae.console.words import on_one_line
from openmae.errors import Interrupted, NotWritten, RankLost, UserError
from openmae.evaluate.knn import knn_predict
from openmae.evaluate.probe import folds_of
from openmae.machine.device import autocast
from openmae.recipes.baseline.build import views_of
from openmae.recipes.baseline.job import BaselineJob
from openmae.recipes.pretrain.build import stream_of
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.training.job import Run, begun
from openmae.recipes.training.settings import given
from openmae.studies.compare.trainings import Aside, kind_at
from openmae.studies.judging import Labelled, Means, frozen_features
from openmae.studies.outcomes import outcome_of
from openmae.studies.rows import COLLAPSED
from openmae.studies.study import Study
from openmae.studies.trainings import took
from openmae.train.loop import fit

FOLDER = "rates"
SHARE = 0.1  # of a training, that all trials of a method take
LEAST_STEPS = 20  # of a trial: fewer tell nothing
_FOLDS = 5  # of the training labels, of which one judges
_LOOKED_AT = 512  # images that the loss is of
WHY = "why"


@dataclass(frozen=True)
class Trial:
    """A training that tells of a rate. times: the rate, in what pretrain would choose. asked: settings with nothing
    open, but for the folder and that rate. aside: images that it does not see."""

    method: str
    times: float
    asked: Pretrain
    run: Path
    aside: Aside | None


@dataclass(frozen=True)
class Tried:
    """What came of a trial. blr: its base rate. figure: of held-out labels, a share or R², or a loss without labels;
    None where there is none, and why."""

    times: float
    blr: float | None
    figure: float | None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For results.json."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


def part_of(method: str, times: float) -> str:
    """The name of a trial's part, and of its run."""
    return f"{FOLDER}/{method}/x{times:.3g}"


def epochs_of(whole: float, most: float | None, trials: int, images: int, batch: int) -> float:
    """Of a trial. whole: epochs of a training; most: that it may not exceed, None for no bound; batch: images of a step
    at least."""
    least = LEAST_STEPS * batch / images
    found = float(f"{max(whole * SHARE / trials, least):.4g}")
    return found if most is None else min(found, most)


def aside_of(labelled: Labelled | None, seed: int, *, learns_labels: bool) -> Aside | None:
    """What a trial does not see. labelled: what judges it; None for its own loss. learns_labels: those of
    `labelled`."""
    if labelled is None:
        return Aside(None, seed)
    return Aside(given(held_out(labelled, seed))[1], seed) if learns_labels else None


def tried(trial: Trial, labelled: Labelled | None, means: Means) -> dict[str, Any]:
    """Does so, and gives its rate and figure; of a trial that collapsed or failed, why: it ends the choice of this rate
    and nothing else."""
    asked, times = replace(trial.asked, out=trial.run, seed=means.seed, pictures=0), trial.times
    asked = replace(asked, blr=given(asked.blr) * times)
    try:
        with begun(kind_at(trial.method, 1.0, trial.aside), asked, means.console) as run:
            fit(run.training)
        found = {"times": times, **took(trial.run)}
        if labelled is None:
            return found | {"figure": held_out_loss(run, means)}
        return found | {"figure": held_out_labels(trial.run, labelled, means)}
    except Collapsed as error:
        means.console.print(f"This rate is out: {error.what}", style="yellow", soft_wrap=True)
        return {"times": times, WHY: with_flags(error.what), COLLAPSED: True}
    except (Interrupted, NotWritten, RankLost, OSError):
        raise
    except (UserError, ValueError, RuntimeError) as error:
        said = on_one_line(with_flags(str(error)))
        means.console.print(f"This rate is out: {said}", style="yellow", soft_wrap=True)
        return {"times": times, WHY: said}


# ---------------------------------------------------------------- what judges


def held_out(labelled: Labelled | None, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """(rest, held out) of the training labels; None where there are too few."""
    if labelled is None:
        return None
    folds = folds_of(labelled.right, seed, _FOLDS, 0)
    return folds[0] if folds else None


def held_out_labels(run: Path, labelled: Labelled, means: Means) -> float:
    """The figure of the nearest neighbours of training images that are held out, among the others."""
    features, rows = frozen_features(run, labelled.train, means, "train features")
    right, (_, away) = labelled.right.at(rows), given(held_out(labelled, means.seed))
    asked = torch.from_numpy(np.isin(rows, away))
    at, rest = (np.flatnonzero(part.numpy()) for part in (asked, ~asked))
    scores = knn_predict(features[~asked], right.at(rest), features[asked], device=means.device)
    return outcome_of(scores, right.at(at), at).figure()


def held_out_loss(run: Run[Any], means: Means) -> float:
    """A method's own loss on images that its training did not see, with nothing of it learning any more."""
    job = run.job
    source, schedule = job.images.val, job.course.schedule
    batch = min(schedule.batch_size, len(source))
    views = views_of if isinstance(job, BaselineJob) else stream_of
    stream = views(job.run, source, 0, means.console)
    stream = replace(stream, batch_size=batch, steps=max(1, min(_LOOKED_AT, len(source)) // batch))
    model, loss, device = job.model.eval(), run.training.learner.loss_of, means.device
    with torch.no_grad(), autocast(device, schedule.precision):
        found = [float(loss(model, views.to(device))) for views in stream.batches(0, batch, 0)]
    return sum(found) / len(found)


# ---------------------------------------------------------------- what is chosen


def found_of(study: Study, method: str, times: Sequence[float]) -> list[Tried]:
    """Of the trials that are done."""
    found = []
    for one in times:
        name = part_of(method, one)
        figures, why = study.figures(name), study.why_failed(name)
        if figures is not None or why is not None:
            told = figures or {}
            figure = told.get("figure")
            finite = figure if figure is not None and math.isfinite(figure) else None
            why = why or told.get(WHY) or ("" if finite is not None else "its figure is no number")
            found.append(Tried(one, told.get("blr"), finite, why))
    return found


def best_of(found: Sequence[Tried], is_loss: bool) -> float:
    """The rate with the best figure, the one nearest to what pretrain would choose of equals; that itself where no
    trial has a figure."""
    known = [one for one in found if one.figure is not None]
    if not known:
        return min((one.times for one in found), key=_far, default=1.0)
    sign = -1 if is_loss else 1
    return max(known, key=lambda one: (sign * given(one.figure), -_far(one.times))).times


def _far(times: float) -> float:
    return abs(math.log(times))
