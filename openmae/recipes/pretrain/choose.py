"""What `pretrain` chooses where the user left a setting open, and what follows from it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from openmae.console.words import size_of
from openmae.data.survey.frames import FRAMES
from openmae.data.survey.sample import Survey, as_grey
from openmae.errors import UserError
from openmae.machine.device import choose_precision
from openmae.machine.kinds import Precision
from openmae.machine.lanes import Lanes
from openmae.model import DECODERS, PAPERS_DECODER, SIZES, Architecture
from openmae.own import is_own
from openmae.recipes.pretrain.build import Pretraining, architecture_of, check_own, mask_digest, statistics_of
from openmae.recipes.pretrain.going_on import fewer, going_on, lower, schedule
from openmae.recipes.pretrain.settings import Pretrain
from openmae.recipes.pretrain.start import Start, address, architecture_from, channels_of
from openmae.recipes.training.memory import usable_memory
from openmae.recipes.training.open import Values, fill, filled, kept
from openmae.recipes.training.schedule import course_of
from openmae.recipes.training.settings import given, pair, shown
from openmae.train.compiling import PAYS_FROM, PAYS_FROM_MINUTES, missing_compiler
from openmae.train.cost import flops, largest_micro_batch

PAPER = "the paper's (Table 8)"
FAST_FRACTION, FAST_DEPTH = 0.25, 4
"""Of `--recipe fast`: the share of the hidden patches that is predicted (CrossMAE, arXiv 2401.14391), and the decoder's
blocks, with which ViT-L fine-tunes as well as with 8 (paper, Table 1a)."""
_MOST_ON_A_CPU = 64  # images at once, in each lane where that takes little; more of them are no faster
_LITTLE = 2 * 10**9  # bytes
_FEW_AT_ONCE = 8  # fewer images use a processor badly
_LEAST_GRID = {
    8: 8,
    4: 4,
    2: 1,
}  # patches a side that they are to cut; larger ones 8. Of 16 pixels 4 x 4 patches taught
# more than 8 x 8 in as many operations (docs/log.md)
_PAPERS_RATE, _WIDE = 1.5e-4, 384  # at batch 4096 (Table 8); narrower encoders learn faster (docs/log.md)
_LEAST_BATCH, _LEAST_STEPS = 32, 800  # of as many views, more steps gave better features (docs/log.md)
MOST_MINUTES = 60.0  # on a CPU, where nobody says how long
MOST_VIEWS = {"cpu": 2_000_000, "gpu": 80_000_000}  # of small data: an hour or two on 2 cores, a day on a GPU


def choose(
    settings: Pretrain,
    look: Survey,
    images: int,
    device: torch.device,
    memory: int,
    console: Console,
    start: Start | None = None,
) -> Pretrain:
    """The settings with everything that was left open chosen; each choice printed with its reason.

    memory: bytes that the device has. start: what it goes on from. Raises UserError.
    """
    own = {} if start is None else going_on(settings, look, start)
    settings = decoding(settings, own)
    pixels = look.statistics.pixels
    values: Values = {
        "in_chans": (pixels.in_chans, look.why_channels),
        "pixel_type": (pixels.depth, "the deepest that the images have"),
        "mean": (look.statistics.mean, _looked_at(look)),
        "std": (look.statistics.std, "likewise"),
        **_no_data(look),
        "crop_fit": ("retry", "as torchvision and the released code"),
        "optimizer": ("adamw", "the paper's"),
        "decay_tokens": ("off", "they are no matrices"),
        **read_as(look),
        **(_paper(settings) if settings.recipe == "paper" else _auto(filled(settings, own), look, images, device)),
        **_turning(settings, look),
        **own,
    }
    goes_on = start is not None and settings.recipe != "paper"
    if goes_on:
        values["epochs"] = fewer(*values["epochs"])
    epochs = settings.epochs or values["epochs"][0]
    if settings.recipe != "paper":
        values["batch_size"] = _with_steps(*values["batch_size"], epochs * images)
    batch_size = settings.batch_size or values["batch_size"][0]
    values["warmup_epochs"] = (epochs * 0.05, "5% of the epochs, as the paper")
    if settings.recipe != "paper":
        rate = _by_batch(batch_size)
        values["blr"] = lower(*rate) if goes_on else _by_width(*rate, batch_size, filled(settings, values))
    values["precision"] = choose_precision(device)
    chosen = filled(settings, values)
    architecture = architecture_of(chosen)
    if start is not None:
        architecture = architecture_from(start, architecture, channels_of(start, pixels, settings.from_numbers))
        values |= schedule(settings, architecture, start, look)
    machine = _for_machine(chosen, architecture, images, device, memory)
    return fill(settings, {**values, **machine}, console)


def one_channel(settings: Pretrain, look: Survey) -> Survey:
    """The look at images to learn from, on one channel where all of them are grey and nothing speaks for three."""
    is_open = settings.recipe != "paper" and settings.from_ is None
    asked = (settings.in_chans, settings.bands, settings.mean, settings.std)
    if not is_open or not look.grey or look.grey < len(look.sizes) or any(one is not None for one in asked):
        return look
    return as_grey(look)


def _looked_at(look: Survey) -> str:
    frames = f", up to {FRAMES} frames of each" if look.frames > 1 else ""
    return f"over {len(look.sizes):,} of the images{frames}"


def read_as(look: Survey) -> Values:
    """How files are read that leave it open."""
    return {name: (getattr(look.choice.reading, name), why) for name, why in look.choice.why.items()}


def settle(settings: Pretrain, images: int, console: Console) -> Pretraining:
    """What follows from settings that are chosen, for so many images. Says so where the steps are few.

    Raises UserError for what cannot be built or trained.
    """
    check_own(settings)
    course = course_of(settings, images, console)
    return Pretraining(
        config=_config(settings, console),
        architecture=architecture_of(settings),
        statistics=statistics_of(settings),
        augmentation=settings.augmentation,
        colour_jitter=settings.colour_jitter or 0.0,
        repeat_aug=settings.repeat_aug,
        max_nodata=settings.max_nodata,
        optimizer=settings.optimizer or "adamw",
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay or 1.0,
        decay_tokens=settings.decay_tokens == "on",
        grad_checkpointing=settings.grad_checkpointing == "on",
        compile=settings.compile == "on",
        pictures=settings.pictures,
        evaluations=settings.evaluations,
        course=replace(course, shuffle_block=settings.shuffle_block),
        freeze_encoder=settings.freeze_encoder or 0.0,
    )


def _config(settings: Pretrain, console: Console) -> dict[str, Any]:
    """DATA and MODEL are kept as whole paths, so that the run can be resumed from any folder; of what somebody has made
    himself the name is kept, and of a mask what it does."""
    data = given(settings.data)
    whole = {"data": data if "://" in data or is_own(data) else str(Path(data).absolute())}
    if is_own(settings.mask):
        whole["mask"] = f"{settings.mask} {mask_digest(settings, console)}"
    if settings.from_ is not None:
        whole["from"] = address(settings.from_)
    return {**kept(settings), **whole}


def _for_machine(
    settings: Pretrain, architecture: Architecture, images: int, device: torch.device, memory: int
) -> Values:
    """What changes speed and memory and not the result, for settings whose model is chosen by now."""
    precision: Precision = "bf16" if settings.precision == "bf16" else "fp32"
    batch_size, usable = given(settings.batch_size), usable_memory(memory, device.type, settings.workers)
    most = min(batch_size, _MOST_ON_A_CPU) if device.type == "cpu" else batch_size
    lanes = Lanes.here(device)

    def fitting(again: bool) -> int:
        def largest(room: int, most: int) -> int:
            return largest_micro_batch(architecture, precision, batch_size, room, most, again, device.type, lanes)

        return max(largest(usable, most), largest(min(usable, _LITTLE), most * lanes.count))

    again, why_again = settings.grad_checkpointing == "on", "there is memory enough without"
    at_once = settings.micro_batch or fitting(again)
    if settings.micro_batch is None and settings.grad_checkpointing == "auto" and at_once < min(most, _FEW_AT_ONCE):
        again, why_again = True, f"only {at_once} images fit in the memory at once without"
        at_once = fitting(again)
    if at_once < 1:
        raise UserError(
            f"one image of {shown(settings.img_size)} pixels through {settings.model} takes more than the "
            f"{size_of(memory)} of this {device.type.upper()}",
            "choose a smaller --model or --img-size, or a larger --patch-size",
        )
    work = flops(architecture).step * given(settings.epochs) * images
    compiles, why = _compiles(settings, work, device)
    return {
        "micro_batch": (at_once, "what goes through the model at once, in this memory"),
        "grad_checkpointing": ("on" if again else "off", why_again),
        "compile": ("on" if compiles else "off", why),
    }


def _compiles(settings: Pretrain, work: float, device: torch.device) -> tuple[bool, str]:
    """Whether to compile a run of so many FLOPs, and why."""
    said = f"the run takes {work:.1e} FLOPs"
    if device.type != "cuda":
        return False, "on a CPU it gives less than it costs, but for runs of many hours"
    if settings.minutes is not None:
        said = f"--minutes {shown(settings.minutes)}"
        if settings.minutes < PAYS_FROM_MINUTES:
            return False, f"{said}, too short a run to pay for compiling"
    elif work < PAYS_FROM:
        return False, f"{said}, too short a run to pay for compiling, which it would from {PAYS_FROM:.0e} on"
    if settings.mask_schedule != "constant":
        return False, f"--mask-schedule {settings.mask_schedule} changes the shapes"
    missing = missing_compiler(device)
    return (True, said) if missing is None else (False, f"it needs {missing}")


def decoding(settings: Pretrain, own: Values) -> Pretrain:
    """The settings with the decoder and the share of patches that it predicts chosen. own: of the weights that it goes
    on from."""
    light = settings.recipe == "fast"
    decoder = settings.decoder or ("cross" if light else own.get("decoder", ("self",))[0])
    share = settings.predict_fraction
    return replace(
        settings, decoder=decoder, predict_fraction=(FAST_FRACTION if light else 1.0) if share is None else share
    )


def _no_data(look: Survey) -> Values:
    """The values that were taken for no-data, where there are such."""
    if not look.no_data:
        return {}
    return {"nodata": (look.statistics.pixels.reading.nodata, f"no-data: {'; '.join(map(str, look.no_data))}")}


def _turning(settings: Pretrain, look: Survey) -> Values:
    """Views turned every way, where images are as likely any way."""
    if settings.recipe == "paper" or look.directions is None or not look.directions.mean_nothing:
        return {}
    return {"vflip": ("on", f"no direction means anything: {look.directions}"), "rotate90": ("on", "likewise")}


def _paper(settings: Pretrain) -> Values:
    """Table 8, and the model and image of most of the paper's figures."""
    model = settings.model or "vit_base"
    values = {
        "model": model,
        "img_size": 224,
        "patch_size": 14 if model == "vit_huge" else 16,
        "decoder_embed_dim": 512,
        "decoder_depth": 8,
        "decoder_num_heads": 16,
        "epochs": 800.0,
        "batch_size": 4096,
        "blr": 1.5e-4,
    }
    return {
        **{name: (value, PAPER) for name, value in values.items()},
        "decay_tokens": ("on", "as the released code"),
    }


