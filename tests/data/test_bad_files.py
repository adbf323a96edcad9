"""Bad files are refused with a reason, quickly, quietly and in little memory; only BrokenImage comes out."""

import contextlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, read_header
from openmae.errors import BrokenImage
from tests.data.bad_files import bombs, cut_off, huge_headers, png, put, tiff, whole_files
from tests.images import encoded, picture
from tests.processes import run_openmae

WHOLE = whole_files()
RGB = PixelFormat()

# Run in a process of its own, which may take 1 GiB more than it has when everything is imported.
WITNESS = """
import json, resource, sys, time
from pathlib import Path
from openmae.errors import BrokenImage
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, read_header
from tests.data.bad_files import whole_files

def attempt(data):
    try:
        header = read_header(data)
        decode(data, PixelFormat(header.channels, None, header.depth))
    except BrokenImage as error:
        return str(error)
    return ""

def usage():  # MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

assert not any(attempt(data) for data in whole_files().values())
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30,) * 2)
found, before = {}, usage()
for file in sorted(Path(sys.argv[1]).iterdir()):
    start = time.perf_counter()
    found[file.name] = (attempt(file.read_bytes()), time.perf_counter() - start, usage() - before)
print(json.dumps(found))
"""


def test_the_whole_files_are_images() -> None:
    for name, data in WHOLE.items():
        header = read_header(data)
        assert decode(data, PixelFormat(header.channels, None, header.depth)).any(), name


@pytest.mark.parametrize("files", [huge_headers, bombs])
def test_huge_files_and_bombs_are_refused_in_little_memory(
    files: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    for name, data in files().items():
        (tmp_path / name).write_bytes(data)
    ran = run_openmae([str(tmp_path)], code=WITNESS)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    found = json.loads(ran.stdout)
    assert len(found) == len(list(tmp_path.iterdir()))
    for name, (complaint, seconds, grown) in found.items():
        assert complaint, f"{name} is not refused"
        assert "does not fit into memory" not in complaint, name
        if name in ("tile.tif", "jpeg.dcm", "jpeg2000.dcm"):  # decoders of JPEGs believe what the JPEGs say
            assert "more than is decoded" in complaint, name
        assert seconds < 20, name
        assert grown < 100, (name, grown)


def test_decoders_that_need_more_memory_get_smaller_images() -> None:
    progressive = put(WHOLE["progressive.jpg"], b"\xff\xc2", 5, struct.pack(">HH", 11_000, 11_000))
    inks = put(WHOLE["cmyk.jpg"], b"\xff\xc0", 5, struct.pack(">HH", 11_000, 11_000))
    for data in (progressive, inks):
        with pytest.raises(BrokenImage, match="more than is decoded"):
            read_header(data)
    assert read_header(put(WHOLE["photo.jpg"], b"\xff\xc0", 5, struct.pack(">HH", 11_000, 11_000))).width == 11_000


@pytest.mark.parametrize(("name", "data"), [pytest.param(name, data, id=name) for name, data in cut_off()])
def test_files_that_are_cut_off_are_refused(name: str, data: bytes) -> None:
    with pytest.raises(BrokenImage):
        decode(data, PixelFormat(read_header(data).channels, None, "float32"))


def test_what_is_no_image_is_refused_with_a_reason() -> None:
    for data, complaint in (
        (b"", "empty"),
        (b"<html>no image</html>", "no image format"),
        (b"%!PS-Adobe-3.0 EPSF", "no image format"),  # Pillow would start ghostscript
        (b"\xff\xd8\xff", "damaged"),
        (b"\x89PNG\r\n\x1a\nnothing", "damaged"),
        (b"\x93NUMPY", "cut off"),
        (bytes(128) + b"DICM", "without pixels"),
    ):
        with pytest.raises(BrokenImage, match=complaint):
            read_header(data)


def test_the_first_bytes_count_and_the_reason_is_always_the_same() -> None:
    data = WHOLE["colour.png"][:33] + b"?"
    reasons = set()
    for _ in range(3):
        with pytest.raises(BrokenImage) as refused:
            decode(data, RGB)
        reasons.add(str(refused.value))
    assert len(reasons) == 1
    assert "0x" not in reasons.pop()


def test_damaged_tiffs_leave_the_console_alone(capfd: pytest.CaptureFixture[str]) -> None:
    lzw, pages = encoded(picture(1, (40, 40)), "TIFF", compression="tiff_lzw"), WHOLE["pages.tif"]
    deflated = encoded(picture(1, (40, 40)), "TIFF", compression="tiff_adobe_deflate")
    for data in (lzw, deflated, pages, tiff(np.zeros((20, 20), np.uint16), description="{bad json")):
        for at in range(0, len(data), 37):
            with contextlib.suppress(BrokenImage):
                decode(data[:at] + b"\xff\x07\xff" + data[at + 3 :], PixelFormat(3, None, "uint16"))
    assert capfd.readouterr() == ("", "")


def test_odd_pngs_leave_the_console_alone(capfd: pytest.CaptureFixture[str]) -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint16).reshape(8, 8, 3)
    data = png(pixels, 16, 2).replace(struct.pack(">II", 8, 8), struct.pack(">II", 8, 5), 1)  # pixels are left over
    data = data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]
    np.testing.assert_array_equal(decode(data, PixelFormat(3, None, "uint16")), pixels[:5])
    assert capfd.readouterr() == ("", "")


@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.data(),
)
def test_flipped_bytes_give_an_image_or_broken_image(
    name: str, flips: list[tuple[int, int]], drawn: st.DataObject
) -> None:
    damaged = bytearray(WHOLE[name])
    for at, value in flips:
        damaged[at % (len(damaged) if at % 2 else min(512, len(damaged)))] = value
    data = bytes(damaged[: drawn.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))])
    with contextlib.suppress(BrokenImage):  # nothing else may be raised
        header = read_header(data)
        wanted = PixelFormat(header.channels, None, header.depth)
        pixels = decode(data, wanted)
        assert pixels.shape == (header.height, header.width, header.channels)
        assert pixels.dtype == header.depth


@given(st.sampled_from(sorted(WHOLE)), st.binary(max_size=200))
def test_noise_after_a_formats_first_bytes_gives_an_image_or_broken_image(name: str, noise: bytes) -> None:
    with contextlib.suppress(BrokenImage):
        decode(WHOLE[name][: 200 if name.endswith("dcm") else 12] + noise, PixelFormat(3, None, "float32"))
