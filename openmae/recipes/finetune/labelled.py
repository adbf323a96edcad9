"""What a fine-tuning learns from: MODEL and DATA, opened, with what is right for the images."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.commandline.flags import with_flags
from openmae.data.fewer_labels import asked_labels
from openmae.data.held_out import answers_to_learn, split_for
from openmae.data.opening import open_data
from openmae.data.sources.source import Source
from openmae.data.tasks import Answers, Taken, Task, answers, outputs_before
from openmae.errors import UserError
from openmae.evaluate.suited import suited
from openmae.recipes.finetune.best import check_metric
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.learnt import label_column
from openmae.recipes.opened import tell
from openmae.recipes.training.encoder import Start, fresh, loaded_model, pretrained
from openmae.recipes.training.kind import Here
from openmae.recipes.training.settings import given
from openmae.train.run import read_config
from openmae.weights import Loaded

_LABELS = "labels:"  # before their digest in a run's fingerprint


@dataclass(frozen=True)
class Labelled:
    """MODEL and DATA, opened: images to learn from and to be judged by, and what is right for them."""

    start: Start
    train: Source
    val: Source
    right: Answers
    asked: Answers
    is_former: bool = False
    """Whether the run was begun when its labels were no part of the fingerprint."""
    label_column: str | None = None
    """Of DATA, that of the labels; None for the one that is taken by itself."""
    ways: dict[str, Any] | None = None
    """What was found of ways to fine-tune by folds of the training labels, as the run keeps it; None where nothing was
    compared."""

    @property
    def fingerprint(self) -> str:
        """Of both, and of their labels."""
        images = f"{self.train.fingerprint} {self.val.fingerprint}"
        if self.is_former:
            return images
        digest = hashlib.sha256(json.dumps([self.right.task, *self.right.names]).encode())
        for labels in (self.right, self.asked):
            digest.update(labels.values.tobytes())
        return f"{images} {_LABELS}{digest.hexdigest()}"

    @property
    def count(self) -> int:
        """Of the images that are learnt from."""
        return len(self.train)


def open_labelled(settings: Finetune, here: Here) -> Labelled:
    """Raises UserError."""
    with here.ranks.together():
        loaded = loaded_model(settings, here.console)
        if loaded is not None and not here.folder.has_begun:  # of one that has, config.toml says it
            settings = replace(settings, label_column=_label_column(settings, loaded, here.console))
            say_turned(settings, here.console)
    taken, train, val = here.ranks.each_in_turn(lambda: _split(settings, here.console))
    task, is_former = taken.task, here.ranks.from_lead(_is_former(here))
    names = outputs_before(train, task) if is_former else None
    right = answers_to_learn(train, task, settings.selection, names)
    asked = answers(val, task, right.names)
    start = (
        fresh(settings, train, here.workers, here.console)
        if loaded is None
        else pretrained(settings, suited(loaded, train, settings.reading, here.workers, here.console))
    )
    check_metric(settings.keep_best, task, len(right.names))
    what = {
        "classification": f"{len(right.names)} classes",
        "multi-label": f"{len(right.names)} labels",
        "regression": "a number",
    }[task]
    here.console.print(f"{task}: {what}; learnt from {len(train):,} images, judged by {len(val):,} others")
    here.console.print(with_flags(str(taken)), soft_wrap=True)
    return Labelled(start, train, val, right, asked, is_former, settings.label_column)


def _label_column(settings: Finetune, loaded: Loaded, console: Console) -> str | None:
    """The one that is asked for, or that a MODEL which was fine-tuned before remembers."""
    return label_column(settings.label_column, given(settings.data), Path(given(settings.model)), loaded, console)


def say_turned(settings: Finetune, console: Console) -> None:
    """That MODEL learnt from turned views, where nobody says whether these are to be: a class may be a direction."""
    run = Path(given(settings.model))
    if settings.vflip is not None or settings.rotate90 is not None or not (run / "config.toml").exists():
        return
    if read_config(run).get("rotate90") == "on":
        console.print(
            f"{run} learnt from views turned every way: --vflip on --rotate90 on turn them here too, if no class or "
            "number depends on how an image lies",
            soft_wrap=True,
        )


def _is_former(here: Here) -> bool:
    """Whether a run goes on that was begun by version 0.1, which ordered classes as their letters are."""
    return here.folder.has_begun and _LABELS not in here.folder.begun_with()


def _split(settings: Finetune, console: Console) -> tuple[Taken, Source, Source]:
    """What labels are taken for, and the images to learn from and to be judged by. Raises UserError."""
    data = open_data(given(settings.data), settings.selection, settings.reading)
    taken, train, val = split_for(data, settings.task, settings.seed)
    tell(data, console, train, val)
    _check_balance(settings.balance, taken.task)
    return taken, asked_labels(train, settings.labels, taken.task, settings.seed, settings.selection), val


def _check_balance(balance: str, task: Task) -> None:
    """Raises UserError where the labels have nothing that could be balanced so."""
    if balance != "none" and task == "regression":
        raise UserError(f"--balance {balance} is for classes, and these labels are numbers", "leave it out")
    if balance == "sampling" and task == "multi-label":
        raise UserError(
            "--balance sampling is for images of one class each, and these have several labels",
            "give --balance weights",
        )
