"""What segment and detect choose alike."""

import math

import torch

from openmae.console.words import size_of
from openmae.errors import of_user
from openmae.model import ViT
from openmae.recipes.outline.opened import Outlined
from openmae.recipes.outline.settings import Outline
from openmae.recipes.training.best import ENOUGH_TO_TELL
from openmae.recipes.training.encoder import first_rate
from openmae.recipes.training.memory import usable_memory
from openmae.recipes.training.open import Values
from openmae.recipes.training.settings import given, pair
from openmae.train.classifier_cost import rough_step_bytes

_MOST_EPOCHS = 200.0
MOST_MINUTES = 60.0  # on a CPU
_HEADS = 2.0  # memory of a head and its targets, over that of the encoder
_RATE, _WIDE = 0.016, 768  # at batch 1024, of a width of 128; from which width on rates are fine-tuning's


def most_minutes(settings: Outline, device: torch.device) -> float | None:
    """What a run may take where nobody says how long."""
    return MOST_MINUTES if device.type == "cpu" and settings.recipe != "paper" else None


def keeps_best(settings: Outline, images: int) -> tuple[str, str]:
    """Whether the best weights are kept beside the last ones, by so many val images."""
    if settings.patience is not None:
        return "on", "--patience counts from the best look"
    if settings.recipe == "paper":
        return "off", "as published"
    if images >= ENOUGH_TO_TELL:
        return "on", f"{images:,} val images tell one look from another"
    return "off", f"{images:,} val images are too few to tell one look from another"


def warm_up(settings: Outline, values: Values) -> tuple[float, str]:
    """The warm-up that is chosen: of a run with no more epochs than that, a twentieth."""
    epochs = values["epochs"][0] if settings.epochs is None else settings.epochs
    if epochs and values["warmup_epochs"][0] >= epochs:
        return epochs / 20, "5% of the epochs"
    return values["warmup_epochs"][0], values["warmup_epochs"][1]


def rate_of_places(width: int, batch_size: int, why: str) -> Values:
    """The rate where all learns and what is asked is where things are; as `first_rate` of wide encoders, for which it
    was not measured."""
    if width >= _WIDE:
        return {}
    rate = _RATE * 128 / max(128, width) * math.sqrt(batch_size / 1024)
    return {"blr": (rate * 256 / batch_size, f"a rate of {rate:.2g}: {why}")}


def at_once(settings: Outline, encoder: ViT, device: torch.device, memory: int | None, asked: int = 0) -> Values:
    """What goes through the model at once, and what is kept of it: what changes speed and memory alone. asked: bytes of
    what is asked of a window, where that is much."""
    batch_size = given(settings.batch_size)
    kept_whole = ("off", "a quarter faster, where there is memory enough")
    if device.type != "cpu" or memory is None:
        return {"micro_batch": (batch_size, "what goes through the model at once"), "grad_checkpointing": kept_whole}
    usable = usable_memory(memory, "cpu", settings.workers)
    try:
        with torch.device("meta"):
            seen = ViT(**{**encoder.arguments(), "img_size": pair(settings.img_size), "position_grid": None})
    except ValueError as error:
        raise of_user(error) from error
    sizes = [size for size in (batch_size, 16, 8, 4, 2, 1) if size <= batch_size]
    needed = {size: _HEADS * rough_step_bytes(seen, size, 2) + size * asked for size in sizes}
    fitting = next((size for size in sizes if needed[size] <= usable), 1)
    again = fitting < min(batch_size, 2) and settings.grad_checkpointing == "auto"
    return {
        "micro_batch": (fitting, f"what goes through the model at once, in {size_of(memory)} of memory"),
        "grad_checkpointing": ("on", "hardly an image fits in the memory without") if again else kept_whole,
    }


def first_batch(settings: Outline, opened: Outlined) -> int:
    """Windows a step: what is asked for, or what suits so many images."""
    return settings.batch_size or min(16, max(4, 2 ** round(math.log2(max(1, len(opened.train) / 8)))))


def fitting(settings: Outline, opened: Outlined, steps: int) -> Values:
    """What some hundred images and small machines need, in about so many steps."""
    encoder, images = opened.start.encoder, len(opened.train)
    batch_size = first_batch(settings, opened)
    epochs = settings.epochs or min(_MOST_EPOCHS, float(max(1, math.ceil(steps * batch_size / images))))
    at_1024 = first_rate(encoder, opened.start.target)
    rate = at_1024 * math.sqrt(batch_size / 1024)
    pixels = opened.start.statistics.pixels
    is_photo = pixels.depth == "uint8" and pixels.in_chans == 3
    return {
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
