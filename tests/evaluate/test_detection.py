"""Objects of whole images: run lengths, masks that are pasted, tiles, and average precision, beside pycocotools."""

import contextlib
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from openmae.data.annotations.drawing import as_runs, compressed, runs
from openmae.data.annotations.objects import Objects, Piece, bounds, cut
from openmae.data.formats.channels import PixelFormat
from openmae.data.views.statistics import Statistics
from openmae.evaluate import detected as by_tiles
from openmae.evaluate.average_precision import Compared, Kind
from openmae.evaluate.detected import detected, pasted
from openmae.evaluate.detection import Seen, annotations_of
from openmae.transfer import detector
from openmae.transfer.detector import Detector
from tests.models import vit

CPU = torch.device("cpu")


@given(st.integers(0, 2**32 - 1))
def test_run_lengths_are_those_of_pycocotools(seed: int) -> None:
    draws = np.random.default_rng(seed)
    height, width = draws.integers(1, 30, 2).tolist()
    whole = draws.random((height, width)) < draws.random()
    top, left = int(draws.integers(height)), int(draws.integers(width))
    whole[:top], whole[:, :left] = False, False
    counts = as_runs(Piece(top, left, whole[top:, left:]), (height, width))
    encoded = coco_masks.encode(np.asfortranarray(whole.astype(np.uint8)))
    assert coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width) == encoded
    assert compressed(counts) == encoded["counts"].decode()
    again = runs(np.array(counts), (height, width))
    assert (again is None) is (not whole.any())
    if again is not None:
        assert (whole[again.top :, again.left :][: again.mask.shape[0], : again.mask.shape[1]] == again.mask).all()
        assert again.mask.sum() == whole.sum()


@given(st.integers(0, 2**32 - 1))
def test_a_box_that_is_full_has_the_pixels_whose_middles_are_in_it(seed: int) -> None:
    draws, size = np.random.default_rng(seed), (30, 40)
    corners = draws.uniform(-3, 44, (2, 2))
    box = np.concatenate([corners.min(0), corners.max(0) + 0.02])
    box = np.clip(box, 0, [40, 30, 40, 30])
    if (box[2:] - box[:2]).min() < 0.01:
        return
    (piece,) = pasted(torch.ones(1, 28, 28), torch.from_numpy(box[None]).float(), size)
    drawn = whole(piece, size)
    down, across = np.mgrid[:30, :40] + 0.5
    margin = np.min([across - box[0], box[2] - across, down - box[1], box[3] - down], axis=0)
    assert drawn[margin > (box[2:] - box[:2]).max() / 28].all()  # corners are round
    assert not drawn[margin < -1e-3].any()


def whole(piece: Piece, size: tuple[int, int]) -> np.ndarray:
    drawn = np.zeros(size, np.bool_)
    height, width = piece.mask.shape
    drawn[piece.top : piece.top + height, piece.left : piece.left + width] = piece.mask
    return drawn


@pytest.mark.parametrize("scale", [1, 4])
def test_what_is_learnt_of_a_mask_lies_where_the_mask_does(scale: int) -> None:
    """Of small objects, in boxes beside theirs; in an image that is larger than its window, too."""
    draws = np.random.default_rng(0)
    down, across = np.mgrid[:48, :48] + 0.5
    fine = (np.mgrid[: 48 * scale, : 48 * scale] + 0.5) / scale
    overlaps, shifts = [], []
    for _ in range(60):
        y, x, high, wide = *draws.uniform(12, 36, 2), *draws.uniform(2.5, 6, 2)
        mask = ((down - y) / high) ** 2 + ((across - x) / wide) ** 2 < 1
        right = ((fine[0] - y) / high) ** 2 + ((fine[1] - x) / wide) ** 2 < 1
        box = torch.tensor([[x - wide, y - high, x + wide, y + high]]) + torch.from_numpy(draws.uniform(-1, 1, (1, 4)))
        box = box.float()
        given_masks = detector.between_pixels(torch.from_numpy(mask[None]))
        target = project_masks_on_boxes(given_masks, box, torch.zeros(1, dtype=torch.long), 28)
        (piece,) = pasted(target, box * scale, (48 * scale, 48 * scale))
        found = whole(piece, right.shape)
        left, top, far, low = (box[0] * scale).tolist()
        rows, columns = np.mgrid[: 48 * scale, : 48 * scale] + 0.5
        seen = right & (rows > top) & (rows < low) & (columns > left) & (columns < far)
        overlaps.append((found & seen).sum() / (found | seen).sum())
        shifts.append([np.mean(axis[found]) - np.mean(axis[seen]) for axis in fine])
    assert np.mean(overlaps) > 0.88
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.06  # pixels of the window; half of one as torchvision has it


