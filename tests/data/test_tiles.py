"""Images cut into windows: of TIFFs only what a window needs is read, and windows show what the whole image shows."""

import io
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from openmae.data.formats import tiff_windows
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, decode_masked, read_header
from openmae.data.formats.reading import Reading
from openmae.data.formats.tiff_windows import TiffWindows, open_tiff_windows
from openmae.data.formats.window import Box, window_bytes
from openmae.data.held_out import split_for
from openmae.data.opening import open_data
from openmae.data.shards.packing import Packing, pack_image
from openmae.data.sources.groups import groups_of
from openmae.data.sources.known_labels import known_labels
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.sources.windows import Tiling, image_of, window_of
from openmae.data.tiles import listing
from openmae.data.tiles.cutting import Memory
from openmae.errors import BrokenImage, UserError
from tests.images import encoded, picture, write_images


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def shown(data: bytes) -> NDArray[Any]:
    """All that a file or a window holds, as it is."""
    header = read_header(data)
    return decode(data, PixelFormat(header.channels, None, header.depth))


def tiled(data: object, tile: str, min_detail: float | None = 0, **asked: Any) -> Source:
    return open_data(str(data), Selection(tile=tile, tile_min_detail=min_detail, **asked)).all


def texture(height: int, width: int, channels: int = 3, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 250, (height, width, channels)).astype(dtype)


# ---------------------------------------------------------------- where windows lie


@settings(max_examples=50)
@given(st.integers(1, 3000), st.integers(16, 600), st.data())
def test_windows_cover_a_side_and_end_where_it_ends(length: int, side: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, side - 1))
    places = Tiling(side, overlap).places(length)
    if length <= side:
        assert places.tolist() == [0]
        return
    assert places[0] == 0
    assert places[-1] + side == length
    steps = np.diff(places)
    assert (steps > 0).all()
    assert (steps[:-1] == side - overlap).all()  # but for the last one, which moves inwards
    assert (steps <= side - overlap).all()


@settings(max_examples=30)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(16, 90), st.integers(0, 15))
def test_a_grid_has_all_pixels(height: int, width: int, side: int, overlap: int) -> None:
    tiling, seen = Tiling(side, overlap), np.zeros((height, width), int)
    grid = tiling.grid((height, width))
    for x, y, w, h in grid.tolist():
        assert (w, h) == (min(side, width), min(side, height))
        seen[y : y + h, x : x + w] += 1
    assert (seen > 0).all()
    assert len(grid) == tiling.count((height, width)) == len({*map(tuple, grid.tolist())})


def test_names_tell_the_place() -> None:
    assert window_of("a/b.svs#xywh=1024,0,512,500") == ("a/b.svs", 1024, 0, 512, 500)
    assert image_of("a#xywh=1,2,3,4#xywh=0,0,9,9") == "a#xywh=1,2,3,4"
    assert window_of("a/b.svs") is None
    assert image_of("a#b,1,2") == "a#b,1,2"


