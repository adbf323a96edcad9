"""What stands behind transparent pixels, beside Pillow's alpha_composite, its convert and arithmetic by hand."""

import io
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, open_image, read_header
from openmae.data.formats.reading import Alpha, Reading
from openmae.data.formats.transparency import as_seen
from tests.data.bad_files import chunk, png, tiff
from tests.images import encoded, picture

BACKGROUNDS: dict[Alpha, int] = {"white": 255, "black": 0}


def on_pillows(image: Image.Image, level: int) -> NDArray[np.uint8]:
    """(H, W, 3)"""
    behind = Image.new("RGBA", image.size, (level, level, level, 255))
    return np.asarray(Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB"))


def read(data: bytes, alpha: Alpha | None, in_chans: int | None = None) -> NDArray[Any]:
    """As the header says, or in so many channels."""
    opened = open_image(data, Reading(alpha=alpha))
    header = opened.header
    return decode(opened, PixelFormat(in_chans or header.channels, None, header.depth, Reading(alpha=alpha)))


@pytest.mark.parametrize("alpha", ["white", "black"])
def test_every_level_under_every_alpha_is_pillows(alpha: Alpha) -> None:
    level, opacity = np.mgrid[0:256, 0:256].astype(np.uint8)
    rgba = np.dstack([level] * 3 + [opacity])
    np.testing.assert_array_equal(as_seen(rgba, alpha), on_pillows(Image.fromarray(rgba), BACKGROUNDS[alpha]))


def see_through(mode: str) -> Image.Image:
    """Some of it opaque, some hidden, some between; under what is hidden there are colours."""
    image = picture(3).convert(mode)
    opacity = np.asarray(picture(4, mode="L")).astype(int) * 2 - 128
    image.putalpha(Image.fromarray(np.clip(opacity, 0, 255).astype(np.uint8)))
    return image


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "palette", "AVIF"])
@pytest.mark.parametrize("alpha", ["white", "black", "ignore", "channel", None])
def test_all_formats_with_alpha_are_seen_as_pillow_sees_them(kind: str, alpha: Alpha | None) -> None:
    if kind in ("GIF", "palette"):  # one colour of the palette lets all through
        image = picture(5).quantize(8)
        data = encoded(image, "GIF" if kind == "GIF" else "PNG", transparency=3)
    elif kind == "AVIF":
        data = imagecodecs.avif_encode(np.asarray(see_through("RGB")), level=100)
    else:
        data = encoded(see_through("RGB"), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as opened:
        rgba = opened.convert("RGBA")
    if alpha in ("white", "black"):
        expected = on_pillows(rgba, BACKGROUNDS[alpha])
    else:
        expected = np.asarray(rgba if alpha in ("channel", None) else rgba.convert("RGB"))
    assert np.asarray(rgba)[..., 3].min() < 255
    np.testing.assert_array_equal(read(data, alpha), expected)


@pytest.mark.parametrize("alpha", ["white", "black"])
def test_grey_with_alpha_stays_grey(alpha: Alpha) -> None:
    image = see_through("L")
    found = read(encoded(image, "PNG"), alpha)
    assert found.shape == (24, 20, 1)
    np.testing.assert_array_equal(found[..., 0], on_pillows(image, BACKGROUNDS[alpha])[..., 0])


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("alpha", ["white", "black"])
def test_one_transparent_grey_of_a_png(bits: int, alpha: Alpha) -> None:
    """Pillow compares greys of 2 and 4 bits with a transparent one that it has not scaled as it scaled them."""
    values = np.random.default_rng(1).integers(0, 2**bits, (6, 7, 1))
    data = png(values, bits, 0, chunks=chunk(b"tRNS", values[2, 3].astype(">u2").tobytes()))
    top = 65535 if bits == 16 else 255
    expected = np.where(values == values[2, 3], top if alpha == "white" else 0, values * (top // (2**bits - 1)))
    np.testing.assert_array_equal(read(data, alpha), expected)


@given(st.sampled_from(["uint8", "uint16", "float32"]), st.booleans(), st.sampled_from([2, 4]), st.integers(0, 99))
def test_tiffs_say_whether_colours_are_multiplied_by_alpha(dtype: str, associated: bool, count: int, seed: int) -> None:
    draws, top = np.random.default_rng(seed), {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    straight = draws.random((5, 6, count)) * (draws.random((5, 6, 1)) > 0.2)
    stored = straight * np.concatenate([straight[..., -1:]] * (count - 1) + [np.ones((5, 6, 1))], -1)
    written = (np.rint(stored * top) if dtype != "float32" else stored).astype(dtype)
    unassociated = (np.rint(straight * top) if dtype != "float32" else straight).astype(dtype)
    data = tiff(
        written if associated else unassociated,
        photometric="rgb" if count == 4 else "minisblack",
        extrasamples=["assocalpha" if associated else "unassalpha"],
        planarconfig="contig",
    )
    assert read_header(data).alpha == "straight"  # whatever is stored
    colours, opacity = straight[..., :-1], straight[..., -1:]
    for alpha, behind in (("white", 1), ("black", 0)):
        expected = (colours * opacity + behind * (1 - opacity)) * top
        np.testing.assert_allclose(read(data, alpha), expected, atol=1.6 if top > 1 else 1e-6)  # type: ignore[arg-type]
    kept = read(data, "channel")
    np.testing.assert_array_equal(kept[..., -1], written[..., -1])
    shows = opacity[..., 0] > 0.3  # what is stored of darker ones has few levels
    np.testing.assert_allclose(kept[shows][:, :-1] / top, colours[shows], atol=0.02 if dtype == "uint8" else 1e-4)
    np.testing.assert_array_equal(read(data, "ignore"), kept[..., :-1])


def test_sixteen_bits_are_laid_on_exactly() -> None:
    draws = np.random.default_rng(2)
    values = draws.integers(0, 65536, (8, 9, 4))
    values[0, :, 3], values[1, :, 3] = 0, 65535
    data = png(values, 16, 6)
    colours, opacity = values[..., :3].astype(object), values[..., 3:].astype(object)  # whole numbers of any length
    for alpha, behind in (("white", 65535), ("black", 0)):
        expected = (2 * (colours * opacity + behind * (65535 - opacity)) + 65535) // (2 * 65535)
        np.testing.assert_array_equal(read(data, alpha), expected.astype(np.uint16))  # type: ignore[arg-type]


def test_an_opaque_channel_is_added_where_alpha_is_one_and_a_file_has_none() -> None:
    found = decode(encoded(picture(1), "PNG"), PixelFormat(4, reading=Reading(alpha="channel")))
    assert (found[..., 3] == 255).all()
    np.testing.assert_array_equal(found[..., :3], np.asarray(picture(1)))


def test_bands_are_no_alpha() -> None:
    values = np.random.default_rng(3).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    data = tiff(values, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read(data, "white"), values)
