"""Which way to fine-tune where labels are few: each way is tried on folds of the training labels.

A way learns from all folds but one and is judged by that one, in turn: so each label is told once by a model that has
not seen it (stratified k-fold cross-validation, Kohavi 1995). val chooses nothing. The way that told them best
(by likelihood, each at its best temperature) then learns from all labels; where two are as good, the one that changes
the features less. A way that is clearly behind on some folds is not tried on the others (a race: Maron & Moore 1994).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from openmae.commandline.flags import flag
from openmae.console.progress import counting
from openmae.console.words import duration
from openmae.data.tasks import Answers
from openmae.errors import UserError
from openmae.evaluate.predict import HEADLINE, measure, standard_error
from openmae.evaluate.probe import folds_of
from openmae.files.parsing import to_json
from openmae.files.whole import write_file
from openmae.recipes.finetune.build import Finetuning
from openmae.recipes.finetune.labelled import Labelled
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.training.kind import Here
from openmae.recipes.training.settings import shown
from openmae.report.page.folds import CROSS_VALIDATION, loss_name, taken_way, ways_table

MOST_LABELS, LEAST_LABELS = 500, 10  # that ways are compared by where nobody asks for it
NEAR = 0.25  # of a standard error: as good as equal
FOLDS = 3
BEHIND, LEAST_TOLD = 2.0, 30
"""Standard errors by which a way is clearly behind another, of so many images that both told."""
_WAY = ("minutes", "epochs", "blr", "batch_size", "layer_decay", "crop_scale", "ema_decay")  # settings that say one
_MOST_SECONDS = 1200.0  # of such a comparison
_AS_IS, _USUAL = "the probe as it is", "as usual"
_FARTHEST = (_AS_IS, _USUAL)
"""Compared alone where all ways would take too long. On six sets of 60 labels the better of these two was as good on
the mean as the best of four (docs/log.md)."""
_GENTLE_EPOCHS, _GENTLE_RATE, _GENTLE_CROP = 0.375, 1 / 3, (0.7, 1.0)  # of the plain way's; measured: docs/log.md
_SMALL_CROP = (0.4, 1.0)

Told = tuple[Tensor, NDArray[np.int64]]
"""Scores (n, K), and which of the images (n,) they are of."""
Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Which images are learnt from, and which are held out, in turn."""


@dataclass(frozen=True)
class Trials:
    """What is tried. chosen: what follows from settings for so many images, on all ranks. told: what a model says of
    the val images that learnt the others; the last argument is called after each of its steps. images_per_second: of
    such a training."""

    chosen: Callable[[Finetune, int], Finetuning]
    told: Callable[[Finetuning, Labelled, Callable[[], None]], Told]
    images_per_second: Callable[[Finetuning, Labelled], float]


def why_not(settings: Finetune, images: int) -> str | None:
    """Why no ways are compared for so many labels where nobody asks for it; None where they are."""
    if settings.recipe == "paper":
        return "as the paper"
    if settings.from_scratch or settings.batch_norm or settings.head_from == "fresh":
        return "ways are compared with the linear probe that the head begins as"
    if settings.blocks != "all" or settings.optimizer == "lars":
        return "what learns is given"
    if name := next((name for name in _WAY if getattr(settings, name) is not None), None):
        return f"`{name}` is given"
    if images > MOST_LABELS:
        return f"{images:,} labels are enough for one way"
    if images < LEAST_LABELS:
        return f"{images} labels are too few to hold some back"
    return None


def with_ways(settings: Finetune, labelled: Labelled, here: Here, trials: Trials) -> tuple[Finetune, Labelled]:
    """The settings of the way that told the held-out labels best, and what was opened with what was found of all ways;
    both as they were where nothing is compared. All ranks together. Raises UserError."""
    is_asked, images = settings.folds is not None, labelled.count
    if settings.folds == 0 or (not is_asked and (labelled.start.is_new or why_not(settings, images))):
        return settings, labelled
    asked = FOLDS if settings.folds is None else settings.folds
    folds = folds_of(labelled.right, settings.seed, asked, most_for_all=images)
    with here.ranks.together():
        if is_asked:
            _check(settings, labelled, folds)
    if len(folds) < 2:
        return replace(settings, folds=0), labelled
    ways = _ways(settings, trials.chosen(settings, images))
    runs = {name: trials.chosen(way, images) for name, way in ways.items()}
    rate = here.ranks.from_lead(trials.images_per_second(runs[_USUAL], labelled))
    seconds = {name: len(folds) * _views(run) / rate for name, run in runs.items()}
    tried, said = _in_time(seconds, len(folds), is_asked)
    here.console.print(f"Which way, by {len(folds)} folds of the {images:,} training labels{said}", soft_wrap=True)
    if not tried:
        return replace(settings, folds=0), labelled
    told, taken = _raced({name: ways[name] for name in tried}, labelled, folds, trials, here)
    found = {
        "metric": HEADLINE[labelled.right.task],
        "folds": len(folds),
        "labels": images,
        "ways": [_row(name, told[name], labelled.right, runs[name]) for name in tried],
        "taken": taken,
    }
    _show(found, here.console)
    return replace(ways[taken], folds=asked), replace(labelled, ways=found)