@pytest.mark.parametrize(
    ("word", "share", "reason"),
    [
        ("0", None, "give 16 to"),
        ("8", None, "give 16 to"),
        ("100000", None, "give 16 to"),
        ("512:512", None, "cannot overlap by all"),
        ("512:600", None, "cannot overlap by all"),
        ("-512", None, "such as 512:64"),
        ("512x512", None, "such as 512:64"),
        ("", None, "such as 512:64"),
        ("512", 1.5, "give a share from 0 to 1"),
    ],
)
def test_what_cannot_be_asked_for(word: str, share: float | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Tiling.asked(word, share)


# ---------------------------------------------------------------- windows of TIFFs

LAYOUTS: list[dict[str, Any]] = [
    {"tile": (16, 32)},
    {"tile": (48, 16)},
    {"rowsperstrip": 1},
    {"rowsperstrip": 7},
    {"rowsperstrip": 999},
]


@settings(max_examples=60)
@given(
    st.tuples(st.integers(70, 130), st.integers(70, 130)),
    st.sampled_from(LAYOUTS),
    st.sampled_from([None, "zlib", "lzw", "zstd", "packbits"]),
    st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from(["contig", "separate"]),
    st.sampled_from("<>"),
    st.booleans(),
    st.integers(1, 8),
    st.data(),
)
def test_windows_show_what_the_whole_shows(
    size: tuple[int, int],
    layout: dict[str, Any],
    compression: str | None,
    dtype: str,
    channels: int,
    planar: str,
    order: str,
    is_big: bool,
    turn: int,
    data: st.DataObject,
) -> None:
    pixels = texture(*size, channels, dtype)
    stored = pixels[..., 0] if channels == 1 else pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    options: dict[str, Any] = {"photometric": "rgb" if channels == 3 else "minisblack", **layout}
    if channels > 1:
        options["planarconfig"] = planar
    file = tiff(
        stored,
        compression=compression,
        predictor=compression in ("zlib", "lzw", "zstd") and dtype != "int16",
        byteorder=order,
        bigtiff=is_big,
        extratags=[(274, "H", 1, turn, True)],
        **options,
    )
    whole = shown(file)  # by the reader of whole files, which has oracles of its own
    windows = open_tiff_windows(file, 16)
    if windows is None:
        assert compression is not None
        assert layout.get("rowsperstrip", 0) * 2 >= size[0] - 40  # nearly one strip
        return
    assert windows.size() == whole.shape[:2]
    height, width = whole.shape[:2]
    x, y = data.draw(st.integers(0, width - 16)), data.draw(st.integers(0, height - 16))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    window = windows.window(Memory(file).read, (x, y, w, h))
    np.testing.assert_array_equal(shown(window), whole[y : y + h, x : x + w])


@pytest.mark.parametrize("tables", [True, False])
@pytest.mark.parametrize("photometric", ["rgb", "ycbcr", "minisblack"])
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 16}])
def test_jpeg_in_tiff_as_slides_have_it(photometric: str, layout: dict[str, Any], tables: bool) -> None:
    smooth = np.asarray(picture(1, (300, 280)))
    pixels = smooth[..., 0] if photometric == "minisblack" else smooth
    more: dict[str, Any] = {} if photometric != "ycbcr" else {"subsampling": (2, 2)}
    file = tiff(
        pixels,
        photometric="minisblack" if photometric == "minisblack" else "rgb",
        compression="jpeg",
        compressionargs={"level": 90} if tables else {"level": 90, "optimize": True},
        **layout,
        **more,
    )
    windows = open_tiff_windows(file, 64)
    assert windows is not None
    expected = tifffile.imread(io.BytesIO(file)).reshape(300, 280, -1)
    got = shown(windows.window(Memory(file).read, (10, 70, 100, 90)))
    np.testing.assert_array_equal(got, expected[70:160, 10:110])


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "npy"])
def test_other_files_are_cut_once_decoded(kind: str, turn: int, tmp_path: Path) -> None:
    if kind == "npy":
        np.save(tmp_path / "a.npy", texture(100, 90))
    else:
        exif = Image.Exif()
        exif[274] = turn
        picture(3, (100, 90)).save(tmp_path / f"a.{kind.lower()}", exif=exif)
    source = open_data(str(tmp_path), Selection(tile="40:8", tile_min_detail=0), Reading(layout="hwc")).all
    (file,) = tmp_path.iterdir()
    whole = shown(file.read_bytes())
    assert len(source) == 9
    for index in [*range(9), 4, 0]:  # the second of one file is cut from what stays decoded
        window = window_of(source.name(index))
        assert window is not None
        x, y, width, height = window[1:]
        np.testing.assert_array_equal(shown(source.read(index)), whole[y : y + height, x : x + width])


