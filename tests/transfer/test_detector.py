"""Mask R-CNN on the pyramid: it learns, and is what torchvision's whole is."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import box_iou

from openmae.transfer.detector import ASPECTS, Detector, between_pixels, whole_masks
from tests.models import vit


def made(masks: bool = True, size: int = 64) -> Detector:
    torch.manual_seed(0)
    encoder = vit(img_size=(size, size), patch_size=(8, 8), depth=2)
    return Detector(encoder, 2, masks, finest_anchor=8.0, channels=16, most_objects=20, sampled=64)


def within(masks: Tensor, boxes: list[list[int]]) -> Tensor:
    """As losses take them."""
    parts = [mask[top:low, left:far].flatten() for mask, (left, top, far, low) in zip(masks, boxes, strict=True)]
    return torch.cat(parts)


def scene() -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Two images of squares and discs on grey."""
    down, across = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    images, targets = torch.zeros(2, 3, 64, 64), []
    for image, places in zip(images, ([(16, 16), (44, 40)], [(40, 20), (14, 46)]), strict=True):
        square, disc = places
        masks = torch.stack(
            [
                ((down - square[0]).abs() < 9) & ((across - square[1]).abs() < 9),
                (down - disc[0]) ** 2 + (across - disc[1]) ** 2 < 100,
            ]
        )
        image[0][masks[0]], image[1][masks[1]] = 2.0, 2.0
        boxes = [
            [m.any(0).nonzero()[0], m.any(1).nonzero()[0], m.any(0).nonzero()[-1] + 1, m.any(1).nonzero()[-1] + 1]
            for m in masks
        ]
        targets.append(
            {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor([1, 2]), "masks": within(masks, boxes)}
        )
    return images, targets


class Maps(nn.Module):
    """The detector's own maps as torchvision's backbone."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model, self.out_channels = model, model.channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.features(images)


def test_it_is_torchvisions_whole() -> None:
    """What it finds after some steps, torchvision's MaskRCNN made of the same parts finds as well."""
    model, (images, targets) = made(), scene()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    torch.manual_seed(0)
    first = 0.0
    for _ in range(15):
        losses = model.losses(images, targets)
        assert losses.shape == (5,)
        first = first or losses.sum().item()
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    assert losses.sum().item() < first
    model.eval()
    model.heads.score_thresh = 0.0  # it is hardly sure of anything yet
    with torch.no_grad():
        found = model(images)
    theirs = MaskRCNN(
        Maps(model),
        rpn_anchor_generator=model.proposals.anchor_generator,
        rpn_head=model.proposals.head,
        box_roi_pool=model.heads.box_roi_pool,
        box_head=model.heads.box_head,
        box_predictor=model.heads.box_predictor,
        mask_roi_pool=model.heads.mask_roi_pool,
        mask_head=model.heads.mask_head,
        mask_predictor=model.heads.mask_predictor,
        box_score_thresh=0.0,
        box_detections_per_img=20,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        fixed_size=(64, 64),
        min_size=64,
        max_size=64,
    ).eval()
    with torch.no_grad():
        wanted = theirs(list(images))
    for ours, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.boxes, other["boxes"])
        torch.testing.assert_close(ours.scores, other["scores"])
        assert torch.equal(ours.classes + 1, other["labels"])
        assert ours.masks is not None
        assert ours.masks.shape[1:] == (28, 28)
        assert len(ours.scores) == 20
    again = Detector.from_arguments(model.arguments())
    again.load_state_dict(model.state_dict())
    again.heads.score_thresh = 0.0
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images)[0].boxes, found[0].boxes)


def test_losses_are_torchvisions_of_all_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where these are all as large as the window, and however many of them proposals are learnt from."""
    model, (images, targets) = made(), scene()
    images = torch.cat([images, torch.zeros(1, 3, 64, 64)])
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": torch.zeros(0) > 0}
    targets = [*targets, nothing]
    torch.manual_seed(3)
    ours = model.losses(images, targets)
    for one in targets:
        every = torch.arange(len(one["boxes"]))
        one["masks"] = between_pixels(whole_masks(one["masks"], one["boxes"], every, (64, 64)))
    monkeypatch.setattr(type(model.heads), "select_training_samples", RoIHeads.select_training_samples)
    model.proposals.box_similarity = box_iou
    torch.manual_seed(3)
    assert torch.equal(model.losses(images, targets), ours)


def test_without_masks_and_without_objects() -> None:
    model, (images, targets) = made(masks=False), scene()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    plain = [{key: value for key, value in targets[0].items() if key != "masks"}, empty]
    losses = model.losses(images, plain)
    assert losses.shape == (4,)
    assert losses.isfinite().all()
    with torch.no_grad():
        found = model.eval()(images)
    assert all(one.masks is None for one in found)


def test_anchors_begin_where_asked() -> None:
    sizes = made().proposals.anchor_generator.sizes
    assert sizes == ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))
    assert made().proposals.anchor_generator.aspect_ratios == (ASPECTS,) * 5


def test_an_encoder_of_volumes_is_refused() -> None:
    with pytest.raises(ValueError, match="3 axes"):
        Detector(vit(img_size=(8, 8, 8), patch_size=(4, 4, 4), embed_dim=48, num_heads=2), 2)
