"""A decoded image and what is outlined in it -> the window that a model sees, by torchvision's transforms."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as V
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Image, Mask

from openmae.data.annotations.objects import Objects, Piece, bounds, cut
from openmae.data.formats.channels import PixelFormat
from openmae.data.views.jitter import Jitter, Placed

IGNORED = 255  # class of a pixel of which nothing is asked; there are fewer classes
LEAST_SIDE = 1.0  # pixels of a box: smaller ones are nothing to find


@dataclass(frozen=True)
class OutlinedView:
    """How an image becomes a window of img_size (height, width), and what is done to it on the way. noise: how many
    uniform numbers to draw for each view."""

    pixels: PixelFormat
    img_size: tuple[int, int]
    patch_size: tuple[int, int]
    jitter: Jitter
    noise: int = 0


@dataclass(frozen=True)
class Found:
    """What is asked of a window: mask (H, W) int64 of class indices, IGNORED where nothing is asked; or objects, boxes
    (n, 4) float32 left, top, right, bottom, classes (n,) int64, and, where outlines are known, masks (m,) bool: of each
    object the pixels of its box, row by row, one object after the other, so that many take no more than they cover."""

    mask: Tensor | None = None
    boxes: Tensor | None = None
    classes: Tensor | None = None
    masks: Tensor | None = None

    def to(self, device: torch.device) -> "Found":
        """The same on `device`."""
        held = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return Found(**held)


def window_of(image: NDArray[Any], placed: Placed, view: OutlinedView) -> NDArray[Any]:
    """(h, w, C) -> (*img_size, C) of the same kind."""
    drawn = _drawn(Image(torch.from_numpy(_workable(image)).permute(2, 0, 1)), placed)
    if placed.colour != (1.0, 1.0, 1.0):
        brightness, contrast, saturation = placed.colour
        drawn = V.adjust_contrast(V.adjust_brightness(drawn, brightness), contrast)
        drawn = V.adjust_saturation(drawn, saturation) if len(drawn) == 3 else drawn
    found = drawn.permute(1, 2, 0).numpy()
    window = np.empty((*view.img_size, image.shape[2]), image.dtype)
    window[:] = 0 if view.pixels.fill is None else np.asarray(view.pixels.fill).round(3).astype(image.dtype)
    height, width = placed.size
    window[:height, :width] = found if found.dtype == image.dtype else np.clip(found.round(), 0, 65535)
    return window


def _workable(image: NDArray[Any]) -> NDArray[Any]:
    """Of a kind that torch resizes."""
    return image.astype(np.float32) if image.dtype == np.uint16 else image


def _drawn(part: Any, placed: Placed) -> Any:
    """A tv_tensor's part, at its size in the window, turned."""
    mirrored, flipped, transposed = placed.turned
    size = placed.size[::-1] if transposed else placed.size
    part = V.resized_crop(part, placed.top, placed.left, placed.height, placed.width, size=list(size), antialias=True)
    part = V.horizontal_flip(part) if mirrored else part
    part = V.vertical_flip(part) if flipped else part
    if not transposed:
        return part
    return part.as_subclass(Tensor)[:, [1, 0, 3, 2]] if isinstance(part, BoundingBoxes) else part.transpose(-2, -1)


def mask_in_window(mask: NDArray[Any], placed: Placed, img_size: tuple[int, int]) -> Tensor:
    """(H, W) class indices of an image -> (*img_size) int64, IGNORED beside the image."""
    drawn = _drawn(Mask(torch.from_numpy(mask.astype(np.uint8))[None]), placed)[0]
    window = torch.full(img_size, IGNORED, dtype=torch.long)
    window[: placed.size[0], : placed.size[1]] = drawn
    return window


def objects_in_window(objects: Objects, placed: Placed) -> Found:
    """The objects of an image that are seen in the window. Where outlines are known, boxes are those of what is seen of
    them, and no more than these are ever drawn."""
    top, left, bottom, right = placed.top, placed.left, placed.top + placed.height, placed.left + placed.width
    near = (objects.boxes < (right, bottom, np.inf, np.inf)).all(1) & (objects.boxes > (-1, -1, left, top)).all(1)
    objects, shown = objects.take(np.asarray(near)), replace(placed, top=0, left=0)
    kept = torch.from_numpy(objects.classes)
    if objects.pieces is not None:
        numbers, seen = list[int](), list[Piece]()
        for number, piece in enumerate(objects.pieces):
            part = np.zeros((1, placed.height, placed.width), np.uint8)
            _draw(part[0], piece, top, left)
            own = cut(_drawn(Mask(torch.from_numpy(part)), shown)[0].numpy() > 0)
            if own is not None:
                numbers.append(number)
                seen.append(own)
        masks = torch.from_numpy(np.concatenate([np.zeros(0, np.bool_), *(own.mask.ravel() for own in seen)]))
        return Found(boxes=torch.from_numpy(bounds(tuple(seen))), classes=kept[numbers], masks=masks)
    moved = objects.boxes - np.array([left, top, left, top], np.float32)
    size = (placed.height, placed.width)
    drawn_boxes = BoundingBoxes(moved, format=BoundingBoxFormat.XYXY, canvas_size=size)
    found = _drawn(drawn_boxes, shown).as_subclass(Tensor)
    seen = ((found[:, 2:] - found[:, :2]) >= LEAST_SIDE).all(1)
    return Found(boxes=found[seen], classes=kept[seen])


def _draw(part: NDArray[np.uint8], piece: Piece, top: int, left: int) -> None:
    """A piece of the image into the part of it that begins at a row and a column."""
    height, width = piece.mask.shape
    down, across = piece.top - top, piece.left - left
    rows, columns = slice(max(0, down), max(0, down + height)), slice(max(0, across), max(0, across + width))
    target = part[rows, columns]
    begin, side = max(0, -down), max(0, -across)
    target[:] = piece.mask[begin : begin + target.shape[0], side : side + target.shape[1]]
