"""`openmae stats` as a user types it."""

import io
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openmae.data.formats.channels import PixelFormat
from openmae.data.opening import open_data
from openmae.data.survey.distribution import measure
from openmae.data.views.statistics import Statistics
from tests.commands import Run, pretrain, refused
from tests.data.deep import Files, images_of, tiff, torch_moments
from tests.images import picture, write_images

# ---------------------------------------------------------------- the command


def test_stats_prints_and_writes_what_pretrain_takes(tmp_path: Path, run: Run) -> None:
    data = write_images(tmp_path / "data", 10)
    write_images(tmp_path / "data16", 0)
    (data / "class0/bad.jpg").write_bytes(b"\xff\xd8\xff")
    out = tmp_path / "made/stats.toml"
    code, said, _ = run("stats", data, "--out", out)
    assert code == 0
    assert "3 channels of 8 bits" in said
    assert "10, and 1 that cannot be read" in said
    assert "class0/bad.jpg" in said
    assert "24 x 20" in said
    assert "JPEG: 5" in said
    assert f"openmae pretrain {data} --out RUN --config {out}" in said
    values = tomllib.loads(out.read_text())
    assert values["in_chans"] == 3
    assert values["pixel_type"] == "uint8"
    found = measure(open_data(str(data)).all, PixelFormat(), workers=0)
    assert Statistics.from_dict(values) == found.statistics
    assert "mean/255" in said
    for mean in found.statistics.mean:
        assert f"{mean:.3g}" in said
        assert f"{mean * 255:.4g}" in said
    with Image.open(tmp_path / "made/stats.png") as drawn:
        assert drawn.width > 500
        assert len(drawn.convert("RGB").getcolors(1 << 24) or []) > 50  # something is drawn


def test_stats_of_bands_of_sixteen_bits_and_of_floats(tmp_path: Path, run: Run) -> None:
    for number, image in enumerate(images_of("uint16", 5)):
        (tmp_path / f"{number}.tif").write_bytes(tiff(image // 16))
    code, said, _ = run("stats", tmp_path, "--bands", 4, 2, "--workers", 0, "--out", tmp_path / "s.toml")
    assert code == 0
    assert "2 channels of 16 bits (bands 4 2)" in said
    assert "12-bit data in 16 bits" in said
    values = tomllib.loads((tmp_path / "s.toml").read_text())
    mean, _ = torch_moments([image[..., [3, 1]] // 16 for image in images_of("uint16", 5)], "uint16")
    assert values["bands"] == [4, 2]
    assert values["mean"] == pytest.approx(mean.tolist(), rel=1e-6)
    code, said, _ = run("stats", tmp_path, "--pixel-type", "float32", "--in-chans", 5)
    assert code == 0
    assert "4,096 pixels of each image" in said
    assert "--in-chans 5 --pixel-type float32 --mean 0.0" in said


def test_stats_reads_the_split_that_is_trained_on_and_as_many_as_asked(tmp_path: Path, run: Run) -> None:
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "val", 4, first=6)
    assert ": 6 images in" in run("stats", tmp_path)[1]
    assert ": 3 images in" in run("stats", tmp_path, "--most", 3)[1]


def test_what_was_left_out_goes_on_to_pretrain(tmp_path: Path, run: Run) -> None:
    write_images(tmp_path / "data", 8)
    asked = ["--exclude", "*/000.*", "class1/*", "--splits", "none", "--workers", "0"]
    output = run("stats", tmp_path / "data", *asked)[1]
    assert "--splits none --exclude '*/000.*' 'class1/*'" in output
    assert run("stats", tmp_path / "data", *asked, "--out", tmp_path / "s.toml")[0] == 0
    code, output, _ = run(*pretrain(tmp_path / "data", tmp_path / "run", "--config", tmp_path / "s.toml", "--epochs 4"))
    assert code == 0
    assert "3 images in" in output


def test_stats_says_that_images_are_grey_and_stored_as_colour(tmp_path: Path, run: Run) -> None:
    for number in range(2):
        picture(number, mode="L").convert("RGB").save(tmp_path / f"{number}.png")
    assert "All are grey and stored as colour: --in-chans 1" in run("stats", tmp_path)[1]
    picture(3).save(tmp_path / "c.png")
    assert "2 of 3 images are grey and stored as colour" in run("stats", tmp_path)[1]


def test_stats_names_a_channel_that_says_nothing(tmp_path: Path, run: Run) -> None:
    image = images_of("uint8", 3)[0]
    image[..., 1] = 9
    (tmp_path / "a.tif").write_bytes(tiff(image))
    assert "Channel 2 has the same level everywhere" in run("stats", tmp_path)[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--out", "stats.json"], ".toml"),
        (["--out", "/proc/not/there.toml"], "choose another --out"),
        (["--workers", "-1"], "0 or more"),
        (["--most", "0"], "1 or more"),
        (["--in-chans", "7"], "none of the 4 images"),
        (["--bands", "1", "4"], "band 4 is wanted"),
        (["--bands", "0", "1"], "numbered from 1, as in GDAL"),
        (["--bands", "2", "3", "2"], "names channel 2 more than once"),
        (["--bands"], "names no channel"),
        (["--in-chans", "0"], "1 or more"),
    ],
)
def test_bad_settings_of_stats_are_one_sentence(tmp_path: Path, run: Run, words: list[str], complaint: str) -> None:
    refused(run("stats", write_images(tmp_path, 4), *words), complaint)


def test_a_picture_of_many_channels_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from openmae.report.plots import histogram

    assert histogram._MOST_PANELS / 4 * 330 < 5000  # pixels high; 48 take seconds
    monkeypatch.setattr(histogram, "_MOST_PANELS", 8)
    found = measure(Files([tiff(images_of("uint8", 2)[0])]), PixelFormat(2, (1, 2)), workers=0)
    many = replace(
        found,
        statistics=Statistics((0.5,) * 200, (0.1,) * 200, PixelFormat(200)),
        percentiles=np.repeat(found.percentiles[:, :1], 200, axis=1),
        weights=np.repeat(found.weights[:1], 200, axis=0),
    )
    with Image.open(io.BytesIO(histogram.draw_histogram(many))) as drawn:
        assert drawn.size == (1920, 660)
