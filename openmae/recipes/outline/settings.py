"""What `openmae segment` and `openmae detect` are asked alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.errors import UserError
from openmae.recipes.asked import AskedDevice, AskedGroups, AskedHeads, AskedPrecision, AskedReading, Loaders
from openmae.recipes.training.ranges import ABOVE_0, BELOW_1, FROM_0, SEED, SHARE, Bounds, check
from openmae.recipes.training.settings import (
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
    Sides,
    Switch,
    TimeoutMinutes,
    Vflip,
)
from openmae.report.loggers.logger import loggers_of
from openmae.train.checkpoint import KEEP

OUTLINED = arg(
    metavar="DATA",
    help="Images and what is outlined in them: folders images/ and masks/, COCO, YOLO, Pascal VOC: see docs/labels.md. "
    "With splits train and val these are used; otherwise a fifth is held out, the same images every time.",
)
Decay = Literal["cosine", "linear", "steps"]
_BOUNDS: Bounds = {
    **dict.fromkeys(("batch_size", "micro_batch", "blr", "clip_grad", "patience"), ABOVE_0),
    **dict.fromkeys(("minutes", "keep", "timeout_minutes", "evaluations"), ABOVE_0),
    **dict.fromkeys(("epochs", "warmup_epochs", "weight_decay", "checkpoint_minutes", "min_lr"), FROM_0),
    **dict.fromkeys(("max_broken", "colour_jitter"), SHARE),
    **dict.fromkeys(("drop_path", "ema_decay"), BELOW_1),
    "layer_decay": (lambda n: 0 < n <= 1, "give a number above 0 and up to 1"),
    "scale": (lambda pair: 0 < pair[0] <= pair[1] <= 100, "give two ascending numbers above 0"),
    "seed": SEED,
    "blocks": (lambda text: text in ("all", "0.5") or text.isdecimal(), "give all, a whole number, or 0.5"),
}


@dataclass(frozen=True)
class Outline(AskedHeads, AskedGroups, AskedReading):
    """An encoder learns where things are."""

    model: Positional[Annotated[str | None, arg(metavar="MODEL")]] = None
    """A run folder, or whatever else openmae.load takes (docs/weights.md); or, to begin with fresh weights, vit_tiny,
    vit_small, vit_base, vit_large or vit_huge."""
    data: Positional[Annotated[str | None, OUTLINED]] = None
    out: Annotated[Path | None, arg(metavar="RUN")] = None
    """Run folder to write."""
    resume: bool = False
    """Take MODEL, DATA and all settings from the run in --out and go on with it."""
    recipe: Recipe = "auto"
    """What is left open below: auto chooses it from the images, the model and the machine; paper takes the published
    recipe's (docs/segment.md)."""

    blocks: Annotated[str, arg(metavar="N")] = "all"
    """How many of the last blocks learn: all, a number, 0.5 (the last block's MLP), or 0 (the head alone)."""
    from_scratch: bool = False
    """Begin with fresh weights in MODEL's architecture: what pre-training is worth."""
    labels: Annotated[str | None, arg(metavar="PART")] = None
    """Learn from fewer labelled images: a share such as 10%, or a number such as 60. The val images stay the same."""
    masks_hold: Literal["classes", "objects"] | None = None
    """What the numbers in mask images are: classes of pixels, or numbers of objects. Default: as they look."""

    img_size: Sides | None = None
    """Pixels a side of the windows that are learnt from, 448 or 448x320; larger images are cut into such tiles.
    Default: the model's."""
    patch_size: Sides | None = None
    """Pixels of a patch a side, for fresh weights of a vit_...; otherwise the model's."""

    epochs: float | None = None
    """Times that a window of every image is seen."""
    minutes: Minutes = None
    warmup_epochs: float | None = None
    """Epochs over which the learning rate rises from 0."""
    batch_size: int | None = None
    """Windows an optimizer step: always the effective batch."""
    micro_batch: int | None = None
    """Windows that go through the model at once; halved where memory runs out."""
    grad_checkpointing: Switch = "auto"
    """Compute each block again in the backward pass instead of keeping it: a quarter slower, a fraction of the memory.
    auto: where hardly an image fits otherwise."""
    blr: float | None = None
    """Base learning rate; the rate is blr x batch_size / 256."""
    min_lr: float | None = None
    """The learning rate at the end, of the head; less below by --layer-decay. Default: 0."""
    decay: Decay | None = None
    """How the rate falls: cosine, half a cosine; linear, in a straight line; steps, a tenth from 89% on and a hundredth
    from 96% on. Default: cosine; the published one by --recipe paper."""
    layer_decay: float | None = None
    """Rate of a block over that of the one above it."""
    weight_decay: float | None = None
    """On matrices only: not on biases, norms and tokens."""
    drop_path: float | None = None
    """Chance to leave out a branch of the last block; less in those below."""
    ema_decay: float | None = None
    """Keep an average of the weights, and use it in the end. 0 for none."""
    clip_grad: ClipGrad = None

    scale: tuple[float, float] | None = None
    """Least and most size at which images are drawn before a window is cut out of them (large-scale jitter)."""
    resize: Literal["none", "fit"] | None = None
    """What size 1 is: none, an image's own pixels, so that larger images are seen in parts; fit, the whole image as
    large as a window. Default: none."""
    hflip: Hflip = True
    vflip: Vflip = None
    rotate90: Rotate90 = None
    colour_jitter: float | None = None
    """Strength, 0 to 1, of random changes of brightness, contrast and saturation of 8-bit photographs."""

    seed: int = 0
    """Decides the fresh weights, what is held out, order, windows and augmentation."""
    max_broken: MaxBroken = 0.01
    precision: AskedPrecision = "auto"
    device: AskedDevice = "auto"
    workers: Loaders = None
    evaluations: int = 10
    """How many times the val images are judged, evenly over the run."""
    keep_best: Switch = "auto"
    """Keep the weights of the look that was best on val, too: in RUN/best, which every command takes for MODEL. auto:
    where val is large enough to tell."""
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
        if self.patience is not None and self.keep_best == "off":
            what = "--patience counts looks since the best one, which --keep-best off does not keep"
            raise UserError(what, "leave one of them out")
