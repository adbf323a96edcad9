"""The same training from fresh weights beside a fine-tuning: what pre-training is worth, as a row of its table."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from openmae.distributed.started import refuse_ranks
from openmae.errors import UserError
from openmae.files.parsing import read_json
from openmae.model import SIZES
from openmae.recipes.asked import OF_DATA
from openmae.recipes.finetune.compared import put_rows
from openmae.recipes.finetune.settings import Finetune
from openmae.recipes.training.open import stored
from openmae.recipes.training.settings import given
from openmae.report.page.compared import COMPARED, FINETUNED, SCRATCH
from openmae.report.page.run import write_report
from openmae.train.run import read_config

FOLDER = "scratch"  # of a run
_OF_THE_LABELS = (
    *OF_DATA, "model", "num_heads", "data", "labels", "task", "balance", "seed", "pool", "batch_norm", "img_size",
    "patch_size", "crop_fit", "hflip", "vflip", "rotate90", "precision", "device", "workers", "evaluations",
)  # fmt: skip
"""Settings that both have; how long and at what rate fresh weights learn is chosen for them, where it was left open."""


def check_scratch(settings: Finetune) -> None:
    """Raises UserError, before anything is trained, where nothing could be trained beside."""
    refuse_ranks("--with-scratch")
    if settings.from_scratch or settings.model in SIZES:
        raise UserError("--with-scratch is for a run that begins with weights which have learnt", "leave it out")
    if settings.epochs == 0:
        raise UserError("--epochs 0 learns nothing, and --with-scratch would learn as long", "leave one of them out")


def train_beside(
    settings: Finetune, console: Console, finetune: Callable[[Finetune, Console], dict[str, float]]
) -> None:
    """Trains RUN/scratch, or goes on with it, and puts its figure into the table of the run. Raises UserError,
    Interrupted."""
    run = given(settings.out)
    config = read_config(run)
    asked = stored(settings, {name: config[name] for name in _OF_THE_LABELS if name in config}, settings.resume)
    console.print(f"\nThe same from fresh weights, in {run / FOLDER}", soft_wrap=True)
    finetune(
        replace(
            asked,
            out=run / FOLDER,
            resume=False,
            from_scratch=True,
            with_scratch=False,
            head_from=None,
            folds=0,
            minutes=None,
            epochs=asked.epochs if asked.minutes is None else config["epochs"],
            keep_best="none",
            patience=None,
        ),
        console,
    )
    own, theirs = _read(run), _read(run / FOLDER)
    row = next(row for row in theirs["rows"] if row["name"] == FINETUNED)
    put_rows(run, {name: own[name] for name in own if name != "rows"}, [{**row, "name": SCRATCH, "weights": FOLDER}])
    write_report(run)


def _read(run: Path) -> dict[str, Any]:
    """Raises UserError where it is damaged."""
    try:
        return dict(read_json((run / COMPARED).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{run / COMPARED} is damaged ({error})", "move it away") from error