def _check(settings: Finetune, labelled: Labelled, folds: Folds) -> None:
    """Raises UserError where folds are asked for that cannot be."""
    if reason := _against(settings, labelled):
        what = f"--folds {settings.folds} compares ways to fine-tune, and does not go with {reason}"
        raise UserError(what, "leave one of them out")
    if len(folds) < 2:
        what = "no class has two labels, or of each all are of one group"
        raise UserError(f"--folds {settings.folds} cannot hold any labels back: {what}", "leave it out")


def _in_time(seconds: dict[str, float], folds: int, is_asked: bool) -> tuple[Sequence[str], str]:
    """Which ways are tried, by how long each takes; none where those would take too long and nobody asks for them. And
    what to say of it."""
    most = math.inf if is_asked else _MOST_SECONDS

    def total(names: Sequence[str]) -> float:
        return sum(seconds[name] for name in names)

    everything = tuple(seconds)
    whole, of_all = duration(total(everything)), f"--folds {folds}"
    tried = next((names for names in (everything, _FARTHEST) if total(names) <= most), ())
    if not tried:
        return tried, f": left out, for it would take {whole} ({of_all} does it all the same)"
    more = "" if tried == everything else f"; {of_all} tries all {len(everything)} ways in {whole}"
    return tried, f" (at most about {duration(total(tried))}; --folds 0 leaves it out{more})"


def _raced(
    ways: dict[str, Finetune], labelled: Labelled, folds: Folds, trials: Trials, here: Here
) -> tuple[dict[str, list[Told]], str]:
    """What each way told of the folds that it was tried on, and which way is taken. All ranks together."""
    told: dict[str, list[Told]] = {name: [] for name in ways}
    runs = {name: [trials.chosen(way, len(rest)) for rest, _ in folds] for name, way in ways.items()}
    steps = {name: [run.course.schedule.steps for run in of_folds] for name, of_folds in runs.items()}
    left, done = [*ways], 0

    def hear() -> None:
        nonlocal done
        done += 1
        say(done)

    with counting("comparing ways", sum(map(sum, steps.values())), here.console, items="steps") as say:
        for place, fold in enumerate(folds):
            for name in left:
                told[name].append(_held_out(runs[name][place], labelled, fold, trials, hear))
            losses = {name: _losses_of(told[name], labelled) for name in left}
            left, before = here.ranks.from_lead([*in_race(losses)]), left
            done += sum(sum(steps[name][place + 1 :]) for name in before if name not in left)
            if len(left) == 1:
                break
    return told, here.ranks.from_lead(left[least_changed([losses[name] for name in left])])


def in_race(losses: dict[str, NDArray[np.float64]]) -> Iterator[str]:
    """Those ways that may still be the best: whose losses (n,) of the images, nan for one that was not told, are not
    above those of the one with the least by more than BEHIND standard errors of the difference."""
    best = min(losses.values(), key=lambda each: float(np.nanmean(each)))
    for name, each in losses.items():
        ahead, error = _behind(each, best)
        if ahead <= BEHIND * error or np.isfinite(each - best).sum() < LEAST_TOLD:
            yield name


def _behind(losses: NDArray[np.float64], best: NDArray[np.float64]) -> tuple[float, float]:
    """By how much losses are above the best ones on average, and the standard error of that."""
    more = losses - best
    more = more[~np.isnan(more)]
    return float(more.mean()), float(more.std(ddof=1)) / math.sqrt(len(more))


def _views(run: Finetuning) -> int:
    return run.course.schedule.steps * run.course.schedule.batch_size


def least_changed(losses: Sequence[NDArray[np.float64]]) -> int:
    """Which way to take, of those that stand in the order of what they change: the first whose losses (n,) of the
    images, nan for one that was not told, are on average above those of the way with the least by no more than NEAR
    standard errors of the difference. A whole standard error, the rule of Breiman et al. 1984, keeps the probe where
    fine-tuning is far better: of 60 numbers to learn, it gave away a fifth of R² (docs/log.md)."""
    means = [float(np.nanmean(each)) for each in losses]
    best = losses[int(np.argmin(means))]
    for place, each in enumerate(losses):
        more, error = _behind(each, best)
        if more <= NEAR * error:
            return place
    return int(np.argmin(means))


