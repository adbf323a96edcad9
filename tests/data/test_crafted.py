"""Files made to hurt: no memory is corrupted, nothing takes minutes, and what is valid has its pixels.

What might crash runs in a process of its own, whose heap the C library checks.
"""

import io
import json
import time
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, read_header
from openmae.errors import BrokenImage
from tests.data.crafted import animated_avif, hidden_frames, lossless_jpeg, many_scans, noise, with_clap
from tests.images import encoded
from tests.processes import run_openmae

GREY = PixelFormat(1)

# Decodes each file at every size that is ever asked for, again and again, within 2 GiB.
WITNESS = """
import json, resource, sys, time
from pathlib import Path
from openmae.errors import BrokenImage
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, read_header

size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**31,) * 2)
found = {}
for file in sorted(Path(sys.argv[1]).iterdir()):
    data, said = file.read_bytes(), []
    for reduce in (1, 2, 4, 8) * 3:
        for rows in (8, None):
            try:
                header = read_header(data)
                wanted = PixelFormat(header.channels, None, header.depth)
                said.append(decode(data, wanted, reduce=reduce, rows=rows).shape)
            except BrokenImage as error:
                said.append(str(error))
    found[file.name] = said
print(json.dumps(found))
"""


def decoded_elsewhere(files: dict[str, bytes], folder: Path) -> dict[str, list[list[int] | str]]:
    """The shapes or complaints of each file at every size. A crash fails."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    ran = run_openmae([str(folder)], code=WITNESS)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, list[list[int] | str]] = json.loads(ran.stdout)
    assert len(found) == len(files)
    return found


# ---------------------------------------------------------------- JPEG


def test_lossless_jpegs_are_decoded_whole_whatever_size_is_asked_for(tmp_path: Path) -> None:
    colour = noise(1200, 1600)
    files = {"colour": lossless_jpeg(colour), "grey": lossless_jpeg(colour[..., 0].copy())}
    found = decoded_elsewhere({**files, **hidden_frames()}, tmp_path)
    assert found.pop("colour") == [[1200, 1600, 3]] * 24
    assert found.pop("grey") == [[1200, 1600, 1]] * 24
    assert all(isinstance(said, str) for all_said in found.values() for said in all_said)
    np.testing.assert_array_equal(decode(files["colour"], PixelFormat()), colour)
    np.testing.assert_array_equal(decode(files["grey"], PixelFormat())[..., 2], colour[..., 0])
    expected = np.asarray(Image.fromarray(colour).convert("L"))
    np.testing.assert_array_equal(decode(files["colour"], GREY)[..., 0], expected)


def test_scans_of_a_jpeg_are_counted_before_they_are_gone_over() -> None:
    data = many_scans(1024, 30)
    with Image.open(io.BytesIO(data)) as image:  # a valid file
        expected = np.asarray(image)
    np.testing.assert_array_equal(decode(data, GREY)[..., 0], expected)
    data, start = many_scans(8192, 2646), time.perf_counter()
    with pytest.raises(BrokenImage, match="2,647 scans of 8192 x 8192 pixels would take too long"):
        read_header(data)
    assert time.perf_counter() - start < 2


# ---------------------------------------------------------------- AVIF


def test_of_an_animated_avif_the_first_image_is_read(tmp_path: Path) -> None:
    files = {str(bits): animated_avif(bits) for bits in (8, 10, 12)}
    found = decoded_elsewhere(files, tmp_path)
    assert found == {name: [[64, 64, 3]] * 24 for name in files}
    for name, data in files.items():
        first = imagecodecs.avif_decode(data, None)[0]  # all of them fit where none is asked for by number
        pixels = decode(data, PixelFormat(3, None, "uint16"))
        np.testing.assert_array_equal(pixels, np.round(first * (65535 / (2 ** int(name) - 1))))
    alone = files["10"].replace(b"meta", b"free")
    with pytest.raises(BrokenImage, match="a sequence of 10 bits without a still image"):
        read_header(alone)


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_grey_avif_has_one_channel(bits: int, channels: int) -> None:
    pixels = noise(32, 48, channels, 2**bits - 1)
    data = bytes(imagecodecs.avif_encode(pixels, level=100, bitspersample=bits))
    header = read_header(data)
    assert header.channels == (4 if bits == 8 and channels == 2 else channels)  # there Pillow says RGBA
    found = decode(data, PixelFormat(channels, None, header.depth))
    white = np.iinfo(header.depth).max
    np.testing.assert_array_equal(found, np.round(pixels * (white / (2**bits - 1))))


@pytest.mark.parametrize(("bits", "turned"), [(8, False), (8, True), (10, False)])
@pytest.mark.parametrize(
    ("numbers", "rows", "columns"),
    [
        ((20, 1, 10, 1, 0, 1, 0, 1), slice(11, 21), slice(14, 34)),
        ((40, 2, 10, 1, 5, 1, -22, 2), slice(0, 10), slice(19, 39)),
        ((47, 1, 31, 1, 1, 2, -1, 2), slice(0, 31), slice(1, 48)),
        ((49, 1, 31, 1, 1, 2, -1, 2), slice(None), slice(None)),  # larger than the picture
        ((20, 3, 10, 1, 0, 1, 0, 1), slice(None), slice(None)),  # no whole pixels
        ((20, 1, 10, 1, 15, 1, 0, 1), slice(None), slice(None)),  # beyond its edge
        ((20, 0, 10, 1, 0, 1, 0, 0), slice(None), slice(None)),
    ],
)
def test_an_avif_is_shown_within_its_clean_aperture(
    bits: int, turned: bool, numbers: tuple[int, ...], rows: slice, columns: slice
) -> None:
    pixels = noise(32, 48, 3, 2**bits - 1)
    data = bytes(imagecodecs.avif_encode(pixels, level=100, bitspersample=bits))
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = encoded(Image.fromarray(pixels), "AVIF", quality=100, exif=exif)
    stored = imagecodecs.avif_decode(data)
    expected = np.round(stored[rows, columns] * ((255 if bits == 8 else 65535) / (2**bits - 1)))
    cropped = with_clap(data, numbers)
    header = read_header(cropped)
    found = decode(cropped, PixelFormat(3, None, header.depth))
    assert (header.height, header.width) == found.shape[:2]
    np.testing.assert_array_equal(found, np.rot90(expected, -1) if turned else expected)
