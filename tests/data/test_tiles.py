"""Images cut into windows: of TIFFs only what a window needs is read, and windows show what the whole image shows."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, read_header
from openmae.data.formats.tiff_windows import open_tiff_windows
from openmae.data.opening import open_data
from openmae.data.sources.selection import Selection
from openmae.data.sources.source import Source
from openmae.data.sources.windows import Tiling, image_of, window_of
from openmae.data.tiles.cutting import Memory
from openmae.errors import UserError
from tests.images import picture


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