def ndpi(pixels: NDArray[Any], blocks: int) -> tuple[bytes, bytes]:
    """(a file as Hamamatsu's scanners write it, the JPEG that is all of its pixels, with a mark after so many blocks):
    offsets of directories have 8 bytes, and a tag tells where the marks are."""
    jpeg = encoded(Image.fromarray(pixels), "JPEG", quality=90, subsampling=0, restart_marker_blocks=blocks)
    scan = jpeg.index(b"\xff\xda") + 2
    starts = [scan + int.from_bytes(jpeg[scan : scan + 2], "big")]
    starts += [mark.end() for mark in re.finditer(rb"\xff[\xd0-\xd7]", jpeg)]
    out = bytearray(b"II*\0" + bytes(8) + jpeg)
    marks = len(out)
    out += struct.pack(f"<{len(starts)}I", *starts)
    bits = len(out)
    out += struct.pack("<4H", 8, 8, 8, 0)
    struct.pack_into("<Q", out, 4, len(out))
    (height, width), long, short = pixels.shape[:2], 4, 3
    entries = [(256, long, 1, width), (257, long, 1, height), (258, short, 3, bits), (259, short, 1, 7)]
    entries += [(262, short, 1, 6), (273, long, 1, 12), (277, short, 1, 3), (278, long, 1, height)]
    entries += [(279, long, 1, len(jpeg)), (65420, long, 1, 1), (65426, long, len(starts), marks)]
    out += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return bytes(out + bytes(8 + 4 * len(entries))), jpeg


def test_slides_that_are_one_jpeg_of_any_size(tmp_path: Path) -> None:
    pixels = np.asarray(picture(5, (320, 400)))
    data, jpeg = ndpi(pixels, 10)
    (tmp_path / "a.ndpi").write_bytes(data)
    whole = np.asarray(Image.open(io.BytesIO(jpeg)))
    source = tiled(tmp_path, "128:7")
    assert len(source) == 3 * 4
    for index in range(len(source)):
        window = window_of(source.name(index))
        assert window is not None
        there = whole[window.y : window.y + 128, window.x : window.x + 128]
        np.testing.assert_array_equal(shown(source.read(index)), there)


def test_channels_that_are_pages() -> None:
    """As OME has them."""
    planes = texture(4, 90, 80, "uint16")
    for layout in ({"tile": (16, 16)}, {"rowsperstrip": 4}):
        file = tiff(planes, photometric="minisblack", ome=True, metadata={"axes": "CYX"}, compression="zlib", **layout)
        windows = open_tiff_windows(file, 32)
        assert windows is not None
        got = shown(windows.window(Memory(file).read, (20, 30, 32, 33)))
        np.testing.assert_array_equal(got, planes[:, 30:63, 20:52].transpose(1, 2, 0))


@pytest.mark.parametrize("has_mask", [False, True])
def test_missing_pixels_of_a_scene(has_mask: bool) -> None:
    scene = texture(96, 80, 1, "int16")[..., 0]
    scene[:, :40] = -999
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        tags = [] if has_mask else [(42113, "s", 0, "-999", True)]
        writer.write(scene, tile=(16, 16), compression="zlib", extratags=tags)
        if has_mask:
            there = scene != -999
            writer.write(there, tile=(16, 16), compression="zlib", subfiletype=4, photometric="mask")
    windows = open_tiff_windows(file.getvalue(), 32)
    assert windows is not None
    window = windows.window(Memory(file.getvalue()).read, (30, 10, 32, 50))
    found, missing = decode_masked(window, PixelFormat(1, None, "float32"))
    assert missing is not None
    np.testing.assert_array_equal(missing[..., 0], scene[10:60, 30:62] == -999)
    np.testing.assert_array_equal(found[~missing], scene[10:60, 30:62][~missing[..., 0]])
    kept = pack_image(window, Packing(64))  # floats that are no numbers
    np.testing.assert_array_equal(np.isnan(np.load(io.BytesIO(kept.data)))[..., 0], missing[..., 0])


def test_sixteen_bits_without_some_pixels_are_packed_with_what_says_which() -> None:
    scene = texture(96, 80, 1, "uint16")[..., 0]
    scene[:, :40] = 0
    file = tiff(scene, tile=(16, 16), compression="zlib", extratags=[(42113, "s", 0, "0", True)], byteorder=">")
    windows = open_tiff_windows(file, 32)
    assert windows is not None
    window = windows.window(Memory(file).read, (30, 10, 32, 32))
    kept = pack_image(window, Packing(32))
    assert kept.extension == "tif"
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(kept.data)), scene[10:42, 30:62])
    found = [decode_masked(data, PixelFormat(1, None, "uint16")) for data in (window, kept.data)]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------- which windows are empty


