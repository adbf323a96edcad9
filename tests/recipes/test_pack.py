"""`openmae pack`: what is stored, who can read it, and that nothing but (data, settings) decides its bytes."""

import contextlib
import gc
import hashlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from openmae.console import progress as reading
from openmae.data.formats.channels import PixelFormat
from openmae.data.formats.decode import decode, read_header
from openmae.data.formats.reading import Reading
from openmae.data.opening import open_data
from openmae.data.shards.index import read_index
from openmae.data.shards.packing import Packed, Packing, pack_image
from openmae.data.shards.source import ShardSource
from openmae.data.shards.writer import LeftOut, ShardWriter, read_finished
from openmae.data.views.crop import resize
from openmae.errors import BrokenImage, UserError
from openmae.recipes.pack import job as recipe
from tests.commands import Run, refused
from tests.data.bad_files import chunk, png
from tests.images import picture, write_images
from tests.processes import SMALL_FILES, run_openmae, started_openmae, wait_for


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def array_file(pixels: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def pack(data: Path | str, shards: Path, **settings: Any) -> Path:
    recipe.run(recipe.Pack(str(data), shards, **{"short_side": 16, "shard_size": 10, "workers": 0, **settings}))
    return shards


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- one image


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 24]), st.sampled_from(["L", "RGB", "LA", "RGBA"]))
def test_short_side_is_bounded_and_nothing_is_enlarged(height: int, width: int, short_side: int, mode: str) -> None:
    packed = pack_image(encoded(picture(height, (height, width), mode), "PNG"), Packing(short_side))
    header = read_header(packed.data)
    assert min(header.height, header.width) == min(height, width, short_side)
    factor = min(1, short_side / min(height, width))
    assert header.height == pytest.approx(height * factor, abs=0.51)
    assert header.width == pytest.approx(width * factor, abs=0.51)
    assert header.channels == len(mode)
    assert packed.crc32 == zlib.crc32(packed.data)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_photograph_made_smaller_looks_as_pillow_makes_it(mode: str) -> None:
    image = picture(3, (300, 400), mode)
    packed = pack_image(encoded(image, "PNG"), Packing(64))
    assert packed.extension == "jpg"
    wanted = np.asarray(image.resize((85, 64), Image.Resampling.BICUBIC))
    found = np.asarray(Image.open(io.BytesIO(packed.data)))
    assert found.shape == wanted.shape
    assert peak_signal_noise_ratio(wanted, found) > 34
    worse = pack_image(encoded(image, "PNG"), Packing(64, quality=20))
    assert len(worse.data) < len(packed.data)


@pytest.mark.parametrize(
    ("kind", "options", "extension"),
    [("JPEG", {"quality": 60}, "jpg"), ("PNG", {}, "png"), ("WEBP", {"quality": 60}, "webp")],
)
def test_small_images_in_fast_formats_are_not_touched(kind: str, options: dict[str, Any], extension: str) -> None:
    data = encoded(picture(0, (30, 40)), kind, **options)
    packed = pack_image(data, Packing(30))
    assert (packed.data, packed.extension) == (data, extension)
    assert pack_image(data, Packing(29)).data != data


def test_small_jpegs_that_decode_slowly_or_turned_are_written_anew() -> None:
    image = picture(1, (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    for data in (encoded(image, "JPEG", progressive=True), encoded(image, "JPEG", exif=exif)):
        packed = pack_image(data, Packing(64))
        plain = Image.open(io.BytesIO(packed.data))
        assert "progressive" not in plain.info
        assert plain.getexif().get(0x0112, 1) == 1
        pixels = PixelFormat(3)
        assert peak_signal_noise_ratio(decode(data, pixels), decode(packed.data, pixels)) > 30
    upright = Image.Exif()
    upright[0x0112] = 1
    data = encoded(image, "JPEG", exif=upright)
    assert pack_image(data, Packing(64)).data == data


def test_small_images_in_slow_formats_keep_their_pixels() -> None:
    for mode in ("RGB", "L"):
        data = encoded(picture(2, (20, 24), mode), "BMP")
        packed = pack_image(data, Packing(64))
        assert packed.extension == "png"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(packed.data))), np.asarray(Image.open(io.BytesIO(data))))


