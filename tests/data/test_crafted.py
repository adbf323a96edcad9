"""Files made to hurt: no memory is corrupted, nothing takes minutes, and what is valid has its pixels.

What might crash runs in a process of its own, whose heap the C library checks.
"""

import io
import json
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, read_header
from openmae.data.opening import open_data
from openmae.data.sources import parquet
from openmae.data.sources.columns import by_distinct_values, values
from openmae.errors import BrokenImage, UserError
from openmae.machine.memory import bounded_growth
from tests.data.crafted import (
    animated_avif,
    components,
    hidden_frames,
    lossless_jpeg,
    many_scans,
    noise,
    npz_of_large_labels,
    promising_tiffs,
    repeated,
    repeated_in_lists,
    run_length_bmp,
    with_clap,
)
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
    for reduce in (1, 2, 4, 8):
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


LOSSLESS = noise(600, 800)
DANGEROUS = {
    "colour": lossless_jpeg(LOSSLESS),
    "grey": lossless_jpeg(LOSSLESS[..., 0].copy()),
    **hidden_frames(),
    **{f"animated {bits}": animated_avif(bits) for bits in (8, 10, 12)},
}


@pytest.fixture(scope="module")
def decoded_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int] | str]]:
    """The shapes or complaints of each dangerous file at every size. A crash fails."""
    folder = tmp_path_factory.mktemp("dangerous")
    for name, data in DANGEROUS.items():
        (folder / name).write_bytes(data)
    ran = run_openmae([str(folder)], code=WITNESS)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, list[list[int] | str]] = json.loads(ran.stdout)
    assert found.keys() == DANGEROUS.keys()
    return found


# ---------------------------------------------------------------- JPEG


def test_lossless_jpegs_are_decoded_whole_whatever_size_is_asked_for(
    decoded_elsewhere: dict[str, list[list[int] | str]],
) -> None:
    assert decoded_elsewhere["colour"] == [[600, 800, 3]] * 8
    assert decoded_elsewhere["grey"] == [[600, 800, 1]] * 8
    assert all(isinstance(said, str) for name in hidden_frames() for said in decoded_elsewhere[name])
    np.testing.assert_array_equal(decode(DANGEROUS["colour"], PixelFormat()), LOSSLESS)
    np.testing.assert_array_equal(decode(DANGEROUS["grey"], PixelFormat())[..., 2], LOSSLESS[..., 0])
    expected = np.asarray(Image.fromarray(LOSSLESS).convert("L"))
    np.testing.assert_array_equal(decode(DANGEROUS["colour"], GREY)[..., 0], expected)


def test_scans_of_a_jpeg_are_counted_before_they_are_gone_over() -> None:
    data = many_scans(1024, 30)
    with Image.open(io.BytesIO(data)) as image:  # a valid file
        expected = np.asarray(image)
    np.testing.assert_array_equal(decode(data, GREY)[..., 0], expected)
    data, start = many_scans(8192, 2646), time.process_time()
    with pytest.raises(BrokenImage, match="2,647 scans of 8192 x 8192 pixels would take too long"):
        read_header(data)
    assert time.process_time() - start < 2


def test_segments_of_a_jpeg_are_counted() -> None:
    data = encoded(Image.fromarray(noise(8, 8)), "JPEG")
    for filling in (b"\xff", b"\xff\xd0", b"\xff\xfe\0\2"):
        start = time.process_time()
        with pytest.raises(BrokenImage, match="more than 65,536 segments"):
            read_header(data[:2] + filling * 10**6 + data[2:])
        assert time.process_time() - start < 2
        assert read_header(data[:2] + filling * 100 + data[2:]).height == 8


# ---------------------------------------------------------------- AVIF


def test_of_an_animated_avif_the_first_image_is_read(decoded_elsewhere: dict[str, list[list[int] | str]]) -> None:
    for bits in (8, 10, 12):
        assert decoded_elsewhere[f"animated {bits}"] == [[64, 64, 3]] * 8
        data = DANGEROUS[f"animated {bits}"]
        first = imagecodecs.avif_decode(data, None)[0]  # all of them fit where none is asked for by number
        pixels = decode(data, PixelFormat(3, None, "uint16"))
        np.testing.assert_array_equal(pixels, np.round(first * (65535 / (2**bits - 1))))
    alone = DANGEROUS["animated 10"].replace(b"meta", b"free")
    with pytest.raises(BrokenImage, match="a sequence of 10 bits without a still image"):
        read_header(alone)


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_grey_avif_has_one_channel(bits: int, channels: int) -> None:
    pixels = noise(32, 48, channels, 2**bits - 1)
    data = bytes(imagecodecs.avif_encode(pixels, level=100, bitspersample=bits))
    header = read_header(data)
    assert header.channels == channels
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