def calibrated(scores: Tensor, asked: Answers) -> Tensor:
    """The scores (n, K) over the temperature, from 1/4 to 32, at which they are likeliest (Guo et al., arXiv
    1706.04599); of numbers, as they are. How sure a way is of itself goes with how long it trained, and does not tell
    how much it knows: without this the probe was taken where fine-tuning was 9 points better (docs/log.md)."""
    if asked.task == "regression":
        return scores
    temperatures = torch.logspace(-2, 5, 71, base=2).tolist()
    return scores / min(temperatures, key=lambda one: float(_losses(scores / one, asked).mean()))


def _losses(scores: Tensor, asked: Answers) -> NDArray[np.float64]:
    """(n,) of each image: negative log-likelihood, or the squared error of a number."""
    right = torch.from_numpy(asked.values)
    if asked.task == "classification":
        each = F.cross_entropy(scores, right, reduction="none")
    elif asked.task == "multi-label":
        each = F.binary_cross_entropy_with_logits(scores, right, reduction="none").mean(1)
    else:
        each = (scores - right).square()[:, 0]
    return each.double().numpy()


def _against(settings: Finetune, labelled: Labelled) -> str | None:
    """What says the way already, or leaves nothing to compare with; None where nothing does."""
    if name := next((name for name in _WAY if getattr(settings, name) is not None), None):
        return f"{flag(name)}, which says one"
    if labelled.start.is_new or settings.from_scratch or settings.batch_norm or settings.head_from == "fresh":
        return "a head that begins fresh"
    return None


def _ways(settings: Finetune, plain: Finetuning) -> dict[str, Finetune]:
    """By name, from the least to the most that is changed of the features."""
    epochs, blr = float(plain.config["epochs"]), float(plain.config["blr"])
    gentle = replace(
        settings, epochs=max(1.0, round(_GENTLE_EPOCHS * epochs)), blr=_GENTLE_RATE * blr, crop_scale=_GENTLE_CROP
    )
    ways = {_AS_IS: replace(settings, epochs=0.0), "gently": gentle, _USUAL: settings}
    if plain.config["crop_scale"][0] > _SMALL_CROP[0]:  # which helps or harms by what is asked, not by how many labels
        ways["with smaller crops"] = replace(settings, crop_scale=_SMALL_CROP)
    return ways


def _held_out(
    run: Finetuning,
    labelled: Labelled,
    fold: tuple[NDArray[np.int64], NDArray[np.int64]],
    trials: Trials,
    hear: Callable[[], None],
) -> Told:
    """What a model says of the fold's images that it did not learn; which of all images these are."""
    rest, held_out = fold
    part = replace(
        labelled,
        train=labelled.train.take(rest),
        val=labelled.train.take(held_out),
        right=labelled.right.at(rest),
        asked=labelled.right.at(held_out),
    )
    scores, which = trials.told(run, part, hear)
    return scores, held_out[which]


def _at_best(told: Sequence[Told], right: Answers) -> tuple[Tensor, Answers, NDArray[np.int64]]:
    """Of all folds that a way was tried on its calibrated scores, what is right, and which images these are."""
    indices = np.concatenate([which for _, which in told])
    asked = right.at(indices)
    return calibrated(torch.cat([scores for scores, _ in told]), asked), asked, indices


def _losses_of(told: Sequence[Told], labelled: Labelled) -> NDArray[np.float64]:
    """(n,) of all images, nan for those that were not told."""
    scores, asked, indices = _at_best(told, labelled.right)
    each = np.full(labelled.count, np.nan)
    each[indices] = _losses(scores, asked)
    return each


def _row(name: str, told: Sequence[Told], right: Answers, run: Finetuning) -> dict[str, Any]:
    """As cross-validation.json has it."""
    scores, asked, _ = _at_best(told, right)
    metric = HEADLINE[asked.task]
    loss, figures = loss_name(metric), measure(scores, asked)
    steps, rate = run.course.schedule.steps, float(run.config["blr"]) * run.course.schedule.batch_size / 256
    least = float(run.config["crop_scale"][0])
    said = f"{steps:,} steps, a rate of {shown(rate)}, crops of {least:.0%}" if steps else "no steps"
    return {
        "name": name,
        "folds": len(told),
        "figure": figures[metric],
        "error": standard_error(metric, scores, asked),
        "loss": figures[loss],
        "loss_error": standard_error(loss, scores, asked),
        "settings": said,
    }


def _show(found: dict[str, Any], console: Console) -> None:
    """The table, and which way was taken."""
    titles, rows = ways_table(found)
    table = Table(*titles)
    for row in rows:
        table.add_row(*row)
    for column in table.columns[1:3]:
        column.justify = "right"
    console.print(table)
    console.print(taken_way(found), soft_wrap=True)


def keep_ways(run: Path, found: dict[str, Any] | None) -> None:
    """Notes what was compared in the run folder; nothing where nothing was. Raises OSError."""
    if found is None:
        (run / CROSS_VALIDATION).unlink(missing_ok=True)
    else:
        write_file(run / CROSS_VALIDATION, to_json(found, indent=1))