def deep_png(draws: np.random.Generator) -> bytes:
    return encoded(Image.fromarray(draws.integers(0, 65536, (40, 50), dtype=np.uint16)), "PNG")


def deep_colours(draws: np.random.Generator) -> bytes:
    return array_file(draws.integers(0, 65536, (40, 50, 3), dtype=np.uint16))


def floats(draws: np.random.Generator) -> bytes:
    return array_file(draws.normal(size=(40, 50, 1)).astype(np.float32))


def bands(draws: np.random.Generator) -> bytes:
    return array_file(draws.integers(0, 256, (40, 50, 13), dtype=np.uint8))


@pytest.mark.parametrize(
    ("make", "extension"),
    [(deep_png, "png"), (deep_colours, "npy"), (floats, "npy"), (bands, "npy")],
)
def test_nothing_is_squeezed(make: Callable[[np.random.Generator], bytes], extension: str) -> None:
    data = make(np.random.default_rng(0))
    before = read_header(data)
    pixels = PixelFormat(before.channels, depth=before.depth)
    packed = pack_image(data, Packing(20))
    after = read_header(packed.data)
    assert (after.channels, after.depth, packed.extension) == (before.channels, before.depth, extension)
    assert np.array_equal(decode(packed.data, pixels), resize(decode(data, pixels), (20, 25)))


def test_bands_are_not_taken_for_colours() -> None:
    for channels in (3, 4):
        stored = np.random.default_rng(0).integers(0, 256, (40, 50, channels), dtype=np.uint8)
        file = io.BytesIO()
        tifffile.imwrite(file, stored, photometric="minisblack", planarconfig="contig")
        packed = pack_image(file.getvalue(), Packing(20))
        assert packed.extension == "npy"  # JPEG would mix them, PNG would make the fourth an alpha channel
        assert np.array_equal(np.load(io.BytesIO(packed.data)), resize(stored, (20, 25)))


def test_files_with_several_frames_keep_all_of_them() -> None:
    file = io.BytesIO()
    tifffile.imwrite(
        file, np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8), photometric="minisblack"
    )
    packed = pack_image(file.getvalue(), Packing(20))
    assert (packed.data, packed.extension) == (file.getvalue(), "tif")


def test_huge_photographs_are_decoded_small_without_a_visible_loss() -> None:
    image = picture(0, (1200, 1600))
    packed = pack_image(encoded(image, "JPEG", quality=95), Packing(64))
    wanted = np.asarray(image.resize((85, 64), Image.Resampling.BICUBIC))
    assert peak_signal_noise_ratio(wanted, np.asarray(Image.open(io.BytesIO(packed.data)))) > 34


@pytest.mark.parametrize("data", [b"", b"no image", encoded(picture(0, (64, 64)), "JPEG")[:-400]])
def test_broken_images_are_no_images(data: bytes) -> None:
    for short_side in (16, 256):  # made smaller, and kept as they are
        with pytest.raises(BrokenImage):
            pack_image(data, Packing(short_side))


def control(frames: int) -> bytes:
    """What makes a PNG an animated one of so many frames."""
    return chunk(b"acTL", struct.pack(">II", frames, 0))


