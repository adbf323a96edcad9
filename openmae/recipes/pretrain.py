"""Pre-train a Vision Transformer on a folder of images by masked autoencoding.

    openmae pretrain your/images --out runs/first

With --model vit_base --batch-size 4096 --epochs 800 this is the paper's recipe (Table 8): AdamW (0.9, 0.95),
base rate 1.5e-4 per 256 images, weight decay 0.05, 5% of warm-up, random resized crop and flip; on ImageNet-1K
such an encoder fine-tunes to 83.6% (ViT-B, 1600 epochs, Table 3). What is left open is chosen from the images
and the machine, and printed with the reason.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from rich.console import Console
from tyro.conf import Positional, arg

from openmae.data.decode import Depth, PixelFormat
from openmae.data.folder import misnamed_splits
from openmae.data.heap import keep_freed_memory
from openmae.data.opening import has_splits, open_source
from openmae.data.order import generator
from openmae.data.source import Source
from openmae.data.statistics import Statistics, survey
from openmae.errors import UserError, said_once
from openmae.ranks import Ranks, joined
from openmae.recipes.broken import BrokenFiles
from openmae.recipes.choices import Sides, Switch, pair, stored
from openmae.recipes.compiling import check_compiles
from openmae.recipes.machine import (
    Device,
    bytes_of_run,
    check_room,
    check_shares,
    choose_device,
    device_of,
    enough_memory,
    make_console,
    memory_of,
    room_on_disk,
    tell_ranks,
    workers_for,
)
from openmae.recipes.pretrain_choices import check_ranges, choose
from openmae.recipes.pretrain_job import train
from openmae.recipes.pretrain_model import build, in_chans_of, masking_of
from openmae.recipes.schedule import steps_of
from openmae.train.checkpoint import KEEP
from openmae.train.run import RunFolder, read_config
from openmae.train.stop import Stop

_HARMLESS = (
    "data",
    "max_broken",
    "pictures",
    "evaluations",
    "micro_batch",
    "grad_checkpointing",
    "compile",
    "workers",
    "device",
    "checkpoint_minutes",
    "keep",
    "shard",
    "timeout_minutes",
)  # may differ between the starts of a run
RUN_BYTES = bytes_of_run(1, 1, KEEP)
"""Of a parameter, what a run takes on the disk at most."""
DERIVED = ("steps",)  # entries of a run's config.toml that follow from the others and the images


@dataclass(frozen=True)
class Pretrain:
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
    paper's (Table 8), made for a million photographs; fast is auto with a lighter decoder, about half of the
    computing for vit_base: --decoder cross --decoder-depth 4 --predict-fraction 0.25."""

    model: Literal["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"] | None = None
    """Encoder. Default: vit_base on a GPU, vit_tiny on a CPU."""
    img_size: Sides | None = None
    """Pixels a side that the model sees, 224 or 224x160 (height x width). Default: 224, or less for small images."""
    patch_size: Sides | None = None
    """Pixels a side of a patch, 16 or 16x8 (height x width). Default: 16 (vit_huge 14), less for small images."""
    in_chans: int | None = None
    """Channels. Default: what the images have, or 3 for grey and colour together."""
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
    class_tokens: int = 1
    """Class tokens, 0 or more."""
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

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Least and most share of an image's area in a random crop; 1 1 takes whole images."""
    repeat_aug: int = 1
    """Views, one after the other, of an image once it is decoded (repeated augmentation): for when loading is what the
    training waits for. Epochs and the batch count views."""
    hflip: bool = True
    """Mirror half of the views. Switch off where left and right differ in meaning."""
    max_broken: float = 0.01
    """Stop when more than this share of the files cannot be read; up to it they are replaced and listed."""

    epochs: float | None = None
    """Times that every image is seen. Default: 800 on a GPU, 100 on a CPU."""
    warmup_epochs: float | None = None
    """Epochs over which the learning rate rises from 0. Default: 5% of --epochs (the paper's 40 of 800)."""
    batch_size: int | None = None
    """Images an optimizer step: always the effective batch. Default: at most 4096 on a GPU and 256 on a CPU."""
    micro_batch: int | None = None
    """Images that go through the model at once: memory, not the result beyond rounding. Default: what fits in the
    memory, at most 64 on a CPU. It is halved where memory runs out all the same."""
    grad_checkpointing: Switch = "auto"
    """Compute each block again in the backward pass instead of keeping it: a quarter slower, a fraction of the memory.
    auto: where hardly an image fits otherwise."""
    blr: float | None = None
    """Base learning rate; the rate is blr x batch_size / 256. Default: 1.5e-4 x sqrt(4096 / batch_size)."""
    weight_decay: float = 0.05
    """On matrices only: not on biases, norms and tokens."""
    clip_grad: float | None = None
    """Bound on the norm of the whole gradient. Default: none, as the paper."""
    seed: int = 0
    """Decides weights, order, crops, flips and masks."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bfloat16 products where the processor has them."""
    compile: Switch = "auto"
    """Compile the step by torch.compile, which takes minutes at the start. auto: on a GPU, for a run long enough to
    get them back."""
    device: Device = "auto"
    """auto: a GPU if there is one."""
    workers: int | None = None
    """Processes that load images; 0 loads in this one. Does not change the result."""
    pictures: int = 10
    """How many times a panel of held-out reconstructions is drawn, evenly over the run."""
    evaluations: int = 10
    """How many times the features are measured, evenly over the run, 0 for none: RankMe, and kNN accuracy where DATA
    has classes, on at most 5,000 images."""
    checkpoint_minutes: float = 10.0
    """Time between checkpoints; one more comes at the end, on Ctrl-C and on a scheduler's signal."""
    keep: int = KEEP
    """Checkpoints that stay on the disk, 1 or more; an older one goes when a newer one is safe."""
    shard: bool = False
    """Under torchrun: each process keeps a part of weights, gradients and averages, instead of all of them."""
    timeout_minutes: float = 10.0
    """Under torchrun: a process that does not answer or get on for so long is given up, and the run with it."""
    profile: bool = False
    """Record where the time of five early steps goes: RUN/profile/trace.json.gz for ui.perfetto.dev, and a table."""


