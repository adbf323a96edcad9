"""What `detect` chooses where a setting was left open, the published recipe's or what fits the data; what follows."""

import math

import numpy as np
import torch
from rich.console import Console

from openmae.machine.device import choose_precision
from openmae.model import ViT
from openmae.recipes.detect.settings import Detect
from openmae.recipes.detect.sizes import Sizes
from openmae.recipes.outline.choose import at_once, first_batch, fitting, keeps_best, rate_of_places, warm_up
from openmae.recipes.outline.opened import Outlined
from openmae.recipes.training.open import Values, fill, filled
from openmae.recipes.training.settings import given, pair, sides_of
from openmae.transfer.detector import CHANNELS, FINEST_ANCHOR, MOST_OBJECTS, PROPOSED, SAMPLED

PAPER = "ViTDet's with MAE weights, on COCO"
MOST_ON_A_CPU = 64  # channels
_LEAST_STEPS, _MOST_STEPS = 1000, 6000  # of auto
_LARGE = 0.5  # of a window: objects longer than that are cut into pieces by it
_FINEST, _COARSEST = 4.0, 64.0  # pixels of the smallest anchors
_WINDOW, _WINDOW_ON_A_CPU = 512, 256  # pixels a side, at most, of windows that are larger than the model's own
_BOUND = 1000  # objects that a window may have: as many as are proposed
_MASK_BYTES = 10  # of a pixel of an object that is learnt from: its mask as it is, between pixels, and drawn small
_FEW_SAMPLED, _FEW_PROPOSED = 128, 300  # proposals of an image that narrow heads learn from, and look at again
_CLIP = 1.0  # norm of the whole gradient
_ROOM = 1.5  # of objects found over the most that an image was seen to have