ODD_CHUNKS = {
    "no hexadecimal": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  10\nnothing of the kind\n"),
    "half a byte": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  10\n49492a0\n"),
    "no lines": chunk(b"tEXt", b"Raw profile type exif\0II*"),
    "not latin": chunk(b"iTXt", b"Raw profile type exif\0\0\0\0\0\xff\xfe"),
    "noise": chunk(b"eXIf", bytes(range(200))),
    "no directory": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "a frame without control": control(2),
    "no frames": control(0),
    "a control cut off": chunk(b"acTL", b"\0"),
    "a frame elsewhere": control(3) + chunk(b"fcTL", struct.pack(">5I2H2B", 0, 6, 5, 90, 90, 1, 1, 0, 0)),
    "pixels before": control(1) + chunk(b"fdAT", struct.pack(">I", 9) + b"nothing"),
}


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_odd_texts_and_animations_of_a_png_are_no_matter_or_break_it(name: str) -> None:
    pixels = np.asarray(picture(1))
    data = png(pixels, 8, 2, chunks=ODD_CHUNKS[name])
    try:
        packed = pack_image(data, Packing())
    except BrokenImage:
        assert "control" in name or "frame" in name or "pixels" in name  # Pillow refuses some animations
        return
    np.testing.assert_array_equal(decode(packed.data, PixelFormat()), pixels)