class Spots(Detector):
    """Finds the bright boxes of a window, as far as they are in it."""

    def forward(self, images: Tensor) -> list[detector.Objects]:
        from scipy.ndimage import find_objects, label

        places = find_objects(label(images[0, 0].numpy() > 0)[0])
        boxes = torch.tensor([[x.start, y.start, x.stop, y.stop] for y, x in places]).float().reshape(-1, 4)
        scores = torch.linspace(0.9, 0.8, len(boxes))
        return [detector.Objects(boxes, scores, torch.zeros(len(boxes), dtype=torch.long), None)]


def spots(fits: bool) -> Spots:
    return Spots(vit(img_size=(64, 64), patch_size=(8, 8), depth=1), 1, masks=False, channels=8, fits=fits).eval()


@pytest.mark.parametrize("size", [(40, 50), (64, 64), (150, 70), (64, 201)])
def test_every_object_is_told_of_once(size: tuple[int, int]) -> None:
    """In images that are smaller and larger than a window: none twice, none cut where a tile ends."""
    draws = np.random.default_rng(sum(size))
    image = np.zeros((*size, 3), np.uint8)
    wanted = set()
    for top in range(0, size[0] - 9, 13):
        for left in range(0, size[1] - 9, 13):
            height, width = draws.integers(4, 10, 2).tolist()
            image[top : top + height, left : left + width] = 255
            wanted.add((left, top, left + width, top + height))
    statistics = Statistics((0.4,) * 3, (0.2,) * 3, PixelFormat(3))
    shares = list[float]()
    found = detected(spots(fits=False), statistics, image, CPU, say=shares.append)
    assert bool(shares) == (max(size) > 64)
    assert shares == sorted({share for share in shares if 0 < share < 1})
    assert len(found.objects) == len(wanted)
    assert {tuple(box) for box in found.objects.boxes.tolist()} == wanted
    assert (np.diff(found.scores) <= 0).all()
    assert len(detected(spots(fits=False), statistics, image, CPU, most=3).objects) == 3
    middle = float(np.median(found.scores))
    sure = detected(spots(fits=False), statistics, image, CPU, least=middle)
    assert sure.scores.tolist() == found.scores[found.scores >= middle].tolist()


def test_objects_that_cannot_be_among_the_surest_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image of many tiles: what is told of is the same, and what is held does not grow with the image."""
    draws = np.random.default_rng(0)
    image = np.zeros((400, 300, 3), np.uint8)
    for top in range(0, 390, 13):
        for left in range(0, 290, 13):
            height, width = draws.integers(4, 10, 2).tolist()
            image[top : top + height, left : left + width] = 255
    statistics, model = Statistics((0.4,) * 3, (0.2,) * 3, PixelFormat(3)), spots(fits=False)
    whole = detected(model, statistics, image, CPU, most=50)
    assert len(detected(model, statistics, image, CPU).objects) > 600
    surest, held = by_tiles._surest, list[tuple[int, int]]()

    def counted(found: Any, most: int) -> Any:
        left = surest(found, most)
        held.append((len(found.scores), len(left.scores)))
        return left

    monkeypatch.setattr(by_tiles, "_HELD", 150)
    monkeypatch.setattr(by_tiles, "_surest", counted)
    found = detected(model, statistics, image, CPU, most=50)
    assert found.scores.tolist() == whole.scores.tolist()
    surer = found.scores > found.scores[-1]  # of equal ones any may be the last
    boxes = [{tuple(box) for box in one.objects.boxes[surer].tolist()} for one in (found, whole)]
    assert boxes[0] == boxes[1]
    assert len(boxes[0]) > 20
    assert len(held) > 3
    assert max(before for before, _ in held) < 450
    detected(model, statistics, image, CPU)  # all of them are asked for: none may go
    assert all(after < before for before, after in held)


def test_what_was_found_is_had_again_from_its_annotations() -> None:
    """Outlines pixel by pixel, one without a pixel too; no more is drawn than lies between an object's columns."""
    size = (2**16, 2**15)  # 2 GB of pixels
    pieces = (Piece(5, 100, np.eye(4, dtype=np.bool_)), Piece(0, 0, np.zeros((0, 0), np.bool_)))
    corners = np.array([[100, 5, 104, 9], [0, 0, 0.5, 0.5]], np.float32)
    objects = Objects(size, corners, np.array([1, 0]), np.zeros(2, np.bool_), pieces)
    listed = annotations_of(3, objects, True)
    seen = Seen(3, size, [], [{**one, "score": score} for one, score in zip(listed, (0.9, 0.2), strict=True)])
    again = seen.objects(0.0)
    assert again.boxes.tolist() == corners.tolist()
    assert again.classes.tolist() == [1, 0]
    assert again.pieces is not None
    assert again.pieces[0][:2] == (5, 100)
    assert np.array_equal(again.pieces[0].mask, np.eye(4, dtype=np.bool_))
    assert again.pieces[1].mask.size == 0
    assert len(seen.objects(0.5)) == 1
    boxes = Seen(3, size, [], [{**one, "score": 0.9} for one in annotations_of(3, objects, False)])
    assert boxes.objects(0.5).pieces is None


