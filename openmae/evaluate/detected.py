"""The objects of images of any size.

What a model sees at once is a window. A larger image is cut into tiles that overlap, and what several of them see is
told once; or, of a model that learnt from whole images drawn as large as the window, it is drawn so, too.

Shapes: n objects, H and W pixels of an image, M a side of a mask.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image

from openmae.data.annotations.objects import Objects, Piece
from openmae.data.tiles.large import AnyImage
from openmae.data.views.jitter import Jitter, Placed
from openmae.data.views.outlined import OutlinedView, window_of
from openmae.data.views.statistics import Statistics
from openmae.evaluate.tiled import starts
from openmae.machine.device import autocast
from openmae.machine.kinds import Precision
from openmae.transfer import detector
from openmae.transfer.detector import Detector

_AT_ONCE = 8  # tiles, on a GPU
_SAME = 0.5  # overlap from which two boxes of a class are of one object, as within a tile
_HELD = 2**14  # objects of a large image, from which those go that so many surer ones leave no room for
_MARGIN = 1 / 4  # of what two tiles share, that each of them tells of beyond its half of it


@dataclass(frozen=True)
class Detected:
    """objects: what was found, the surest first; scores: (n,) float32, 0 to 1."""

    objects: Objects
    scores: NDArray[np.float32]

    def take(self, chosen: NDArray[Any]) -> "Detected":
        """Some of them. chosen: (n,) bool, or indices."""
        return Detected(self.objects.take(chosen), self.scores[chosen])


def detected(
    model: Detector,
    statistics: Statistics,
    image: AnyImage,
    device: torch.device,
    most: int | None = None,
    precision: Precision = "fp32",
    at_once: int | None = None,
    least: float = 0.0,
    say: Callable[[float], None] = lambda share: None,
) -> Detected:
    """(H, W, C) as decoded -> the objects in it, at most so many, from so many tiles at once (one on a CPU). The model
    is in evaluation. least: the score from which objects are told of, and held: all of them, where `most` is None. say:
    hears what share of the image is done, but not of its end."""
    size = (image.shape[0], image.shape[1])
    windows = [_whole(size, model.encoder.img_size)] if model.fits else _tiles(size, model.encoder.img_size)
    at_once = at_once or (1 if device.type == "cpu" else _AT_ONCE)
    found, room = list[_Found](), _HELD
    for begin in range(0, len(windows), at_once):
        some = windows[begin : begin + at_once]
        seen = _in_windows(model, statistics, image, [window.placed for window in some], device, precision)
        sure = [one.at(one.scores >= least) for one in seen]
        found += [one.within(window.core, window.placed) for one, window in zip(sure, some, strict=True)]
        if most is not None and sum(len(one.scores) for one in found) > room:
            found = [_surest(_together(found), most)]
            room = max(_HELD, 2 * len(found[0].scores))
        if begin + at_once < len(windows):
            say((begin + at_once) / len(windows))
    together = _together(found)
    together = together.at(_told_once(together)[:most])
    return _as_objects(together, size, model.has_masks)


@dataclass(frozen=True)
class _Window:
    """A part of an image as it is seen, and where the middle of an object lies that this window tells of: top, left,
    bottom, right in the image's pixels."""

    placed: Placed
    core: tuple[float, float, float, float]


def _whole(size: tuple[int, int], img_size: tuple[int, ...]) -> _Window:
    scale = min(want / have for want, have in zip(img_size, size, strict=True))
    drawn = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return _Window(Placed(0, 0, *size, drawn), (-np.inf, -np.inf, np.inf, np.inf))


def _tiles(size: tuple[int, int], img_size: tuple[int, ...]) -> list[_Window]:
    down, across = (_cores(side, tile) for side, tile in zip(size, img_size, strict=True))
    found = []
    for top, high, low in down:
        for left, near, far in across:
            shown = (min(img_size[0], size[0] - top), min(img_size[1], size[1] - left))
            found.append(_Window(Placed(top, left, *shown, shown), (high, near, low, far)))
    return found


def _cores(side: int, tile: int) -> list[tuple[int, float, float]]:
    """Where each tile along a side begins, and between which places it tells of what it sees: to the middle of what it
    shares with its neighbour, and a little more, for both see an object's middle a little differently."""
    begins = starts(side, tile)
    found = []
    for number, begin in enumerate(begins):
        low, high = -np.inf, np.inf
        if number:
            shared = begins[number - 1] + tile - begin
            low = begin + (0.5 - _MARGIN) * shared
        if number + 1 < len(begins):
            shared = begin + tile - begins[number + 1]
            high = begin + tile - (0.5 - _MARGIN) * shared
        found.append((begin, low, high))
    return found


