"""Commands on files that can be read in more than one way: what is chosen, said, asked, kept, and packed."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.commands import Run, pretrain, refused
from tests.data.bad_files import dicom


def icons(folder: Path, count: int = 12) -> Path:
    """Black discs and squares whose shape is in their alpha alone."""
    rows, columns = np.mgrid[0:24, 0:24]
    for number in range(count):
        radius, (row, column) = 4 + number % 5, (9 + number % 7, 10 + number % 5)
        away = np.stack([abs(rows - row), abs(columns - column)])
        shape = (away**2).sum(0) < radius**2 if number % 2 else (away < radius).all(0)
        image = np.zeros((24, 24, 4), np.uint8)
        image[..., 3] = shape * 255
        place = folder / ("square", "disc")[number % 2] / f"{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    return folder


def bands(count: int, channels: int = 5) -> NDArray[np.uint8]:
    draws = np.random.default_rng(0)
    return draws.integers(0, 256, (count, channels, 20, 24), dtype=np.uint8)


def written(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.toml, and the statistics of model.json."""
    return tomllib.loads((run / "config.toml").read_text()), json.loads((run / "model.json").read_text())["statistics"]


def vectors(run: Run, model: Path, data: Path, out: Path, *more: str) -> NDArray[Any]:
    code, _, errors = run("embed", model, data, "--out", out, "--workers", "0", *more)
    assert code == 0, errors
    order = [line.split(",")[0] for line in out.with_suffix(".csv").read_text().splitlines()[1:]]
    found: NDArray[Any] = np.load(out)[np.argsort(order)]
    return found


def test_icons_are_seen_on_a_background_which_the_model_keeps(run: Run, tmp_path: Path) -> None:
    data = icons(tmp_path / "icons")
    code, output, _ = run("check", data, "--workers", "0")
    assert "Read with --alpha white: 12 of 12 images have transparent pixels" in output
    assert code == 0
    code, output, _ = run(*pretrain(data, tmp_path / "run", "--evaluations 0 --pictures 0"))
    assert code == 0
    assert "--alpha white: " in output
    config, model = written(tmp_path / "run")
    assert (config["alpha"], model["alpha"], config["in_chans"]) == ("white", "white", 1)  # all are grey
    assert min(config["mean"]) > 0.5
    assert run("knn", tmp_path / "run", data, "--workers", "0")[0] == 0
    for words in (pretrain(data, tmp_path / "black"), ["embed", tmp_path / "run", data, "--out", tmp_path / "x.npy"]):
        refused(run(*words, "--alpha", "black"), "images looked at are one colour", "--alpha white shows")
    assert not (tmp_path / "x.npy").exists()


