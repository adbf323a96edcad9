"""What `openmae compare` is asked."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from openmae.errors import UserError
from openmae.heads import Pool
from openmae.recipes.asked import AskedDevice, AskedGroups, AskedPrecision, AskedReading, AskedTask, Loaders
from openmae.recipes.training.ranges import ABOVE_0, SEED, Bounds, within
from openmae.studies.shares import check_shared, share_in

GROUPS = {"budget": "training", "seeds": "judging", "jobs": "machine"}  # of --help, by their first setting
_BOUNDS: Bounds = {**dict.fromkeys(("epochs", "seeds", "jobs"), ABOVE_0), "seed": SEED}
NONE = "none"
_UNITS = {"s": 1 / 60, "m": 1.0, "": 1.0, "h": 60.0}  # minutes
_USUAL_MINUTES = 20.0
_LEAST_MINUTES = 0.08  # of a budget: a training that begins takes some steps for 2 s, to see how fast they are


@dataclass(frozen=True)
class Compare(AskedGroups, AskedReading):
    """Which way to pre-train is best on your images? Masked autoencoding, contrast, distillation, labels and none at
    all, with the same model, images and time, judged alike; a table and a picture with error bars.

    The same command again, after a crash or Ctrl-C, goes on where the study was; more methods and seeds may be added.
    See docs/compare.md.
    """

    data: Positional[Annotated[str, arg(metavar="DATA")]]
    """The images to pre-train on, as for pretrain. If they have labels, they are judged by them."""
    out: Annotated[Path, arg(metavar="STUDY")]
    """Folder to write: a run folder for each training, results.json, study.svg, report.html."""
    methods: Annotated[str | None, arg(metavar="NAME,...")] = None
    """Of mae, supervised, dae, beit, simclr, byol, mocov3, dino and random (no training). Default: all that DATA
    allows. The others are compared with mae; without it, with the first one given."""
    also: Annotated[tuple[str, ...], arg(metavar="MODEL...")] = ()
    """Released models, or runs of your own, that are judged beside, with their licence."""
    set: Annotated[tuple[str, ...], UseAppendAction, arg(metavar="SETTING=VALUE")] = ()
    """What all trainings have in common: any settings of pretrain, such as --set model=vit_tiny patch_size=4. What is
    left open is chosen as pretrain would."""
    labels: Annotated[str | None, arg(metavar="LABELLED")] = None
    """Labelled images to judge by, as for probe. Default: DATA itself; where it has no labels, figures that need
    none."""

    budget: Annotated[str | None, arg(metavar="TIME")] = None
    """Time for each method on this machine, such as 90s, 20m or 2h: as many epochs as fit by the speed of a few of its
    own steps. Default: 20m."""
    epochs: float | None = None
    """Times that each method sees every image, instead, however long that takes."""

    rates: Annotated[str, arg(metavar="TIMES,...")] = "1/3,1,3"
    """Rates tried for each method, in multiples of the one that pretrain would choose, by short trainings; all seeds
    are trained with the best. One alone, such as 1, is taken untried."""

    seeds: int = 3
    """How often everything is trained, each time with another seed; more may be added later by the same command."""
    finetune: Annotated[str | None, arg(metavar="PART,...|none")] = None
    """Shares of the labels that all models are fine-tuned on too, as --labels of finetune has them; none to leave it
    out. Default: 1%,10%,100%, where there are as many labels."""
    corruptions: Annotated[str | None, arg(metavar="KINDS")] = None
    """Judge on corrupted images too, as evaluate does at all severities: all, or some of ImageNet-C's kinds with commas
    between them; the model that was fine-tuned on most labels, or the linear classifier."""
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
        if self.budget is not None and self.epochs is not None:
            raise UserError("--budget and --epochs both say how long", "give one of them")
        check_shared(self.part, self.jobs)
        _ = self.minutes, self.times

    @property
    def minutes(self) -> float | None:
        """Of --budget; None where epochs are given. Raises UserError."""
        if self.budget is None:
            return None if self.epochs is not None else _USUAL_MINUTES
        found = re.fullmatch(r"([0-9]*\.?[0-9]+)(s|m|h|)", self.budget.strip())
        if found is None:
            raise UserError(f"--budget is '{self.budget}'", "give a time such as 90s, 20m or 2h")
        minutes = float(f"{float(found[1]) * _UNITS[found[2]]:.6g}")
        if minutes < _LEAST_MINUTES:
            raise UserError(
                f"--budget {self.budget} is over before the speed of a method is measured",
                "give more, such as 20m",
            )
        return minutes

    @property
    def times(self) -> tuple[float, ...]:
        """Of --rates, each once. Raises UserError."""
        found: list[float] = []
        for word in self.rates.split(","):
            try:
                times = float(Fraction(word.strip()))
            except (ValueError, ZeroDivisionError):
                times = 0.0
            if not 0 < times < 1e6:
                raise UserError(f"--rates is '{self.rates}'", "give numbers above 0 with commas, such as 1/3,1,3")
            found += [] if times in found else [times]
        return tuple(found)

    @property
    def share(self) -> tuple[int, int] | None:
        """(K, N) of --part."""
        return share_in(self.part)