def run(settings: Pretrain) -> None:
    """Trains, and says what to do with the result. Raises UserError, Interrupted, NotWritten, RankLost."""
    console = make_console(outlives_terminal=True)
    pretrain(settings, console)
    console.print(
        f"\nThe encoder is in {settings.out}. Look at:   {settings.out}/report.html\n"
        f"  what it fills in:          openmae reconstruct {settings.out} IMAGE --out picture.png\n"
        f"  what its features know:    openmae knn {settings.out} LABELLED_FOLDER\n"
        f"  in Python:                 openmae.load('{settings.out}').encode(images)",
        soft_wrap=True,
    )


def pretrain(settings: Pretrain, console: Console) -> None:
    """Trains, or goes on training, and leaves a whole run folder; alone, or with the processes that torchrun started.
    Raises as `run` does."""
    with said_once():
        device = choose_device(settings.device)
        check_ranges(settings)
        masking_of(settings)  # raises
        if settings.compile == "on":
            check_compiles(settings, device)
    with Stop(at_once=True), joined(device.type, settings.timeout_minutes * 60) as ranks:
        console.quiet = not ranks.leads
        _pretrain(settings, ranks, device_of(device, ranks), console)


def _pretrain(settings: Pretrain, ranks: Ranks, device: torch.device, console: Console) -> None:
    with ranks.together():
        if settings.resume and settings.out is not None and ranks.leads:
            settings = stored(settings, read_config(settings.out), defaults_too=True)
        if settings.out is None or settings.data is None:
            raise UserError("say which images to learn from and where the run goes: openmae pretrain DATA --out RUN")
    settings = ranks.from_lead(settings)
    out, data, seed = settings.out, settings.data, settings.seed
    assert out is not None
    assert data is not None
    tell_ranks(ranks, settings, console)
    keep_freed_memory()
    with room_on_disk(out), ranks.opening(lambda: RunFolder(out, leads=ranks.leads)) as folder:
        source, val, shown = ranks.each_in_turn(lambda: _sources(data, seed))
        ranks.agree(source.fingerprint, f"{settings.data} holds other images")
        console.print(f"{len(source):,} images in {source.location}; {len(shown)} shown in the pictures")
        _warn_of_splits(source, console)
        workers = workers_for(settings.workers, device, ranks)
        look = None
        with ranks.together():
            if folder.has_begun:  # it goes on with what was chosen then
                settings = stored(settings, read_config(folder.path), defaults_too=False)
            elif settings.batch_size is not None:
                check_shares(settings, ranks)
            if not folder.has_begun and ranks.leads:
                console.print("Reading a sample of them: sizes, mean and standard deviation")
                look = survey(
                    source, settings.seed, settings.in_chans, settings.bands, workers, depth=settings.pixel_type
                )
                settings = choose(settings, look, len(source), device, memory_of(device, ranks), console)
        settings = ranks.from_lead(settings)
        with ranks.together():
            check_ranges(settings)
            check_shares(settings, ranks)
            if settings.compile == "on":
                check_compiles(settings, device)
            statistics = _statistics(settings)
            model = build(settings)
            steps = steps_of(settings, len(source), console)
            if ranks.leads:
                check_room(folder.path, model, settings.keep)
                folder.settle({**_flat(settings), "steps": steps}, source.fingerprint, _HARMLESS)
            broken = BrokenFiles(source, folder, settings.max_broken)
            if look is not None:
                broken.note_survey(look, pair(settings.patch_size))
        with enough_memory():
            model.to(device)
            train(
                settings, folder, model, source, val, shown, statistics, broken, steps, workers, device, console, ranks
            )


