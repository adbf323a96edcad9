"""What `openmae ablate` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from openmae.errors import UserError
from openmae.heads import Pool
from openmae.recipes.asked import AskedDevice, AskedGroups, AskedPrecision, AskedReading, AskedTask, Loaders
from openmae.recipes.training.ranges import ABOVE_0, SEED, Bounds, within
from openmae.studies.shares import check_shared, share_in

GROUPS = {"epochs": "training", "seeds": "judging", "jobs": "machine"}  # of --help, by their first setting
_BOUNDS: Bounds = {
    **dict.fromkeys(("minutes", "epochs", "finetune_epochs", "seeds", "jobs"), ABOVE_0),
    "seed": SEED,
}


@dataclass(frozen=True)
class Ablate(AskedGroups, AskedReading):
    """Which setting is best on your images? A training for each value and seed, judged alike; a table and a picture
    with error bars, and the paper's figures behind them where it has some.

    The same command again, after a crash or Ctrl-C, goes on where the study was. See docs/ablate.md.
    """

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """The images to pre-train on, as for pretrain. If they have labels, they are judged by them."""
    out: Annotated[Path, arg(metavar="STUDY")]
    """Folder to write: a run folder for each training, results.json, study.svg, report.html."""
    study: (
        Literal[
            "decoder-depth",
            "decoder-width",
            "mask-token",
            "target",
            "augmentation",
            "sampling",
            "mask-ratio",
            "schedule",
            "partial",
            "ratio-schedule",
            "crop-sampling",
            "data-size",
            "model-size",
        ]
        | None
    ) = None
    """What varies: decoder-depth to sampling are the paper's Tables 1a to 1f, mask-ratio its Figure 5, schedule
    (epochs) Figure 7, partial (blocks fine-tuned) Figure 9; ratio-schedule and crop-sampling it left open."""
    vary: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="SETTING=VALUE,...")] = ()
    """A grid of your own: any settings of pretrain, such as --vary mask_ratio=0.25,0.5 --vary target=pixel,hog. With
    --study, other values of the one setting that it varies."""
    set: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="SETTING=VALUE")] = ()
    """What all trainings have in common: any settings of pretrain, such as --set model=vit_tiny patch_size=4. What is
    left open is chosen once, as pretrain would."""
    labels: Annotated[str | None, arg(metavar="LABELLED")] = None
    """Labelled images to judge by, as for probe. Default: DATA itself; where it has no labels, figures that need
    none."""

    epochs: float | None = None
    """Times that each training sees every image. Default: what pretrain would choose."""
    minutes: float | None = None
    """Time for a training with the usual setting, instead, by the speed that is measured here first; all others see as
    many images."""

    finetune_epochs: float | None = None
    """Of partial, times that each fine-tuning sees every labelled image. Default: what finetune would choose, and no
    more than fit into --minutes."""

    seeds: int = 3
    """How often everything is trained, each time with another seed; more may be added later by the same command."""
    pool: Pool = "mean"
    """Feature of an image: the mean of its patch tokens, or its class token."""
    task: AskedTask = None
    seed: int = 0
    """The first of the seeds. Decides what is held out where there are no splits, too."""

    jobs: int = 1
    """Processes on this machine that share the work, and its cores and GPUs."""
    part: Annotated[str | None, arg(metavar="K/N")] = None
    """Be the K-th of N such processes, on any machines that see STUDY, as of a job array; the last one to end makes the
    table."""
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
        if self.study is None and not self.vary:
            raise UserError(
                "nothing is to vary", "give --study mask-ratio or another one, or --vary mask_ratio=0.25,0.5,0.75"
            )
        if self.finetune_epochs is not None and self.study != "partial":
            raise UserError("--finetune-epochs is of --study partial, and nothing else fine-tunes", "leave it out")
        check_shared(self.part, self.jobs)

    @property
    def share(self) -> tuple[int, int] | None:
        """(K, N) of --part."""
        return share_in(self.part)
