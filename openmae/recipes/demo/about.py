"""What a page can show of a model, told before anything is shown."""

import math
from typing import Any

from openmae.console.words import drawable, several
from openmae.errors import UserError
from openmae.evaluate.occlusion import windows
from openmae.heads import Answering
from openmae.masking import MASKS
from openmae.model import MaskedAutoencoder
from openmae.recipes.demo.others import Neighbours, Others
from openmae.targets import HOG, NormPix, OwnTarget
from openmae.weights import Loaded

MOST_WINDOWS = 64  # that are covered one after the other; each is a pass through the model
MOST_CLASSES = 5  # that are told of an image


def about(loaded: Loaded, samples: Others, neighbours: Neighbours | None) -> dict[str, Any]:
    """Plain values, for the page."""
    encoder, model = loaded.encoder, loaded.model
    says = isinstance(model, Answering) and loaded.info["class_names"] is not None
    whole = model if isinstance(model, MaskedAutoencoder) else None
    return {
        "model": drawable(loaded.name),
        "described": _described(loaded),
        "grid": list(encoder.grid),
        "size": list(encoder.img_size),
        "units": math.prod(encoder.grid) // (whole.masking.mask_unit**2 if whole is not None else 1),
        "layers": encoder.depth,
        "missing": _missing(loaded, says),
        "limits": "",
        "fills": _fills(whole),
        "borrows": whole is not None and isinstance(whole.target, NormPix),
        "masks": list(MASKS),
        "mask": whole.masking.mask if whole is not None and whole.masking.mask in MASKS else "random",
        "ratio": whole.masking.mask_ratio if whole is not None else 0.0,
        "task": loaded.info["task"] if says else None,
        "windows": windows(encoder.grid, MOST_WINDOWS) if says else [],
        "samples": [samples.name(number) for number in range(len(samples.chosen))],
        "samples_said": samples.said,
        "neighbours": "" if neighbours is None else drawable(neighbours.others.said),
    }


def _fills(model: MaskedAutoencoder | None) -> str | None:
    """What comes of a hidden patch: its pixels; strokes, of HOG; or an error alone, of somebody's own target. None
    where there is no decoder."""
    if model is None:
        return None
    return {HOG: "strokes", OwnTarget: "errors"}.get(type(model.target), "pixels")


def _described(loaded: Loaded) -> str:
    """The encoder, and what it was trained for, in a line."""
    encoder = loaded.encoder
    (height, width), (down, across) = encoder.img_size, encoder.patch_size
    shape = (
        f"ViT of {several(encoder.depth, 'block')}, {encoder.embed_dim:,} wide; images of {width} x {height} pixels, "
        f"{several(encoder.in_chans, 'channel')}; patches of {across} x {down}"
    )
    licence = loaded.info.get("licence")
    return f"{shape}; licence of the weights: {drawable(str(licence))}" if licence else shape


def _missing(loaded: Loaded, says: bool) -> str:
    """What the page cannot show of this model, and what it can; empty of one that has its decoder."""
    try:
        _ = loaded.autoencoder
    except UserError as error:
        left = "what it says of an image, where covering a patch changes that most, and " if says else ""
        return f"{drawable(error.what)}. What can be shown: {left}what a patch attends to. To fill in: {error.advice}."
    return ""