def test_an_image_that_is_drawn_to_fit_has_its_boxes_back() -> None:
    image = np.zeros((128, 256, 3), np.uint8)
    image[32:64, 80:160] = 255
    statistics = Statistics((0.4,) * 3, (0.2,) * 3, PixelFormat(3))
    found = detected(spots(fits=True), statistics, image, CPU)
    assert np.abs(found.objects.boxes - [[80, 32, 160, 64]]).max() <= 4
    assert len(found.objects) == 1


def drawn(seed: int, count: int) -> tuple[dict[int, tuple[int, int]], list[Any], list[Any]]:
    """Images, what they show, crowds among it, and what is said of them, somewhat beside it."""
    draws = np.random.default_rng(seed)
    images, right, found = {}, [], []
    for index in range(count):
        size = tuple(draws.integers(30, 60, 2).tolist())
        images[index] = size

        def objects(shift: Callable[[], int], number: int, size: Any = size) -> Objects:
            pieces = []
            for _ in range(number):
                mask = np.zeros(size, np.bool_)
                top, left = int(draws.integers(2, 15)), int(draws.integers(2, 15))
                mask[top + shift() : top + shift() + 12, left : left + 9 + shift()] = draws.random() < 2
                piece = cut(mask)
                assert piece is not None
                pieces.append(piece)
            classes = draws.integers(0, 3, number)
            crowd = draws.random(number) < 0.15
            return Objects(size, bounds(tuple(pieces)), classes, crowd, tuple(pieces))

        right += annotations_of(index, objects(lambda: 0, int(draws.integers(0, 6))), True)
        said = annotations_of(index, objects(lambda: int(draws.integers(-1, 2)), int(draws.integers(0, 9))), True)
        found += [{**one, "score": float(draws.random())} for one in said]
    return images, right, found


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("most", [100, 3])
def test_average_precision_is_that_of_pycocotools(kind: Kind, most: int) -> None:
    images, right, found = drawn(3, 12)
    ours = Compared(images, right, found, ("a", "b", "c", "none"), kind, most)
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO()
        there.dataset = {
            "images": [{"id": index, "height": size[0], "width": size[1]} for index, size in images.items()],
            "annotations": [{**one, "id": number} for number, one in enumerate(right, 1)],
            "categories": [{"id": number} for number in range(1, 5)],
        }
        there.createIndex()
        said = there.loadRes([{key: value for key, value in one.items() if key != "area"} for one in found])
        counted = COCOeval(there, said, "bbox" if kind == "box" else "segm")
        counted.params.maxDets = [1, 10, most]
        counted.evaluate()
        counted.accumulate()
    theirs = counted.eval["precision"][..., 0, -1]
    np.testing.assert_allclose(ours.precision, theirs, atol=1e-12)
    figures = ours.figures()
    assert figures["ap"] == pytest.approx(theirs[theirs > -1].mean())
    assert figures["ap50"] == pytest.approx(theirs[0][theirs[0] > -1].mean())
    assert [one.name for one in ours.classes()] == ["a", "b", "c"]
    sides, is_found = ours.sizes()
    assert len(sides) == sum(not one["iscrowd"] for one in right)
    assert 0 < is_found.sum() < len(sides)
    error = ours.error()
    assert error is not None
    # by what it is of each part alone, counted anew
    without = []
    for block in range(12):
        kept = {index: size for index, size in images.items() if index != block}
        parts = [[one for one in all_ if one["image_id"] in kept] for all_ in (right, found)]
        without.append(Compared(kept, *parts, ("a", "b", "c", "none"), kind, most).figures()["ap50"])
    spread = np.square(np.array(without) - np.mean(without)).sum()
    assert error == pytest.approx(math.sqrt(11 / 12 * spread))


def test_nothing_found_and_nothing_there() -> None:
    images, right, _ = drawn(3, 4)
    ours = Compared(images, right, [], ("a", "b", "c"), "mask", 100)
    assert ours.figures() == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    assert not ours.sizes()[1].any()
    assert all(one.taken_for == "nothing" for one in ours.classes())
    empty = Compared(images, [], [], ("a", "b", "c"), "box", 100)
    assert math.isnan(empty.figures()["ap50"])
    assert empty.curves() == {}
    assert empty.classes() == []
    assert empty.error() is None
