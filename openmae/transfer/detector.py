"""Boxes and outlines of objects: Mask R-CNN on a simple feature pyramid of a plain ViT (ViTDet, arXiv 2203.16527).

All but the backbone and its pyramid is torchvision's: region proposals, what is cut out of the maps, heads and losses.

Shapes: B images, C channels, H and W pixels, K classes, n objects of an image, M a side of a mask, E channels of a
level.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, box_iou

from openmae.errors import BadValue
from openmae.heads import vit_of
from openmae.model import NORM_EPS, ViT, describe
from openmae.transfer.pyramid import WINDOW, Backbone, SimplePyramid

BOX_SIDE, MASK_SIDE = 7, 14  # places that are cut out of the maps for an object; its mask is twice as fine
HIDDEN = 1024  # of the box head
OUTLINE = 0.5  # from which a place of a mask belongs to the object
MOST_OBJECTS = 100  # of an image, as COCO's
CHANNELS = 256  # of the pyramid and the heads
SAMPLED = 512  # proposals of an image that are learnt from
PROPOSED = 1000  # and that are looked at again when objects are sought
ASPECTS = (0.5, 1.0, 2.0)
FINEST_ANCHOR = 32.0  # side of the smallest ones, as ViTDet's


@dataclass(frozen=True)
class Objects:
    """What was found in an image: boxes (n, 4) left, top, right, bottom in pixels, scores (n,) 0 to 1 in descending
    order, classes (n,) 0..K - 1, and masks (n, M, M) 0 to 1 of what is within the boxes, where outlines were learnt."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor | None

    def at(self, places: Tensor) -> "Objects":
        """Some of them."""
        masks = None if self.masks is None else self.masks[places]
        return replace(
            self, boxes=self.boxes[places], scores=self.scores[places], classes=self.classes[places], masks=masks
        )


class Detector(nn.Module):
    """A ViT, a pyramid of its last map, and the two stages of Mask R-CNN.

    classes: of objects. masks: outlines too, not boxes alone. finest_anchor: side in pixels of the smallest anchors;
    those of each level are twice as large as those of the one before. most_objects: that are found in an image at most.
    fits: images are drawn as large as the windows before they are looked at, instead of in their own pixels. channels:
    of the pyramid and the heads. sampled: proposals of an image that are learnt from; proposed: that are looked at
    again when objects are sought. Others: as `Backbone`.
    Raises ValueError for an encoder of other than two axes, or of too few patches.
    """

    def __init__(
        self,
        encoder: ViT,
        classes: int,
        masks: bool = True,
        finest_anchor: float = FINEST_ANCHOR,
        most_objects: int = MOST_OBJECTS,
        *,
        window: int | None = WINDOW,
        relative: bool = False,
        drop_path: float = 0.0,
        channels: int = CHANNELS,
        fits: bool = False,
        sampled: int = SAMPLED,
        proposed: int = PROPOSED,
    ) -> None:
        super().__init__()
        self.classes, self.has_masks, self.finest_anchor = classes, masks, finest_anchor
        self.most_objects, self.window, self.channels, self.fits = most_objects, window, channels, fits
        self.proposed = proposed
        self.backbone = Backbone(encoder, window, relative, drop_path)
        self.pyramid = SimplePyramid(encoder.embed_dim, encoder.patch_size[0], channels)
        least = round(1 / self.pyramid.scales[-1])
        if min(encoder.grid) < least:
            down, across = encoder.patch_size
            what = f"windows of {encoder.grid[0]} x {encoder.grid[1]} patches are too small for a pyramid"
            raise BadValue(what, f"give an `img_size` of {least * down} x {least * across} or more")
        self.rest_unasked()
        levels = [str(level) for level in range(len(self.pyramid.levels))]
        anchors = AnchorGenerator(
            tuple((finest_anchor * 2**level,) for level in range(len(levels) + 1)), (ASPECTS,) * (len(levels) + 1)
        )
        self.proposals = RegionProposalNetwork(
            anchors,
            RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=2),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": min(2000, 4 * sampled), "testing": 1000},
            post_nms_top_n={"training": min(1000, 2 * sampled), "testing": max(proposed, most_objects)},
            nms_thresh=0.7,
        )
        norm = partial(LayerNorm2d, eps=NORM_EPS)
        four = [channels] * 4
        of_masks = (
            MultiScaleRoIAlign(levels, MASK_SIDE, 2),
            MaskRCNNHeads(channels, four, 1, norm),
            MaskRCNNPredictor(channels, channels, classes + 1),
        )
        self.heads = _Heads(
            MultiScaleRoIAlign(levels, BOX_SIDE, 2),
            FastRCNNConvFCHead((channels, BOX_SIDE, BOX_SIDE), four, [HIDDEN], norm),
            FastRCNNPredictor(HIDDEN, classes + 1),
            0.5,  # overlap from which a proposal shows an object
            0.5,  # and below which it does not
            sampled,
            0.25,  # of which show one
            None,
            0.05,  # least score
            0.5,  # overlap from which the better one of two stands for both
            most_objects,
            *(of_masks if masks else ()),
        )
        self.proposals.box_similarity = overlaps
        self.register_state_dict_post_hook(describe)

    @property
    def encoder(self) -> ViT:
        """The backbone's."""
        return self.backbone.encoder

    @property
    def side(self) -> int | None:
        """The longer side of the tiles that an image is cut into; None where it is seen whole."""
        return None if self.fits else max(self.encoder.img_size)

    def rest_unasked(self) -> None:
        """What nothing is asked of does not learn: the norm behind the last block, and, where blocks attend within
        windows, class tokens."""
        self.encoder.norm.requires_grad_(False)
        if not self.backbone.is_plain:
            self.encoder.class_token.requires_grad_(False)

    def arguments(self) -> dict[str, Any]:
        """Plain values that describe it, for `from_arguments`; drop path is the training's."""
        return {
            "encoder": self.encoder.arguments(),
            "classes": self.classes,
            "masks": self.has_masks,
            "finest_anchor": self.finest_anchor,
            "most_objects": self.most_objects,
            "window": self.window,
            "relative": self.backbone.relative is not None,
            "channels": self.channels,
            "fits": self.fits,
            "proposed": self.proposed,
        }

    @classmethod
    def from_arguments(cls, values: dict[str, Any]) -> "Detector":
        """One of that shape. Raises KeyError, TypeError or ValueError for values that describe none."""
        names = ("window", "relative", "channels", "fits", "proposed")
        return cls(
            vit_of(values["encoder"]),
            values["classes"],
            values["masks"],
            values["finest_anchor"],
            values["most_objects"],
            **{name: values[name] for name in names},
        )

    def features(self, images: Tensor, noise: Tensor | None = None) -> "OrderedDict[str, Tensor]":
        """(B, C, H, W), normalised, -> maps (B, E, ...) by level, the coarsest one half as fine once more for
        proposals."""
        (last,) = self.backbone(images, [self.encoder.depth], noise)
        maps = self.pyramid(last)
        maps.append(maps[-1][:, :, ::2, ::2])
        return OrderedDict((str(level), found) for level, found in enumerate(maps))

    def losses(self, images: Tensor, targets: Sequence[dict[str, Tensor]], noise: Tensor | None = None) -> Tensor:
        """(B, C, H, W), normalised -> (5,) or, of boxes alone, (4,): whether there is an object and where, which class
        and where exactly, its mask. Which proposals are learnt from is drawn by torch.

        targets: of each image boxes (n, 4), labels (n,) int64 1..K, masks (m,) bool: of each object the pixels of its
        box, row by row, one object after the other. noise: as `Backbone`.
        """
        features, listed = self._seen(images, noise)
        given = [{**one, "size": size} for one, size in zip(targets, listed.image_sizes, strict=True)]
        proposals, found = self.proposals(listed, features, given)
        _, of_heads = self.heads(features, proposals, listed.image_sizes, given)
        return torch.stack([*found.values(), *of_heads.values()])

    def forward(self, images: Tensor) -> list[Objects]:
        """(B, C, H, W), normalised, -> what is found in each. The model is in evaluation."""
        features, listed = self._seen(images, None)
        proposals, _ = self.proposals(listed, features)
        found, _ = self.heads(features, proposals, listed.image_sizes)
        return [
            Objects(one["boxes"], one["scores"], one["labels"] - 1, one["masks"][:, 0] if self.has_masks else None)
            for one in found
        ]

    def _seen(self, images: Tensor, noise: Tensor | None) -> tuple["OrderedDict[str, Tensor]", ImageList]:
        size = (images.shape[2], images.shape[3])
        return self.features(images, noise), ImageList(images, [size] * len(images))

    def encode(self, images: Tensor, layer: int | None = None) -> Tensor:
        """Images (B, C, H, W), normalised, -> features (B, T + N, D) of the encoder, class tokens first."""
        return self.encoder(images, layer)


