"""Fine-tuning on shares of the labels: all models alike, on the same draw of labels of a seed, judged by the same
images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from openmae.data.fewer_labels import fewer_labels
from openmae.errors import UserError
from openmae.recipes.asked import asked_of_data
from openmae.recipes.finetune.job import finetune
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.pretrain.build import Pretraining
from openmae.studies.compare.settings import NONE, Compare
from openmae.studies.figures import FINETUNED
from openmae.studies.judging import Labelled, Means, judge_finetuned, open_labelled
from openmae.studies.trainings import took
from openmae.studies.tuning import chosen, fitting

USUAL = ("1%", "10%", "100%")
SHARE = 1 / 3  # of a method's budget, that a fine-tuning takes at most
_QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Tuning:
    """One for all models. labels: the share; images: so many. asked: settings with nothing open that is not the
    model's own. seconds: that it takes here, None where nothing tells. is_cut: whether the budget ends it sooner than
    `finetune` would."""

    labels: str
    images: int
    asked: Finetune
    seconds: float | None
    is_cut: bool

    @property
    def figure(self) -> str:
        """Its name."""
        return f"{FINETUNED}-{self.labels}"


def shares_of(settings: Compare, labelled: Labelled | None) -> tuple[dict[str, int], str]:
    """(how many images each share has, what is said of one that is left out). Raises UserError for one that is asked
    for and cannot be."""
    if settings.finetune == NONE:
        return {}, ""
    if labelled is None:
        if settings.finetune is not None:
            raise UserError("--finetune needs labels, and there are none", "give --labels LABELLED, or leave it out")
        return {}, ""
    words = USUAL if settings.finetune is None else [one.strip() for one in settings.finetune.split(",")]
    found: dict[str, int] = {}
    left_out: list[str] = []
    for word in dict.fromkeys(words):
        try:
            count = len(fewer_labels(labelled.train, word, labelled.task, settings.seed, labelled.right.groups))
        except UserError as error:
            raise UserError(error.what.replace("`labels", "`finetune"), error.advice) from error
        if settings.finetune is None and _is_more(word, count, labelled):
            left_out.append(word)
        else:
            found[word] = count
    if not left_out:
        return found, ""
    few = f"{len(labelled.train):,} labels are too few for {' and '.join(left_out)} of them"
    return found, f"fine-tuning on {' and '.join(left_out)} is left out: {few}"


def _is_more(word: str, count: int, labelled: Labelled) -> bool:
    """Whether so many images are more than the share: one of each class at least is drawn."""
    share = float(word.rstrip("%")) / 100 * len(labelled.train)
    return count > max(1.5 * share, share + 1) or count < 2


def tuning_of(
    settings: Compare,
    labels: str,
    images: int,
    labelled: Labelled,
    planned: Pretraining,
    device: torch.device,
    rate: float | None,
) -> Tuning:
    """What all models are fine-tuned with on this share of the labels. rate: operations a second, where that is known.

    Raises UserError for what cannot be.
    """
    asked = _asked(settings, labels)
    if rate is None:
        return Tuning(labels, images, chosen(asked, planned, labelled, images, device), None, is_cut=False)
    most = None if settings.minutes is None else settings.minutes * 60 * SHARE
    full, seconds, is_cut = fitting(asked, planned, labelled, images, device, rate, most)
    return Tuning(labels, images, full, seconds, is_cut)


def most_labels(tunings: Sequence[Tuning]) -> Tuning | None:
    """The one on most labels."""
    return max(tunings, key=lambda one: one.images, default=None)


def _asked(settings: Compare, labels: str) -> Finetune:
    return Finetune(
        data=settings.labels or settings.data,
        labels=labels,
        folds=0,
        keep_best="none",
        task=settings.task,
        pool=settings.pool,
        evaluations=1,
        precision=settings.precision,
        device=settings.device,
        workers=settings.workers,
        **asked_of_data(settings),
    )


@dataclass(frozen=True)
class Tuned:
    """A model that is fine-tuned. is_ours: whether it was trained here, so that all of its settings are the others'."""

    model: Path
    run: Path
    seed: int
    is_ours: bool


def finetuned(one: Tuned, tuning: Tuning, labelled: Labelled, means: Means, file: Path) -> dict[str, Any]:
    """Does so, and judges it by the val images that its seed holds out. Raises UserError, Interrupted."""
    asked = tuning.asked
    if not one.is_ours:
        asked = replace(asked, img_size=None, patch_size=None, blr=None, layer_decay=None, drop_path=None)
    heads = means.heads.get(one.model, {}).get("num_heads")
    finetune(replace(asked, model=str(one.model), num_heads=heads, out=one.run, seed=one.seed), means.console)
    held_out = labelled if one.seed == means.seed else open_labelled(labelled.data, means, one.seed, _QUIET)
    return took(one.run) | judge_finetuned(one.run, held_out, means, file, tuning.figure)
