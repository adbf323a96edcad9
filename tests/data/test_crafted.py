"""Files made to hurt: no memory is corrupted, nothing takes minutes, and what is valid has its pixels.

What might crash runs in a process of its own, whose heap the C library checks.
"""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, read_header
from openmae.errors import BrokenImage
from tests.data.crafted import hidden_frames, lossless_jpeg, many_scans, noise
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
