"""What `openmae finetune` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.data.views.mixing import GROUP
from openmae.errors import UserError
from openmae.heads import Pool
from openmae.recipes.asked import (
    LABELLED,
    AskedDevice,
    AskedGroups,
    AskedHeads,
    AskedLabels,
    AskedPrecision,
    AskedReading,
    AskedTask,
    Loaders,
)
from openmae.recipes.training.ranges import ABOVE_0, BELOW_1, BLOCK, FROM_0, SEED, SHARE, Bounds, check
from openmae.recipes.training.settings import DERIVED as DERIVED
from openmae.recipes.training.settings import (
    AskedCropFit,
    CheckpointMinutes,
    ClipGrad,
    Hflip,
    Keep,
    Log,
    MaxBroken,
    Minutes,
    Profile,
    Recipe,
    Rotate90,
    Sharded,
    ShuffleBlock,
    Sides,
    Switch,
    TimeoutMinutes,
    Vflip,
)
from openmae.report.loggers.logger import loggers_of
from openmae.train.checkpoint import KEEP

GROUPS = {"optimizer": "schedule", "crop_scale": "view", "seed": "machine"}  # of --help, by their first setting
_BOUNDS: Bounds = {
    **dict.fromkeys(("batch_size", "micro_batch", "blr", "clip_grad", "patience"), ABOVE_0),
    **dict.fromkeys(("minutes", "keep", "timeout_minutes"), ABOVE_0),
    **dict.fromkeys(("epochs", "warmup_epochs", "weight_decay", "evaluations", "checkpoint_minutes"), FROM_0),
    **dict.fromkeys(("mixup", "cutmix", "min_lr"), FROM_0),
    **dict.fromkeys(("max_broken", "random_erase"), SHARE),
    **dict.fromkeys(("drop_path", "ema_decay", "label_smoothing"), BELOW_1),
    "layer_decay": (lambda n: 0 < n <= 1, "give a number above 0 and up to 1"),
    "ra_magnitude": (lambda n: 0 <= n <= 10, "give a number from 0 to 10"),
    "crop_scale": (lambda pair: 0 < pair[0] <= pair[1] <= 1, "give two ascending numbers above 0 and up to 1"),
    "seed": SEED,
    "shuffle_block": BLOCK,
    "folds": (lambda n: n == 0 or n >= 2, "give 2 or more, or 0 for none"),
    "blocks": (
        lambda text: all(part in ("all", "0.5") or part.isdecimal() for part in text.split(",")),
        "give all, a whole number, or 0.5; several with commas between them",
    ),
}


@dataclass(frozen=True)
class Finetune(AskedHeads, AskedGroups, AskedReading):
    """Train an encoder on labels. The same command again, after a crash or Ctrl-C, goes on where the run was."""

    model: Positional[Annotated[str | None, arg(metavar="MODEL")]] = None
    """A run folder, or whatever else openmae.load takes (docs/weights.md); or, to begin with fresh weights, vit_tiny,
    vit_small, vit_base, vit_large or vit_huge."""
    data: Positional[Annotated[str | None, LABELLED]] = None
    out: Annotated[Path | None, arg(metavar="RUN")] = None
    """Run folder to write."""
    resume: bool = False
    """Take MODEL, DATA and all settings from the run in --out and go on with it."""
    recipe: Recipe = "auto"
    """What is left open below: auto chooses it from the number of images, the model and the machine; paper takes
    Table 9's and the released code's, or, from scratch, Table 11's."""

    blocks: Annotated[str, arg(metavar="N")] = "all"
    """How many of the last blocks learn (Figure 9): all, a number, 0.5 (the last block's MLP), or 0 (the head alone).
    Several with commas, such as all,4,1,0.5,0, are trained one after the other and compared."""
    from_scratch: bool = False
    """Begin with fresh weights in MODEL's architecture: what pre-training is worth."""
    with_scratch: bool = False
    """Train a second model from fresh weights, in RUN/scratch, on the same labels: a row of the table at the end."""
    labels: AskedLabels = None
    task: AskedTask = None
    folds: Annotated[int | None, arg(metavar="N")] = None
    """Where labels are few: compare ways to fine-tune, from the linear probe as it is to many epochs, by N-fold
    cross-validation inside the training labels, and take the best; 0 takes the usual one. Default: 3 from 10 to 500
    labels, where it takes no more than 20 minutes."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """For classes of unequal size: weigh the loss by one over the size of the class, or show each class as often."""

    head_from: Literal["probe", "fresh"] | None = None
    """Where the linear layer begins: probe, as the best linear classifier of views by the features as they are (arXiv
    2202.10054); fresh, next to zero, as the paper. Default: probe where labels are few."""
    pool: Pool | None = None
    """What the head reads: the mean of the patch tokens, or the class token. Default: mean, as the paper."""
    batch_norm: bool = False
    """Normalise features by their (micro-)batch before the head, as the paper's linear probe does."""
    img_size: Sides | None = None
    """Pixels a side, 448 or 448x320. Default: the model's; for another the positions are interpolated."""
    patch_size: Sides | None = None
    """Pixels of a patch a side, for fresh weights of a vit_...; otherwise the model's."""

    positions: Literal["fixed", "learned"] | None = None
    """Whether the encoder's sine-cosine positions learn with its blocks. Default: fixed, which suits any image size;
    learned with --recipe paper, as the released code."""

    optimizer: Literal["adamw", "lars"] | None = None
    """Default: adamw. lars is for the paper's linear probe."""
    epochs: float | None = None
    """Times that every image is seen; 0 leaves the linear probe that the head begins as. Paper: 100, and 50 for large
    models."""
    minutes: Minutes = None
    warmup_epochs: float | None = None
    """Epochs over which the learning rate rises from 0. Paper: 5."""
    batch_size: int | None = None
    """Images an optimizer step: always the effective batch. Paper: 1024."""
    micro_batch: int | None = None
    """Images that go through the model at once. Default: 128 on a GPU, up to 64 on a CPU, as memory
    allows; halved where it runs out."""
    grad_checkpointing: Switch = "auto"
    """Compute each block again in the backward pass instead of keeping it: a quarter slower, a fraction of the memory.
    auto: where hardly an image fits otherwise."""
    blr: float | None = None
    """Base learning rate; the rate is blr x batch_size / 256. Paper: 1e-3, ViT-B after norm_pix 5e-4."""
    min_lr: float | None = None
    """The learning rate at the end, of the head; less below by --layer-decay. Default: 0; with --recipe paper 1e-6, as
    the released code."""
    layer_decay: float | None = None
    """Rate of a block over that of the one above it. Paper: 0.75, ViT-B after norm_pix 0.65; from scratch 1."""
    weight_decay: float | None = None
    """On matrices only: not on biases, norms and tokens. Paper: 0.05, from scratch 0.3."""
    drop_path: float | None = None
    """Chance to leave out a branch of the last block; less in those below. Paper: 0.1 (B), 0.2 (L), 0.3 (H)."""
    ema_decay: float | None = None
    """Keep an average of the weights, and use it in the end. 0 for none. Paper: 0.9999 from scratch."""
    clip_grad: ClipGrad = None

    crop_scale: tuple[float, float] | None = None
    """Least and most share of an image's area in a random crop; 1 1 takes whole images. Paper: 0.08 1, as
    the released code."""
    crop_fit: AskedCropFit = None
    hflip: Hflip = True
    vflip: Vflip = None
    rotate90: Rotate90 = None
    ra_magnitude: float | None = None
    """RandAugment's strength, 0 (off) to 10, as timm's rand-m...-mstd0.5-inc1. Paper: 9."""
    random_erase: float | None = None
    """Chance that a rectangle of a view is replaced by noise. Paper: 0.25, from scratch 0."""
    mixup: float | None = None
    """Alpha of mixup, 0 for none. Paper: 0.8."""
    cutmix: float | None = None
    """Alpha of cutmix, 0 for none. Paper: 1."""
    label_smoothing: float | None = None
    """Share of the answer that is spread over all classes. Paper: 0.1."""

    seed: int = 0
    """Decides the fresh weights, what is held out, order, crops and augmentation."""
    max_broken: MaxBroken = 0.01
    shuffle_block: ShuffleBlock = None
    precision: AskedPrecision = "auto"
    device: AskedDevice = "auto"
    workers: Loaders = None
    evaluations: int = 10
    """How many times the val images are classified, evenly over the run."""
    keep_best: Literal["top1", "top5", "mean_ap", "r2", "loss", "mae", "rmse", "none"] | None = None
    """Keep the weights of the look that was best by this figure, too: in RUN/best, which every command takes for
    MODEL; none keeps the last ones alone. Default: top1, mean_ap or r2 where the val images are enough to tell."""
    patience: int | None = None
    """End after so many looks at val without a better one than the best. Default: all steps are taken."""
    checkpoint_minutes: CheckpointMinutes = 10.0
    keep: Keep = KEEP
    log: Log = None
    shard: Sharded = False
    timeout_minutes: TimeoutMinutes = 10.0
    profile: Profile = False

    def __post_init__(self) -> None:
        """Raises UserError for a number out of its range, and for settings that do not go together; what is left open
        passes."""
        check(self, _BOUNDS)
        loggers_of(self.log)
        self._check_micro_batch()
        if self.patience is not None and self.keep_best == "none":
            what = "--patience counts looks since the best one, which --keep-best names"
            raise UserError(what, "add --keep-best top1, mean_ap, r2, loss, mae or rmse")
        if self.epochs == 0 and (self.head_from == "fresh" or self.from_scratch):
            raise UserError("--epochs 0 learns nothing", "give more, or --head-from probe for a linear probe")
        if self.head_from == "probe" and (self.from_scratch or self.batch_norm):
            other = "--from-scratch, whose features have learnt nothing" if self.from_scratch else "--batch-norm"
            raise UserError(f"--head-from probe does not go with {other}", "leave one of them out")
        if self.optimizer == "lars" and (self.weight_decay or self.layer_decay not in (None, 1.0)):
            raise UserError(
                "--optimizer lars takes neither --weight-decay nor --layer-decay", "leave them out, or use adamw"
            )

    def _check_micro_batch(self) -> None:
        """Raises UserError where micro-batches would change the result."""
        batch_size, micro_batch = self.batch_size, self.micro_batch
        if batch_size is None or micro_batch is None or micro_batch >= batch_size:
            return
        if (self.mixup or self.cutmix) and micro_batch % GROUP:
            raise UserError(f"--micro-batch {micro_batch} with mixup or cutmix", f"give a multiple of {GROUP}")
        if self.batch_norm and batch_size % micro_batch == 1:
            raise UserError(
                f"--batch-norm with --batch-size {batch_size} and --micro-batch {micro_batch} leaves one image alone, "
                "which has no deviation",
                "give another --micro-batch",
            )