class _Heads(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, that draws masks as large as the window of those objects alone that proposals are learnt from:
    a quarter of `sampled` at most, however many objects there are. Losses are the same to the bit."""

    def select_training_samples(self, proposals: list[Tensor], targets: list[dict[str, Any]] | None) -> Any:
        """As torchvision's. Changes the targets: their labels and masks become those that are learnt from."""
        proposals, matched, labels, wanted = super().select_training_samples(proposals, targets)
        for one, of, label in zip(targets or (), matched, labels, strict=True):
            if "masks" in one:
                chosen, of[label > 0] = of[label > 0].unique(return_inverse=True)
                one["masks"] = between_pixels(whole_masks(one["masks"], one["boxes"], chosen, one["size"]))
                one["labels"] = one["labels"][chosen]
        return proposals, matched, labels, wanted


_BOXES_AT_ONCE = 64


def overlaps(some: Tensor, others: Tensor) -> Tensor:
    """(n, 4), (m, 4) -> (n, m), as torchvision's `box_iou` gives it, which takes seven times the memory of that while
    it computes: much, of a thousand objects beside all anchors."""
    found = some.new_empty(len(some), len(others))
    for part, own in zip(found.split(_BOXES_AT_ONCE), some.split(_BOXES_AT_ONCE), strict=True):
        part.copy_(box_iou(own, others))
    return found


def whole_masks(masks: Tensor, boxes: Tensor, chosen: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (c, H, W) bool of the objects chosen (c,) of an image of `size`. masks (m,), boxes (n, 4): as
    `Detector.losses`."""
    corners = boxes.long()
    ends = (corners[:, 2:] - corners[:, :2]).prod(1).cumsum(0).tolist()
    found = masks.new_zeros((len(chosen), *size))
    for mask, number in zip(found, chosen.tolist(), strict=True):
        left, top, right, bottom = corners[number].tolist()
        own = masks[ends[number] - (bottom - top) * (right - left) : ends[number]]
        mask[top:bottom, left:right] = own.view(bottom - top, right - left)
    return found


def between_pixels(masks: Tensor) -> Tensor:
    """(n, H, W) -> (n, H, W) float32: what lies where the corners of pixels are. torchvision's RoIAlign takes place i
    for the middle of pixel i, and so masks would be learnt that lie half a pixel too far up and left: much, of small
    objects."""
    padded = F.pad(masks[:, None].float(), (1, 0, 1, 0), mode="replicate")
    return F.avg_pool2d(padded, 2, stride=1)[:, 0]
