"""What `openmae pretrain` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.data.formats.channels import check_bands
from openmae.data.formats.header import Depth
from openmae.data.views.crop import BEFORE_CROP_FIT, Augmentation
from openmae.data.views.missing import MAX_NODATA
from openmae.errors import UserError, of_user
from openmae.masking import Masking
from openmae.model import grid_of
from openmae.recipes.asked import AskedDevice, AskedGroups, AskedPrecision, AskedReading, Loaders
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
    Rotate90,
    Sharded,
    ShuffleBlock,
    Sides,
    Switch,
    TimeoutMinutes,
    Vflip,
    pair,
    shown,
)
from openmae.report.loggers.logger import loggers_of
from openmae.train.checkpoint import KEEP

GROUPS = {  # of --help, by their first setting
    "model": "model",
    "mask_ratio": "masking",
    "crop_scale": "view",
    "epochs": "schedule",
    "precision": "machine",
    "pictures": "output",
}
_BOUNDS: Bounds = {
    **dict.fromkeys(("batch_size", "micro_batch", "epochs", "blr", "clip_grad", "repeat_aug", "in_chans"), ABOVE_0),
    **dict.fromkeys(("minutes", "keep", "timeout_minutes"), ABOVE_0),
    **dict.fromkeys(("warmup_epochs", "weight_decay", "pictures", "evaluations", "checkpoint_minutes"), FROM_0),
    **dict.fromkeys(("max_broken", "max_nodata", "colour_jitter"), SHARE),
    "layer_decay": (lambda n: 0 < n <= 1, "give a number above 0 and up to 1"),
    "freeze_encoder": BELOW_1,
    "seed": SEED,
    "shuffle_block": BLOCK,
    "std": (lambda numbers: min(numbers, default=0) > 0, "give numbers above 0"),
}


@dataclass(frozen=True)
class Pretrain(AskedGroups, AskedReading):
    """Pre-train a Vision Transformer on unlabelled images by masked autoencoding.

    The same command again, after a crash or Ctrl-C, goes on where the run was. --config FILE.toml gives any of the
    settings below; the command line wins.
    """

    data: Positional[Annotated[str | None, arg(metavar="DATA")]] = None
    """A folder of images (any depth), a .csv or .parquet with a column path, tar shards (also http:// and s3://),
    parquet with image bytes, or a .npy or .npz array. If it has splits, train is used and val gives the pictures."""
    out: Annotated[Path | None, arg(metavar="RUN")] = None
    """Run folder to write: config, metrics, checkpoints, pictures, weights, report."""
    resume: bool = False
    """Take DATA and all settings from the run in --out and go on with it."""
    recipe: Literal["auto", "paper", "fast"] = "auto"
    """What is left open below: auto chooses it from the number of images, their size and the machine; paper takes the
    paper's (Table 8, and the released code's where that differs), made for a million photographs; fast is auto with a
    lighter decoder, about half of the computing for vit_base: --decoder cross --decoder-depth 4 --predict-fraction
    0.25."""
    from_: Annotated[str | None, arg(name="from", metavar="MODEL")] = None
    """Go on from weights that exist, instead of fresh ones: a run folder, or whatever else openmae.load takes (see
    docs/weights.md). The encoder's shape is its own, its decoder stays where it fits, and what is left open below is
    chosen for going on."""

    from_bands: Annotated[tuple[int | str, ...] | None, arg(metavar="BAND...")] = None
    """Which of the files' channels are those that MODEL learnt from, in its order: counted from 1, such as 4 3 2 for
    the red, green and blue of Sentinel-2, or by the names that GeoTIFF and OME-TIFF give them (openmae check shows
    them), such as red,green,blue. Default: as MODEL was told itself; else its channels are shared out."""

    model: Literal["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"] | None = None
    """Encoder. Default: vit_base on a GPU, vit_tiny on a CPU."""
    img_size: Sides | None = None
    """Pixels a side that the model sees, 224 or 224x160 (height x width). Default: 224, or less for small images."""
    patch_size: Sides | None = None
    """Pixels a side of a patch, 16 or 16x8 (height x width). Default: 16 (vit_huge 14), 8 where that would
    cut images into fewer than 8 x 8, and 4 likewise, 2 where that would be fewer than 4 x 4."""
    in_chans: int | None = None
    """Channels. Default: what the images have, 1 where all are grey though stored as colour, or 3 for grey and colour
    together."""
    bands: tuple[int, ...] | None = None
    """Which of the files' channels, counted from 1. Default: all."""
    pixel_type: Depth | None = None
    """What pixels are until they are normalised. Default: the deepest found, so that nothing is squeezed."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, of 8- and 16-bit pixels scaled to 0..1. Default: of a sample of the images."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, likewise. `openmae stats` computes both over all images."""
    embed_dim: int | None = None
    """Encoder width, instead of the model's."""
    depth: int | None = None
    """Encoder blocks, instead of the model's."""
    num_heads: int | None = None
    """Encoder heads, instead of the model's."""
    class_tokens: int | None = None
    """Class tokens, 0 or more. Default: 1."""
    decoder: Literal["self", "cross"] | None = None
    """self: the paper's. cross: hidden patches read encoder tokens only (CrossMAE), which costs less. Default: self;
    cross with --recipe fast."""
    decoder_embed_dim: int | None = None
    """Decoder width. Default: 512; 128 for vit_tiny and vit_small."""
    decoder_depth: int | None = None
    """Decoder blocks. Default: 8; 4 for vit_tiny and vit_small, and with --recipe fast."""
    decoder_num_heads: int | None = None
    """Decoder heads. Default: 16; 4 for vit_tiny and vit_small."""
    decoder_layers: int = 1
    """Encoder layers that a cross decoder reads a learned mix of."""
    encoder_mask_token: bool = False
    """Send mask tokens through the encoder too (paper, Table 1c): three times the cost, for comparison."""

    mask_ratio: float = 0.75
    """Share of the patches hidden, above 0 and below 1."""
    mask: Literal["random", "block", "grid", "crop", "uniform"] = "random"
    """How the hidden patches are chosen (paper, Table 1f)."""
    mask_unit: int = 1
    """Hide aligned units of this many patches a side."""
    mask_schedule: Literal["constant", "linear", "cosine", "random"] = "constant"
    """How the ratio goes from --mask-ratio to --mask-ratio-end: over training, or drawn at every step."""
    mask_ratio_end: float | None = None
    """The other end of a --mask-schedule."""
    predict_fraction: float | None = None
    """Share of the hidden patches that is predicted, above 0 and up to 1. Default: 1; 0.25 with --recipe fast."""
    target: Literal["pixel", "pca", "hog"] = "pixel"
    """What is predicted of a patch: its pixels, 96 principal components, or histograms of gradients."""
    norm_pix_loss: bool = True
    """Normalise each target patch by its own mean and deviation: better features (Table 1d)."""
    norm_pix_by: Literal["patch", "channel"] | None = None
    """Whose mean that is: the patch's, as in the paper, or each channel's of the patch, so that an offset between the
    channels is no pattern to be learnt; the deviation is one over all. Default: patch."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Least and most share of an image's area in a random crop; 1 1 takes whole images."""
    crop_fit: AskedCropFit = None
    repeat_aug: int = 1
    """Views, one after the other, of an image once it is decoded (repeated augmentation): for when loading is what the
    training waits for. Epochs and the batch count views."""
    hflip: Hflip = True
    vflip: Vflip = None
    rotate90: Rotate90 = None
    colour_jitter: float | None = None
    """Strength, 0 to 1, of random changes of brightness, contrast, saturation and hue (of others than 8-bit colours, of
    brightness and contrast). Default: none, as in the paper, which found it to degrade features (Table 1e)."""
    max_nodata: float = MAX_NODATA
    """Share of a patch that may be no-data, 0 to 1: of which more is, it is neither shown to the model nor asked for.
    Crops with more such patches are drawn again; where none will do, another image takes the turn. 1 takes all as they
    are, filled with the mean."""
    max_broken: MaxBroken = 0.01
    shuffle_block: ShuffleBlock = None

    epochs: float | None = None
    """Times that every image is seen. Default: by their number, 800 to 1600 on a GPU, 20 to 800 on a CPU, and there as
    many as fit into an hour."""
    minutes: Minutes = None
    warmup_epochs: float | None = None
    """Epochs over which the learning rate rises from 0. Default: 5% of --epochs (the paper's 40 of 800)."""
    batch_size: int | None = None
    """Images an optimizer step: always the effective batch. Default: by the number of images, at most 4096 on a GPU and
    256 on a CPU, and less where that would leave fewer than 800 steps."""
    micro_batch: int | None = None
    """Images that go through the model at once: memory, not the result beyond rounding. Default: what fits in the
    memory, at most 64 on a CPU. It is halved where memory runs out all the same."""
    grad_checkpointing: Switch = "auto"
    """Compute each block again in the backward pass instead of keeping it: a quarter slower, a fraction of the memory.
    auto: where hardly an image fits otherwise."""
    optimizer: Literal["adamw", "muon"] | None = None
    """adamw: the paper's. muon: the matrices of blocks move along their momentum made orthogonal, with AdamW's rates,
    and AdamW moves the rest. Default: adamw."""
    blr: float | None = None
    """Base learning rate; the rate is blr x batch_size / 256. Default: 1.5e-4 x sqrt(4096 / batch_size),
    and 384 / width times that for encoders narrower than 384, up to the paper's rate of 2.4e-3."""
    weight_decay: float = 0.05
    """On matrices only: not on biases, norms and tokens."""
    layer_decay: float | None = None
    """Rate of a block over that of the one above it. Default: 1; less with --from."""
    freeze_encoder: float | None = None
    """Share of the steps, from the first on, in which the encoder rests and the decoder learns alone, 0 to below 1.
    Default: 0; more where the encoder comes with --from and the decoder is fresh."""
    decay_tokens: Literal["on", "off"] | None = None
    """Weight decay on class and mask tokens too. Default: off; on with --recipe paper, as the released code."""
    clip_grad: ClipGrad = None
    seed: int = 0
    """Decides weights, order, crops, flips and masks."""

    precision: AskedPrecision = "auto"
    compile: Switch = "auto"
    """Compile the step by torch.compile, which takes minutes at the start. auto: on a GPU, for a run long enough to
    get them back."""
    device: AskedDevice = "auto"
    workers: Loaders = None
    pictures: int = 10
    """How many times a panel of held-out reconstructions is drawn, evenly over the run."""
    evaluations: int = 10
    """How many times the features are measured, evenly over the run, 0 for none: RankMe, and kNN accuracy where DATA
    has classes, on at most 5,000 images. Less often where that would take more than a tenth of the computing."""
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
        _ = self.masking, self.augmentation
        self._check_from()
        if self.img_size is not None and self.patch_size is not None:
            try:
                grid_of(pair(self.img_size), pair(self.patch_size))
            except ValueError as error:
                raise of_user(error) from error
        self._check_channels()
        if self.norm_pix_by == "channel" and (self.target != "pixel" or not self.norm_pix_loss):
            other = f"--target {self.target}" if self.target != "pixel" else "--no-norm-pix-loss"
            raise UserError(f"--norm-pix-by channel does not go with {other}", "leave one of them out")
        if self.compile == "on" and self.mask_schedule != "constant":
            raise UserError(
                f"--compile on needs steps of one shape, and --mask-schedule {self.mask_schedule} changes how many "
                "patches are visible",
                "leave one of them out",
            )

    @property
    def masking(self) -> Masking:
        """Which patches hide. Raises UserError for values that are out of range or do not go together."""
        share = 1.0 if self.predict_fraction is None else self.predict_fraction
        try:
            return Masking(self.mask_ratio, self.mask, self.mask_unit, self.mask_schedule, self.mask_ratio_end, share)
        except ValueError as error:
            raise of_user(error) from error

    @property
    def augmentation(self) -> Augmentation:
        """What is done to views. Raises UserError for values that are out of range."""
        try:
            turned = (self.vflip == "on", self.rotate90 == "on")
            return Augmentation(self.crop_scale, self.hflip, self.crop_fit or BEFORE_CROP_FIT, *turned)
        except ValueError as error:
            raise of_user(error) from error

    @property
    def from_numbers(self) -> tuple[int, ...] | None:
        """--from-bands, once all of them are numbers."""
        return None if self.from_bands is None else tuple(map(int, self.from_bands))

    def _check_from(self) -> None:
        """Raises UserError where --from does not go with the rest."""
        if self.from_ is None:
            if self.from_bands is not None:
                raise UserError("--from-bands is for the channels of --from MODEL", "give that too, or leave it out")
            if self.freeze_encoder:
                raise UserError(
                    f"--freeze-encoder is {shown(self.freeze_encoder)}, and the encoder's weights are fresh",
                    "give some by --from, or leave it out",
                )
        elif self.out is not None and Path(self.from_).resolve() in (self.out.resolve(), *self.out.resolve().glob("*")):
            raise UserError(
                f"--from is {self.from_}, and that is the run in --out",
                "give another --out to begin from its weights, or leave --from out to go on with the run",
            )

    def _check_channels(self) -> None:
        """Raises UserError where --in-chans, --bands, --mean and --std are of different numbers of channels."""
        if self.bands is not None:
            check_bands(self.bands)
        lists = {"--bands": self.bands, "--mean": self.mean, "--std": self.std}
        counts = {flag: len(values) for flag, values in lists.items() if values is not None}
        if self.in_chans is not None:
            counts["--in-chans"] = self.in_chans
        if len(set(counts.values())) < 2:
            return
        said = ", ".join(f"{flag} {count}" for flag, count in counts.items())
        advice = (
            f"openmae stats DATA --bands {shown(self.bands)} --out stats.toml measures these bands; or leave --bands "
            "out"
            if self.bands is not None
            else "give a mean and a deviation for each channel"
        )
        raise UserError(f"the numbers of channels differ, on the command line or in the --config file ({said})", advice)
