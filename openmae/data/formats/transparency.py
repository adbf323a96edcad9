"""What stands behind transparent pixels: a background, or nothing, or transparency stays a channel of its own."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmae.data.formats.channels import row_blocks
from openmae.data.formats.header import OpenedImage, Wanted
from openmae.data.formats.reading import Alpha


def through(opened: OpenedImage, alpha: Alpha | None) -> OpenedImage:
    """The file as `alpha` says to see it; None keeps transparency as its last channel. Colours that were stored
    multiplied by their alpha are divided by it where they are not laid on a background."""
    header = opened.header
    if not header.alpha:
        return opened
    keeps = alpha in (None, "channel")
    if keeps and header.alpha == "straight":
        return opened
    premultiplied = header.alpha == "premultiplied"

    def pixels(asked: Wanted) -> NDArray[Any]:
        found = opened.pixels(asked)
        seen = as_seen(found if not isinstance(found, np.ma.MaskedArray) else found.data, alpha, premultiplied)
        if not isinstance(found, np.ma.MaskedArray):
            return seen
        return np.ma.array(seen, mask=np.ma.getmaskarray(found)[..., : seen.shape[2]])

    channels = header.channels if keeps else header.channels - 1
    return replace(
        opened, header=replace(header, channels=channels, alpha="straight" if keeps else None), pixels=pixels
    )


def as_seen(image: NDArray[Any], alpha: Alpha | None, premultiplied: bool = False) -> NDArray[Any]:
    """(H, W, C) whose last channel is alpha, as `alpha` says: (H, W, C - 1), or (H, W, C) where it stays."""
    keeps = alpha in (None, "channel")
    seen = np.empty((*image.shape[:2], image.shape[2] - (not keeps)), image.dtype)
    colours = image.shape[2] - 1
    for rows in row_blocks(*image.shape[:2]):
        colour, opacity = image[rows, :, :colours], image[rows, :, colours:]
        if alpha in ("white", "black"):
            seen[rows] = _laid_on(colour, opacity, alpha == "white", premultiplied)
        else:
            seen[rows, :, :colours] = _divided(colour, opacity) if premultiplied else colour
            seen[rows, :, colours:] = opacity[..., : seen.shape[2] - colours]
    return seen


def multiplied(image: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, C) whose last channel is alpha -> floats, the colours multiplied by it: what may be resized without what
    is hidden showing at the edges."""
    found = image.astype(np.float32)
    found[..., :-1] *= found[..., -1:] / _opaque(image.dtype)
    return found


def divided(image: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The inverse of `multiplied`; black where nothing shows."""
    top = _opaque(dtype)
    found = image.copy()
    opacity = np.clip(image[..., -1:], 0, top)
    np.divide(image[..., :-1] * top, opacity, out=found[..., :-1], where=opacity > 0)
    found[..., :-1][np.broadcast_to(opacity <= 0, found[..., :-1].shape)] = 0
    return found if dtype.kind == "f" else np.clip(found.round(), 0, top).astype(dtype)


def _laid_on(colour: NDArray[Any], opacity: NDArray[Any], white: bool, premultiplied: bool) -> NDArray[Any]:
    """Rounded to the nearest level, as Pillow's alpha_composite is."""
    top = _opaque(colour.dtype)
    if colour.dtype.kind == "f":
        shown = colour if premultiplied else colour * opacity
        return shown + (1 - opacity) if white else shown
    wide, share = colour.astype(np.uint32), opacity.astype(np.uint32)
    behind = (top - share) * (top if white else 0)
    return np.minimum((wide * (top if premultiplied else share) + behind + top // 2) // top, top)


def _divided(colour: NDArray[Any], opacity: NDArray[Any]) -> NDArray[Any]:
    """Colours that were multiplied by their alpha, as they were before; black where nothing shows."""
    if colour.dtype.kind == "f":
        return np.divide(colour, opacity, out=np.zeros_like(colour), where=opacity > 0)
    top = _opaque(colour.dtype)
    share = np.maximum(opacity, 1).astype(np.uint32)
    return np.where(opacity > 0, np.minimum((colour.astype(np.uint32) * top + share // 2) // share, top), 0)


def _opaque(dtype: np.dtype[Any]) -> Any:
    """The alpha of what hides all that is behind it."""
    return np.float32(1) if dtype.kind == "f" else np.uint32(np.iinfo(dtype).max)