def _flat(settings: Pretrain) -> dict[str, Any]:
    """For config.toml. DATA is kept as a whole path, so that the run can be resumed from any folder."""
    assert settings.data is not None
    values = asdict(settings)
    del values["resume"], values["out"], values["profile"]
    return {**values, "data": settings.data if "://" in settings.data else str(Path(settings.data).absolute())}


def _statistics(settings: Pretrain) -> Statistics:
    """Of settings that are chosen by now."""
    if settings.mean is None or settings.std is None or settings.pixel_type is None:
        raise UserError(
            "the run is of an older openmae, which did not keep its pixel type: begin anew in another --out"
        )
    return Statistics(
        settings.mean, settings.std, PixelFormat(in_chans_of(settings), settings.bands, settings.pixel_type)
    )


# ---------------------------------------------------------------- images


def _sources(data: str, seed: int) -> tuple[Source, Source | None, Source]:
    """(training images, val where there is one, up to 8 held out for the panel: of val, else set aside)."""
    source = open_source(data, "train")
    if has_splits(data):
        val = open_source(data, "val")
        return source, val, val.take(generator(seed, "split").permutation(len(val))[:8])
    order = generator(seed, "split").permutation(len(source))
    aside = held_out(len(source))
    if aside == 0:  # too few to set any aside
        return source, None, source.take(order[:8])
    return source.take(np.sort(order[aside:])), None, source.take(order[:aside])


def held_out(images: int) -> int:
    """How many of so many images are set aside for the pictures where there are no splits."""
    return min(8, images // 10)


def _warn_of_splits(source: Source, console: Console) -> None:
    """Says so where images that may be meant for measuring are trained on."""
    if len(folders := misnamed_splits(source)) > 1:
        console.print(
            f"warning: folders called {' and '.join(folders)} are no splits, and all of them are trained on: rename "
            "them to train and val to keep val apart",
            style="yellow",
            soft_wrap=True,
        )
