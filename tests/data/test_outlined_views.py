"""Windows of images with what is outlined in them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import masks_to_boxes

from openmae.data.annotations.objects import Objects, cut
from openmae.data.formats.channels import PixelFormat
from openmae.data.views.crop import Augmentation
from openmae.data.views.jitter import Jitter, Placed, place
from openmae.data.views.outlined import IGNORED, OutlinedView, mask_in_window, objects_in_window, window_of
from openmae.transfer.detector import whole_masks

sides = st.integers(1, 90)


@given(sides, sides, st.integers(8, 40), st.integers(8, 40), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_windows_are_full_of_the_image_or_hold_all_of_it(
    height: int, width: int, tall: int, wide: int, fits: bool, turns: bool, seed: int
) -> None:
    """What is placed lies within image and window; every pixel of the window is asked for where the image reaches."""
    jitter = Jitter((0.3, 3.0), fits, Augmentation(vflip=turns, rotate90=turns))
    placed = place((height, width), (tall, wide), jitter, np.random.default_rng(seed))
    assert 0 <= placed.top <= height - placed.height
    assert 0 <= placed.left <= width - placed.width
    assert min(placed.height, placed.width, *placed.size) >= 1
    drawn = placed.size[::-1] if placed.turned[2] else placed.size
    window = (wide, tall) if placed.turned[2] else (tall, wide)
    for part, have, shown, want in zip((placed.height, placed.width), (height, width), drawn, window, strict=True):
        assert shown == want or (part == have and shown < want)
    mask = mask_in_window(np.zeros((height, width), np.uint8), placed, (tall, wide))
    assert ((mask == IGNORED).sum() == tall * wide - placed.size[0] * placed.size[1]).item()


def turned(array: NDArray[np.uint8], turn: tuple[bool, bool, bool]) -> NDArray[np.uint8]:
    """By numpy."""
    mirrored, flipped, transposed = turn
    array = array[:, ::-1] if mirrored else array
    array = array[::-1] if flipped else array
    return array.swapaxes(0, 1) if transposed else array


@pytest.mark.parametrize("number", range(8))
def test_pixels_masks_and_boxes_go_together(number: int) -> None:
    """Without a change of size all are exact, however they are turned; boxes of masks and boxes alone agree."""
    turn = (bool(number & 1), bool(number & 2), bool(number & 4))
    draws = np.random.default_rng(number)
    image = draws.integers(0, 256, (12, 9, 3)).astype(np.uint8)
    mask = draws.integers(0, 3, (12, 9)).astype(np.uint8)
    size = (7, 8) if turn[2] else (8, 7)
    placed = Placed(2, 1, 8, 7, size, turn)
    view = OutlinedView(PixelFormat(3, fill=(9.0, 8.0, 7.0)), (10, 11), (1, 1), Jitter())
    window, shown = window_of(image, placed, view), mask_in_window(mask, placed, (10, 11))
    down, across = size
    assert np.array_equal(window[:down, :across], turned(image[2:10, 1:8], turn))
    assert np.array_equal(shown[:down, :across], turned(mask[2:10, 1:8], turn))
    assert (window[down:] == (9, 8, 7)).all()
    assert (shown[:, across:] == IGNORED).all()
    masks = np.zeros((3, 12, 9), bool)
    masks[0, 3:6, 2:5], masks[1, 0:4, 0:3], masks[2, 0:2] = True, True, True  # the last is not seen
    boxes = np.array([[2, 3, 5, 6], [0, 0, 3, 4], [0, 0, 9, 2]], np.float32)
    classes = np.array([4, 5, 6])
    pieces = tuple(cut(one) for one in masks)
    crowd = np.zeros(3, bool)
    of_masks = objects_in_window(Objects((12, 9), boxes, classes, crowd, pieces), placed)  # type: ignore[arg-type]
    alone = objects_in_window(Objects((12, 9), boxes, classes, crowd, None), placed)
    assert of_masks.boxes is not None
    assert of_masks.masks is not None
    assert alone.boxes is not None
    assert alone.classes is not None
    assert alone.classes.tolist() == [4, 5]
    torch.testing.assert_close(of_masks.boxes, alone.boxes)
    whole = whole_masks(of_masks.masks, of_masks.boxes, torch.arange(2), (10, 11))
    assert len(of_masks.masks) == (of_masks.boxes[:, 2:] - of_masks.boxes[:, :2]).prod(1).sum()
    for found, mask in zip(whole.numpy(), masks, strict=False):
        assert np.array_equal(found[:down, :across], turned(mask[2:10, 1:8].astype(np.uint8), turn) > 0)
    torch.testing.assert_close(of_masks.boxes, masks_to_boxes(whole).float() + torch.tensor([0, 0, 1, 1]))


def test_16_bit_and_many_bands_stay_what_they_are() -> None:
    image = np.random.default_rng(0).integers(0, 65536, (20, 20, 5)).astype(np.uint16)
    view = OutlinedView(PixelFormat(5, depth="uint16", fill=(1e4,) * 5), (16, 16), (1, 1), Jitter())
    window = window_of(image, Placed(0, 0, 20, 20, (10, 10)), view)
    assert window.dtype == np.uint16
    assert (window[10:] == 10_000).all()
    blocks = image.reshape(10, 2, 10, 2, 5).mean((1, 3))
    assert np.abs(window[:10, :10] - blocks).mean() < 0.2 * image.std()  # antialiased, about its blocks


def test_colour_jitter_is_for_pixels_alone() -> None:
    image = np.full((16, 16, 3), 100, np.uint8)
    view = OutlinedView(PixelFormat(3), (16, 16), (1, 1), Jitter((1.0, 1.0), colour=0.5))
    placed = place((16, 16), (16, 16), view.jitter, np.random.default_rng(1))
    assert placed.colour != (1.0, 1.0, 1.0)
    assert (window_of(image, placed, view) != 100).all()