@given(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT"]), st.binary(max_size=60))
def test_any_chunk_of_a_png_is_no_matter_or_breaks_it(kind: bytes, noise: bytes) -> None:
    word = b"Raw profile type exif\0" if kind.endswith(b"Xt") else b""
    with contextlib.suppress(BrokenImage):
        pack_image(png(np.asarray(picture(1)), 8, 2, chunks=chunk(kind, word + noise)), Packing())


def test_what_is_too_long_for_a_jpeg_becomes_a_png() -> None:
    image = picture(1, (20, 900)).resize((82_000, 20))
    packed = pack_image(encoded(image, "PNG"), Packing(16))
    assert packed.extension == "png"
    assert decode(packed.data, PixelFormat()).shape == (16, 65_600, 3)


def test_a_damaged_file_does_not_return(tmp_path: Path) -> None:
    data, shards = write_images(tmp_path / "data", 6), tmp_path / "shards"
    whole = (data / "class1/001.png").read_bytes()
    (data / "class1/001.png").write_bytes(whole[: len(whole) // 2])
    pack(data, shards, max_broken=0.5)
    assert len((shards / "broken.txt").read_text().splitlines()) == 1
    before = (shards / "0000.tar").stat().st_mtime_ns
    pack(data, shards, max_broken=0.5)
    assert (shards / "0000.tar").stat().st_mtime_ns == before  # it was not packed again


# ---------------------------------------------------------------- shards


def read_by_webdataset(pattern: str) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open until they are collected
        samples = list(webdataset.WebDataset(pattern, shardshuffle=False, empty_check=False).decode("rgb8"))
        gc.collect()
    return samples


def test_the_webdataset_library_reads_the_shards(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 25, classes=3)
    shards = pack(data, tmp_path / "shards")
    source, packed = open_data(str(data)).all, open_data(str(shards)).all
    assert sorted(p.name for p in shards.glob("*.tar")) == ["0000.tar", "0001.tar", "0002.tar"]
    samples = read_by_webdataset(str(shards / "{0000..0002}.tar"))
    assert len(samples) == 25
    by_name = {source.name(i): i for i in range(25)}
    for i, sample in enumerate(samples):
        original = by_name[packed.name(i)]
        pixels = decode(packed.read(i), PixelFormat(3))
        shown = sample["png"] if "png" in sample else sample["jpg"]
        assert np.array_equal(shown, pixels)
        assert sample["cls"] == packed.labels[i] == source.labels[original]
        small = resize(decode(source.read(original), PixelFormat(3)), (19, 16))
        assert peak_signal_noise_ratio(small, pixels) > 25  # of noise, in few pixels
    assert len({sample["__key__"] for sample in samples}) == 25
    assert packed.class_names == source.class_names
    assert [s["cls"] for s in samples] != sorted(s["cls"] for s in samples)  # shuffled


def test_tar_and_checksums_agree_with_the_index(tmp_path: Path) -> None:
    shards = pack(write_images(tmp_path / "data", 23), tmp_path / "shards")
    index = read_index(shards)
    at = 0
    for number, shard in enumerate(index.shards):
        assert hashlib.sha256(Path(shard.url).read_bytes()).hexdigest() == shard.sha256
        assert Path(shard.url).stat().st_size == shard.bytes
        with tarfile.open(shard.url) as tar:
            members = tar.getmembers()
            keys = [m.name.partition(".")[0] for m in members]
            assert keys == sorted(keys)
            images = [m for m in members if not m.name.endswith(".cls")]
            assert len(members) == 2 * len(images) == 2 * shard.samples
            for member in images:
                file = tar.extractfile(member)
                assert file is not None
                assert (index.shard[at], index.offset[at], index.size[at]) == (number, member.offset_data, member.size)
                assert index.crc32 is not None
                assert index.crc32[at] == zlib.crc32(file.read())
                at += 1
    assert at == 23
    assert subprocess.run(["tar", "tf", shards / "0000.tar"], capture_output=True, check=True).stdout.count(b"\n") == 20


def test_splits_share_the_numbers_of_their_classes(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("val", "bcd")):
        for number, name in enumerate(names * 2):
            place = tmp_path / "data" / split / name
            place.mkdir(parents=True, exist_ok=True)
            picture(number).save(place / f"{number}.png")
    shards = pack(tmp_path / "data", tmp_path / "shards")
    for split in ("train", "val"):
        source = open_data(str(shards)).split(split)  # type: ignore[arg-type]
        for i in range(len(source)):
            assert source.name(i).startswith("abcd"[source.labels[i]])


def test_every_kind_of_data_is_packed(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 12)
    first = pack(data, tmp_path / "from-folder")
    table = data / "table.csv"
    names = sorted(str(p.relative_to(data)) for p in data.rglob("*.*g"))
    table.write_text("path,label\n" + "".join(f"{name},{name[:6]}\n" for name in names))
    assert contents(first)["0000.tar"] == contents(pack(table, tmp_path / "from-table"))["0000.tar"]
    again = pack(first / "{0000..0001}.tar", tmp_path / "from-shards", seed=1)
    assert sorted(open_data(str(again)).all.read(i) for i in range(12)) == sorted(
        open_data(str(first)).all.read(i) for i in range(12)
    )  # nothing is lost by packing twice
    images = np.random.default_rng(0).integers(0, 256, (12, 40, 30, 3), dtype=np.uint8)
    np.savez(tmp_path / "array.npz", images=images)
    packed = open_data(str(pack(tmp_path / "array.npz", tmp_path / "from-array"))).all
    assert read_header(packed.read(0)).height == 21


def test_unlabelled_images_get_no_labels(tmp_path: Path) -> None:
    shards = pack(write_images(tmp_path / "data", 12, classes=1), tmp_path / "shards")
    with tarfile.open(shards / "0000.tar") as tar:
        assert not any(name.endswith(".cls") for name in tar.getnames())
    with pytest.raises(UserError, match="no labels"):
        _ = open_data(str(shards)).all.labels


# ---------------------------------------------------------------- the same bytes, whatever happens


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 images that take a moment to pack."""
    folder = tmp_path_factory.mktemp("photographs")
    blob = encoded(picture(0, (700, 900)), "PNG")
    for number in range(50):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        (place / f"{number}.png").write_bytes(blob)
    (folder / "a" / "8.png").write_bytes(blob[:-9000])  # broken
    return folder


@pytest.fixture(scope="module")
def reference(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(pack(photographs, tmp_path_factory.mktemp("reference") / "shards", max_broken=0.02))


def test_one_is_left_out_and_listed(reference: dict[str, bytes]) -> None:
    assert re.fullmatch(rb"a/8\.png\t.+\n", reference["broken.txt"])
    assert sum(name.endswith(".tar") for name in reference) == 5


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_change_a_byte(
    workers: int, photographs: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    assert contents(pack(photographs, tmp_path / "shards", workers=workers, max_broken=0.02)) == reference


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    photographs: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    finished = 0
    for moment in (".0000.tar.part", "0001.tar", ".parts/0002.npz", ".0004.tar.part", "index.json"):
        process = multiprocessing.get_context("fork").Process(
            target=pack, args=(photographs, shards), kwargs={"workers": 1, "max_broken": 0.02}
        )
        process.start()
        deadline = time.monotonic() + 120
        while not (shards / moment).exists() and time.monotonic() < deadline:
            time.sleep(0.0005)
        process.kill()
        process.join()
        whole = list(shards.glob("*.tar"))
        assert len(whole) >= finished
        finished = len(whole)
        for shard in whole:
            assert shard.read_bytes() == reference[shard.name]
    times = {name: (shards / name).stat().st_mtime_ns for name in reference if name.endswith(".tar")}
    pack(photographs, shards, max_broken=0.02)
    assert contents(shards) == reference
    assert {name: (shards / name).stat().st_mtime_ns for name in times} == times  # not packed again


def test_lost_and_cut_off_shards_are_packed_again(
    photographs: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    shards = pack(photographs, tmp_path / "shards", max_broken=0.02)
    (shards / "0001.tar").unlink()
    os.truncate(shards / "0003.tar", 5000)
    (shards / ".parts" / "0004.npz").write_bytes(b"damaged")
    for leftover in (".0001.tar.part", ".index.json-1", ".parts/.0001.npz-1"):  # of killed processes
        (shards / leftover).write_bytes(b"half")
    assert contents(pack(photographs, shards, max_broken=0.02)) == reference


def test_a_full_disk_is_one_sentence_and_no_loss(
    photographs: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    limit = len(reference["0000.tar"]) - 5000
    options = f"pack {photographs} {shards} --short-side 16 --shard-size 10 --workers 1 --max-broken 0.02".split()
    command = run_openmae([str(limit), *options], code=SMALL_FILES)
    assert command.returncode == 2
    assert re.fullmatch(r"openmae pack: the disk that holds .* is full: free some space .*\n", command.stderr)
    assert not list(shards.glob("*.tar*"))
    assert not list(shards.glob(".*.part"))
    assert contents(pack(photographs, shards, max_broken=0.02)) == reference


def test_a_disk_too_small_is_noticed_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_images(tmp_path / "data", 150)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    with pytest.raises(UserError, match="the shards need 0 MB more and the disk"):
        pack(data, tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 6


# ---------------------------------------------------------------- refusals


def test_other_settings_or_images_are_not_mixed(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 12)
    shards = pack(data, tmp_path / "shards")
    before = contents(shards)
    with pytest.raises(UserError, match=r"\(short_side 16, not 20\): choose another"):
        pack(data, shards, short_side=20)
    with pytest.raises(UserError, match="seed 0, not 1"):
        pack(data, shards, seed=1)
    with pytest.raises(UserError, match="images 12, not 13, other source"):
        pack(write_images(tmp_path / "more", 13), shards)
    moved = shutil.copytree(data, tmp_path / "moved")
    assert contents(pack(moved, shards, max_broken=1)) == before
    (moved / "class0").rename(moved / "class2")
    with pytest.raises(UserError, match="other source, other labels"):
        pack(moved, shards)
    assert contents(shards) == before


def test_places_that_would_mix_are_refused(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 4)
    with pytest.raises(UserError, match="lies in"):
        pack(data, data / "shards")
    with pytest.raises(UserError, match="not empty"):
        pack(write_images(tmp_path / "other", 4), data)
    with pytest.raises(UserError, match="is a file"):
        pack(data, data / "class0" / "000.jpg")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"short_side": 8}, "--short-side is 8"),
        ({"quality": 0}, "--quality is 0"),
        ({"shard_size": 0}, "--shard-size is 0"),
        ({"workers": -1}, "`workers` is -1"),
        ({"max_broken": 2.0}, "--max-broken is 2"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        pack(tmp_path, tmp_path / "shards", **settings)


def test_too_many_broken_images_stop_it(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 40)
    for number in (1, 2, 3):
        (data / f"class{number % 2}" / f"{number:03d}.{'png' if number % 2 else 'jpg'}").write_bytes(b"broken")
    shards = tmp_path / "shards"
    with pytest.raises(UserError, match=r"2 of 40 images cannot be read, more than --max-broken 0\.02"):
        pack(data, shards, max_broken=0.02)
    assert len((shards / "broken.txt").read_text().splitlines()) == 2
    assert not (shards / "index.json").exists()
    pack(data, shards, max_broken=0.1)
    assert len((shards / "broken.txt").read_text().splitlines()) == 3
    assert len(open_data(str(shards)).all) == 37


def test_one_broken_image_of_a_few_is_left_out(tmp_path: Path, run: Run) -> None:
    data = write_images(tmp_path / "data", 5)
    (data / "class1/001.png").write_bytes(b"broken")
    refused(run("pack", data, tmp_path / "strict", "--workers", 0, "--max-broken", 0), "1 of 5 images cannot be read")
    code, said, errors = run("pack", data, tmp_path / "shards", "--workers", 0)
    assert code == 0, errors
    assert "4 images in 1 shard," in said
    assert "1 that could not be read is left out" in said
    assert (tmp_path / "shards/broken.txt").read_text().startswith("class1/001.png\t")
    assert len(open_data(str(tmp_path / "shards")).all) == 4


def test_it_says_what_is_there_and_what_was_gained(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FIRST_SECONDS", 0.0)
    data, shards = write_images(tmp_path / "data", 25), tmp_path / "shards"
    words = ("pack", data, shards, "--shard-size", 10, "--workers", 0)
    said = run(*words)[1]
    assert re.search(r"The shards are larger than the files, 0\.\d MB instead of 0\.0 MB: small images", said)
    assert "Resuming" not in said
    assert "Already packed: nothing to do" in run(*words)[1]
    (shards / "0001.tar").unlink()
    (shards / "index.json").unlink()
    said = run(*words)[1]
    assert "Resuming: 2 of 3 shards are there" in said
    assert re.search(r"^packing: 23 of 25 images · 0 MB · [\d,]+ images/s · \d+ s left$", said, re.MULTILINE)
    assert "25 images in 3 shards" in said


def test_a_third_split_is_left_out(tmp_path: Path, run: Run) -> None:
    for number, split in enumerate(("train", "val", "test")):
        write_images(tmp_path / "data" / split, 4, first=4 * number)
    assert "The third split, test, is left out" in run("pack", tmp_path / "data", tmp_path / "shards")[1]
    assert len(open_data(str(tmp_path / "shards")).all) == 8


def test_ctrl_c_is_one_sentence(photographs: Path, reference: dict[str, bytes], tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    options = f"pack {photographs} {shards} --short-side 16 --shard-size 10 --workers 1 --max-broken 0.02".split()
    log = tmp_path / "log"
    with started_openmae(options, log) as process:
        wait_for((shards / "0000.tar").exists, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, log.read_text()
    sentence = "openmae pack: stopped; the same command goes on with the first shard that is not finished.\n"
    assert log.read_text().endswith(f"\n{sentence}")
    assert contents(pack(photographs, shards, max_broken=0.02)) == reference


def test_no_image_at_all(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="none of the images"):
        pack(data, tmp_path / "shards", max_broken=1)


def test_images_that_could_not_be_read_are_tried_again(tmp_path: Path) -> None:
    shard = tmp_path / "0000.tar"
    for may_return in (False, True):
        with ShardWriter(shard) as writer:
            writer.add(7, "0", Packed(b"data", "jpg", 5, 9), "")
            writer.leave_out(LeftOut(3, "why", may_return))
            part = writer.finish()
        found = read_finished(shard)
        assert (found is None) == may_return
        if found is not None:
            assert (found.images.tolist(), found.left_out, found.bytes_before) == ([7], part.left_out, 9)


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    data, shards = write_images(tmp_path / "data", 4), tmp_path / "shards"
    shards.mkdir()
    (shards / ".gitignore").write_text("*")  # is none of ours, and stays
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()",
            str(shards / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(UserError, match="another process packs into"):
        pack(data, shards)
    holder.communicate(b"\n")
    assert (pack(data, shards) / ".gitignore").exists()


def test_cls_files_say_what_is_written_where_labels_are_no_classes(tmp_path: Path, run: Run) -> None:
    """A number of a list of values would be a class to every other reader; an image without a label has no file."""
    for number in range(5):
        picture(number).save(tmp_path / f"{number}.png")
    for name, labels, expected in (
        ("numbers", ["0.5", "2", "", "-1", "0.5"], {"0.5", "2", "-1"}),
        ("several", ["a;b", "b", "a", "a;b", "b"], {"a;b", "a", "b"}),
        ("classes", ["a", "b", "", "b", "a"], {"0", "1"}),
    ):
        (tmp_path / f"{name}.csv").write_text("path,label\n" + "".join(f"{i}.png,{x}\n" for i, x in enumerate(labels)))
        code, said, errors = run("pack", tmp_path / f"{name}.csv", tmp_path / name, "--workers", 0)
        assert code == 0, errors
        assert ("(1 without a label)" in said) == ("" in labels)
        with tarfile.open(tmp_path / name / "0000.tar") as tar:
            members = [tar.extractfile(member) for member in tar if member.name.endswith(".cls")]
            texts = [file.read().decode() for file in members if file is not None]
        assert (len(texts), {*texts}) == (sum(map(bool, labels)), expected)
        (tmp_path / name / "index.json").unlink()
        (tmp_path / name / "pack.json").unlink()
        source = open_data(str(tmp_path / name)).all  # by its tar files alone
        assert isinstance(source, ShardSource)
        assert source.kind == ("listed" if name == "classes" else "written")
        assert sorted(source.classes) == sorted({*labels} - {""})


def test_what_is_hidden_does_not_show_at_the_edges_of_smaller_images() -> None:
    image = np.zeros((40, 50, 4), np.uint8)
    image[..., 0] = 255  # red everywhere, and seen where it is green
    image[:20] = (0, 255, 0, 255)
    packed = pack_image(encoded(Image.fromarray(image), "PNG"), Packing(20))
    seen = decode(packed.data, PixelFormat(4)).astype(int)
    assert packed.extension == "png"
    assert seen[..., 3].min() == 0
    assert seen[..., 3].max() == 255
    assert seen[seen[..., 3] > 0][:, 0].max() == 0
    behind = {"white": 255, "black": 0}
    for alpha in ("white", "black"):  # as if it had been laid on a background before
        reading = Reading(alpha=alpha)  # type: ignore[arg-type]
        found = decode(packed.data, PixelFormat(3, reading=reading)).astype(int)
        first = np.where(image[..., 3:] > 0, image[..., :3], behind[alpha]).astype(np.uint8)
        assert np.abs(found - resize(first, (20, 25))).max() <= 2


def test_what_transparency_becomes_is_packed_where_it_is_said() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    data = encoded(Image.fromarray(image), "PNG")
    assert pack_image(data, Packing(20)).data == data
    packed = pack_image(data, Packing(20, reading=Reading(alpha="white")))
    behind = Image.new("RGBA", (24, 20), "white")
    expected = np.asarray(Image.alpha_composite(behind, Image.fromarray(image)).convert("RGB"))
    np.testing.assert_array_equal(decode(packed.data, PixelFormat(3)), expected)
