"""What `openmae adapt` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from openmae.errors import UserError
from openmae.heads import Pool
from openmae.recipes.asked import (
    MODEL,
    AskedDevice,
    AskedGroups,
    AskedHeads,
    AskedPrecision,
    AskedReading,
    AskedTask,
    Loaders,
)
from openmae.recipes.training.ranges import ABOVE_0, SEED, SHARE, Bounds, within

GROUPS = {"minutes": "training", "seeds": "judging", "precision": "machine"}  # of --help, by their first setting
LEAST_SEEDS = 2
_BOUNDS: Bounds = {
    **dict.fromkeys(("minutes", "epochs", "batch_size"), ABOVE_0),
    "seeds": (lambda n: n >= LEAST_SEEDS, "give 2 or more: one tells nothing of what another would have given"),
    "worth": SHARE,
    "seed": SEED,
}


@dataclass(frozen=True)
class Adapt(AskedHeads, AskedGroups, AskedReading):
    """Is going on from released weights worth it? Three encoders on the same images, as released, gone on with, and
    from scratch with as many steps, are judged alike, over several seeds; the verdict is a sentence.

    The same command again, after a crash or Ctrl-C, goes on where the study was.
    """

    model: Positional[Annotated[Path, MODEL]]
    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """The images to go on with, as for pretrain. If they have labels, they are judged by them."""
    out: Annotated[Path, arg(metavar="STUDY")]
    """Folder to write: a run folder for each training, results.json, report.html."""
    labels: Annotated[str | None, arg(metavar="LABELLED")] = None
    """Labelled images to judge by, as for probe. Default: DATA itself; where it has no labels, figures that need
    none."""

    minutes: float | None = None
    """Time for the steps of each training, by the speed that a short one reaches here first; the same number of steps
    for all."""
    epochs: float | None = None
    """Times that each training sees every image, instead. Default: what pretrain would choose to go on with them."""
    batch_size: int | None = None
    """Images an optimizer step: always the effective batch. Default: what pretrain would choose."""
    scratch: bool = True
    """Train from scratch too, with as many steps: what the released weights are worth."""

    seeds: int = 3
    """How often everything is trained, 2 or more, each time with another seed. Two decide nothing; more may be added
    later by the same command."""
    few_labels: Annotated[str | None, arg(metavar="PART|none")] = None
    """Fine-tune with so few labels: a number such as 20-per-class, a share such as 10%, or none to leave it out.
    Default: 20-per-class, or what the smallest class has; 10% where images have no class of their own."""
    pool: Pool = "mean"
    """Feature of an image: the mean of its patch tokens, or its class token."""
    worth: float = 0.01
    """The least gain that is worth having, as a share: 0.01 is a point of a hundred. Where a larger one is ruled out
    there is no gain, else nothing is decided."""
    task: AskedTask = None
    seed: int = 0
    """The first of the seeds. Decides what is held out where there are no splits, too."""

    other_code: bool = False
    """Go on although openmae's code is no longer that which the study began with; the table says so."""
    precision: AskedPrecision = "auto"
    device: AskedDevice = "auto"
    workers: Loaders = None

    def __post_init__(self) -> None:
        """Raises UserError for a number out of its range, and for settings that do not go together."""
        within(self, _BOUNDS)
        if self.minutes is not None and self.epochs is not None:
            raise UserError("--minutes and --epochs both say how long", "give one of them")