def _auto(settings: Pretrain, look: Survey, images: int, device: torch.device) -> Values:
    """What suits the number of images, their size and the device."""
    kind = device.type.upper()
    on_gpu = device.type != "cpu"
    model = settings.model or ("vit_base" if on_gpu else "vit_tiny")
    width, depth, heads = DECODERS.get(model, PAPERS_DECODER)
    light = settings.recipe == "fast"
    why = "the paper's" if (width, depth, heads) == PAPERS_DECODER else "light beside the encoder"
    most = 4096 if on_gpu else 256
    batch_size = min(most, max(_LEAST_BATCH, 2 ** int(math.log2(max(1, images / 25)))))
    return {
        "model": (model, f"on a {kind}"),
        **_sizes(settings, look, 14 if model == "vit_huge" else 16),
        "decoder_embed_dim": (width, why),
        "decoder_depth": (FAST_DEPTH, "light, as asked") if light else (depth, why),
        "decoder_num_heads": (heads, why),
        "epochs": _epochs(images, on_gpu),
        "batch_size": (batch_size, f"for {images:,} images; between 32 and {most} on a {kind}"),
    }


def most_minutes(settings: Pretrain, device: torch.device) -> float | None:
    """What a run may take where neither epochs nor minutes are given; None for no bound."""
    return MOST_MINUTES if device.type == "cpu" and settings.recipe != "paper" else None


