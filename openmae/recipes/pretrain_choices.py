"""What `pretrain` chooses where the user left a setting open, and the ranges of those that were given."""

import math
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from openmae.data.channels import check_bands
from openmae.data.statistics import Survey
from openmae.errors import UserError
from openmae.model import grid_of
from openmae.recipes.choices import (
    ABOVE_0,
    FROM_0,
    SEED,
    SHARE,
    Bounds,
    Values,
    check,
    choose_precision,
    fill,
    pair,
    shown,
)

if TYPE_CHECKING:
    from openmae.recipes.pretrain import Pretrain

_BOUNDS: Bounds = {
    **dict.fromkeys(("batch_size", "micro_batch", "epochs", "blr", "clip_grad", "repeat_aug", "in_chans"), ABOVE_0),
    **dict.fromkeys(("warmup_epochs", "weight_decay", "pictures", "evaluations", "checkpoint_minutes"), FROM_0),
    "max_broken": SHARE,
    "seed": SEED,
    "std": (lambda numbers: min(numbers) > 0, "give numbers above 0"),
}
PAPER = "the paper's (Table 8)"
MOST_VIEWS = {"cpu": 2_000_000, "gpu": 80_000_000}  # of small data: an hour or two on 2 cores, a day on a GPU


def choose(settings: "Pretrain", look: Survey, images: int, device: torch.device, console: Console) -> "Pretrain":
    """The settings with everything that was left open chosen; each choice printed with its reason."""
    pixels = look.statistics.pixels
    values: Values = {
        "in_chans": (pixels.in_chans, look.why_channels),
        "pixel_type": (pixels.depth, "the deepest that the images have"),
        "mean": (look.statistics.mean, f"over {len(look.sizes):,} of the images"),
        "std": (look.statistics.std, "likewise"),
        **(_paper(settings) if settings.recipe == "paper" else _auto(settings, look, images, device)),
    }
    epochs = settings.epochs or values["epochs"][0]
    batch_size = settings.batch_size or values["batch_size"][0]
    most = 64 if device.type == "cpu" else 256
    values["warmup_epochs"] = (epochs * 0.05, "5% of the epochs, as the paper")
    values["micro_batch"] = (min(batch_size, most), "what goes through the model at once")
    if settings.recipe == "auto":
        values["blr"] = (
            1.5e-4 * math.sqrt(4096 / batch_size),
            "the paper's 1.5e-4 at batch 4096, square-root scaling below",
        )
    values["precision"] = choose_precision(device)
    return fill(settings, values, console)


def _paper(settings: "Pretrain") -> Values:
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
    return {name: (value, PAPER) for name, value in values.items()}


def _auto(settings: "Pretrain", look: Survey, images: int, device: torch.device) -> Values:
    """What suits the number of images, their size and the device (pain 16)."""
    kind = device.type.upper()
    on_gpu = device.type != "cpu"
    model = settings.model or ("vit_base" if on_gpu else "vit_tiny")
    small = model in ("vit_tiny", "vit_small")
    why = "light beside the encoder" if small else "the paper's"
    most = 4096 if on_gpu else 256
    batch_size = min(most, max(32, 2 ** int(math.log2(max(1, images / 25)))))
    return {
        "model": (model, f"on a {kind}"),
        **_sizes(settings, look, 14 if model == "vit_huge" else 16),
        "decoder_embed_dim": (128 if small else 512, why),
        "decoder_depth": (4 if small else 8, why),
        "decoder_num_heads": (4 if small else 16, why),
        "epochs": _epochs(images, on_gpu),
        "batch_size": (batch_size, f"for {images:,} images; between 32 and {most} on a {kind}"),
    }


def _epochs(images: int, on_gpu: bool) -> tuple[float, str]:
    """Few images are seen more often: what counts is the number of steps."""
    views = MOST_VIEWS["gpu" if on_gpu else "cpu"]
    least, most = (800, 1600) if on_gpu else (20, 800)
    epochs = float(min(most, max(least, round(views / images))))
    return epochs, f"{images:,} images seen {epochs * images:,.0f} times in all; between {least} and {most} epochs"


def _sizes(settings: "Pretrain", look: Survey, largest: int) -> Values:
    """Patch and image. largest: the patch for photographs."""
    if settings.img_size is not None:
        sides = pair(settings.img_size)
        fitting = [p for p in (largest, 8, 4, 2) if all(s % p == 0 and s // p >= 8 for s in sides)]
        patch = fitting[0] if fitting else largest
        return {"patch_size": (patch, f"cuts {sides[0]} x {sides[1]} pixels into 8 x 8 or more")}
    side = min(look.size)
    patch = largest if side >= 128 else 8 if side >= 64 else 4
    unit = math.lcm(*pair(settings.patch_size or patch))
    size = unit * max(2, min(224, side) // unit)
    return {
        "patch_size": (patch, f"the median image is {look.size[0]} x {look.size[1]} pixels"),
        "img_size": (size, f"a multiple of the patch; images have {side}, and 224 do"),
    }


def check_ranges(settings: "Pretrain") -> None:
    """Raises UserError for a number out of its range, and for numbers that do not go together; what is left open
    passes."""
    check(settings, _BOUNDS)
    if settings.img_size is not None and settings.patch_size is not None:
        try:
            grid_of(pair(settings.img_size), pair(settings.patch_size))
        except ValueError as error:
            raise UserError(str(error)) from error
    _check_channels(settings)


def _check_channels(settings: "Pretrain") -> None:
    """Raises UserError where --in-chans, --bands, --mean and --std are of different numbers of channels."""
    bands = settings.bands
    if bands is not None:
        check_bands(bands)
    lists = {"--bands": bands, "--mean": settings.mean, "--std": settings.std}
    counts = {flag: len(values) for flag, values in lists.items() if values is not None}
    if settings.in_chans is not None:
        counts["--in-chans"] = settings.in_chans
    if len(set(counts.values())) < 2:
        return
    said = ", ".join(f"{flag} {count}" for flag, count in counts.items())
    advice = (
        f"openmae stats DATA --bands {shown(bands)} --out stats.toml measures these bands; or leave --bands out"
        if bands is not None
        else "give a mean and a deviation for each channel"
    )
    raise UserError(f"the numbers of channels differ, on the command line or in the --config file ({said}): {advice}")