def choose(
    settings: Detect, opened: Outlined, sizes: Sizes, device: torch.device, console: Console, memory: int | None
) -> Detect:
    """The settings with everything that was left open chosen; each choice printed with its reason. memory: bytes that a
    CPU has for this process; None where that is no bound."""
    encoder = opened.start.encoder
    is_paper = settings.recipe == "paper"
    values = _paper(encoder) if is_paper else _auto(settings, opened, sizes, device)
    values["keep_best"] = keeps_best(settings, len(opened.val))
    values["patch_size"] = (sides_of(encoder.patch_size), "the model's")
    values |= {"vflip": ("off", "only where asked"), "rotate90": ("off", "only where asked")}
    values |= {"precision": choose_precision(device), "min_lr": (0.0, "the cosine's own end")}
    if is_paper:
        values["warmup_epochs"] = (250 * (settings.batch_size or 64) / len(opened.train), PAPER)
        values["most_objects"] = (MOST_OBJECTS, PAPER)
        values["finest_anchor"] = (FINEST_ANCHOR, PAPER)
    else:
        known = filled(settings, values)
        values["finest_anchor"] = _finest(sizes, pair(known.img_size), known.resize == "fit")
        values["most_objects"] = _most(sizes)
    values["warmup_epochs"] = warm_up(settings, values)
    chosen = filled(settings, values)
    most = min(sizes.most(pair(chosen.img_size), chosen.resize == "fit"), looked_at(given(chosen.channels))[0] // 4)
    masks = _MASK_BYTES * most if settings.masks else 0
    values |= at_once(chosen, encoder, device, memory, masks * math.prod(pair(chosen.img_size)))
    return fill(settings, values, console)


def looked_at(channels: int) -> tuple[int, int]:
    """How many proposals of an image heads of that width learn from, a quarter of them objects at most, and look at
    again."""
    return (SAMPLED, PROPOSED) if channels >= CHANNELS else (_FEW_SAMPLED, _FEW_PROPOSED)


def _paper(encoder: ViT) -> Values:
    """As published: AdamW 1e-4 at batch 64, 100 epochs of 1024 x 1024, large-scale jitter."""
    patch, is_large, is_huge = encoder.patch_size[0], encoder.embed_dim > 768, encoder.embed_dim > 1024
    found = {
        "img_size": max(1, 1024 // patch) * patch,
        "batch_size": 64,
        "epochs": 100.0,
        "blr": 1e-4 * 256 / 64,
        "layer_decay": 0.9 if is_huge else 0.8 if is_large else 0.7,
        "weight_decay": 0.1,
        "drop_path": 0.5 if is_huge else 0.4 if is_large else 0.1,
        "ema_decay": 0.0,
        "scale": (0.1, 2.0),
        "resize": "fit",
        "colour_jitter": 0.0,
        "channels": CHANNELS,
        "relative_positions": "on",
        "decay": "steps",
    }
    return {name: (value, PAPER) for name, value in found.items()}


def _auto(settings: Detect, opened: Outlined, sizes: Sizes, device: torch.device) -> Values:
    """What some hundred images and small machines need."""
    batch_size = first_batch(settings, opened)
    steps = min(_MOST_STEPS, max(_LEAST_STEPS, 50 * len(opened.train) // batch_size))
    sides = _img_size(opened.start.encoder, sizes, device)
    img_size = pair(settings.img_size or sides[0])
    narrow = (MOST_ON_A_CPU, "a CPU: a sixteenth of the work of 256, which is published")
    return {
        **fitting(settings, opened, steps),
        **rate_of_places(
            opened.start.encoder.embed_dim, batch_size, "where objects are wants more than classes of images"
        ),
        "clip_grad": (_CLIP, "single batches have gradients ten times as large as most"),
        "img_size": sides,
        "resize": _resize(sizes, img_size),
        "channels": narrow if device.type == "cpu" else (CHANNELS, "ViTDet's"),
        "relative_positions": ("off", "for images as large as the published recipe's"),
        "decay": ("cosine", "as fine-tuning's"),
    }


def _img_size(encoder: ViT, sizes: Sizes, device: torch.device) -> tuple[int | tuple[int, int], str]:
    """The model's, or, where that is a small part of the images, windows that show more of one at once."""
    height, width = encoder.img_size
    most = _WINDOW_ON_A_CPU if device.type == "cpu" else _WINDOW
    side = min(most, int(np.median(sizes.images.max(1)))) if len(sizes.images) else 0
    if side < 2 * max(height, width):
        return (height if height == width else (height, width)), "the model's"
    down, across = (max(1, side // patch) * patch for patch in encoder.patch_size)
    return (
        down if down == across else (down, across)
    ), f"the model's, {max(height, width)}, is a small part of the images, and makes many tiles"


def _resize(sizes: Sizes, window: tuple[int, int]) -> tuple[str, str]:
    """Whether images are drawn as large as a window: where objects do not fit into one otherwise."""
    longest = sizes.boxes.max(1, initial=0)
    is_larger = np.asarray((sizes.images > np.array(window)).any(1))
    long = int((longest[is_larger[sizes.whose]] > _LARGE * min(window)).sum())
    share = long / max(1, len(longest))
    said = f"of objects in images larger than a window, {share:.0%} of all are longer than half of it"
    if share > 0.1:
        return "fit", f"{said}: tiles would cut them"
    return "none", f"{said}: objects stay as fine as the images' own pixels"


def _finest(sizes: Sizes, window: tuple[int, int], fits: bool) -> tuple[float, str]:
    """The power of 2 that is nearest to the objects that nine of ten are larger than."""
    sides = sizes.drawn(window, fits)
    if not len(sides):
        return FINEST_ANCHOR, "ViTDet's"
    small, middle, large = np.quantile(sides, (0.1, 0.5, 0.9)).tolist()
    side = min(_COARSEST, max(_FINEST, 2.0 ** round(math.log2(max(1.0, small)))))
    return side, f"objects are {small:.0f} to {large:.0f} pixels a side (8 of 10), the middle one {middle:.0f}"


def _most(sizes: Sizes) -> tuple[int, str]:
    """As many as COCO's, or, of more, half as many again as an image was seen to have; no more than are proposed."""
    seen = int(sizes.counts.max(initial=0))
    if _ROOM * seen <= MOST_OBJECTS:
        return MOST_OBJECTS, f"COCO's; no image has more than {seen:,}"
    most = min(_BOUND, 50 * math.ceil(_ROOM * seen / 50))
    said = f"an image has up to {seen:,}; average precision counts as many of each"
    if seen > _BOUND:
        return most, f"{said}; more in a window than {_BOUND:,} are not found"
    return most, said
