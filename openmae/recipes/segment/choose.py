"""What `segment` chooses where a setting was left open, the published recipe's or what fits the data; what follows."""

import math

import torch
from rich.console import Console

from openmae.data.views.crop import Augmentation
from openmae.data.views.jitter import Jitter
from openmae.errors import of_user
from openmae.machine.device import choose_precision
from openmae.model import ViT
from openmae.recipes.outline.choose import at_once, config_of, first_rate, keeps_best
from openmae.recipes.outline.job import Outlining, Trunk
from openmae.recipes.outline.opened import Outlined
from openmae.recipes.segment.settings import Segment
from openmae.recipes.training.open import Values, fill, filled
from openmae.recipes.training.schedule import course_of
from openmae.recipes.training.settings import given, pair, sides_of

_BATCH, _STEPS = 16, 160_000  # of the published recipe
PAPER = "MAE's and BEiT's for ADE20K"
_LEAST_STEPS, _MOST_STEPS = 600, 4000  # of auto
_MOST_EPOCHS = 200.0


def choose(settings: Segment, opened: Outlined, device: torch.device, console: Console, memory: int | None) -> Segment:
    """The settings with everything that was left open chosen; each choice printed with its reason. memory: bytes that a
    CPU has for this process; None where that is no bound."""
    encoder, images = opened.start.encoder, len(opened.train)
    values = _paper(encoder, images) if settings.recipe == "paper" else _auto(settings, opened, device)
    values["keep_best"] = keeps_best(settings, len(opened.val))
    values["patch_size"] = (sides_of(encoder.patch_size), "the model's")
    values |= {"vflip": ("off", "only where asked"), "rotate90": ("off", "only where asked")}
    values |= {"precision": choose_precision(device), "min_lr": (0.0, "the cosine's own end")}
    values |= {"resize": ("none", "outlines are as fine as the images' own pixels")}
    chosen = filled(settings, values)
    if chosen.warmup_epochs is not None and chosen.epochs and chosen.warmup_epochs >= chosen.epochs:
        values["warmup_epochs"] = (chosen.epochs / 20, "5% of the epochs")
    values |= at_once(chosen, encoder, device, memory)
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
        "layer_decay": 0.8 if is_large else 0.65,
        "weight_decay": 0.05,
        "drop_path": 0.2 if is_large else 0.1,
        "ema_decay": 0.0,
        "scale": (0.5, 2.0),
        "colour_jitter": 0.5,
    }
    return {name: (value, PAPER) for name, value in found.items()}


def _auto(settings: Segment, opened: Outlined, device: torch.device) -> Values:
    """What some hundred images and small machines need."""
    encoder, images = opened.start.encoder, len(opened.train)
    batch_size = settings.batch_size or min(16, max(4, 2 ** round(math.log2(max(1, images / 8)))))
    steps = min(_MOST_STEPS, max(_LEAST_STEPS, 30 * images // batch_size))
    epochs = settings.epochs or min(_MOST_EPOCHS, float(max(1, math.ceil(steps * batch_size / images))))
    at_1024 = first_rate(encoder, opened.start.target)
    rate = at_1024 * math.sqrt(batch_size / 1024)
    pixels = opened.start.statistics.pixels
    is_photo = pixels.depth == "uint8" and pixels.in_chans == 3
    return {
        "img_size": (sides_of(encoder.img_size), "the model's"),
        "batch_size": (batch_size, f"for {images:,} images"),
        "epochs": (epochs, f"{epochs * images / batch_size:,.0f} steps of {images:,} images"),
        "warmup_epochs": (epochs / 20, "5% of the epochs"),
        "blr": (rate * 256 / batch_size, f"a rate of {rate:.2g}: {at_1024:g} at batch 1024, square-root scaling below"),
        "layer_decay": (1.0, "from scratch") if opened.start.target is None else (0.75, "the paper's of fine-tuning"),
        "weight_decay": (0.05, "the paper's"),
        "drop_path": (0.1 if encoder.depth >= 12 else 0.0, "the paper's of ViT-B; none of shallow ones"),
        "ema_decay": (0.0, "as the paper"),
        "scale": ((0.7, 1.4), "sizes vary less within one set of images than on the web"),
        "colour_jitter": (0.2 if is_photo else 0.0, "for 8-bit colours alone"),
    }


def settle(settings: Segment, images: int, console: Console) -> Outlining:
    """What follows from settings that are chosen, for so many images. Raises UserError for what cannot be trained."""
    try:
        turns = Augmentation(hflip=settings.hflip, vflip=settings.vflip == "on", rotate90=settings.rotate90 == "on")
        return Outlining(
            config=config_of(settings),
            course=course_of(settings, images, console, 1, settings.min_lr or 0.0),
            model=given(settings.model),
            trunk=Trunk(
                pair(settings.img_size),
                settings.drop_path or 0.0,
                settings.blocks,
                settings.from_scratch,
                settings.grad_checkpointing == "on",
            ),
            weight_decay=settings.weight_decay or 0.0,
            layer_decay=settings.layer_decay or 1.0,
            ema_decay=settings.ema_decay or 0.0,
            jitter=Jitter(given(settings.scale), settings.resize == "fit", turns, settings.colour_jitter or 0.0),
            evaluations=settings.evaluations,
            keep_best=settings.keep_best == "on",
            patience=settings.patience,
        )
    except ValueError as error:
        raise of_user(error) from error
