"""Every format against code that is not ours: Pillow, tifffile, pydicom, imagecodecs, or the array that was written."""

import io
import struct
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import simplejpeg
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from skimage.transform import downscale_local_mean

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, read_header
from openmae.data.formats.header import Depth, Header
from openmae.errors import BrokenImage, UserError
from tests.data.bad_files import chunk, dicom, npy, png, put, tiff, whole_files
from tests.data.heic import EIGHT_BITS, TEN_BITS, gradient
from tests.images import encoded, picture

RGB, GREY = PixelFormat(3), PixelFormat(1)
BASELINE, LOSSLESS, JPEG_LS, JPEG_2000 = (f"1.2.840.10008.1.2{rest}" for rest in (".4.50", ".4.70", ".4.80", ".4.90"))


def as_it_is(data: bytes, frame: int | None = None) -> tuple[Header, NDArray[Any]]:
    """The header, and the pixels in the channels and depth that it says."""
    header = read_header(data)
    pixels = decode(data, PixelFormat(header.channels, None, header.depth), frame=frame)
    assert pixels.shape == (header.height, header.width, header.channels)
    assert pixels.dtype == header.depth
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    return header, pixels


def full_range(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Integers of `bits` over all of 8 or 16 bits, rounded."""
    top = 255 if bits <= 8 else 65535
    return np.round(values * (top / (2**bits - 1))).astype(np.uint8 if bits <= 8 else np.uint16)


# ---------------------------------------------------------------- Pillow's formats


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "LA", "RGBA"])
@pytest.mark.parametrize("in_chans", [1, 2, 3, 4])
def test_lossless_formats_decode_as_pillow_does(kind: str, mode: str, in_chans: int) -> None:
    if (kind, mode) in {("BMP", "LA"), ("GIF", "LA"), ("GIF", "RGBA")}:
        mode = "RGB"  # the format cannot hold it
    image = picture(3).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(picture(4, mode="L").point(lambda value: max(value, 1)))  # WebP forgets colours under alpha 0
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGBA").convert(["L", "LA", "RGB", "RGBA"][in_chans - 1]))
    pixels = decode(data, PixelFormat(in_chans))
    assert pixels.shape == (24, 20, in_chans)
    np.testing.assert_array_equal(pixels.squeeze(), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_decode_as_pillow_does(mode: str, progressive: bool) -> None:
    data = encoded(picture(4, (40, 56)).convert(mode), "JPEG", quality=95, progressive=progressive)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    difference = np.abs(decode(data, RGB).astype(int) - expected.astype(int))
    assert difference.mean() < 1  # two decoders may round their inverse DCT differently
    assert difference.max() <= 8
    assert read_header(data) == Header("JPEG", 40, 56, 1 if mode == "L" else 3, "uint8", read_header(data).mode)
    grey = decode(data, GREY)[..., 0] - np.asarray(Image.fromarray(expected).convert("L"), float)
    assert np.abs(grey).max() <= 4


def test_inverted_inks_of_photoshop_are_turned_back() -> None:
    inks = np.asarray(picture(5, (32, 32)).convert("CMYK"))
    data = imagecodecs.jpeg8_encode(255 - inks, level=98, colorspace="CMYK", outcolorspace="YCCK")
    assert read_header(data).mode == "CMYK"
    expected = np.asarray(picture(5, (32, 32)), int)
    assert np.abs(decode(data, RGB) - expected).mean() < 3


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-2] + b"\0\0\0" + data[-2:],  # before the end of the image
        lambda data: data[:20] + b"\0\0\0" + data[20:],  # before the second segment, which says how it lies
    ],
)
def test_stray_bytes_between_markers_are_no_damage(change: Any) -> None:
    data = encoded(picture(6, (33, 50)), "JPEG", exif=exif_of(6))
    pixels = decode(change(data), RGB)
    assert np.abs(pixels.astype(int) - decode(data, RGB)).max() <= 8


@pytest.mark.parametrize("kind", ["4:2:0", "4:2:2", "4:4:4", "L", "rgb"])
@pytest.mark.parametrize("size", [(70, 90), (33, 7), (3, 20)])
@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
@pytest.mark.parametrize("in_chans", [1, 3])
def test_stray_bytes_change_no_pixel(kind: str, size: tuple[int, int], reduce: int, in_chans: int) -> None:
    options: dict[str, object] = {"subsampling": kind} if kind[0] == "4" else {"keep_rgb": kind == "rgb"}
    data = encoded(picture(7, size, "L" if kind == "L" else "RGB"), "JPEG", quality=95, **options)
    clean, stray = (
        decode(data, PixelFormat(in_chans), reduce=reduce) for data in (data, data[:-2] + b"\0\0\0" + data[-2:])
    )
    assert np.array_equal(stray, clean)


def test_jpegs_of_twelve_bits_are_refused_with_a_sentence() -> None:
    data = put(encoded(picture(1), "JPEG"), b"\xff\xc0", 4, b"\x0c")
    for read in (read_header, lambda data: decode(data, RGB)):
        with pytest.raises(BrokenImage, match="JPEG of 12 bits a channel"):
            read(data)


# ---------------------------------------------------------------- which way is up


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x8298] = "a maker", orientation, "nobody's"
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(16, 24), (17, 9), (1, 8), (40, 33)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_photographs_stand_upright(orientation: int, size: tuple[int, int], kind: str) -> None:
    image = picture(5, size)
    data = encoded(image, kind, exif=exif_of(orientation))
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened), int)
    header, pixels = as_it_is(data)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= (8 if kind == "JPEG" else 0)
    small = decode(data, RGB, reduce=2)
    if kind == "JPEG":
        assert small.shape[:2] == (-(-header.height // 2), -(-header.width // 2))
    else:
        np.testing.assert_array_equal(small, pixels)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("depth", ["uint16", "float32"])
def test_deep_tiffs_stand_upright(orientation: int, depth: str) -> None:
    array = np.arange(12 * 7 * 3).reshape(12, 7, 3).astype(depth)
    data = tiff(array, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(as_it_is(data)[1], np.rot90(array, 2 if orientation == 3 else -1))


@pytest.mark.parametrize("order", ["little", "big"])
def test_orientation_is_found_in_either_byte_order(order: Any) -> None:
    start = {"little": b"II*\0\x08\0\0\0", "big": b"MM\0*\0\0\0\x08"}[order]
    elsewhere = ((0x0102, 2), (3, 2), (9, 4), (10**6, 4))  # values that lie outside the file
    numbers = ((2, 2), *elsewhere, (0x0112, 2), (3, 2), (1, 4), (6, 2), (0, 2))
    entry = b"".join(number.to_bytes(size, order) for number, size in numbers)
    data = encoded(picture(1, (8, 16)), "JPEG", exif=b"Exif\0\0" + start + entry)  # no word on a second directory
    assert decode(data, RGB).shape == (16, 8, 3)


@given(st.binary(max_size=300), st.booleans())
def test_damaged_exif_leaves_a_photograph_as_it_is(noise: bytes, whole_start: bool) -> None:
    data = encoded(picture(1, (8, 16)), "JPEG", exif=b"Exif\0\0" + b"II*\0\x08\0\0\0" * whole_start + noise)
    assert sorted(decode(data, RGB).shape) == [3, 8, 16]


# ---------------------------------------------------------------- reduced JPEGs


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([2, 4, 8]), st.sampled_from(["RGB", "L", "CMYK"]))
def test_reduced_sizes_are_rounded_up(height: int, width: int, reduce: int, mode: str) -> None:
    data = encoded(picture(2, (height, width)).convert(mode), "JPEG")
    assert decode(data, RGB, reduce=reduce).shape == (-(-height // reduce), -(-width // reduce), 3)


@pytest.mark.parametrize("reduce", [2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_reduced_jpegs_are_averages_of_the_whole(reduce: int, mode: str) -> None:
    data = encoded(picture(2, (123, 201)).convert(mode), "JPEG", quality=95)
    inside = (slice(0, 123 // reduce), slice(0, 201 // reduce))
    expected = downscale_local_mean(decode(data, RGB).astype(float), (reduce, reduce, 1))[inside]
    assert np.abs(decode(data, RGB, reduce=reduce)[inside] - expected).mean() < 1.5


def test_a_jpeg_above_the_bound_can_be_decoded_smaller() -> None:
    data = simplejpeg.encode_jpeg(
        np.full((12_000, 11_500, 1), 99, np.uint8), colorspace="GRAY", colorsubsampling="Gray"
    )
    assert read_header(data).height == 12_000
    with pytest.raises(BrokenImage, match="cut it into tiles"):
        decode(data, GREY)
    assert (decode(data, GREY, reduce=8) == 99).all()


# ---------------------------------------------------------------- deep PNG, AVIF, HEIC


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("bits", "colour_type", "channels"),
    [(bits, 0, 1) for bits in (1, 2, 4, 8, 16)]
    + [(bits, *kind) for bits in (8, 16) for kind in ((2, 3), (4, 2), (6, 4))],
)
def test_pngs_of_any_depth(bits: int, colour_type: int, channels: int, interlaced: bool) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (13, 21, channels))
    header, pixels = as_it_is(png(values, bits, colour_type, interlaced=interlaced))
    assert (header.format, header.depth) == ("PNG", "uint16" if bits == 16 else "uint8")
    np.testing.assert_array_equal(pixels, full_range(values, bits))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_give_their_colours(bits: int) -> None:
    draws = np.random.default_rng(bits)
    colours, values = draws.integers(0, 256, (2**bits, 3), dtype=np.uint8), draws.integers(0, 2**bits, (9, 11, 1))
    palette = chunk(b"PLTE", colours.tobytes())
    np.testing.assert_array_equal(as_it_is(png(values, bits, 3, chunks=palette))[1], colours[values[..., 0]])
    alpha = draws.integers(0, 256, 2**bits, dtype=np.uint8)
    _, pixels = as_it_is(png(values, bits, 3, chunks=palette + chunk(b"tRNS", alpha.tobytes())))
    np.testing.assert_array_equal(pixels, np.column_stack([colours, alpha])[values[..., 0]])


@pytest.mark.parametrize(("bits", "colour_type", "channels"), [(8, 0, 1), (16, 0, 1), (8, 2, 3), (16, 2, 3)])
def test_a_transparent_colour_becomes_alpha(bits: int, colour_type: int, channels: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**bits, (6, 7, channels))
    see_through = chunk(b"tRNS", values[2, 3].astype(">u2").tobytes())
    _, pixels = as_it_is(png(values, bits, colour_type, chunks=see_through))
    np.testing.assert_array_equal(pixels[..., :-1], values)
    np.testing.assert_array_equal(pixels[..., -1] == 0, (values == values[2, 3]).all(-1))


@pytest.mark.parametrize("where", ["before", "after", "as text"])
def test_a_pngs_exif_counts_before_and_after_the_pixels(where: str) -> None:
    values, turned = np.arange(6 * 9).reshape(6, 9, 1), chunk(b"eXIf", exif_of(6).tobytes().removeprefix(b"Exif\0\0"))
    data = png(values, 8, 0, chunks=turned)
    if where == "after":
        data = png(values, 8, 0)[:-12] + turned + chunk(b"IEND", b"")
    if where == "as text":  # as ImageMagick used to
        profile = b"\nexif\n      99\n" + exif_of(6).tobytes().hex().encode() + b"\n"
        data = png(values, 8, 0, chunks=chunk(b"tEXt", b"Raw profile type exif\0" + profile))
    header, pixels = as_it_is(data)
    assert (header.height, header.width) == (9, 6)
    np.testing.assert_array_equal(pixels[..., 0], np.rot90(values[..., 0], -1))


@pytest.mark.parametrize(("bits", "channels"), [(8, 3), (8, 4), (10, 3), (12, 3), (10, 4)])
def test_avifs_keep_their_depth(bits: int, channels: int) -> None:
    values = (
        np.random.default_rng(2).integers(0, 2**bits, (16, 24, channels)).astype(np.uint16 if bits > 8 else np.uint8)
    )
    data = imagecodecs.avif_encode(values, level=100, bitspersample=bits)
    header, pixels = as_it_is(data)
    assert (header.format, header.depth) == ("AVIF", "uint8" if bits == 8 else "uint16")
    np.testing.assert_array_equal(pixels, full_range(values, bits))


def test_heics_keep_their_depth() -> None:
    for data, depth, top in ((EIGHT_BITS, "uint8", 255), (TEN_BITS, "uint16", 65535)):
        header, pixels = as_it_is(data)
        assert (header.format, header.depth) == ("HEIC", depth)
        assert np.abs(pixels / top - gradient() / 255).max() < 0.02


# ---------------------------------------------------------------- TIFF


@given(
    st.sampled_from(["u1", "u2", "i1", "i2", "u4", "i4", "f2", "f4", "f8"]),
    st.integers(1, 5),
    st.sampled_from([None, "lzw", "zlib", "zstd", "packbits"]),
    st.sampled_from([None, (16, 32)]),
    st.sampled_from(["contig", "separate"]),
    st.sampled_from("<>"),
    st.booleans(),
    st.booleans(),
)
def test_tiffs_give_the_array_that_was_written(
    dtype: str, channels: int, compression: Any, tile: Any, planar: Any, order: Any, big: bool, predictor: bool
) -> None:
    array = (np.random.default_rng(3).integers(0, 60_000, (21, 37, channels)) % 127).astype(dtype)
    stored = array if planar == "contig" else array.transpose(2, 0, 1)
    data = tiff(
        stored if channels > 1 else array[..., 0],
        photometric="rgb" if channels == 3 else "minisblack",
        compression=compression,
        predictor=predictor and compression not in (None, "packbits"),
        tile=tile,
        planarconfig=planar if channels > 1 else None,
        byteorder=order,
        bigtiff=big,
    )
    header, pixels = as_it_is(data)
    depth = {"u1": "uint8", "u2": "uint16"}.get(dtype, "float32")
    assert (header.channels, header.depth, header.frames) == (channels, depth, 1)
    np.testing.assert_array_equal(pixels, array.astype(depth))


@pytest.mark.parametrize(
    ("shape", "options", "frames", "channels"),
    [
        ((5, 12, 14), {"photometric": "minisblack", "compression": "zlib"}, 5, 1),
        ((5, 12, 14), {"photometric": "minisblack"}, 5, 1),
        ((5, 12, 14, 3), {"photometric": "rgb", "compression": "lzw"}, 5, 3),
        ((4, 2, 12, 14), {"imagej": True, "metadata": {"axes": "ZCYX"}}, 4, 2),
        ((3, 2, 12, 14), {"ome": True, "metadata": {"axes": "TCYX"}, "compression": "zlib"}, 3, 2),
        ((2, 3, 4, 12, 14), {"ome": True, "metadata": {"axes": "CTZYX"}}, 12, 2),
        ((4, 2, 12, 14, 3), {"ome": True, "metadata": {"axes": "TCYXS"}, "photometric": "rgb"}, 4, 6),
    ],
)
def test_pages_are_frames_and_c_and_s_are_channels(
    shape: tuple[int, ...], options: dict[str, Any], frames: int, channels: int
) -> None:
    array = np.random.default_rng(4).integers(0, 65536, shape, dtype=np.uint16)
    axes = options.get("metadata", {}).get("axes", "TYXS"[: len(shape)])
    order = [i for i, axis in enumerate(axes) if axis not in "YXCS"] + [axes.index(a) for a in "YXCS" if a in axes]
    expected = array.transpose(order).reshape(frames, 12, 14, channels)
    data = tiff(array, **options)
    for frame in range(frames):
        header, pixels = as_it_is(data, frame)
        assert (header.frames, header.channels) == (frames, channels)
        np.testing.assert_array_equal(pixels, expected[frame])
    np.testing.assert_array_equal(as_it_is(data)[1], expected[frames // 2])
    for missing in (-1, frames):
        with pytest.raises(BrokenImage, match=f"it has {frames} frames, and frame {missing} is asked for"):
            decode(data, PixelFormat(channels, None, "uint16"), frame=missing)


def test_of_a_pyramid_the_full_size_is_read() -> None:
    large, file = np.random.default_rng(5).integers(0, 65536, (64, 48), dtype=np.uint16), io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(large, subifds=1, tile=(16, 16))
        writer.write(large[::2, ::2], subfiletype=1, tile=(16, 16))
    np.testing.assert_array_equal(as_it_is(file.getvalue())[1][..., 0], large)


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "i2", "f4"])
def test_min_is_white_is_turned_round(dtype: str) -> None:
    array = (np.random.default_rng(6).integers(0, 200, (9, 10)) * (1 if dtype != "?" else 0.01)).astype(dtype)
    _, pixels = as_it_is(tiff(array, photometric="miniswhite"))
    expected = {
        "?": lambda: 255 - array.astype(np.uint8) * 255,
        "i2": lambda: -1.0 - array,
        "f4": lambda: -array,
        "u1": lambda: 255 - array,
        "u2": lambda: 65535 - array,
    }[dtype]()
    np.testing.assert_array_equal(pixels[..., 0], expected)


@pytest.mark.parametrize("frames", [1, 3])
def test_tiff_palettes_jpegs_and_alpha(frames: int) -> None:
    draws = np.random.default_rng(7)
    colours, index = draws.integers(0, 65536, (3, 256), dtype=np.uint16), draws.integers(0, 256, (9, 8), dtype=np.uint8)
    data = tiff(np.stack([index] * frames), photometric="palette", colormap=colours)
    header, pixels = as_it_is(data)
    assert header.frames == frames
    np.testing.assert_array_equal(pixels, (colours >> 8).T[index])
    photo = np.asarray(picture(1, (48, 64)))
    data = tiff(np.stack([photo] * frames), photometric="rgb", compression="jpeg", tile=(16, 16))
    assert np.abs(as_it_is(data)[1] - photo.astype(int)).mean() < 4
    rgba = draws.integers(0, 256, (9, 8, 4), dtype=np.uint8)
    for kind, loses_alpha in (("unassalpha", True), ("unspecified", False)):
        data = tiff(np.stack([rgba] * frames), photometric="rgb", extrasamples=[kind])
        np.testing.assert_array_equal(as_it_is(data)[1], rgba)
        if loses_alpha:
            np.testing.assert_array_equal(decode(data, RGB), rgba[..., :3])
        else:
            with pytest.raises(BrokenImage, match="4 channels and 3 are wanted: give `in_chans=4`, or choose with"):
                decode(data, RGB)


def test_no_data_of_gdal_is_filled_with_the_mean() -> None:
    array = np.random.default_rng(8).random((6, 7, 2)).astype(np.float32)
    array[2, 3, 0] = -9999
    data = tiff(array, photometric="minisblack", planarconfig="contig", extratags=[(42113, "s", 0, "-9999", True)])
    _, pixels = as_it_is(data)
    known = np.delete(array[..., 0].ravel(), 2 * 7 + 3)
    assert pixels[2, 3, 0] == pytest.approx(known.mean(), rel=1e-6)
    array[2, 3, 0] = pixels[2, 3, 0]
    np.testing.assert_array_equal(pixels, array)


def test_packed_depths_of_tiff_fill_their_range() -> None:
    values = np.random.default_rng(9).integers(0, 4096, (16, 16), dtype=np.uint16)
    strip = np.packbits(values.reshape(-1, 1) >> np.arange(11, -1, -1, dtype=np.uint16) & 1).tobytes()
    tags = {256: 16, 257: 16, 258: 12, 259: 1, 262: 1, 273: 126, 277: 1, 278: 16, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header, pixels = as_it_is(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(8) + strip)
    assert header.depth == "uint16"
    np.testing.assert_array_equal(pixels[..., 0], full_range(values, 12))


# ---------------------------------------------------------------- DICOM


@given(
    st.sampled_from(
        [("u1", 8), ("u1", 5), ("u1", 1), ("u2", 16), ("u2", 12), ("u2", 10), ("i1", 7), ("i2", 16), ("i2", 12)]
    ),
    st.booleans(),
    st.sampled_from([None, ("1", "0"), ("2.5", "-1024")]),
    st.booleans(),
)
def test_dicoms_are_what_their_header_says(
    layout: tuple[str, int], inverted: bool, rescale: tuple[str, str] | None, dirty: bool
) -> None:
    (dtype, bits), signed = layout, layout[0].startswith("i")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = np.random.default_rng(bits).integers(low, high + 1, (11, 14))
    stored = values & (2**bits - 1)
    if dirty:  # what lies above the bits stored may be anything
        stored |= np.random.default_rng(1).integers(0, 2**16, stored.shape) << bits
    elements: dict[str, Any] = {"BitsStored": bits, "PhotometricInterpretation": f"MONOCHROME{1 if inverted else 2}"}
    if rescale:
        elements |= {"RescaleSlope": rescale[0], "RescaleIntercept": rescale[1]}
    data = dicom(stored.astype(dtype.replace("i", "u")), PixelRepresentation=int(signed), **elements)
    header, pixels = as_it_is(data)
    meant = low + high - values if inverted else values
    if signed or rescale == ("2.5", "-1024"):
        assert header.depth == "float32"
        slope, intercept = map(float, rescale or ("1", "0"))
        np.testing.assert_array_equal(pixels[..., 0], (meant * slope + intercept).astype(np.float32))
    else:
        np.testing.assert_array_equal(pixels[..., 0], full_range(meant, bits))
        assert len(np.unique(pixels)) == len(np.unique(values))


@pytest.mark.parametrize(
    ("name", "uncompressed"),
    [
        ("MR_small_RLE", "MR_small"),
        ("MR_small_jp2klossless", "MR_small"),
        ("MR_small_jpeg_ls_lossless", "MR_small"),
        ("MR_small_bigendian", "MR_small"),
        ("MR_small_implicit", "MR_small"),
        ("SC_rgb_rle", "SC_rgb_rle"),
        ("SC_rgb_rle_16bit", "SC_rgb_rle_16bit"),
        ("SC_rgb_gdcm_KY", "SC_rgb_gdcm_KY"),
        ("SC_rgb_jpeg_dcmtk", "SC_rgb_jpeg_dcmtk"),
        ("SC_rgb_dcmtk_+eb+cr", "SC_rgb_dcmtk_+eb+cr"),
        ("SC_jpeg_no_color_transform_2", "SC_jpeg_no_color_transform_2"),
        ("SC_rgb_small_odd_big_endian", "SC_rgb_small_odd_big_endian"),
        ("SC_ybr_full_422_uncompressed", "SC_ybr_full_422_uncompressed"),
        ("examples_jpeg2k", "examples_jpeg2k"),
        ("examples_ybr_color", "examples_ybr_color"),
        ("image_dfl", "image_dfl"),
        ("rtdose_rle", "rtdose"),
        ("J2K_pixelrep_mismatch", "J2K_pixelrep_mismatch"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_pydicoms_own_files_decode_as_pydicom_does(name: str, uncompressed: str) -> None:
    dataset = pydicom.dcmread(get_testdata_file(uncompressed + ".dcm"))
    frames = int(dataset.get("NumberOfFrames") or 1)
    header, pixels = as_it_is(Path(get_testdata_file(name + ".dcm")).read_bytes())
    expected = pydicom.pixels.pixel_array(dataset, index=frames // 2)
    assert (header.format, header.frames) == ("DICOM", frames)
    np.testing.assert_array_equal(pixels.squeeze(), expected.astype(header.depth))


@pytest.mark.parametrize(
    ("syntax", "codec"),
    [
        (LOSSLESS, lambda frame: imagecodecs.jpeg8_encode(frame, lossless=True)),
        (JPEG_LS, imagecodecs.jpegls_encode),
        (JPEG_2000, lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True)),
    ],
)
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_compressed_frames_are_found_and_lossless(syntax: str, codec: Any, colours: int, depth: Any) -> None:
    draws = np.random.default_rng(11)
    frames = [draws.integers(0, np.iinfo(depth).max, (16, 20, colours), depth).squeeze() for _ in range(3)]
    data = dicom(frames[0], syntax, NumberOfFrames=3, PixelData=encapsulate([codec(frame) for frame in frames]))
    for number, frame in enumerate(frames):
        np.testing.assert_array_equal(as_it_is(data, number)[1].squeeze(), frame)


def test_baseline_jpegs_in_dicom_have_their_colours() -> None:
    photo = np.asarray(picture(1, (32, 48)))
    for kind, space in (("YBR_FULL_422", "YCBCR"), ("RGB", "RGB"), ("YBR_FULL_422", "RGB")):  # the last is a lie
        jpeg = imagecodecs.jpeg8_encode(photo, 98, outcolorspace=space)
        data = dicom(photo, BASELINE, PixelData=encapsulate([jpeg]), PhotometricInterpretation=kind)
        assert np.abs(as_it_is(data)[1] - photo.astype(int)).mean() < 2


def test_palettes_of_dicom_give_their_colours() -> None:
    dataset = pydicom.dcmread(get_testdata_file("examples_palette.dcm"))
    expected = pydicom.pixels.apply_color_lut(dataset.pixel_array, dataset)
    header, pixels = as_it_is(Path(get_testdata_file("examples_palette.dcm")).read_bytes())
    assert header.depth == "uint16"
    np.testing.assert_array_equal(pixels, expected)


def test_units_of_enhanced_dicom_are_found_frame_by_frame() -> None:
    def transformed(slope: str, intercept: str) -> Dataset:
        transform, group = Dataset(), Dataset()
        transform.RescaleSlope, transform.RescaleIntercept = slope, intercept
        group.PixelValueTransformationSequence = [transform]
        return group

    values = np.arange(2 * 6 * 5, dtype=np.uint16).reshape(2, 6, 5)
    data = dicom(
        values[0],
        NumberOfFrames=2,
        PixelData=values.tobytes(),
        PerFrameFunctionalGroupsSequence=[transformed("1", "0"), transformed("2", "-3")],
    )
    np.testing.assert_array_equal(as_it_is(data, 0)[1][..., 0], values[0])
    np.testing.assert_array_equal(as_it_is(data, 1)[1][..., 0], values[1] * 2.0 - 3)


def test_dicom_without_pixels_is_broken() -> None:
    with pytest.raises(BrokenImage, match="without pixels"):
        read_header(Path(get_testdata_file("rtplan.dcm")).read_bytes())


# ---------------------------------------------------------------- arrays


@given(
    hn.arrays(
        st.sampled_from(["?", "u1", "u2", ">u2", "i1", "i4", "u8", "f2", "f4", ">f8"]),
        st.tuples(st.integers(1, 6), st.integers(1, 6))
        | st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5)),
        elements={"allow_nan": False, "allow_infinity": False, "min_value": 0, "max_value": 100},
    ),
    st.booleans(),
)
def test_saved_arrays_are_images(array: NDArray[Any], by_columns: bool) -> None:
    header, pixels = as_it_is(npy(np.asfortranarray(array) if by_columns else array))
    expected = array.astype(np.uint8) * 255 if array.dtype == bool else array.astype(header.depth)
    depths = {"bool": "uint8", "uint8": "uint8", "uint16": "uint16"}
    assert header.depth == depths.get(array.dtype.name, "float32")
    np.testing.assert_array_equal(pixels, expected.reshape(pixels.shape))


def test_saved_booleans_are_black_and_white() -> None:
    array = np.random.default_rng(15).random((9, 8)) > 0.5
    np.testing.assert_array_equal(as_it_is(npy(array))[1][..., 0], np.where(array, 255, 0))


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_of_an_array_are_no_alpha(channels: int) -> None:
    with pytest.raises(BrokenImage, match=f"it has {channels} channels and {channels - 1} are wanted"):
        decode(npy(np.zeros((4, 5, channels), np.uint8)), PixelFormat(channels - 1))


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros(5), "shape"),
        (np.zeros((2, 3, 4, 5)), "shape"),
        (np.zeros((0, 5)), "holds no image"),
        (np.zeros((4, 5, 0)), "no channels"),
        (np.zeros((4, 5), complex), "array of complex128"),
        (np.zeros((4, 5), "U3"), "give booleans"),
        (np.array([[{}]]), "array of object"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: NDArray[Any], complaint: str) -> None:
    with pytest.raises(BrokenImage, match=complaint):
        read_header(npy(array))


# ---------------------------------------------------------------- channels and depth


@pytest.mark.parametrize(
    ("depth", "wanted", "change"),
    [
        ("uint8", "uint16", lambda v: v.astype(np.uint16) * 257),
        ("uint8", "float32", lambda v: v.astype(np.float32) / 255),
        ("uint16", "float32", lambda v: v.astype(np.float32) / 65535),
    ],
)
def test_shallow_pixels_become_deep_ones(depth: str, wanted: Depth, change: Any) -> None:
    values = np.arange(0, np.iinfo(depth).max + 1, np.iinfo(depth).max // 255, dtype=depth).reshape(16, 16, 1)
    pixels = decode(npy(values), PixelFormat(1, None, wanted))
    assert pixels.dtype == wanted
    np.testing.assert_array_equal(pixels, change(values))


@pytest.mark.parametrize(
    ("depth", "wanted"), [("uint16", "uint8"), ("f4", "uint8"), ("f4", "uint16"), ("i2", "uint16")]
)
def test_deep_pixels_are_refused_not_squeezed(depth: str, wanted: Depth) -> None:
    with pytest.raises(BrokenImage, match=r"where (8|16)-bit ones are expected: convert it"):
        decode(npy(np.zeros((4, 4), depth)), PixelFormat(1, None, wanted))


@given(st.lists(st.integers(1, 13), min_size=1, max_size=6))
def test_bands_are_chosen_by_number(bands: list[int]) -> None:
    array = np.random.default_rng(12).integers(0, 65536, (5, 6, 13), dtype=np.uint16)
    wanted = PixelFormat(len(bands), tuple(bands), "uint16")
    np.testing.assert_array_equal(decode(npy(array), wanted), array[..., [band - 1 for band in bands]])


def test_bands_of_photographs_are_their_colours() -> None:
    pixels = decode(encoded(picture(1), "JPEG"), RGB)
    np.testing.assert_array_equal(decode(encoded(picture(1), "JPEG"), PixelFormat(1, (2,))), pixels[..., 1:2])


def test_channels_that_do_not_fit_are_refused() -> None:
    array = np.zeros((5, 6, 13), np.uint8)
    with pytest.raises(BrokenImage, match="13 channels and 3 are wanted: give `in_chans=13`, or choose with `bands`"):
        decode(npy(array), RGB)
    with pytest.raises(BrokenImage, match="13 channels, and band 14 is wanted"):
        decode(npy(array), PixelFormat(2, (14, 1)))
    with pytest.raises(BrokenImage, match="1 channels and 13 are wanted"):
        decode(npy(array[..., 0]), PixelFormat(13))
    for wrong in ({"in_chans": 0}, {"bands": (1, 2)}, {"in_chans": 1, "bands": (0,)}):
        with pytest.raises(ValueError, match="give"):
            PixelFormat(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_luminance_is_pillows_at_every_depth(depth: Depth) -> None:
    rgb = np.random.default_rng(13).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(rgb).convert("L"), float)
    scale = {"uint8": 1, "uint16": 257, "float32": 1}[depth]
    pixels = decode(npy((rgb.astype(float) * scale).astype(depth)), PixelFormat(1, None, depth))[..., 0] / scale
    assert np.abs(pixels - expected).max() <= (0 if depth == "uint8" else 0.51)
    largest = np.full((2, 2, 3), 65535, np.uint16)
    assert (decode(npy(largest), PixelFormat(1, None, "uint16")) == 65535).all()


def test_grey_is_repeated() -> None:
    array = np.random.default_rng(14).random((4, 5)).astype(np.float32)
    np.testing.assert_array_equal(decode(npy(array), PixelFormat(3, None, "float32")), np.dstack([array] * 3))


@given(
    hn.arrays(np.float32, (4, 5, 2), elements=st.floats(0, 1, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]))
)
def test_missing_floats_become_the_mean_of_their_channel(array: NDArray[np.float32]) -> None:
    wanted = PixelFormat(2, None, "float32")
    finite = np.isfinite(array)
    if not finite.any():
        with pytest.raises(BrokenImage, match="all of its pixels are no-data"):
            decode(npy(array), wanted)
        return
    means = [array[..., c][finite[..., c]].mean(dtype=float) if finite[..., c].any() else 0 for c in range(2)]
    np.testing.assert_allclose(decode(npy(array), wanted), np.where(finite, array, means), rtol=1e-6)
    whole = np.where(finite, array, 0)[..., :1]
    np.testing.assert_array_equal(decode(npy(whole), PixelFormat(1, (1,), "float32")), whole)


def test_numbers_too_large_for_float32_count_as_missing() -> None:
    pixels = decode(npy(np.array([[1e300, 1.0], [3.0, -1e300]])), PixelFormat(1, None, "float32"))
    np.testing.assert_array_equal(pixels[..., 0], [[2, 1], [3, 2]])


# ---------------------------------------------------------------- extras


@pytest.mark.parametrize(
    ("name", "package", "installed"),
    [
        ("deep.tif", "tifffile", "tifffile imagecodecs"),
        ("pages.tif", "imagecodecs", "tifffile imagecodecs"),
        ("deep.png", "imagecodecs", "imagecodecs"),
        ("deep.avif", "imagecodecs", "imagecodecs"),
        ("scan.dcm", "pydicom", "pydicom imagecodecs"),
        ("photo.heic", "pi_heif", "pi-heif"),
    ],
)
def test_a_missing_package_is_one_sentence_naming_what_to_install(
    name: str, package: str, installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as Python finds it where it is not installed
    with pytest.raises(UserError, match=rf"needs .*{package.replace('_', '.')}.*: pip install {installed}"):
        read_header(whole_files()[name])


def test_plain_formats_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    files = whole_files()
    for package in ("tifffile", "imagecodecs", "pydicom", "pi_heif"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in ("plain.tif", "photo.jpg", "cmyk.jpg", "colour.png", "photo.webp", "photo.avif", "array.npy"):
        assert decode(files[name], RGB).shape == (40, 48, 3)
    with pytest.raises(BrokenImage):  # a damaged file is no reason to install anything
        decode(files["deep.tif"][:100], RGB)


@given(
    st.integers(40, 130),
    st.integers(17, 90),
    st.sampled_from(["4:2:0", "4:2:2", "4:4:4", "L", "restarts", "mirrored"]),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(0, 1),
)
def test_the_upper_rows_of_a_jpeg_are_those_of_the_whole(
    height: int, width: int, kind: str, reduce: int, share: float
) -> None:
    image = picture(height, (height, width), "L" if kind == "L" else "RGB")
    options: dict[str, object] = {"subsampling": kind if kind[0] == "4" else "4:2:0"}
    if kind == "restarts":
        options["restart_marker_blocks"] = 2
    if kind == "mirrored":
        exif = Image.Exif()
        exif[0x0112] = 2
        options["exif"] = exif
    data = encoded(image, "JPEG", quality=90, **options)
    rows = max(1, round(height * share))
    pixels = PixelFormat(1 if kind == "L" else 3)
    whole, upper = decode(data, pixels, reduce=reduce), decode(data, pixels, reduce=reduce, rows=rows)
    known = -(-rows // reduce)
    assert known <= len(upper) <= len(whole)
    assert np.array_equal(upper[:known], whole[:known])


def test_the_upper_rows_of_a_jpeg_are_quicker_to_have() -> None:
    data = encoded(picture(0, (160, 40)), "JPEG")
    assert len(decode(data, PixelFormat(), rows=20)) == 32
    cut_off = data[:-2]
    with pytest.raises(BrokenImage):  # what follows is looked for where the file has no end
        decode(cut_off[: len(cut_off) // 2], PixelFormat(), rows=20)