def _epochs(images: int, on_gpu: bool) -> tuple[float, str]:
    """Few images are seen more often: what counts is the number of steps."""
    views = MOST_VIEWS["gpu" if on_gpu else "cpu"]
    least, most = (800, 1600) if on_gpu else (20, 800)
    epochs = float(min(most, max(least, round(views / images))))
    return epochs, f"{images:,} images seen {epochs * images:,.0f} times in all; between {least} and {most} epochs"


def _with_steps(batch_size: int, why: str, views: float) -> tuple[int, str]:
    """The batch, or a smaller one where it would leave few steps."""
    smaller = batch_size
    while smaller > _LEAST_BATCH and views / smaller < _LEAST_STEPS:
        smaller //= 2
    if smaller == batch_size:
        return batch_size, why
    return smaller, f"{views:,.0f} views in batches of {batch_size} would be {views / batch_size:,.0f} steps"


def _by_batch(batch_size: int) -> tuple[float, str]:
    """The base rate of the paper's encoders for a batch, and why."""
    return _PAPERS_RATE * math.sqrt(4096 / batch_size), "the paper's 1.5e-4 at batch 4096, square-root scaling below"


def _by_width(blr: float, why: str, batch_size: int, settings: Pretrain) -> tuple[float, str]:
    """The base rate for an encoder that may be narrow: Adam's goes with 1 / width (muP, arXiv 2203.03466, Table 3). It
    is no higher than the paper's own rate at its own batch."""
    width = settings.embed_dim or SIZES[given(settings.model)][0]
    most = max(blr, _PAPERS_RATE * 4096 / batch_size)
    times = min(max(1.0, _WIDE / width), most / blr)
    return blr * times, f"{why}; {times:.3g} times it for an encoder {width} wide" if times > 1 else why


def _sizes(settings: Pretrain, look: Survey, largest: int) -> Values:
    """Patch and image. largest: the patch for photographs."""
    least = {largest: 8} | _LEAST_GRID
    if settings.img_size is not None:
        sides = pair(settings.img_size)
        cutting = [patch for patch in least if all(side % patch == 0 for side in sides)] or [largest]
        patch = next((one for one in cutting if min(sides) // one >= least[one]), cutting[-1])
        said = f"cuts {sides[0]} x {sides[1]} pixels into {sides[0] // patch} x {sides[1] // patch}"
        return {"patch_size": (patch, said)}
    side = min(look.size)
    patch = next((one for one in least if side // one >= least[one]), 2)
    unit = math.lcm(*pair(settings.patch_size or patch))
    size = unit * max(2, min(224, side) // unit)
    return {
        "patch_size": (patch, f"the median image is {look.size[0]} x {look.size[1]} pixels"),
        "img_size": (size, f"a multiple of the patch; images have {side}, and 224 are enough"),
    }


def check_compiles(device: torch.device) -> None:
    """Raises UserError where the step cannot be compiled for this device."""
    if missing := missing_compiler(device):
        raise UserError(f"--compile on needs {missing}", "install it, or leave --compile out")