def test_a_model_that_never_saw_alpha_says_so(run: Run, tmp_path: Path, finished: Path) -> None:
    draws = np.random.default_rng(1)
    for number in range(4):
        Image.fromarray(draws.integers(0, 256, (24, 24, 4), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    code, output, _ = run("embed", finished, tmp_path, "--out", tmp_path / "x.npy", "--workers", "0")
    assert code == 0
    assert "warning: 4 of 4 images have transparent pixels, which the model is not known to have seen" in output
    code, output, _ = run(
        "embed", finished, tmp_path, "--out", tmp_path / "y.npy", "--workers", "0", "--alpha", "white"
    )
    assert code == 0
    assert "transparent" not in output


def test_arrays_with_channels_first_go_through_every_command_and_through_shards(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "arrays"
    for number, array in enumerate(bands(12)):
        (data / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        np.save(data / "ab"[number % 2] / f"{number:02d}.npy", array)
    code, output, _ = run(*pretrain(data, tmp_path / "run", "--evaluations 0 --pictures 0"))
    assert code == 0
    assert "--layout chw: the first axis of 11 of 11 arrays" in output
    config, model = written(tmp_path / "run")
    assert (config["layout"], model["layout"], model["in_chans"]) == ("chw", "chw", 5)
    assert run("pack", data, tmp_path / "shards", "--workers", "0")[0] == 0
    here = vectors(run, tmp_path / "run", data, tmp_path / "here.npy")
    np.testing.assert_array_equal(vectors(run, tmp_path / "run", tmp_path / "shards", tmp_path / "packed.npy"), here)
    np.save(tmp_path / "last.npy", np.moveaxis(bands(12), 1, -1))  # of a model that learnt from the other layout
    last = vectors(run, tmp_path / "run", tmp_path / "last.npy", tmp_path / "moved.npy")
    np.testing.assert_allclose(np.sort(last, 0), np.sort(here, 0), rtol=1e-5)


def test_an_unclear_layout_is_asked_and_kept_with_what_was_packed(run: Run, tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 256, (6, 20, 24, 28), dtype=np.uint8)
    np.save(tmp_path / "data.npy", array)
    data = tmp_path / "data.npy"
    refused(run(*pretrain(data, tmp_path / "run")), "20 x 24 x 28 may be", "say which by --layout hwc or --layout chw")
    code, output, _ = run("check", data, "--workers", "0")
    assert code == 2
    assert "say which by --layout hwc or --layout chw" in output
    assert run("pack", data, tmp_path / "shards", "--layout", "chw", "--workers", "0")[0] == 0
    code, output, _ = run("stats", tmp_path / "shards", "--out", tmp_path / "stats.toml", "--workers", "0")
    assert code == 0
    found = tomllib.loads((tmp_path / "stats.toml").read_text())
    assert found["in_chans"] == 20
    np.testing.assert_allclose(found["mean"], array.mean((0, 2, 3)) / 255, rtol=1e-5)
    refused(
        run("pack", tmp_path / "data.npy", tmp_path / "shards", "--layout", "hwc"), "reading {'layout': 'chw'}, not"
    )


def test_pages_are_asked_about_and_then_channels(run: Run, tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 65536, (8, 13, 20, 24), dtype=np.uint16)
    for number, image in enumerate(values):
        tifffile.imwrite(tmp_path / f"{number}.tif", image)
    said = ("13 channels of one image or frames", "--pages channels or --pages frames")
    refused(run(*pretrain(tmp_path, tmp_path / "run")), *said)
    refused(run("stats", tmp_path, "--workers", "0"), *said)
    out = tmp_path / "stats.toml"
    assert run("stats", tmp_path, "--out", out, "--workers", "0", "--pages", "channels")[0] == 0
    found = tomllib.loads(out.read_text())
    assert found["pages"] == "channels"
    np.testing.assert_allclose(found["mean"], values.mean((0, 2, 3)) / 65535, rtol=1e-5)


def test_dicom_of_two_devices_is_one_scale_also_in_shards(run: Run, tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 4000, (10, 24, 24)) // 4 * 4
    data = tmp_path / "study"
    for number, image in enumerate(values):
        elements = [{"BitsStored": 12}, {"BitsStored": 16}, {"RescaleSlope": "2", "RescaleIntercept": "0"}][number % 3]
        stored = (image // 2 if number % 3 == 2 else image).astype(np.uint16)
        (data / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (data / "ab"[number % 2] / f"{number}.dcm").write_bytes(dicom(stored, **elements))
    code, output, _ = run("check", data, "--workers", "0")
    assert "not all in one unit (7 as stored, 3 rescaled" in output
    assert "differ in depth" not in output
    assert "two scales" not in output
    assert code == 1
    code, output, _ = run("stats", data, "--out", tmp_path / "stats.toml", "--workers", "0")
    found = tomllib.loads((tmp_path / "stats.toml").read_text())
    assert (found["dicom_units"], found["pixel_type"]) == ("rescaled", "float32")
    assert found["mean"][0] == pytest.approx(values.mean(), rel=1e-6)
    assert "warning: the numbers of the DICOM files" in output
    assert run(*pretrain(data, tmp_path / "run", "--evaluations 0 --pictures 0"))[0] == 0
    assert written(tmp_path / "run")[1]["dicom_units"] == "rescaled"
    assert run("pack", data, tmp_path / "shards", "--workers", "0")[0] == 0
    here = vectors(run, tmp_path / "run", data, tmp_path / "here.npy")
    np.testing.assert_array_equal(vectors(run, tmp_path / "run", tmp_path / "shards", tmp_path / "packed.npy"), here)
    refused(
        run("embed", tmp_path / "run", tmp_path / "shards", "--out", tmp_path / "raw.npy", "--dicom-units", "raw"),
        "was packed with --dicom-units rescaled, and --dicom-units raw is asked for",
    )