@dataclass(frozen=True)
class _Found:
    """As detector.Objects, on the CPU; masks (n, 0, 0) where there are none."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor

    def parts(self) -> tuple[Tensor, ...]:
        return self.boxes, self.scores, self.classes, self.masks

    def at(self, places: Tensor) -> "_Found":
        return _Found(*(part[places] for part in self.parts()))

    def within(self, core: tuple[float, float, float, float], placed: Placed) -> "_Found":
        """In the image's pixels: those with their middle in the core."""
        down, across = placed.height / placed.size[0], placed.width / placed.size[1]
        scale = torch.tensor([across, down, across, down])
        moved = torch.tensor([placed.left, placed.top, placed.left, placed.top])
        found = replace(self, boxes=self.boxes * scale + moved)
        x, y = (found.boxes[:, :2] + found.boxes[:, 2:]).T / 2
        top, left, bottom, right = core
        return found.at((y >= top) & (y < bottom) & (x >= left) & (x < right))


def _together(found: list[_Found]) -> _Found:
    return _Found(*(torch.cat(parts) for parts in zip(*(one.parts() for one in found), strict=True)))


def _told_once(found: _Found) -> Tensor:
    """(m,) which of them are told of, the surest first: the better of two that are of one object."""
    return batched_nms(found.boxes, found.scores, found.classes, _SAME)


def _surest(found: _Found, most: int) -> _Found:
    """Without what is less sure than twice as many others that are told of already, so that it can no longer be among
    the `most` surest, unless half of those turn out to be other tiles' objects. What is told of twice stays: the better
    of the two may go yet."""
    told = _told_once(found)
    if len(told) < 2 * most:
        return found
    return found.at(found.scores >= found.scores[told[2 * most - 1]])


@torch.no_grad()
def _in_windows(
    model: Detector,
    statistics: Statistics,
    image: AnyImage,
    parts: list[Placed],
    device: torch.device,
    precision: Precision,
) -> list[_Found]:
    """What is found in parts of an image, in their windows' pixels."""
    encoder = model.encoder
    img_size = (encoder.img_size[0], encoder.img_size[1])
    view = OutlinedView(statistics.pixels, img_size, (encoder.patch_size[0], encoder.patch_size[1]), Jitter())
    shown = np.stack([window_of(_part(image, placed), replace(placed, top=0, left=0), view) for placed in parts])
    windows = torch.from_numpy(shown).permute(0, 3, 1, 2).to(device)
    with autocast(device, precision):
        found = model(statistics.normalize(windows))
    return [_told(one, placed.size) for one, placed in zip(found, parts, strict=True)]


def _part(image: AnyImage, placed: Placed) -> NDArray[Any]:
    return image[placed.top : placed.top + placed.height, placed.left : placed.left + placed.width]


def _told(found: detector.Objects, size: tuple[int, int]) -> _Found:
    """On the CPU, without what is beside the image, which is `size` large in the window."""
    boxes = clip_boxes_to_image(found.boxes.float().cpu(), size)
    masks = torch.zeros(len(boxes), 0, 0) if found.masks is None else found.masks.float().cpu()
    one = _Found(boxes, found.scores.float().cpu(), found.classes.cpu(), masks)
    return one.at(((boxes[:, 2:] - boxes[:, :2]) >= 1e-2).all(1))


def _as_objects(found: _Found, size: tuple[int, int], has_masks: bool) -> Detected:
    pieces = tuple(pasted(found.masks, found.boxes, size)) if has_masks else None
    count = len(found.boxes)
    objects = Objects(size, found.boxes.numpy(), found.classes.numpy(), np.zeros(count, np.bool_), pieces)
    return Detected(objects, found.scores.numpy())


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[Piece]:
    """Masks (n, M, M), 0 to 1, of what is within boxes (n, 4) -> the pixels of each, whose middles are inside of the
    mask as it is drawn over its box, nothing being beside it. One at a time and no more of the image than the box."""
    limits, found = (size[1], size[0]), []
    for mask, box in zip(masks, boxes, strict=True):
        begins, places = list[int](), list[Tensor]()
        for side, near, far in zip(limits, box[:2].tolist(), box[2:].tolist(), strict=True):
            begin = min(max(0, math.floor(near)), side - 1)
            middles = torch.arange(begin, max(begin, min(math.ceil(far), side))) + 0.5
            begins.append(begin)
            places.append(2 * (middles - near) / (far - near) - 1)
        grid = torch.stack(torch.meshgrid(*places, indexing="xy"), dim=-1)
        inside = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        found.append(Piece(begins[1], begins[0], (inside > detector.OUTLINE).numpy()))
    return found
