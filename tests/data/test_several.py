"""Several views an image: the same whatever loads them, each as `Stream` would draw it; photometric changes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.transforms.v2 import functional as V

from openmae.data.formats.channels import PixelFormat
from openmae.data.loading.several import SeveralViews
from openmae.data.loading.stream import Stream
from openmae.data.opening import open_data
from openmae.data.views.crop import Augmentation, View
from openmae.data.views.photometric import Photometric, _turned, blurred
from openmae.data.views.statistics import Statistics
from openmae.randomness import generator
from tests.images import picture, write_images

PIXELS = PixelFormat()
STATISTICS = Statistics((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), PIXELS)
CHANGED = Photometric(STATISTICS, 0.4, 0.4, 0.2, 0.1, blur=0.5, solarize=0.2)
VIEWS = (
    View(PIXELS, (16, 12), (4, 4), Augmentation((0.2, 1.0)), CHANGED),
    View(PIXELS, (16, 12), (4, 4), Augmentation((0.2, 1.0))),
    View(PIXELS, (8, 8), (4, 4), Augmentation((0.05, 0.4)), CHANGED),
)


def test_batches_are_the_same_however_they_are_loaded(tmp_path: Path) -> None:
    write_images(tmp_path, 10)
    (tmp_path / "class0" / "broken.png").write_bytes(b"none")
    stream = SeveralViews(open_data(str(tmp_path)).train, VIEWS, batch_size=6, steps=4, seed=3)
    whole = list(stream.batches(0, 6, workers=0))
    assert [batch.start for batch in whole] == [0, 6, 12, 18]
    assert sum(len(batch.broken) for batch in whole) > 0
    for micro, workers, first in ((6, 2, 0), (4, 0, 0), (6, 0, 2)):
        parts = list(stream.batches(first, micro, workers=workers))
        assert torch.equal(torch.cat([b.images for b in parts]), torch.cat([b.images for b in whole[first:]]))
        assert torch.equal(torch.cat([b.indices for b in parts]), torch.cat([b.indices for b in whole[first:]]))
    first, second, small = stream.split(whole[0].images)
    assert [view.shape for view in (first, second, small)] == [(6, 3, 16, 12), (6, 3, 16, 12), (6, 3, 8, 8)]
    assert not torch.equal(first, second)
    again = Stream(stream.source, VIEWS[1], None, 6, 4, 3, repeats=2)  # its second views
    assert torch.equal(second, again.views(0, 12).images[1::2])


def test_where_no_image_is_whole_the_batch_says_so(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"none")
    stream = SeveralViews(open_data(str(tmp_path)).train, VIEWS, batch_size=2, steps=1, seed=0)
    (batch,) = stream.batches(0, 2, workers=0)
    assert "100 images in a row cannot be used" in str(batch.failure)


def test_colours_are_turned_as_torchvision_does_it() -> None:
    image = picture(0)
    for turns in (-0.1, 0.07):
        ours, theirs = (np.asarray(found).astype(int) for found in (_turned(image, turns), V.adjust_hue(image, turns)))
        assert np.abs(ours - theirs).mean() < 1.5  # it rounds the shift down


def test_a_blur_is_scipys() -> None:
    levels = np.random.default_rng(0).random((11, 9, 5), np.float32)
    for sigma in (0.2, 1.3):
        theirs = gaussian_filter(levels, (sigma, sigma, 0), mode="nearest", radius=(*[int(np.ceil(3 * sigma))] * 2, 0))
        assert np.allclose(blurred(levels, sigma), theirs, atol=1e-5)


@pytest.mark.parametrize(("depth", "channels"), [("uint8", 1), ("uint16", 2), ("float32", 5), ("uint8", 4)])
def test_other_images_than_photographs_keep_their_kind(depth: str, channels: int) -> None:
    statistics = Statistics((0.5,) * channels, (0.2,) * channels, PixelFormat(channels, None, depth))  # type: ignore[arg-type]
    change = Photometric(statistics, 0.4, 0.4, 0.2, 0.1, blur=0.5, solarize=1.0)
    white = {"uint8": 255, "uint16": 65535, "float32": 1}[depth]
    before = (np.random.default_rng(0).random((16, 16, channels)) * white).astype(depth)
    changed = 0
    for index in range(30):
        view = before.copy()
        change(view, generator(0, "sample", index=index))
        changed += not np.array_equal(view, before)
        assert np.corrcoef(view.ravel(), before.ravel())[0, 1] > 0.5  # not inverted
        again = before.copy()
        change(again, generator(0, "sample", index=index))
        assert np.array_equal(view, again)
    assert changed > 20


def test_photographs_are_greyed_and_inverted_as_often_as_asked() -> None:
    image = np.asarray(picture(1, (16, 16)))
    grey = 0
    for index in range(300):
        view = image.copy()
        CHANGED(view, generator(0, "sample", index=index))
        grey += bool((view == view[..., :1]).all())
    assert 35 < grey < 90  # a fifth
    assert np.array_equal(np.asarray(Image.fromarray(image)), image)
