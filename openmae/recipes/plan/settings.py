"""What `openmae plan` is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from openmae.data.formats.header import Depth
from openmae.machine.kinds import Device
from openmae.recipes.asked import AskedFiles, AskedPrecision, AskedReading
from openmae.recipes.training.settings import Sides, Switch

GROUPS = {"model": "model", "epochs": "schedule", "gpus": "cost"}  # of --help, by their first setting
# Entries of stats.toml and of a run's config.toml that plan has no use for: they change nothing of it, or are measured.
DERIVED = tuple(
    (
        "steps image_count earlier from from_bands group_column group_by out resume mean std norm_pix_loss norm_pix_by "
        "crop_scale crop_fit repeat_aug hflip vflip rotate90 colour_jitter max_broken max_nodata warmup_epochs "
        "optimizer blr weight_decay layer_decay freeze_encoder decay_tokens clip_grad seed compile workers pictures "
        "evaluations checkpoint_minutes keep log shard shuffle_block timeout_minutes profile"
    ).split()
)


@dataclass(frozen=True)
class Plan(AskedFiles, AskedReading):
    """Estimate steps, hours, memory and cost of a pre-training, and what would change them. Nothing is trained.

    What is left open is chosen as `openmae pretrain` would choose it.
    """

    data: Positional[Annotated[str | None, arg(metavar="DATA")]] = None
    """The images to pre-train on, as for pretrain; they are counted, and some are looked at."""
    images: int | None = None
    """How many images there are, instead of DATA."""
    recipe: Literal["auto", "paper", "fast"] = "auto"
    """Who chooses what is left open, as for pretrain."""

    model: Literal["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"] | None = None
    """Encoder. Default: vit_base on a GPU, vit_tiny on a CPU."""
    img_size: Sides | None = None
    """Pixels a side that the model sees, 224 or 224x160. Default: 224, or less where DATA is smaller."""
    patch_size: Sides | None = None
    """Pixels a side of a patch. Default: 16 (vit_huge 14), less for small images."""
    in_chans: int | None = None
    """Channels. Default: what DATA has, 1 where all is grey though stored as colour; 3 without DATA."""
    bands: tuple[int, ...] | None = None
    """Which of the files' channels, counted from 1. Default: all."""
    pixel_type: Depth | None = None
    """What pixels are until they are normalised. Default: the deepest found."""
    embed_dim: int | None = None
    """Encoder width, instead of the model's."""
    depth: int | None = None
    """Encoder blocks, instead of the model's."""
    num_heads: int | None = None
    """Encoder heads, instead of the model's."""
    class_tokens: int | None = None
    """Class tokens, 0 or more. Default: 1."""
    decoder: Literal["self", "cross"] | None = None
    """self: the paper's. cross: costs less. Default: self; cross with --recipe fast."""
    decoder_embed_dim: int | None = None
    """Decoder width. Default: 512; 128 for vit_tiny and vit_small."""
    decoder_depth: int | None = None
    """Decoder blocks. Default: 8; 4 for vit_tiny and vit_small."""
    decoder_num_heads: int | None = None
    """Decoder heads. Default: 16; 4 for vit_tiny and vit_small."""
    decoder_layers: int = 1
    """Encoder layers that a cross decoder reads a learned mix of."""
    encoder_mask_token: bool = False
    """Send mask tokens through the encoder too (paper, Table 1c): three times the cost."""
    mask_ratio: float = 0.75
    """Share of the patches hidden, above 0 and below 1."""
    mask: Literal["random", "block", "grid", "crop", "uniform"] = "random"
    """How the hidden patches are chosen."""
    mask_unit: int = 1
    """Hide aligned units of this many patches a side."""
    mask_schedule: Literal["constant", "linear", "cosine", "random"] = "constant"
    """How the ratio goes from --mask-ratio to --mask-ratio-end."""
    mask_ratio_end: float | None = None
    """The other end of a --mask-schedule."""
    predict_fraction: float | None = None
    """Share of the hidden patches that is predicted. Default: 1; 0.25 with --recipe fast."""
    target: Literal["pixel", "pca", "hog"] = "pixel"
    """What is predicted of a patch."""
    epochs: float | None = None
    """Times that every image is seen. Default: by their number, 800 to 1600 on a GPU, 20 to 800 on a CPU, and there as
    many as fit into an hour."""
    minutes: float | None = None
    """Time for the whole run, in place of --epochs: how many that makes."""
    batch_size: int | None = None
    """Images an optimizer step, over all GPUs together. Default: by the number of images, at most 4096 on a GPU and 256
    on a CPU, and less where that would leave fewer than 800 steps."""
    micro_batch: int | None = None
    """Images that go through the model at once. Default: what fits in the memory, at most 64 on a CPU."""
    grad_checkpointing: Switch = "auto"
    """Compute each block again in the backward pass, for less memory. auto: where hardly an image fits otherwise."""
    precision: AskedPrecision = "auto"
    device: Device = "auto"
    """What to measure on. auto: a GPU if there is one."""

    gpus: int = 1
    """How many of the device share the work."""
    link: float = 12.5
    """GB/s at which each GPU sends gradients to the next. Default: 12.5, a network of 100 Gbit/s; NVLink within a
    machine is faster, a network of 10 Gbit/s is 1.25."""
    price: float | None = None
    """Of one GPU for an hour, in any currency."""
    measured: Annotated[Path | None, arg(metavar="bench.json")] = None
    """What `openmae bench --out FOLDER` wrote on the machine to plan for, instead of a dry run here."""
    memory: float | None = None
    """GB that the device has. Default: what this machine's has; with --measured, what the benchmark took at most."""
    seconds: float = 60.0
    """About how long the dry run may take."""