# ---------------------------------------------------------------- growth


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Nothing may take more than 1 GiB."""
    with bounded_growth(2**30):
        yield


def test_a_parquet_file_takes_no_more_memory_than_its_distinct_values(tmp_path: Path) -> None:
    place, large = tmp_path / "a.parquet", 20_000_000
    row = {"bytes": encoded(Image.fromarray(noise(8, 8)), "PNG"), "path": "x" * 10_000_000}
    files = (
        repeated("path", "x" * 10_000_000, 200_000),
        repeated("path", "a.png", 2, label=["x" * 10_000_000, "y"]),
        repeated("path", "a.png", 5_000_000),
        repeated("label", "x", 1, image=[row]),
        repeated("label", "x" * 10_000_000, 3, image=[row["bytes"]] * 3),
        repeated_in_lists("label", "x" * 10_000_000, 100_000),
    )
    place.write_bytes(repeated("image", bytes(large), 100_000))
    assert place.stat().st_size < 20_000
    with bounded_growth(2**31):  # what pyarrow frees, it keeps
        source = open_data(str(place)).all
        assert len(source) == 100_000
        assert source.read(99_999) == bytes(large)
        for data in files:
            place.write_bytes(data)
            with pytest.raises(UserError, match=r"path or label of 10,000,000 bytes|5,000,000 values, which its"):
                _ = open_data(str(place)).all


def test_lists_of_labels_are_as_pyarrow_reads_them(tmp_path: Path) -> None:
    labels = [["a", "b"], [], None, ["b"], ["a", None]]
    table = pyarrow.table({"path": list("vwxyz"), "label": labels})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with parquet.open_parquet(tmp_path / "a.parquet") as opened:
        found = by_distinct_values(tmp_path / "a.parquet", opened).read()
    for column in (found["label"], found["label"].slice(1, 3)):
        assert values(column, tmp_path) == column.to_pylist()


def test_a_row_group_that_unpacks_to_more_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_LEAST_BOUND", 2**28)
    monkeypatch.setattr(parquet, "ram", lambda: 2**30)
    table = pyarrow.table({"image": pyarrow.chunked_array([pyarrow.array([bytes(2**26)])] * 6)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "a.parquet").stat().st_size < 2**20
    source = open_data(str(tmp_path / "a.parquet")).all
    with pytest.raises(OSError, match=r"row group 0 unpacks from [0-9,]* to [0-9,]* bytes, as no images do"):
        source.read(0)
    monkeypatch.setattr(parquet, "check_packing", lambda *_: None)  # where it is honest
    with pytest.raises(OSError, match=r"its row group 0 takes 0\.4 GiB: write it anew with smaller ones"):
        source.read(0)


@pytest.mark.usefixtures("little_memory")
def test_what_a_tiff_promises_is_judged_before_it_is_believed() -> None:
    for name, data in promising_tiffs().items():
        start = time.process_time()
        with pytest.raises(BrokenImage, match=r"its OME-XML promises [0-9,]* planes|cut off|missing"):
            decode(data, PixelFormat(1, None, "uint16"))
        assert time.process_time() - start < 2, name


@pytest.mark.usefixtures("little_memory")
def test_components_count_as_pixels_do() -> None:
    for data in components().values():
        with pytest.raises(BrokenImage, match="more than is decoded"):
            decode(data, GREY)


def test_labels_of_an_npz_are_judged_by_their_header(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz_of_large_labels())
    with pytest.raises(UserError, match=r"labels of .* takes 1,600,000,000 bytes, more than labels do"):
        _ = open_data(str(tmp_path / "a.npz")).all


def test_columns_of_an_npz_say_which_classes_an_image_has(tmp_path: Path) -> None:
    images = np.stack([noise(8, 8) for _ in range(3)])
    for labels, names in (([[1, 0], [1, 1], [0, 1]], ["0", "0;1", "1"]), ([[0, 19], [2, 3], [1, 1]], None)):
        np.savez(tmp_path / "a.npz", images=images, labels=np.array(labels))
        if names is None:
            with pytest.raises(UserError, match=r"labels of .* have 2 columns, and not only 0 and 1"):
                _ = open_data(str(tmp_path / "a.npz")).all
        else:
            source = open_data(str(tmp_path / "a.npz")).all
            assert [source.class_names[number] for number in source.labels] == names


@pytest.mark.usefixtures("little_memory")
def test_what_packs_zeros_alone_is_refused(tmp_path: Path) -> None:
    """By a header: what stands behind it does not matter."""
    images = io.BytesIO()
    np.lib.format.write_array_header_1_0(images, {"descr": "|u1", "fortran_order": False, "shape": (4096, 512, 512)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("images.npy", images.getvalue() + bytes(10_000_000))
    with pytest.raises(UserError, match=r"images of .* unpacks from [0-9]* to 1,073,741,824 bytes, as no images do"):
        _ = open_data(str(tmp_path / "a.npz")).all
    honest = noise(8, 8)[None].repeat(3, 0)
    np.savez_compressed(tmp_path / "b.npz", images=honest)
    assert len(open_data(str(tmp_path / "b.npz")).all) == 3


def test_a_sparse_file_in_a_shard_is_broken_and_those_behind_it_are_not_lost(tmp_path: Path) -> None:
    picture = encoded(Image.fromarray(noise(8, 8)), "PNG")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture)
            archive.addfile(member, io.BytesIO(picture))
    data = bytearray(file.getvalue())
    data[156:157], data[482], data[148:156] = b"S", 1, b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    more_of_its_map = bytes(504) + b"\1" + bytes(7) + bytes(512)
    (tmp_path / "a.tar").write_bytes(data[:512] + more_of_its_map + data[512:])
    source = open_data(str(tmp_path)).all
    assert [source.name(index) for index in range(len(source))] == ["a.png", "b.png"]
    assert source.read(1) == picture


# ---------------------------------------------------------------- BMP


@pytest.mark.parametrize("bits", [4, 8])
def test_run_lengths_of_a_grey_bmp(bits: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**bits, (5, 13)).astype(np.uint8)
    levels = np.arange(2**bits, dtype=np.uint8)[:, None].repeat(3, 1)
    data = run_length_bmp(pixels, bits, levels, padded=True)
    assert read_header(data).channels == 1
    np.testing.assert_array_equal(decode(data, GREY)[..., 0], pixels)


@pytest.mark.parametrize("width", [1, 2, 7, 300, 301])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("delta", [False, True])
def test_run_lengths_of_a_bmp(bits: int, width: int, delta: bool) -> None:
    draws = np.random.default_rng(width)
    pixels = draws.integers(0, 2**bits, (11, width)).astype(np.uint8)
    pixels[:, 18:27] = 5  # a run
    palette = draws.integers(0, 256, (2**bits, 3)).astype(np.uint8)
    expected = pixels.copy()
    if delta:
        expected[::-1][3:-1:5] = 0
    for padded in (False, True):
        data = run_length_bmp(pixels, bits, palette, padded=padded, delta=delta)
        np.testing.assert_array_equal(decode(data, PixelFormat()), palette[expected])
        if not padded and not delta:
            by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]  # which is right there
            np.testing.assert_array_equal(palette[expected], by_opencv)
        np.testing.assert_array_equal(decode(data[:-4], PixelFormat()), palette[expected])  # its end says nothing
        with pytest.raises(BrokenImage, match="cut off"):
            decode(data[: -len(data) // 4], PixelFormat())


@pytest.mark.parametrize("number", [2, -1])
def test_a_number_that_the_dictionary_lacks_is_damage(number: int) -> None:
    numbers, texts = pyarrow.array([0, number], pyarrow.int32()), pyarrow.array(["a", "b"])
    column = pyarrow.DictionaryArray.from_arrays(numbers, texts, safe=False)
    with pytest.raises(UserError, match="names a value that its dictionary lacks"):
        values(column, Path("table.parquet"))
