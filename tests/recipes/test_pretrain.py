"""`openmae pretrain` from end to end: what it leaves, every option, other kinds of images, and what it refuses."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import openmae
from openmae.data.loading import order
from openmae.evaluate.evaluation import untrained_twin
from openmae.train.run import read_metrics
from tests.commands import Run, pretrain, refused
from tests.images import picture, write_images
from tests.runs import copy
from tests.servers import serve


def test_run_folder_holds_what_is_promised(finished: Path, data: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
        "model.json",
        "pictures",
        "report.html",
    }
    config = tomllib.loads((finished / "config.toml").read_text())
    assert (config["model"], config["mask_ratio"], config["batch_size"], config["blr"]) == (
        "vit_tiny",
        0.75,
        8,
        1.5e-4 * 512**0.5 * 384 / 24,
    )
    metrics = read_metrics(finished)
    assert [line["step"] for line in metrics] == list(range(1, config["steps"] + 1))
    start = json.loads((finished / "environment.json").read_text())["starts"][0]
    assert (
        start["versions"]["torch"] == torch.__version__.split("+")[0] or start["versions"]["torch"] == torch.__version__
    )
    info = json.loads((finished / "model.json").read_text())
    assert info["statistics"]["mean"] == config["mean"]
    assert len(list((finished / "pictures").glob("*.png"))) >= 2
    assert "data:image/png" in (finished / "report.html").read_text()


def test_load_gives_the_trained_model(finished: Path) -> None:
    model = openmae.load(finished)
    again = openmae.load(finished / "model.safetensors")
    images = torch.randn(2, 3, 16, 16)
    features = model.encode(images)
    assert features.shape == (2, 17, 24)
    assert torch.equal(features, again.encode(images))
    assert not torch.equal(features, untrained_twin(model.encoder)(images))
    assert not model.training


def test_the_same_command_again_finds_the_run_complete(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    again = copy(finished, tmp_path / "run")
    code, _, errors = run(*pretrain(data, again, "--depth 2 --epochs 3"))
    assert code == 0, errors
    assert (again / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_resume_takes_data_and_settings_from_the_run(finished: Path, tmp_path: Path, run: Run) -> None:
    again = copy(finished, tmp_path / "run")
    (again / "model.safetensors").unlink()
    newest = max((again / "checkpoints").iterdir())
    shutil.rmtree(newest)
    code, _, errors = run("pretrain", "--resume", "--out", again)
    assert code == 0, errors
    assert (again / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    refused(run("pretrain", "--resume", "--out", again, "--mask-ratio", "0.5"), "mask_ratio = 0.75, not 0.5")


def test_a_run_without_a_shuffle_block_in_its_config_keeps_the_order_that_it_began_with(
    finished: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of so many images that a new run's would be computed."""
    assert tomllib.loads((finished / "config.toml").read_text())["shuffle_block"] == 1
    monkeypatch.setattr("openmae.data.loading.order.MOST_DRAWN", 10)
    for name, is_old in (("old", True), ("new", False)):
        order._chunk.cache_clear()
        again = copy(finished, tmp_path / name)
        shutil.rmtree(max((again / "checkpoints").iterdir()))
        config = (again / "config.toml").read_text()
        if is_old:
            (again / "config.toml").write_text(config.replace("shuffle_block = 1\n", ""))
        code, _, errors = run("pretrain", "--resume", "--out", again)
        assert code == 0, errors
        same = (again / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
        assert same == is_old
        assert ("shuffle_block" in (again / "config.toml").read_text()) != is_old
    order._chunk.cache_clear()


def test_shards_on_a_server_are_read_in_blocks(
    shards: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from the disk, with a request for many images; the same after a restart."""
    monkeypatch.setattr("openmae.data.loading.memory.MOST_BYTES", 0)
    flags = "--shuffle-block 10 --epochs 2 --evaluations 0 --pictures 0 --keep 9 --checkpoint-minutes 0"
    near, far = tmp_path / "near", tmp_path / "far"
    assert run(*pretrain(shards, near, flags))[0] == 0
    learnt = load_file(near / "model.safetensors")
    with serve(shards) as server:
        code, _, errors = run(*pretrain(server.url, far, flags))
        assert code == 0, errors
        assert all(torch.equal(weights, learnt[name]) for name, weights in load_file(far / "model.safetensors").items())
        shutil.rmtree(max((far / "checkpoints").iterdir()))
        server.requests.clear()
        code, _, errors = run("pretrain", "--resume", "--out", far)
        assert code == 0, errors
        assert 0 < len([path for path in server.requests if path.endswith(".tar")]) < 40
    assert all(torch.equal(weights, learnt[name]) for name, weights in load_file(far / "model.safetensors").items())
    refused(run(*pretrain(shards, near, flags, "--shuffle-block 5")), "shuffle_block = 10, not 5")
    refused(run(*pretrain(shards, tmp_path / "none", "--shuffle-block 0")), "--shuffle-block is 0", "from 1 to 65,536")


def test_a_runs_own_config_gives_its_settings_again(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "again"
    code, _, errors = run("pretrain", "--config", finished / "config.toml", "--out", out, "--workers", "0")
    assert code == 0, errors
    assert (out / "model.safetensors").read_bytes() != b""
    one, other = (tomllib.loads((path / "config.toml").read_text()) for path in (finished, out))
    assert one == other


@pytest.mark.parametrize(
    "flags",
    [
        "--decoder cross --decoder_layers 2 --predict-fraction 0.5 --norm-pix-by channel",
        "--mask block --mask-unit 2 --class-tokens 3 --in-chans 1",
        "--mask-schedule cosine --mask-ratio-end 0.5 --encoder-mask-token",
        "--target pca --mask uniform --clip-grad 1",
        "--target hog --mask grid --precision bf16 --crop-scale 1 1 --no-hflip --rotate90 on",
        "--no-norm-pix-loss --mask crop --workers 1",
    ],
)
def test_every_option_trains_and_loads(data: Path, tmp_path: Path, run: Run, flags: str) -> None:
    out = tmp_path / "run"
    code, _, errors = run(*pretrain(data, out, "--epochs 0.6", flags))
    assert code == 0, errors
    assert all(line["loss"] > 0 for line in read_metrics(out))
    openmae.load(out)


def test_learning_lowers_the_loss(data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "run"
    assert run(*pretrain(data, out, "--epochs 20 --blr 0.2 --evaluations 0 --pictures 0"))[0] == 0
    losses = [line["loss"] for line in read_metrics(out)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_repeated_augmentation_trains_and_resumes(data: Path, tmp_path: Path, run: Run) -> None:
    assert run(*pretrain(data, tmp_path / "r", "--repeat-aug 4"))[0] == 0
    assert tomllib.loads((tmp_path / "r/config.toml").read_text())["repeat_aug"] == 4
    refused(run(*pretrain(data, tmp_path / "r", "--repeat-aug 2")), "repeat_aug")
    refused(run(*pretrain(data, tmp_path / "s", "--repeat-aug 0")), "--repeat-aug is 0")


def test_statistics_of_all_images_are_taken_from_stats(data: Path, tmp_path: Path, run: Run) -> None:
    found, out = tmp_path / "stats.toml", tmp_path / "run"
    assert run("stats", data, "--out", found, "--workers", "0")[0] == 0
    assert run(*pretrain(data, out, "--epochs 0.2 --config", found))[0] == 0
    measured = tomllib.loads(found.read_text())
    used = json.loads((out / "model.json").read_text())["statistics"]
    assert used == measured
    assert tomllib.loads((out / "config.toml").read_text())["mean"] == measured["mean"]


def deep_bands(count: int = 20) -> np.ndarray:
    """(count, 24, 20, 5) smooth 12-bit values in 16 bits, no two bands alike."""
    grey = np.stack([np.array(picture(number, mode="L"), np.uint16) for number in range(count)])
    return np.stack([(grey + 1) * factor for factor in (1, 3, 7, 11, 15)], axis=-1)


def test_bands_and_depth_go_with_the_run(tmp_path: Path, run: Run) -> None:
    data = tmp_path / "bands.npy"
    np.save(data, deep_bands())
    code, output, errors = run(*pretrain(data, tmp_path / "all"))
    assert code == 0, errors
    assert "--in-chans 5: as many as the images have" in output
    assert "--pixel-type uint16" in output
    code, _, errors = run(*pretrain(data, tmp_path / "two", "--bands 4 1"))
    assert code == 0, errors
    pixels = deep_bands() / 65535
    for name, bands in (("all", [0, 1, 2, 3, 4]), ("two", [3, 0])):
        statistics = json.loads((tmp_path / name / "model.json").read_text())["statistics"]
        assert statistics["pixel_type"] == "uint16"
        # 2 of the 20 images are kept aside.
        np.testing.assert_allclose(statistics["mean"], pixels[..., bands].mean(axis=(0, 1, 2)), rtol=0.1)
        model = openmae.load(tmp_path / name)
        assert model.encoder.in_chans == len(bands)
        assert run("reconstruct", tmp_path / name, data, "--out", tmp_path / "x.png")[0] == 0
    refused(run(*pretrain(data, tmp_path / "three", "--in-chans 3")), "has 5 channels", "--bands")
    refused(run(*pretrain(data, tmp_path / "no", "--bands 1 2 --mean 0.5")), "--mean")


# ---------------------------------------------------------------- what is refused


def test_data_that_is_none(tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    refused(run(*pretrain(tmp_path / "empty", tmp_path / "r")), "holds no images")
    refused(run(*pretrain(tmp_path / "nowhere", tmp_path / "r")), "does not exist")
    refused(run("pretrain"), "openmae pretrain DATA --out RUN")
    refused(run("pretrain", "--resume", "--out", tmp_path / "none"), "is not a run folder")


def test_folder_of_broken_files(tmp_path: Path, run: Run) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8\xffnot a photograph")
    refused(run(*pretrain(tmp_path, tmp_path / "r")), "none of 5 images", "check the files")


def test_more_broken_files_than_allowed_are_listed(data: Path, tmp_path: Path, run: Run) -> None:
    mixed = copy(data, tmp_path / "mixed")
    (mixed / "class0/cut.jpg").write_bytes((data / "class0/000.jpg").read_bytes()[:200])
    (mixed / "class1/empty.png").write_bytes(b"")
    words = pretrain(mixed, tmp_path / "r")
    refused(run(*words), "2 of 38 files", "--max-broken", "broken.txt")
    listed = (tmp_path / "r/broken.txt").read_text()
    assert "class0/cut.jpg" in listed
    assert "class1/empty.png\tthe file is empty" in listed
    code, _, errors = run(*words, "--max-broken", "0.1")
    assert code == 0, errors
    assert (tmp_path / "r/broken.txt").read_text().count("\n") == 2


def test_images_smaller_than_a_patch(tmp_path: Path, run: Run) -> None:
    for number in range(12):
        picture(number, (6, 30)).save(tmp_path / f"{number}.png")
    words = ("less than one patch of 8 x 8", "smaller patch_size")
    refused(run(*pretrain(tmp_path, tmp_path / "r", "--img-size 32 --patch-size 8")), *words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--img-size 30", ("30", "whole patches", "multiple")),
        ("--bands 2 1 0", ("numbered from 1", "GDAL")),
        ("--bands 1 1", ("names channel 1 more than once",)),
        ("--bands 1 2 --mean 1 2 3", ("--bands 2, --mean 3", "openmae stats DATA --bands 1 2", "leave --bands out")),
        ("--mean 0.5", ("--mean 1, --std 3, --in-chans 3", "for each channel")),
        ("--mask-ratio 0", ("mask_ratio is 0", "above 0 and below 1")),
        ("--mask-ratio 1", ("mask_ratio is 1",)),
        ("--mask-ratio 0.99", ("leaves 0 visible",)),
        ("--mask-schedule linear", ("mask_ratio_end",)),
        ("--mask-unit 3", ("mask_unit",)),
        ("--embed-dim 25", ("embed_dim 25",)),
        ("--crop-scale 0 1", ("crop_scale",)),
        ("--batch-size 0", ("--batch-size is 0",)),
        ("--epochs -1", ("--epochs",)),
        ("--epochs nan", ("--epochs is nan", "finite")),
        ("--seed 9223372036854775808", ("--seed", "2**63")),
        ("--decoder-depth 0", ("decoder_depth is 0",)),
        ("--warmup-epochs 9", ("--warmup-epochs is 9", "below --epochs")),
        ("--max-broken 2", ("--max-broken",)),
        ("--workers -1", ("--workers is -1",)),
        ("--device cuda", ("no cuda device",)),
        ("--decoder cross --encoder-mask-token", ("encoder_mask_token",)),
    ],
)
def test_values_out_of_range(data: Path, tmp_path: Path, run: Run, flags: str, words: tuple[str, ...]) -> None:
    if "cuda" in flags and torch.cuda.is_available():
        flags, words = "--device mps", ("no mps device",)
    refused(run(*pretrain(data, tmp_path / "r", "--epochs 2", flags)), *words)


@pytest.mark.parametrize(
    "flags", ["--img-size 33 --patch-size 8", "--mean 0.5 --std 1 1", "--bands 1 1", "--mask-ratio 1", "--in-chans 0"]
)
def test_settings_are_refused_before_images_are_looked_for(tmp_path: Path, run: Run, flags: str) -> None:
    _, _, errors = run(*pretrain(tmp_path / "nowhere", tmp_path / "r", flags))
    assert "does not exist" not in errors
    assert errors.startswith("openmae pretrain: ")
    assert not (tmp_path / "r").exists()


def test_splits_are_asked_for_where_they_may_be_classes(finished: Path, tmp_path: Path, run: Run) -> None:
    write_images(tmp_path / "Training", 8)
    write_images(tmp_path / "Testing", 4, first=8)
    write_images(tmp_path / "other", 4, first=12)
    for words in (["knn", str(finished), str(tmp_path)], pretrain(tmp_path, tmp_path / "r")):
        refused(run(*words), "say by --splits what they are")
    code, said, _ = run(*pretrain(tmp_path, tmp_path / "r", "--splits Training,Testing"))
    assert code == 0
    assert "8 images in" in said
    assert 'splits = "Training,Testing"' in (tmp_path / "r/config.toml").read_text()
    assert run(*pretrain(tmp_path, tmp_path / "r"))[0] == 0  # as it was begun


def test_images_that_changed_since_the_run_began(data: Path, tmp_path: Path, run: Run) -> None:
    moved = copy(data, tmp_path / "data")
    words = pretrain(moved, tmp_path / "r")
    assert run(*words)[0] == 0
    picture(99).save(moved / "class0/000.jpg", quality=30)
    refused(run(*words), "images have changed")


def test_a_run_inside_its_data_does_not_learn_its_own_pictures(data: Path, tmp_path: Path, run: Run) -> None:
    own = copy(data, tmp_path / "own")
    words = pretrain(own, own / "run")
    for _ in range(2):
        code, output, errors = run(*words)
        assert code == 0, errors
        assert "36 images" in output