def blank(level: int, noise: float, size: int = 400, channels: int = 3) -> NDArray[Any]:
    draws = np.random.default_rng(1).normal(level, noise, (size, size, channels))
    return draws.round().clip(0, 255)


def full_places(source: Source) -> set[tuple[int, ...]]:
    found = (window_of(source.name(index)) for index in range(len(source)))
    return {window[1:3] for window in found if window is not None}


@pytest.mark.parametrize(
    ("level", "noise", "inside"),
    [(242, 1.5, (180, 90, 150)), (6, 2.0, (90, 90, 90)), (128, 3.0, (128, 60, 128)), (0, 0.0, (3, 200, 3))],
    ids=["slide", "micrograph", "grey ground, another colour", "no noise"],
)
def test_windows_of_background_are_left_out(level: int, noise: float, inside: tuple[int, ...], tmp_path: Path) -> None:
    pixels = blank(level, noise)
    pixels[100:200, 200:300] = np.asarray(inside) + texture(100, 100).astype(float) / 10
    tifffile.imwrite(tmp_path / "a.tif", pixels.astype(np.uint8), tile=(16, 16), photometric="rgb", compression="zlib")
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "b.jpg", quality=95)
    source = tiled(tmp_path, "100", None)
    assert full_places(source) == {(200, 100)}
    assert len(source) == 2
    assert len(tiled(tmp_path, "100", 0)) == 32


def test_windows_of_missing_pixels_are_left_out(tmp_path: Path) -> None:
    scene = texture(300, 300, 1, "int16")[..., 0]
    scene[:, :200] = -9999
    scene[0:100, 195:200] = 1
    tags = [(42113, "s", 0, "-9999", True)]
    tifffile.imwrite(tmp_path / "a.tif", scene, tile=(16, 16), extratags=tags)
    assert full_places(tiled(tmp_path, "100", None)) == {(100, 0), (200, 0), (200, 100), (200, 200)}
    assert full_places(tiled(tmp_path, "100", 0.2)) == {(200, 0), (200, 100), (200, 200)}


@pytest.mark.parametrize("noise", [1.0, 60.0])
def test_nothing_is_left_out_of_what_is_the_same_everywhere(noise: float, tmp_path: Path) -> None:
    """Faint texture, or a strong one: nobody can tell it from what is meant."""
    tifffile.imwrite(tmp_path / "a.tif", blank(128, noise).astype(np.uint8), tile=(16, 16), photometric="rgb")
    assert len(tiled(tmp_path, "100", None)) == 16


def test_an_image_of_one_level_is_empty(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((300, 300), 7, np.uint8), tile=(16, 16))
    with pytest.raises(UserError, match=r"all 9 windows of the images in .* are empty.*lower `tile_min_detail`"):
        tiled(tmp_path, "100", None)


