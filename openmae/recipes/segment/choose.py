"""What `segment` chooses where a setting was left open, the published recipe's or what fits the data; what follows."""

import math

import torch
from rich.console import Console

from openmae.machine.device import choose_precision
from openmae.model import ViT
from openmae.recipes.outline.choose import at_once, first_batch, fitting, keeps_best, rate_of_places, warm_up
from openmae.recipes.outline.opened import Outlined
from openmae.recipes.segment.settings import Segment
from openmae.recipes.training.open import Values, fill, filled
from openmae.recipes.training.settings import sides_of

_BATCH, _STEPS = 16, 160_000  # of the published recipe
PAPER = "MAE's and BEiT's for ADE20K"
_LEAST_STEPS, _MOST_STEPS = 600, 4000  # of auto
_RATE_OF_A_HEAD = 0.16  # at batch 1024, of any width


def choose(settings: Segment, opened: Outlined, device: torch.device, console: Console, memory: int | None) -> Segment:
    """The settings with everything that was left open chosen; each choice printed with its reason. memory: bytes that a
    CPU has for this process; None where that is no bound."""
    encoder, images = opened.start.encoder, len(opened.train)
    values = _paper(encoder, images) if settings.recipe == "paper" else _auto(settings, opened)
    values["keep_best"] = keeps_best(settings, len(opened.val))
    values["patch_size"] = (sides_of(encoder.patch_size), "the model's")
    values |= {"vflip": ("off", "only where asked"), "rotate90": ("off", "only where asked")}
    values |= {"precision": choose_precision(device), "min_lr": (0.0, "the decay's own end")}
    values |= {"resize": ("none", "outlines are as fine as the images' own pixels")}
    values["warmup_epochs"] = warm_up(settings, values)
    values |= at_once(filled(settings, values), encoder, device, memory)
    return fill(settings, values, console)


def _paper(encoder: ViT, images: int) -> Values:
    """As published: AdamW 1e-4 at batch 16, 160,000 steps of 512 x 512."""
    is_large = encoder.embed_dim > 768
    found = {
        "img_size": 512 // encoder.patch_size[0] * encoder.patch_size[0],
        "batch_size": _BATCH,
        "epochs": float(math.ceil(_STEPS * _BATCH / images)),
        "warmup_epochs": 1500 * _BATCH / images,
        "blr": 1e-4 * 256 / _BATCH,
        "decay": "linear",
        "layer_decay": 0.8 if is_large else 0.65,
        "weight_decay": 0.05,
        "drop_path": 0.2 if is_large else 0.1,
        "ema_decay": 0.0,
        "scale": (0.5, 2.0),
        "colour_jitter": 0.5,
        "head": "upernet",
        "auxiliary": 0.4,
        "dropout": 0.1,
    }
    return {name: (value, PAPER) for name, value in found.items()}


def _auto(settings: Segment, opened: Outlined) -> Values:
    """What some hundred images and small machines need."""
    batch_size = first_batch(settings, opened)
    steps = min(_MOST_STEPS, max(_LEAST_STEPS, 30 * len(opened.train) // batch_size))
    return {
        **fitting(settings, opened, steps),
        **_rate(settings, opened.start.encoder.embed_dim, batch_size),
        "img_size": (sides_of(opened.start.encoder.img_size), "the model's"),
        "decay": ("cosine", "as fine-tuning's"),
        "head": ("linear", "ranks encoders as heavy heads do, and is ten times cheaper"),
        "auxiliary": (0.0, "the published recipe's alone"),
        "dropout": (0.0, "the published recipe's alone"),
    }


def _rate(settings: Segment, width: int, batch_size: int) -> Values:
    """Of one layer, where it is another than that of fine-tuning, where an image says one class and not one a pixel."""
    if settings.head == "upernet":
        return {}
    if settings.blocks != "0":
        return rate_of_places(width, batch_size, "classes of pixels want more than classes of images")
    rate = _RATE_OF_A_HEAD * math.sqrt(batch_size / 1024)
    return {"blr": (rate * 256 / batch_size, f"a rate of {rate:.2g}: for one layer")}
