"""Files of labels that are too large to be decoded at once: read part by part, they are what they are."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from openmae.data.annotations import label_images
from openmae.data.annotations.classes import Values
from openmae.data.annotations.label_images import label_image, label_size
from openmae.data.formats import header
from openmae.errors import BrokenImage, TooLarge

DRAWS = np.random.default_rng(0)
GREY = DRAWS.integers(0, 5, (100, 96)).astype(np.uint8)


def tiff(pixels: np.ndarray, **how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "minisblack", "tile": (16, 32), "compression": "zlib"} | how)
    return file.getvalue()


PALETTE = np.zeros((3, 256), np.uint16)
PALETTE[:, :5] = DRAWS.integers(0, 256, (3, 5)) * 257
FILES = {
    "tiles": tiff(GREY),
    "strips": tiff(GREY, tile=None, rowsperstrip=4, compression=None),
    "turned": tiff(GREY, extratags=[(274, "H", 1, 6, False)]),
    "16 bits": tiff(GREY.astype(np.uint16) * 1000),
    "32 bits": tiff(GREY.astype(np.uint32) * 100_000),
    "a palette": tiff(GREY, photometric="palette", colormap=PALETTE),
    "colours": tiff(np.stack([GREY, GREY // 2, 9 * GREY], axis=-1), photometric="rgb"),
}


@pytest.mark.parametrize("kind", FILES)
def test_large_tiffs_are_read_part_by_part(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FILES[kind]
    whole, size = label_image(data), label_size(data)
    coloured = label_image(data, colours=True)
    monkeypatch.setattr(header, "MAX_PIXELS", 8000)
    monkeypatch.setattr(label_images, "_ROWS", 48)
    part, calls = label_images._label_image, []

    def counted(data: bytes, colours: bool) -> Any:
        calls.append(colours)
        return part(data, colours)

    monkeypatch.setattr(label_images, "_label_image", counted)
    found = label_image(data)
    assert found.dtype == whole.dtype
    assert np.array_equal(found, whole)
    assert len(calls) == 1 + -(-len(whole) // 48)  # once as a whole, in vain
    assert label_size(data) == size == whole.shape[:2]
    assert np.array_equal(label_image(data, colours=True), coloured)
    monkeypatch.setattr(label_images, "MOST_BYTES", 9000)
    with pytest.raises(TooLarge, match="more than is decoded"):
        label_image(data)


def test_others_are_too_large_and_a_damaged_part_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "PNG")
    monkeypatch.setattr(header, "MAX_PIXELS", 8000)
    monkeypatch.setattr(label_images, "_ROWS", 48)
    for ask in (label_image, label_size):
        with pytest.raises(TooLarge, match="more than is decoded"):
            ask(file.getvalue())
    damaged = bytearray(FILES["tiles"])
    damaged[300:900] = b"\xff" * 600
    with pytest.raises(BrokenImage):
        label_image(bytes(damaged))


@pytest.mark.parametrize("is_colour", [False, True])
def test_classes_are_told_some_rows_at_a_time(is_colour: bool) -> None:
    """What is no class is counted over all of them."""
    values = Values.of({0: 0, 3: 1, 0x010203: 2}, 3, is_colour)
    pixels = DRAWS.choice([0, 3], (2100, 4)).astype(np.uint8)
    wanted = (pixels == 3).astype(np.uint8)
    pixels = np.stack([np.zeros_like(pixels)] * 2 + [pixels], axis=-1) if is_colour else pixels
    assert np.array_equal(values.mask(pixels), wanted)
    pixels[[5, 2050], 1] = 7
    with pytest.raises(BrokenImage, match="2 pixels have the"):
        values.mask(pixels)