@pytest.mark.parametrize("kind", ["SubIFDs", "pages", "svs"])
def test_a_pyramid_is_looked_at_where_it_is_small(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = blank(242, 1.5, 1024).astype(np.uint8)
    pixels[256:512, 512:768] = texture(256, 256) // 2
    levels = [pixels, pixels[::4, ::4], pixels[::16, ::16]]
    file = tmp_path / f"a.{'svs' if kind == 'svs' else 'tif'}"
    how: dict[str, Any] = {"photometric": "rgb", "compression": "zlib", "tile": (64, 64)}
    with tifffile.TiffWriter(file, bigtiff=True) as writer:
        if kind == "SubIFDs":
            writer.write(pixels, subifds=2, **how)
            for level in levels[1:]:
                writer.write(level, subfiletype=1, **how)
        else:
            said = {"description": "Aperio Image Library v1\n1024x1024", "metadata": None} if kind == "svs" else {}
            writer.write(pixels, **how, **said)
            if kind == "svs":  # as Aperio's have it
                writer.write(pixels[::16, ::16], photometric="rgb", rowsperstrip=16, metadata=None)
            for level in levels[1:]:
                writer.write(level, subfiletype=kind == "pages", metadata=None, **how)
    found = open_tiff_windows(file, 256)
    assert found is not None
    assert [layer.width for layer in found.layers] == [1024, 256, 64]
    asked: list[int] = []

    class Noted(TiffWindows):
        def window(self, read: Any, box: Box, level: int = 0) -> bytes:
            asked.append(level)
            return super().window(read, box, level)

    monkeypatch.setattr(tiff_windows, "TiffWindows", Noted)
    source = tiled(tmp_path, "256", None)
    assert asked == [1]
    assert full_places(source) == {(512, 256)}
    np.testing.assert_array_equal(shown(source.read(0)), pixels[256:512, 512:768])


# ---------------------------------------------------------------- in a set


def test_small_images_are_whole_and_what_cannot_be_read_is_one_broken_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", texture(200, 200), tile=(16, 16), photometric="rgb", compression="zlib")
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(whole[:100])
    picture(1, (30, 40)).save(tmp_path / "c.png")
    (tmp_path / "d.jpg").write_bytes(b"\xff\xd8\xff nothing")
    damaged = bytearray(whole)
    damaged[len(whole) // 3 : len(whole) // 3 + 300] = bytes(300)
    (tmp_path / "e.tif").write_bytes(damaged)
    source = tiled(tmp_path, "100", None)
    names = [source.name(index) for index in range(len(source))]
    assert names.count("b.tif") == names.count("c.png") == names.count("d.jpg") == 1
    assert len(names) == 4 + 1 + 1 + 1 + 4
    assert source.file(names.index("c.png")) == str(tmp_path / "c.png")
    failed = set()
    for index, name in enumerate(names):
        try:
            shown(source.read(index))
        except BrokenImage:
            failed.add(name)
    assert {"b.tif", "d.jpg"} < failed
    assert failed - {"b.tif", "d.jpg"} <= {name for name in names if name.startswith("e.tif#")}
    assert len(failed) > 2
    assert "2 images cannot be cut, and count as broken" in source.notes[1]


def test_windows_of_one_image_have_its_label_and_stay_together(tmp_path: Path) -> None:
    for number in range(20):
        place = tmp_path / f"class{number % 2}"
        place.mkdir(exist_ok=True)
        pixels = texture(64, 64 + 16 * (number % 3), seed=number)
        tifffile.imwrite(place / f"{number:02d}.tif", pixels, tile=(16, 16), photometric="rgb")
    data = open_data(str(tmp_path), Selection(tile="32", tile_min_detail=0))
    _, train, val = split_for(data, None, 0)
    learnt, judged = ({image_of(part.name(index)) for index in range(len(part))} for part in (train, val))
    assert not learnt & judged
    assert len(learnt | judged) == 20
    for part in (train, val):
        assert {(part.class_names[part.labels[i]], part.name(i).split("/")[0]) for i in range(len(part))} == {
            ("class0", "class0"),
            ("class1", "class1"),
        }
    folders = groups_of(data.all, Selection(tile="32", group_by="folder"))
    assert folders is not None
    assert {*folders} == {"class0", "class1"}
    with pytest.raises(UserError, match="finds no"):
        groups_of(data.all, Selection(tile="32", group_by="name:[0-9]$"))  # what stands behind the name is none of it


def test_the_windows_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", texture(200, 200), tile=(16, 16), photometric="rgb")
    prints = [open_data(str(tmp_path)).all.fingerprint]
    prints += [tiled(tmp_path, tile).fingerprint for tile in ("50", "50:10", "60", "50")]
    assert len({*prints}) == 4
    assert prints[1] == prints[4]


def test_slides_are_read_in_windows_alone(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.svs", texture(200, 200), tile=(16, 16), photometric="rgb")
    with pytest.raises(UserError, match=r"holds no images.* 1 .svs: read whole slides in windows, by `tile='512'`"):
        _ = open_data(str(tmp_path)).all
    picture(1, (30, 40)).save(tmp_path / "c.png")
    data = open_data(str(tmp_path))
    assert len(data.all) == 1
    assert [str(note.advice) for note in data.notes] == ["read windows of them by `tile='512'`"]
    assert len(tiled(tmp_path, "100")) == 5


def test_what_is_kept_of_a_listing_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", texture(200, 200), tile=(16, 16), photometric="rgb")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff nothing")
    monkeypatch.setattr(listing, "_KEPT_FROM", 0)
    first = tiled(tmp_path, "50", None)
    monkeypatch.setattr(listing, "_find", None)
    second = tiled(tmp_path, "50", None)
    assert first.fingerprint == second.fingerprint
    assert first.notes == second.notes
    with pytest.raises(BrokenImage):
        second.read(len(second) - 1)


def test_an_array_that_nobody_can_cut_is_asked_about(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", texture(3, 200, 200))
    with pytest.raises(UserError, match="nothing says which of these are its channels: say by `layout`"):
        tiled(tmp_path, "50")


def test_a_huge_file_without_strips_is_refused_in_a_sentence(tmp_path: Path) -> None:
    header = tiff(np.zeros((16, 16), np.uint8), rowsperstrip=16, compression="zlib")
    sides = header
    for tag in (b"\x00\x01", b"\x01\x01"):
        start = tag + b"\x04\x00\x01\x00\x00\x00"
        sides = sides.replace(start + b"\x10\x00\x00\x00", start + b"\x00\x00\x01\x00")
    assert sides != header
    (tmp_path / "a.tif").write_bytes(sides)
    with pytest.raises(BrokenImage, match=r"more than is decoded.*cut it into tiles, by `tile='512'`"):
        read_header(sides)
    source = tiled(tmp_path, "512")
    assert len(source) in (1, 128 * 128)
    with pytest.raises(BrokenImage):
        shown(source.read(len(source) - 1))


def test_a_window_says_where_it_lies_outside() -> None:
    file = encoded(picture(1, (30, 40)), "PNG")
    for box in ((0, 0, 41, 30), (0, 1, 40, 30), (0, 0, 0, 30)):
        with pytest.raises(BrokenImage, match="lies outside of its 40 x 30 pixels"):
            read_header(window_bytes(file, box, whole=True))
    inside = window_bytes(file, (1, 1, 5, 5), whole=True)
    within = window_bytes(inside, (0, 0, 1, 1), whole=True)
    for data, reason in ((within, "a window of a window"), (inside[:20], "cut off")):
        with pytest.raises(BrokenImage, match=reason):
            read_header(data)


GROWTH = """
import resource, sys
import numpy as np
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode
from openmae.data.opening import open_data
from openmae.data.sources.selection import Selection

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = open_data(sys.argv[1], Selection(tile="512", tile_min_detail=0)).all
for index in np.linspace(0, len(source) - 1, 40).astype(int).tolist():
    assert decode(source.read(index), PixelFormat()).shape == (512, 512, 3)
print(len(source), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_windows_of_an_image_of_five_gigabytes_take_little_memory(tmp_path: Path) -> None:
    side, cells = 40_000, 79 * 79
    cell = imagecodecs.zlib_encode((texture(512, 512) // 64).tobytes(), 1)
    tifffile.imwrite(
        tmp_path / "a.tif",
        (cell for _ in range(cells)),
        shape=(side, side, 3),
        dtype="uint8",
        tile=(512, 512),
        photometric="rgb",
        compression="zlib",
        bigtiff=True,
    )
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    windows, megabytes = map(int, done.stdout.split())
    assert windows == cells
    assert megabytes < 500


def test_how_empty_windows_may_be_is_asked_of_windows_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`tile_min_detail` is for windows, and images are taken whole: give `tile`"):
        open_data(str(write_images(tmp_path / "x", 4)), Selection(tile_min_detail=0.5))


def test_windows_have_the_labels_that_are_known_of_their_images(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(texture(40, 80, seed=number)).save(tmp_path / f"{number}.png")
    (tmp_path / "t.csv").write_text("path,label\n0.png,a\n1.png,\n2.png,b\n")
    source = tiled(tmp_path / "t.csv", "40")
    numbers, names = known_labels(source)
    told = {image_of(source.name(index)): number for index, number in enumerate(numbers.tolist())}
    assert len(numbers) == 6
    assert [names[told[f"{number}.png"]] if told[f"{number}.png"] >= 0 else None for number in range(3)] == [
        "a",
        None,
        "b",
    ]
